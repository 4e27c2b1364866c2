"""stderr: what people see of a run, logs, progress, tables and errors."""

import os
from collections.abc import Iterable

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from prefpipe.errors import PrefpipeError, StoppedEarly
from prefpipe.execution.step_process import STEP_VARIABLE
from prefpipe.pages.live_view import LiveView
from prefpipe.pages.stderr_console import StderrConsole
from prefpipe.stages.shared.partwise import Summary
from prefpipe.text.numbers import counted

stderr = StderrConsole()
if not stderr.is_terminal:
    stderr.width = 140  # a log file has no width; tables should not be folded for one

live_view = LiveView(stderr, step=os.environ.get(STEP_VARIABLE, ""))
"""What a running stage shows of itself."""


def log(line: str) -> None:
    """Print a line to stderr."""
    stderr.print(escape(line))


def show_page(page: Iterable[RenderableType]) -> None:
    """Print a page to stderr, its sentences broken between words."""
    for item in page:
        stderr.print(item, soft_wrap=False)


def show_summary(summary: Summary) -> None:
    """Print rows by status and the stage's notes."""
    table = Table(
        title=escape(f"{summary.stage}: {counted(summary.n_rows, 'row')} in {summary.path}"),
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
