"""The table that ``prefpipe eval`` ends with: policy beside baseline."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from prefpipe.stages.evaluate.health import health_rows
from prefpipe.text.numbers import interval, number

ROWS = (
    ("mean reward", "reward", "{:.3f}"),
    ("tokens per response", "n_tokens", "{:.1f}"),
    ("characters per response", "length_chars", "{:.0f}"),
)


def comparison_table(figures: Mapping[str, Any]) -> Table:
    """Return policy beside baseline, each mean with its interval, and the paired difference.

    Args:
        figures: what ``summary.json`` holds, None if there is no value. Each measure has
            ``policy`` and ``baseline`` with ``mean``, ``low`` and ``high``, and ``difference``
            with ``se`` as well; ``win_rate`` and ``length_controlled`` are like a difference;
            ``health`` has more measures.
    """
    table = Table(
        title=f"{figures['n_compared']} prompts, means with {figures['confidence']:.0%} bootstrap "
        "intervals over prompts",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )

    table.add_column("")
    table.add_column(escape(f"baseline {short(figures['baseline_name'])}"), justify="right")
    table.add_column(escape(f"policy {short(figures['policy_name'])}"), justify="right")
    table.add_column("policy - baseline", justify="right")
    table.add_column("se", justify="right")

    for label, measure, form in ROWS:
        values = figures[measure]
        difference = values["difference"]
        table.add_row(
            label,
            interval(values["baseline"], form),
            interval(values["policy"], form),
            interval(difference, form, signed=True),
            number(difference["se"], form),
        )

    label = "  length-controlled"
    controlled = figures["length_controlled"]
    if "reason" not in controlled and controlled["difficulty_coefficient"] is None:
        label += ", no difficulty"
    _add_win_rate(table, "win rate, ties half", figures["win_rate"])
    _add_win_rate(table, label, controlled)

    table.add_row("")
    table.add_row("policy health")
    for row in health_rows(figures):
        table.add_row(*row)
    return table


def _add_win_rate(table: Table, label: str, values: Mapping[str, Any]) -> None:
    table.add_row(label, "", interval(values, "{:.1%}"), "", number(values["se"], "{:.1%}"))


def short(name: str, limit: int = 28) -> str:
    """Return the end of a long model name."""
    return name if len(name) <= limit else "..." + name[3 - limit :]
