"""How far a task is: what is done, in which time, and so what is left. Figures, no words."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import NO_FIGURES, NO_ROWS, NO_TALLY, Task

RATE_WINDOW_S = 60.0
"""Tokens a second are of the last minute at least."""
FIRST_UNITS = 1.1
"""Units that end within a tenth more time than the first one ran beside it."""


class _Mark(NamedTuple):
    """What was done at a moment; seconds count from the beginning, without loading."""

    active_s: float
    n_done: int
    n_tokens: float


class Pace:
    """What is done of a task.

    Times are without those in which this process loaded a model, but for ``elapsed_s``.

    Args:
        task: what is done.
        clock: in seconds.
    """

    def __init__(self, task: Task, clock: Callable[[], float] = time.monotonic) -> None:
        self.task = task
        self.n_done = 0
        self.rows: Counter[str] = Counter()
        self.figures: dict[str, str] = {}
        self._clock = clock
        self._began_s = clock()
        self._loading_since_s: float | None = None
        self._loading_s = 0.0
        self._n_tokens = 0.0
        self._last_unit_s = 0.0
        self._first = self._base = self._last = _Mark(0.0, 0, 0.0)
        self._of_window: deque[_Mark] = deque([self._last])
        self._of_last_half: deque[_Mark] = deque([self._last])

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began_s

    @property
    def quiet_s(self) -> float:
        """Seconds since the last unit was done, or since the beginning."""
        return self.elapsed_s - self._last_unit_s

    @property
    def is_done(self) -> bool:
        """Whether no unit is left."""
        return self.n_done >= self.task.total

    @property
    def is_loading(self) -> bool:
        """Whether a model is being loaded now."""
        return self._loading_since_s is not None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Return a section whose time is not the units'."""
        self._loading_since_s = self._clock()
        try:
            yield
        finally:
            self._loading_s += self._clock() - self._loading_since_s
            self._loading_since_s = None

    def add(
        self,
        n: int,
        tally: Tally = NO_TALLY,
        /,
        *,
        rows: Mapping[str, int] = NO_ROWS,
        figures: Mapping[str, str] = NO_FIGURES,
    ) -> None:
        """Count ``n`` more units as done; see `prefpipe.execution.runtime.Advance`."""
        self.n_done += n
        # new ones, for the thread that draws may be reading these
        self.rows = self.rows + Counter(rows)
        self.figures = {**self.figures, **figures}
        self._n_tokens += tally.get("n_tokens", 0.0)
        if n == 0:
            return

        self._last_unit_s = self.elapsed_s
        self._last = _Mark(self._active_s(), self.n_done, self._n_tokens)
        if self._first.n_done == 0:
            self._first = self._last
        first_ones_s = FIRST_UNITS * self._first.active_s
        if self._last.active_s <= first_ones_s:
            self._base = self._last
        _keep_from(self._of_window, self._last, self._last.active_s - RATE_WINDOW_S)
        _keep_from(self._of_last_half, self._last, max(first_ones_s, self._last.active_s / 2))

    def left_s(self) -> float | None:
        """Return about how many seconds are left, None where nothing that is done says it.

        Nothing does before the first unit, and when the last one takes longer than was expected.
        """
        seconds_a_unit = self._seconds_a_unit()
        if seconds_a_unit is None or self.is_done or self.task.in_bunches:
            return None
        # the last unit, which may be a small one, is taken to be among those that are left
        n_left = self.task.total - self.n_done - 1 + self.task.last_share
        since_last_s = self._active_s() - self._last.active_s
        left_s = seconds_a_unit * n_left - since_last_s

        # the unit that is due is late, and those behind it are left at least
        left_s = max(left_s, seconds_a_unit * max(0.0, n_left - 1))
        return left_s if left_s > 0 else None

    def tokens_per_s(self) -> float | None:
        """Return tokens a second over the last minute of units, None where none were counted."""
        if self.task.in_bunches and not self.is_done:
            return None
        begin, end = self._of_window[0], self._last
        if begin.n_done == 0 and self.task.first_is_slow and end.n_done > self._base.n_done:
            begin = self._base
        elif begin.n_done == 0 and self.task.first_is_slow and not self.is_done:
            return None
        if end.n_tokens == begin.n_tokens or end.active_s <= begin.active_s:
            return None
        return (end.n_tokens - begin.n_tokens) / (end.active_s - begin.active_s)

    def _active_s(self) -> float:
        loading_s = self._loading_s
        if self._loading_since_s is not None:
            loading_s += self._clock() - self._loading_since_s
        return self.elapsed_s - loading_s

    def _seconds_a_unit(self) -> float | None:
        """Return the pace of the last half of the time, or at first that of all units.

        Several units are under way at a time. Those that were begun with the first one end soon
        behind it, so that the pace between the two ends is no pace: it says too little.
        """
        last, begin = self._last, self._of_last_half[0]
        if last.active_s < 2 * self._first.active_s or begin.n_done == last.n_done:
            begin = self._base if self.task.first_is_slow else _Mark(0.0, 0, 0.0)
        if begin.n_done == last.n_done:
            return None
        return (last.active_s - begin.active_s) / (last.n_done - begin.n_done)


def _keep_from(marks: "deque[_Mark]", newest: _Mark, since_s: float) -> None:
    """Add a mark, and keep one from before a moment: the time since then begins there."""
    marks.append(newest)
    while marks[1].active_s <= since_s and len(marks) > 2:
        marks.popleft()
