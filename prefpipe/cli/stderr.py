"""stderr: what people see of a run, logs, progress, tables and errors."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from prefpipe.errors import PrefpipeError, StoppedEarly
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import Advance
from prefpipe.stages.shared.partwise import Summary

stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
if not stderr.is_terminal:
    stderr.width = 140  # a log file has no width; tables should not be folded for one

NO_TALLY: Tally = {}
SECONDS_BETWEEN_LINES = 5.0
"""Between two lines of progress where there is no terminal: a log should be readable."""


def log(line: str) -> None:
    """Print a line to stderr."""
    stderr.print(escape(line))


def show_page(page: Iterable[RenderableType]) -> None:
    """Print a page to stderr, its sentences broken between words."""
    for item in page:
        stderr.print(item, soft_wrap=False)


@contextmanager
def progress(description: str, total: int, /, *, in_bunches: bool = False) -> Iterator[Advance]:
    """Show a progress bar on a terminal; elsewhere a line every few seconds and at the end.

    Args:
        description: what is done and the unit it is counted in, ``generate: part``.
        total: units to do.
        in_bunches: units end many at a time, so that no time left can be told.
    """
    rates = Rates(in_bunches=in_bunches)
    if stderr.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rates]}"),
        )
        with Progress(*columns, console=stderr, transient=True) as bar:
            task = bar.add_task(description, total=total, rates="")

            def advance_bar(n: int, tally: Tally = NO_TALLY, /) -> None:
                rates.add(n, tally)
                bar.update(task, advance=n, rates=rates.describe(total))

            yield advance_bar
        return

    last_line_s = 0.0

    def advance(n: int, tally: Tally = NO_TALLY, /) -> None:
        nonlocal last_line_s
        rates.add(n, tally)
        if rates.elapsed_s - last_line_s < SECONDS_BETWEEN_LINES and rates.n_done < total:
            return

        last_line_s = rates.elapsed_s
        line = f"{description} {rates.n_done} of {total} done, {rates.elapsed_s:.0f} s so far"
        words = rates.describe(total)
        log(f"{line}, {words}" if words else line)

    yield advance


class Rates:
    """What has been done in which time, and so what is left.

    Args:
        in_bunches: many units end together, after a long time without one. Then neither the time
            left nor tokens a second follow from those that are done, before all are.
    """

    def __init__(self, *, in_bunches: bool = False) -> None:
        self.n_done = 0
        self._in_bunches = in_bunches
        self._started_s = time.monotonic()
        self._first_done: tuple[int, float] | None = None
        self._n_tokens = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started_s

    def add(self, n: int, tally: Tally) -> None:
        """Count ``n`` more units as done."""
        self.n_done += n
        self._n_tokens += tally.get("n_tokens", 0.0)
        if self._first_done is None:
            self._first_done = (self.n_done, self.elapsed_s)

    def describe(self, total: int) -> str:
        """Return the time left, and tokens a second where tokens were counted; "" if unknown."""
        if self._in_bunches and self.n_done < total:
            return ""
        left_s = self._seconds_a_unit() * (total - self.n_done)
        words = f"about {left_s:.0f} s left"
        if self._n_tokens and self.elapsed_s > 0:
            words += f", {self._n_tokens / self.elapsed_s:,.0f} tokens/s"
        return words

    def _seconds_a_unit(self) -> float:
        """Return the pace behind the first unit, which waits for a model to be loaded."""
        elapsed_s = self.elapsed_s
        if self._first_done is not None:
            n_first, first_s = self._first_done
            if self.n_done > n_first:
                return (elapsed_s - first_s) / (self.n_done - n_first)
        return elapsed_s / max(1, self.n_done)


def show_summary(summary: Summary) -> None:
    """Print rows by status and the stage's notes."""
    table = Table(
        title=escape(f"{summary.stage}: {summary.n_rows:,} rows in {summary.path}"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("status")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")

    # good rows first, then what befell most
    in_order = sorted(summary.counts, key=lambda each: (each != "ok", -summary.counts[each], each))
    for status in in_order:
        count = summary.counts[status]
        table.add_row(escape(status), f"{count:,}", f"{count / summary.n_rows:.1%}")
    if summary.counts:
        stderr.print(table)

    if summary.table is not None:
        stderr.print(summary.table)
    for note in summary.notes:
        log(note)


def show_error(error: PrefpipeError) -> None:
    """Print ``error:`` and ``hint:``."""
    heading = "stopped" if error.exit_code == StoppedEarly.exit_code else "error"
    stderr.print(f"[bold red]{heading}:[/bold red] {escape(error.message)}")
    if error.hint:
        stderr.print(f"\n[bold]hint:[/bold] {escape(error.hint)}")
