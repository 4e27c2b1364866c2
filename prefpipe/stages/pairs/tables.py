"""Scored pairs as a page for the terminal: sections and subsets, or calibration with its reliability curve."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefpipe.stages.evaluate.comparison import short
from prefpipe.text.numbers import interval, number
from prefpipe.text.untrusted import visible_line

PERCENT, THREE = "{:.1%}", "{:.3f}"
CURVE_WIDTH = 40
"""Characters of the axis of a reliability curve, from 0 to 1."""
CALIBRATION_ROWS = (
    ("accuracy, ties half", "accuracy", PERCENT),
    ("AUC", "auc", THREE),
    ("ECE, equal width", "ece", THREE),
    ("ECE, equal mass", "ece_mass", THREE),
    ("Brier", "brier", THREE),
    ("log loss, nats", "log_loss", THREE),
)
GAP_COLUMNS = (
    ("confidence", PERCENT),
    ("accuracy", PERCENT),
    ("ece", THREE),
    ("brier", THREE),
    ("log_loss", THREE),
)
SCORES = {
    "log_ratio": "log-ratio to the reference, summed over response tokens",
    "mean_logp": "mean log-probability a response token",
    "reward": "reward",
    "given": "scores that the file gives",
}


def pairs_page(figures: Mapping[str, Any], *, shows: str) -> RenderableType:
    """Return the page.

    Args:
        figures: what ``summary.json`` of ``pair_scores`` holds.
        shows: ``rewardbench`` or ``calibration``: what stands first.
    """
    if shows != "rewardbench":
        pages = _calibration(figures["calibration"], figures)
    elif "rewardbench_two" in figures:
        pages = _best_of(figures)
    else:
        pages = _accuracy(figures)
    return Group(Text(_title(figures), style="bold"), *pages)


def _title(figures: Mapping[str, Any]) -> str:
    models = [short(model["name"]) for model in figures["recipe"]["models"]]
    who = " against ".join(models) or "no model"
    return visible_line(
        f"{who}: {SCORES[figures['score_kind']]}; {figures['n_scored']:,} of {figures['n_pairs']:,} pairs",
        200,
    )


def _accuracy(figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    table = _table(
        "", f"accuracy and {figures['confidence']:.0%} interval", "se", "pairs", "ties", "weight"
    )
    bench = figures["rewardbench"]
    for section in bench["sections"] if bench is not None else ():
        _row(table, section["name"], section["accuracy"], f"{section['weight']:g}", style="bold")
        for subset in section["subsets"]:
            _row(table, f"  {subset['name']}", subset["accuracy"], f"{subset['weight']}")
    others = [] if bench is None else bench["other_subsets"]
    if others and bench["sections"]:
        table.add_row(Text("in no section", style="dim"))
    for subset in others:
        _row(table, f"  {subset['name'] or '(no subset)'}", subset["accuracy"], "")
    _row(table, "all pairs", figures["accuracy"], "")
    if bench is not None and bench["core"] is not None:
        found = [each["name"] for each in bench["sections"] if each["weight"] == 1.0]
        _row(table, f"mean of {len(found)} of 4 core sections", bench["core"], "")
    if bench is not None and bench["final"] is not None:
        _row(
            table,
            "final" if bench["is_complete"] else "final, of what is there",
            bench["final"],
            "",
            style="bold",
        )
    yield table


def _best_of(figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield RewardBench 2's table: subsets, and the mean of those that are its own."""
    table = _table(
        "RewardBench 2",
        f"figure and {figures['confidence']:.0%} interval",
        "se",
        "prompts",
        "shared",
    )
    found = figures["rewardbench_two"]
    for subset in found["subsets"] if found is not None else ():
        _row_of_prompts(table, subset["name"] or "(no subset)", subset["figure"])
    if found is not None and found["final"] is not None:
        n_counted = sum(
            each["n_expected"] is not None and each["figure"] is not None
            for each in found["subsets"]
        )
        name = "final" if found["is_complete"] else f"mean of {n_counted} of 6 subsets"
        _row_of_prompts(table, name, found["final"], style="bold")
    yield table


