"""Where a process that makes parts takes the next one from."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from prefpipe.execution.part_maker import PartMade


class PartSource(Protocol):
    """Hands out parts to make. All calls come from one thread."""

    def attach(self, wake: Callable[[], None]) -> None:
        """Take what is to be called, from any thread, when a part may have become available."""
        ...

    def next_part(self) -> int | None:
        """Return a part to make, None where there is none just now."""
        ...

    def is_over(self) -> bool:
        """Return whether there is no part to hand out, and none will come."""
        ...

    def made(self, part: PartMade) -> None:
        """Learn that a part is on disk."""
        ...

    def failed(self, index: int, error: Exception) -> bool:
        """Learn that a part could not be made.

        Returns:
            Whether other parts are to be made all the same.
        """
        ...

    def close(self) -> None:
        """Give back what is still held: the process makes no more parts."""
        ...


class ListedParts:
    """The parts of a list, in its order: a worker's fixed share."""

    def __init__(self, indices: Iterable[int]) -> None:
        self._waiting = deque(indices)

    def attach(self, wake: Callable[[], None]) -> None:
        """Call nothing: no part comes later."""

    def next_part(self) -> int | None:
        """Return the next part of the list."""
        return self._waiting.popleft() if self._waiting else None

    def is_over(self) -> bool:
        """Return whether the list is at its end."""
        return not self._waiting

    def made(self, part: PartMade) -> None:
        """Do nothing: the part is off the list."""

    def failed(self, index: int, error: Exception) -> bool:  # noqa: ARG002
        """End the run: what this part met, the next one would as a rule meet as well."""
        return False

    def close(self) -> None:
        """Hold nothing."""
