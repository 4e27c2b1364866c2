"""stdout: paths and JSON for scripts, and pages for commands whose answer is text to read."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from prefpipe.artifacts.finite_json import finite_values
from prefpipe.text.untrusted import visible

FILE_WIDTH = 140
"""Columns of tables where there is no terminal, as on stderr."""


def pipe(text: str) -> None:
    """Print what a script reads; text that stdout's encoding lacks is escaped, never an error.

    Where stdout is closed, as a script may start a command, nobody reads it.
    """
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def pipe_exactly(text: str) -> None:
    """Print what a shell runs: names that are no text come out byte for byte as they came in."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text))
    sys.stdout.buffer.flush()


def pipe_json(value: Any) -> None:
    """Print JSON; a number that JSON has no word for (NaN, infinity) is null."""
    pipe(json.dumps(finite_values(value), allow_nan=False, default=str))


def width() -> int:
    """Return the columns of the terminal, 80 where there is none."""
    return Console().width


def show(
    page: Iterable[RenderableType],
    *,
    not_done: Sequence[Mapping[str, Any]] = (),
    is_wide: bool = False,
) -> None:
    """Print a page; colour only on a terminal, and never where ``NO_COLOR`` is set.

    Texts come with their lines broken where they should be: a command must stay one line to be
    pasted.

    Args:
        page: what to print, item by item.
        not_done: what `not_done.not_done` returned. The page then begins with it, and every table
            is marked, so that a figure which is copied out of the page is not taken for one of the
            whole.
        is_wide: a file or a pipe, which has no width, gets tables that are not folded for 80
            columns; not for a page that was made for `width`.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # an ASCII terminal gets escapes, not a traceback
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, emoji=False)
    if is_wide and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH

    mark = ", ".join(f"{item['path']}, which is {item['state']}" for item in not_done)
    if mark:
        console.print(Text(f"NOT DONE: from {visible(mark)}", style="bold yellow"), soft_wrap=True)

    for item in page:
        is_text = isinstance(item, Text)
        console.print(item, soft_wrap=is_text)
        if mark and not is_text:
            console.print(Text(f"(from {visible(mark)})", style="yellow"), soft_wrap=True)


def show_facts(facts: Mapping[str, str]) -> None:
    """Print a line for each fact, names in one column.

    Values are never broken, so that paths can be copied.
    """
    longest = max(map(len, facts))
    lines = []
    for name, value in facts.items():
        lines.append(Text.assemble((f"{name:<{longest}}  ", "bold"), visible(value)))
    show(lines)