def _row_of_prompts(
    table: Table, name: str, figure: Mapping[str, Any] | None, style: str = ""
) -> None:
    label = Text(visible_line(name, 40), style=style)
    if figure is None:
        table.add_row(label, "none", "", "", "")
        return
    table.add_row(
        label,
        interval(figure, PERCENT),
        number(figure["se"], PERCENT),
        f"{figure['n_prompts']:,}",
        f"{figure['n_shared']:,}",
    )


def _row(
    table: Table, name: str, accuracy: Mapping[str, Any], weight: str, style: str = ""
) -> None:
    table.add_row(
        Text(("  " if name.startswith(" ") else "") + visible_line(name, 40), style=style),
        interval(accuracy, PERCENT),
        number(accuracy["se"], PERCENT),
        f"{accuracy['n_pairs']:,}",
        f"{accuracy['n_ties']:,}",
        weight,
    )


def _calibration(found: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    if not found["n_pairs"]:
        yield Text(f"no calibration: {found['reason']}")
        return
    difference = "s_chosen - s_rejected"
    difference = difference if figures["beta"] == 1.0 else f"{figures['beta']:g} * ({difference})"
    origin = {"training": ", the beta of the policy's training", "given": ", the beta given"}.get(
        figures["beta_from"], ""
    )
    yield Text(
        f"predicted preference sigma({difference}){origin}; both orders of each pair", style="dim"
    )
    if found["outcome_gamma"] is not None:
        yield Text(
            f"against graded outcomes sigma({found['outcome_gamma']:g} * (rating of chosen - rating of rejected))",
            style="dim",
        )
    fitted = found["temperature"]
    is_fitted = fitted["temperature"] is not None
    heads = ("held out, T = 1", f"T = {fitted['temperature']:.3g}") if is_fitted else ()
    table = _table("", f"figure and {figures['confidence']:.0%} interval", "se", *heads)
    for label, name, form in CALIBRATION_ROWS:
        drawn = found["intervals"][name]
        split = (
            [number(fitted[when][name], form) for when in ("before", "after")] if is_fitted else []
        )
        table.add_row(
            label, interval({"mean": found[name], **drawn}, form), number(drawn["se"], form), *split
        )
    yield table
    yield from _curve(found["reliability"])
    for name, title in (("by_gap", "score gap"), ("by_rater_gap", "raters' gap")):
        if found[name] is not None:
            yield _gaps(found[name], title)


def _curve(bins: Sequence[Mapping[str, float]]) -> Iterator[RenderableType]:
    """Yield the curve's upper half, which the lower mirrors: what was predicted (|) and what came of it (bar)."""
    yield Text("reliability: a bar is the share that won, | what was predicted", style="bold")
    table = _table(
        "predicted",
        "won",
        "pairs",
        "0" + " " * (CURVE_WIDTH // 2 - 2) + "1/2" + " " * (CURVE_WIDTH // 2 - 2) + "1",
    )
    table.columns[3].justify = "left"
    for each in bins:
        if each["lower"] >= 0.5 - 1e-12:
            table.add_row(
                f"{each['predicted']:.3f}",
                f"{each['observed']:.3f}",
                f"{each['n']:,.0f}",
                _bar(each),
            )
    yield table


def _bar(each: Mapping[str, float]) -> Text:
    n_full = round(each["observed"] * CURVE_WIDTH)
    characters = list("█" * n_full + "·" * (CURVE_WIDTH - n_full))
    characters[min(CURVE_WIDTH - 1, round(each["predicted"] * CURVE_WIDTH))] = "|"
    return Text("".join(characters), style="cyan")


def _gaps(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    table = _table(title, "pairs", "mean confidence", "accuracy", "ECE", "Brier", "log loss")
    for row in rows:
        bounds = f"{row['gap_lower']:.3g} to {row['gap_upper']:.3g}"
        figures = (number(row[name], form) for name, form in GAP_COLUMNS)
        table.add_row(bounds, f"{row['n_pairs']:,}", *figures)
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table
