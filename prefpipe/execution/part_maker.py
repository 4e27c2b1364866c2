"""What a stage gives to an executor: how one part is made, in two steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

Tally = Mapping[str, float]
"""What was counted while a part was made, by name. Tallies of parts are added up."""

Prepared = TypeVar("Prepared")
"""What is read and tokenised of a part, before an engine is asked."""


class PartMaker(Protocol[Prepared]):
    """Makes parts, several of them at a time.

    A maker adds up nothing itself: what it counts goes into the tally of the part. So parts can be
    made by threads, and by other processes.
    """

    def prepare(self, index: int) -> Prepared:
        """Read a part's input and tokenise it. One part at a time is prepared."""
        ...

    def complete(self, index: int, prepared: Prepared) -> Tally:
        """Ask the engine and write the part. Several parts are completed at the same time."""
        ...

    def has_room(self, n_open: int) -> bool:
        """Return whether another part should be opened now.

        Args:
            n_open: parts that are open. All of them have handed their requests to the engine.
        """
        ...


class OneAtATime:
    """A maker of parts that need no engine: one after another, in one step.

    Args:
        make: makes and writes a part, and returns what it counted.
    """

    def __init__(self, make: Callable[[int], Tally | None]) -> None:
        self._make = make

    def prepare(self, index: int) -> int:  # noqa: ARG002
        """Prepare nothing."""
        return 0

    def complete(self, index: int, prepared: int) -> Tally:  # noqa: ARG002
        """Make the part."""
        return self._make(index) or {}

    def has_room(self, n_open: int) -> bool:
        """Return whether no part is being made."""
        return n_open == 0


@dataclass(frozen=True)
class PartMade:
    """A part that is on disk now: its number, what was counted, and how long it was open."""

    index: int
    tally: Tally
    elapsed_s: float
