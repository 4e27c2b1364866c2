"""The rounds of a run as ``prefpipe status`` prints them: a row a round, a column a step."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prefpipe.text.untrusted import visible, visible_line

STYLES = {
    "done": "green",
    "missing": "dim",
    "partial": "yellow",
    "stale": "magenta",
    "corrupt": "bold red",
    "-": "dim",
}
NOTE_LIMIT = 400


def rounds_page(rounds: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the table, what the plan says otherwise, and the command that goes on.

    Args:
        rounds: what `prefpipe.status.run_rounds.RunRounds.to_json` returned.
    """
    rows = rounds["rounds"]
    by_plan = f", by {rounds['plan']}" if rounds["plan"] else ""
    title = f"{rounds['path']}: {len(rows)} rounds{by_plan}"
    yield Text(visible_line(title, NOTE_LIMIT), style="bold")

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("round", *rounds["stages"], "learning rate"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        cells = [_cell(row["steps"][stage]) for stage in rounds["stages"]]
        rate = "" if row["learning_rate"] is None else f"{row['learning_rate']:g}"
        table.add_row(str(row["round"]), *cells, rate)
    yield table

    for row in rows:
        if row["changes"]:
            line = f"from round {row['round']} on: {', '.join(row['changes'])}"
            yield Text(visible_line(line, NOTE_LIMIT))
    for reason in rounds["reasons"]:
        yield Text(visible_line(reason, NOTE_LIMIT))
    for note in rounds["notes"]:
        yield Text(visible_line(f"note: {note}", NOTE_LIMIT), style="dim")
    for words in rounds["again"]:
        yield Text(visible(f"again:   {shlex.join(words)}"))
    yield Text("")


def _cell(step: Mapping[str, Any]) -> Text:
    state: str = step["state"]
    text = state
    if state == "partial" and step["detail"][:1].isdigit():
        text += f" {step['detail']}"
    return Text(text, style=STYLES[state])
