"""Where a process takes the next part from."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from prefpipe.execution.part_maker import PartMade

MOST_AHEAD = 4
"""Parts of a bucket that are fetched before they are made; each is in memory until then."""


class PartSource(Protocol):
    """Hands out parts to make. All calls come from one thread."""

    def attach(self, wake: Callable[[], None]) -> None:
        """Store a callback, called from any thread when a part may be available."""
        ...

    def next_part(self) -> int | None:
        """Return a part to make; None if there is none at the moment."""
        ...

    def upcoming(self) -> Sequence[int]:
        """Return the parts that will probably come next, in order; none where nobody knows."""
        ...

    def is_over(self) -> bool:
        """Return whether no part is left and none will come."""
        ...

    def made(self, part: PartMade) -> None:
        """Note that a part is on disk."""
        ...

    def failed(self, index: int, error: Exception) -> bool:
        """Note that a part could not be made.

        Returns:
            Whether to go on with other parts.
        """
        ...

    def close(self) -> None:
        """Release what is still held: the process makes no more parts."""
        ...


class ListedParts:
    """The parts of a list, in order: a worker's fixed share."""

    def __init__(self, indices: Iterable[int]) -> None:
        self._waiting = deque(indices)

    def attach(self, wake: Callable[[], None]) -> None:
        """Do nothing: no part comes later."""

    def next_part(self) -> int | None:
        """Return the next part of the list."""
        return self._waiting.popleft() if self._waiting else None

    def upcoming(self) -> Sequence[int]:
        """Return the next parts of the list."""
        return list(islice(self._waiting, MOST_AHEAD))

    def is_over(self) -> bool:
        """Return whether the list is exhausted."""
        return not self._waiting

    def made(self, part: PartMade) -> None:
        """Do nothing: the part is off the list."""

    def failed(self, index: int, error: Exception) -> bool:  # noqa: ARG002
        """End the run: the next part would most likely fail in the same way."""
        return False

    def close(self) -> None:
        """Do nothing: nothing is held."""
