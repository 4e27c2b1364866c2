"""The runs of a study as ``prefpipe status`` prints them: a row an arm, a column a seed."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefpipe.text.untrusted import visible, visible_line

STYLES = {
    "done": "green",
    "running": "cyan",
    "waiting": "dim",
    "stale": "magenta",
    "failed": "bold red",
}
IN_WORDS = ("failed", "running", "stale")
"""States whose detail stands below the table, a line a run."""
NOTE_LIMIT, NAME_LIMIT = 400, 64
GAP = 2
"""Columns between those of the table."""
LINES_SHOWN = 12


def run_study_page(study: Mapping[str, Any], *, width: int) -> Iterator[RenderableType]:
    """Yield the table, why runs failed or are stale, who is at which, and the command that goes on.

    Args:
        study: what `prefpipe.status.run_study.StudyStatus.to_json` returned.
        width: columns of the terminal.
    """
    by_plan = f", by {study['plan']}" if study["plan"] else ""
    counts = ", ".join(f"{n} {state}" for state, n in study["counts"].items())
    title = f"{study['path']}: study {study['study']}{by_plan}: {len(study['runs'])} runs, {counts}"
    yield _line(title, "bold")

    yield from _tables(study, width)
    for line in study["shared"]:
        yield _line(line)
    for state in IN_WORDS:
        yield from _details(study, state)
    for note in study["notes"]:
        yield _line(f"note: {note}", "dim")
    for words in study["again"]:
        yield Text(visible(f"again:   {shlex.join(words)}"))
    yield Text("")


def _tables(study: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    """Yield the runs, an arm a row; more seeds than stand in the width go on in the next table."""
    cells = {(run["arm"], run["seed"]): _cell(run) for run in study["runs"]}
    names = {arm: visible_line(arm, NAME_LIMIT) for arm in study["arms"]}
    of_seeds = [f"seed {seed}" for seed in study["seeds"]]
    widest = max(cell_len(str(text)) for text in (*of_seeds, *cells.values())) + GAP
    longest = max(cell_len(name) for name in names.values())
    # a long name gives way to the states, and is folded
    n_abreast = max((width - min(longest, max(width // 3, 8)) - GAP) // widest, 1)

    seeds_left = study["seeds"]
    while seeds_left:
        seeds, seeds_left = seeds_left[:n_abreast], seeds_left[n_abreast:]
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        table.add_column("arm", overflow="fold", min_width=min(longest, 8))
        for seed in seeds:
            table.add_column(f"seed {seed}", no_wrap=True)
        for arm, name in names.items():
            table.add_row(name, *(cells[arm, seed] for seed in seeds))
        yield table


def _cell(run: Mapping[str, Any]) -> Text:
    state: str = run["state"]
    judged = run["detail"] if state == "waiting" else ""
    return Text(f"{state} {judged}".rstrip(), style=STYLES[state])


def _details(study: Mapping[str, Any], state: str) -> Iterator[RenderableType]:
    """Yield a line for each run in a state that its word does not explain."""
    runs = [run for run in study["runs"] if run["state"] == state]
    for run in runs[:LINES_SHOWN]:
        verb = "held by " if state == "running" else ""
        yield _line(
            f"{state}: {run['arm']}, seed {run['seed']}: {verb}{run['detail']}", STYLES[state]
        )
    n_more = len(runs) - LINES_SHOWN
    if n_more > 0:
        yield _line(f"and {n_more} more {state}; --json has them all")


def _line(text: str, style: str = "") -> Group:
    """Return a sentence that is broken between words."""
    return Group(Text(visible_line(text, NOTE_LIMIT), style=style))
