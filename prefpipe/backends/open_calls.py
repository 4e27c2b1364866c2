"""How many requests are answered of the calls that an engine works on now.

A part is a call or a few, and may take an hour: this is what a person sees of it meanwhile. Nothing
that an engine computes depends on it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable


class Answered(NamedTuple):
    """Requests of open calls: how many are answered, of how many."""

    n_done: int
    n_asked: int

    def plus(self, other: "Answered") -> "Answered":
        """Return the sums of two counts."""
        return Answered(self.n_done + other.n_done, self.n_asked + other.n_asked)


NONE_OPEN = Answered(0, 0)


@runtime_checkable
class CountsAnswers(Protocol):
    """An engine that can say how far its open calls are."""

    def answered(self) -> Answered:
        """Return the counts; any thread may ask, at any time."""
        ...


def answered_by(engine: object) -> Answered:
    """Return how far the calls of an engine are; none of one that does not count."""
    return engine.answered() if isinstance(engine, CountsAnswers) else NONE_OPEN


class OpenCalls:
    """Counts for an engine that computes a call in batches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_done = self._n_asked = 0

    @contextmanager
    def call(self, n: int) -> Iterator[Callable[[int], None]]:
        """Return a section in which a call is open, and what counts its answers."""
        n_done = 0

        def count(more: int) -> None:
            nonlocal n_done
            n_done += more
            with self._lock:
                self._n_done += more

        with self._lock:
            self._n_asked += n
        try:
            yield count
        finally:
            with self._lock:
                self._n_asked -= n
                self._n_done -= n_done

    def answered(self) -> Answered:
        """Return the counts of the open calls."""
        with self._lock:
            return Answered(self._n_done, self._n_asked)
