"""stderr: what people see of a run, logs, progress, tables and errors."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from prefpipe.errors import PrefpipeError, StoppedEarly
from prefpipe.stages.shared.runtime import Advance, Summary

stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
if not stderr.is_terminal:
    stderr.width = 140  # a log file has no width; tables should not be folded for one

SECONDS_BETWEEN_LINES = 5.0
"""Between two lines of progress where there is no terminal: a log should be readable."""


def log(line: str) -> None:
    """Print a line to stderr."""
    stderr.print(escape(line))


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Show a progress bar on a terminal; elsewhere a line every few seconds and at the end.

    Args:
        description: what is done and the unit it is counted in, ``generate: part``.
        total: units to do.
    """
    if stderr.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=stderr, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda n: bar.advance(task, n)
        return

    n_done = 0
    started_s = time.monotonic()
    last_line_s = 0.0

    def advance(n: int) -> None:
        nonlocal n_done, last_line_s
        n_done += n
        elapsed_s = time.monotonic() - started_s
        if elapsed_s - last_line_s < SECONDS_BETWEEN_LINES and n_done < total:
            return

        last_line_s = elapsed_s
        left_s = elapsed_s / n_done * (total - n_done)
        log(
            f"{description} {n_done} of {total} done, {elapsed_s:.0f} s so far, "
            f"about {left_s:.0f} s left"
        )

    yield advance


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
