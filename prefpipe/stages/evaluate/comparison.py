"""The table that ``prefpipe eval`` ends with, and what is to be said about a length-controlled figure."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from rich.markup import escape
from rich.table import Table

from prefpipe.stages.evaluate.health import health_rows
from prefpipe.text.numbers import interval, number

ROWS = (
    ("mean reward", "reward", "{:.3f}"),
    ("tokens a response", "n_tokens", "{:.1f}"),
    ("characters a response", "length_chars", "{:.0f}"),
)


LEAST_SHARE = 0.1
"""Below this share of rows on one side of equal length, the figure at equal lengths is an extrapolation."""

MOST_SES_WIDE = 8.0
"""An interval of 95 % is about 4 standard errors wide; from here on the two do not agree."""
FLAT = 1e-3
"""A figure this near 0 or 1 is of a fit that went as far as the penalty let it."""


def comparison_table(figures: Mapping[str, Any]) -> Table:
    """Return policy beside baseline, each mean with its interval, and the paired difference.

    Args:
        figures: what ``summary.json`` holds: for each measure ``policy`` and ``baseline`` with ``mean``, ``low``, ``high``,
            and ``difference`` with ``mean``, ``se``, ``low``, ``high``; so ``win_rate`` and ``length_controlled``; ``health``
            with more measures; None where there is nothing to say.
    """
    level = f"{figures['confidence']:.0%}"
    table = Table(
        title=f"{figures['n_compared']} prompts, means with {level} bootstrap intervals over prompts",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name in (
        "",
        f"baseline {short(figures['baseline_name'])}",
        f"policy {short(figures['policy_name'])}",
        "policy - baseline",
        "se",
    ):
        table.add_column(escape(name), justify="left" if not name else "right")
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
    won = figures["win_rate"]
    table.add_row(
        "win rate, ties half", "", interval(won, "{:.1%}"), "", number(won["se"], "{:.1%}")
    )
    fitted = figures["length_controlled"]
    without = (
        ", no difficulty"
        if "reason" not in fitted and fitted["difficulty_coefficient"] is None
        else ""
    )
    table.add_row(
        f"  length-controlled{without}",
        "",
        interval(fitted, "{:.1%}"),
        "",
        number(fitted["se"], "{:.1%}"),
    )
    table.add_row("")
    table.add_row("policy health")
    for row in health_rows(figures):
        table.add_row(*row)
    return table


def length_notes(figures: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know about a length-controlled figure, in sentences.

    Args:
        figures: what ``LengthControlled.figures`` returned.
    """
    notes = []
    without = figures["name"].partition(" without ")[2]
    if without:
        notes.append(
            f"without {without}: not AlpacaEval's length-controlled figure, and not to be compared with it"
        )
    side, other = (
        ("longer", "shorter")
        if figures["share_longer"] < figures["share_shorter"]
        else ("shorter", "longer")
    )
    if figures[f"share_{side}"] < LEAST_SHARE and figures[f"share_{other}"] > LEAST_SHARE:
        notes.append(
            f"the policy's response is the {side} one in {figures[f'share_{side}']:.1%} of rows only: the length-controlled "
            "figure is an extrapolation"
        )
    if _runs_to_an_end(figures):
        notes.append(
            "the length-controlled fit runs to an end of its scale, where its standard error says nothing: too few prompts, or "
            "lengths that part wins from losses"
        )
    if not figures["model_coefficient"]:
        notes.append(
            f"the penalty (C = {figures['penalty_c']:g}) left no term of the model: 50 % says nothing here"
        )
    return notes


def _runs_to_an_end(figures: Mapping[str, Any]) -> bool:
    """Return whether the figure, or those of many resamples, are where the curve is flat and the delta method sees no error."""
    if figures["se"] is None or isnan(figures["se"]):
        return False
    width = figures["high"] - figures["low"]
    is_flat = min(figures["mean"], 1.0 - figures["mean"]) < FLAT
    return bool(is_flat or (width > MOST_SES_WIDE * figures["se"] and width > LEAST_SHARE))


def short(name: str, limit: int = 28) -> str:
    """Return the end of a long model name."""
    return name if len(name) <= limit else "..." + name[3 - limit :]
