"""Training metrics as a table with a small curve for each measure."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from prefpipe.text.numbers import figure
from prefpipe.text.untrusted import visible_line

LEVELS = "▁▂▃▄▅▆▇█"


def curves_table(curves: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each measure: its name, first and last value, and its course.

    Args:
        curves: what `prefpipe.stages.inspect.curves.read_curves` returned.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)

    table.add_row("", "", Text("first", style="dim"), Text("last", style="dim"), "")
    for curve in curves:
        table.add_row(
            Text(visible_line(curve["name"], 32)),
            Text(visible_line(curve["split"], 12)),
            figure(curve["first"]),
            figure(curve["last"]),
            Text(sparkline(curve["curve"])),
        )
    return table


def sparkline(values: Sequence[float]) -> str:
    """Return a block for each value, the lowest for the least, the highest for the greatest."""
    low, high = min(values), max(values)
    if not high > low:
        return LEVELS[0] * len(values)

    blocks = []
    for value in values:
        share = (value - low) / (high - low)
        blocks.append(LEVELS[round(share * (len(LEVELS) - 1))])
    return "".join(blocks)
