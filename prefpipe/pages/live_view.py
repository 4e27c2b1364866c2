"""The live view of a running command: a few lines at the bottom of a terminal, or lines of a log.

Stages say which task they are at and what is done of it, `prefpipe.execution.runtime.ShowProgress`;
how that looks is decided here.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import NO_FIGURES, NO_ROWS, NO_TALLY, Advance, Task
from prefpipe.pages.pace import Pace
from prefpipe.text.numbers import byte_size, counted, per_second

SECONDS_BETWEEN_LINES = 10.0
"""Between two lines of progress where there is no terminal: a log should be readable."""
QUIET_SHARE = 0.125
"""While no unit ends, a line is due after this share of the time without one: an hour of a part
has some thirty lines."""
LOOK_S = 1.0
"""How often to look whether a line is due while no unit ends."""
REFRESHES_PER_S = 4.0
WIDEST = 79
"""Columns of the view in a wider terminal: a window may be made narrower, and lines that the
terminal then folds cannot be drawn over."""
NARROWEST_BAR = 8
SHOWN_STATUSES = 4
BETWEEN = "   "
TOKENS_PER_S = "tokens/s"


class LiveView:
    """Shows the progress of one task at a time, and what is loaded meanwhile.

    Args:
        console: where to. A terminal that can be drawn over has the view; anything else, lines.
        step: which step of a plan this command is, shown above its own progress.
        clock: in seconds.
        refreshes_per_s: how often the view is drawn; 0 draws it when `refresh` is called.
    """

    def __init__(
        self,
        console: Console,
        *,
        step: str = "",
        clock: Callable[[], float] = time.monotonic,
        refreshes_per_s: float = REFRESHES_PER_S,
    ) -> None:
        self._console, self._step, self._clock = console, step, clock
        self._refreshes_per_s = refreshes_per_s
        self._pace: Pace | None = None
        self._live: Live | None = None
        self._lines: _Lines | None = None
        self.height = 0
        """Lines that the view takes at the bottom of the terminal now."""

    @contextmanager
    def progress(self, task: Task, /) -> Iterator[Advance]:
        """Show a task's progress until the context is left; nothing of the view stays."""
        outer = self._pace
        self._pace = pace = Pace(task, self._clock)
        try:
            if draws_over(self._console) and self._live is None:
                with self._drawn(pace):
                    yield pace.add
            else:
                self._lines = lines = _Lines(self._console, pace)
                with self._looked_at(lines):
                    yield lines.add
                lines.close()
        finally:
            self._lines = None
            self._pace = outer

    def loading(self) -> AbstractContextManager[None]:
        """Return a section in which a model is loaded: it says nothing about the pace."""
        return nullcontext() if self._pace is None else self._pace.loading()

    def refresh(self) -> None:
        """Draw the view now; where there are lines, print one if it is due."""
        if self._live is not None:
            self._live.refresh()
        if self._lines is not None:
            self._lines.look()

    @contextmanager
    def _looked_at(self, lines: "_Lines") -> Iterator[None]:
        """Return a section in which a thread prints the lines that are due."""
        if not self._refreshes_per_s:
            yield
            return
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(LOOK_S):
                lines.look()

        thread = threading.Thread(target=look, name="progress lines", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    @contextmanager
    def _drawn(self, pace: Pace) -> Iterator[None]:
        self._live = Live(
            console=self._console,
            get_renderable=lambda: self._frame(pace),
            auto_refresh=self._refreshes_per_s > 0,
            refresh_per_second=self._refreshes_per_s or REFRESHES_PER_S,
            transient=True,
            redirect_stdout=False,  # it is for what one would pipe
        )
        try:
            self._live.start()
            # a process that is killed could not bring it back
            self._console.show_cursor(True)
            # Drawn by its thread alone: an interrupt comes to this one, and in the middle of
            # printing the view would leave a second one behind.
            yield
        finally:
            self._live.stop()
            self._live, self.height = None, 0

    def _frame(self, pace: Pace) -> Group:
        # a line as wide as the terminal would be folded by some
        width = max(1, min(WIDEST, self._console.width - 1))
        lines = frame(pace, width, self._step)
        self.height = len(lines.renderables)
        return lines


def draws_over(console: Console) -> bool:
    """Return whether a console is a terminal on which lines can be drawn again.

    ``FORCE_COLOR`` makes a terminal of a file, for colours; cursor movements would stay in it.
    """
    is_terminal = console.is_terminal and not console.is_dumb_terminal and console.is_interactive
    return is_terminal and console.file.isatty()


def frame(pace: Pace, width: int, step: str = "") -> Group:
    """Return the view, a renderable a line: the task, how far it is, its figures, its pace."""
    task = pace.task
    heading = Text.assemble((task.stage, "bold"), "  ", (task.output, "dim"))
    lines: list[RenderableType] = [_line(Text(step, style="dim"), width)] if step else []
    lines.append(_line(heading, width))
    lines.append(_bar(pace, width))
    sentences = [BETWEEN.join(words) for words in (facts(pace), times(pace)) if words]
    lines += [_line(Text(sentence), width) for sentence in sentences]
    return Group(*lines)


def _bar(pace: Pace, width: int) -> RenderableType:
    """Return the bar with its numbers; these alone where there is no room for it."""
    task = pace.task
    # 100% is said when nothing is left
    percent = f"{100 * pace.n_done // max(1, task.total)}%"
    done = Text(f"{_done(pace)}{_kept(pace)}  {percent:>4}")
    bar_width = width - done.cell_len - 1
    if bar_width < NARROWEST_BAR:
        return _line(done, width)

    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    bar = ProgressBar(
        max(1, task.total),
        pace.n_done,
        width=bar_width,
        complete_style="cyan",
        finished_style="green",
    )
    row.add_row(bar, done)
    return row


def _line(text: Text, width: int) -> Text:
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text


class _Lines:
    """A line every few seconds and at the end, for logs."""

    def __init__(self, console: Console, pace: Pace) -> None:
        self._console, self._pace = console, pace
        self._last_line_s = 0.0
        self._lock = threading.Lock()
        """One line at a time: units end in one thread, and another looks meanwhile."""

    def add(
        self,
        n: int,
        tally: Tally = NO_TALLY,
        /,
        *,
        rows: Mapping[str, int] = NO_ROWS,
        figures: Mapping[str, str] = NO_FIGURES,
    ) -> None:
        """Count units, and print a line where one is due."""
        with self._lock:
            self._pace.add(n, tally, rows=rows, figures=figures)
            self._print_after(SECONDS_BETWEEN_LINES)

    def look(self) -> None:
        """Print a line where one is due although no unit has ended."""
        with self._lock:
            self._print_after(max(SECONDS_BETWEEN_LINES, QUIET_SHARE * self._pace.quiet_s))

    def _print_after(self, seconds: float) -> None:
        """Print a line so long after the last one."""
        pace = self._pace
        if pace.elapsed_s - self._last_line_s >= seconds and not pace.is_done:
            self._last_line_s = pace.elapsed_s
            self._console.print(Text(log_line(pace)))

    def close(self) -> None:
        """Print the last line: the newest figures may come behind the last unit."""
        if self._pace.is_done:
            self._console.print(Text(log_line(self._pace)))


def log_line(pace: Pace) -> str:
    """Return a task's progress as a line of a log."""
    task = pace.task
    done = f"{task.stage}: {_done(pace)} done{_kept(pace)}"
    line = ", ".join([done, *facts(pace), *times(pace)])
    return line.replace(" so far", "") if pace.is_done else line


def _done(pace: Pace) -> str:
    if pace.task.unit == "byte":
        return f"{byte_size(pace.n_done)} of {byte_size(pace.task.total)}"
    return f"{pace.n_done:,} of {counted(pace.task.total, pace.task.unit)}"


def _kept(pace: Pace) -> str:
    n_kept = pace.task.n_kept
    if n_kept == 0:
        return ""
    shown = byte_size(n_kept) if pace.task.unit == "byte" else f"{n_kept:,}"
    return f" ({shown} more kept)"


def facts(pace: Pace) -> list[str]:
    """Return the newest figures in words, and rows by status: the good ones, then the most.

    Rows of parts under way stand behind them: they have no status yet.
    """
    words = [f"{name} {value}" for name, value in pace.figures.items() if name != TOKENS_PER_S]
    answered = pace.task.answered()
    under_way = []
    if answered.n_asked and not pace.is_done:
        of_all = counted(answered.n_asked, "row")
        under_way = [f"{answered.n_done:,} of {of_all} in open parts"]
    n_rows = pace.rows.total()
    if n_rows == 0:
        return [*words, *under_way]

    in_order = sorted(pace.rows, key=lambda each: (each != "ok", -pace.rows[each], each))
    shown = [f"{pace.rows[status]:,} {status}" for status in in_order[:SHOWN_STATUSES]]
    n_other = sum(pace.rows[status] for status in in_order[SHOWN_STATUSES:])
    if n_other:
        shown.append(f"{n_other:,} of other statuses")
    return [*words, f"{counted(n_rows, 'row')}: {', '.join(shown)}", *under_way]


def times(pace: Pace) -> list[str]:
    """Return what is left where that is known, the time that has passed, and tokens a second."""
    words = []
    left_s = pace.left_s()
    if pace.is_loading:
        words.append("loading a model")
    elif left_s is not None and left_s >= 0.5:
        words.append(f"about {_coarse(left_s)} left")
    words.append(f"{duration(pace.elapsed_s)} so far")

    tokens_per_s = pace.tokens_per_s()
    if tokens_per_s is not None:
        words.append(f"{per_second(tokens_per_s)} {TOKENS_PER_S}")
    elif TOKENS_PER_S in pace.figures:
        words.append(f"{pace.figures[TOKENS_PER_S]} {TOKENS_PER_S}")
    return words


def duration(seconds: float) -> str:
    """Return a time in words: ``52 s``, ``4 min 10 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02} s"
    hours, rest_min = divmod(minutes, 60)
    return f"{hours} h {rest_min:02} min"


def _coarse(seconds: float) -> str:
    """Return a time as exactly as an estimate is: ``52 s``, ``4 min``, ``2.1 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
