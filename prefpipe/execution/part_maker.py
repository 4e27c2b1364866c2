"""How a stage makes one part, in two steps; executors call it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from prefpipe.artifacts.storage.location import Location

Tally = Mapping[str, float]
"""Counts of one part, by name. Tallies of parts are added up."""

Prepared = TypeVar("Prepared")
"""A part's input, read and tokenised, before it goes to an engine."""


class PartMaker(Protocol[Prepared]):
    """Makes parts, several of them at a time.

    A maker adds nothing up itself: its counts go into the part's tally. So threads and other
    processes can make parts.
    """

    def prepare(self, index: int) -> Prepared:
        """Read a part's input and tokenise it. Parts are prepared one at a time."""
        ...

    def complete(self, index: int, prepared: Prepared) -> Tally:
        """Run the engine and write the part. Several parts are completed at the same time."""
        ...

    def has_room(self, n_open: int) -> bool:
        """Return whether to open another part now.

        Args:
            n_open: open parts, all of which have sent their requests to the engine.
        """
        ...


@runtime_checkable
class KnowsSizes(Protocol):
    """A maker that knows how large its parts are, by which the time left is estimated."""

    def size_of(self, index: int) -> int:
        """Return how many prompts or rows a part is made from."""
        ...


@runtime_checkable
class ReadsParts(Protocol):
    """A maker that says what it will read, so that it is fetched from a bucket ahead of it."""

    def inputs_of(self, index: int) -> Sequence[Location]:
        """Return the parts that a part is made from, all of whose bytes are read."""
        ...


class OneAtATime:
    """A maker of parts that need no engine: one part at a time, in one step.

    Args:
        make: makes and writes a part, and returns its tally.
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
    """A part that is on disk now: its number, its tally, and how long it was open."""

    index: int
    tally: Tally
    elapsed_s: float
