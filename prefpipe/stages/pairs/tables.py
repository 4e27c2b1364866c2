"""Scored pairs as a page for the terminal.

It shows sections and subsets, or calibration with its reliability curve.
"""

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
    "mean_logp": "mean log-probability per response token",
    "reward": "reward",
    "given": "scores that the file gives",
}
ORIGINS_OF_BETA = {
    "training": ", the beta of the policy's training",
    "given": ", the beta given",
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
    scorer = " against ".join(models) or "no model"
    return visible_line(
        f"{scorer}: {SCORES[figures['score_kind']]}; {figures['n_scored']:,} of "
        f"{figures['n_pairs']:,} pairs",
        200,
    )


def _accuracy(figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield RewardBench's table.

    Sections stand with their subsets, then other subsets, all pairs, the means over sections.
    """
    level = f"{figures['confidence']:.0%}"
    table = _table("", f"accuracy and {level} interval", "se", "pairs", "ties", "weight")
    bench = figures["rewardbench"]
    if bench is None:
        _row_of_pairs(table, "all pairs", figures["accuracy"], "")
        yield table
        return

    sections = bench["sections"]
    for section in sections:
        weight = f"{section['weight']:g}"
        _row_of_pairs(table, section["name"], section["accuracy"], weight, style="bold")
        for subset in section["subsets"]:
            name, weight = f"  {subset['name']}", f"{subset['weight']}"
            _row_of_pairs(table, name, subset["accuracy"], weight)
    if bench["other_subsets"] and sections:
        table.add_row(Text("in no section", style="dim"))
    for subset in bench["other_subsets"]:
        _row_of_pairs(table, f"  {subset['name'] or '(no subset)'}", subset["accuracy"], "")

    _row_of_pairs(table, "all pairs", figures["accuracy"], "")
    if bench["core"] is not None:
        n_core = sum(section["weight"] == 1.0 for section in sections)
        _row_of_pairs(table, f"mean of {n_core} of 4 core sections", bench["core"], "")
    if bench["final"] is not None:
        name = "final" if bench["is_complete"] else "final, of what is there"
        _row_of_pairs(table, name, bench["final"], "", style="bold")
    yield table


def _best_of(figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield RewardBench 2's table: subsets, and the mean of those that are its own."""
    level = f"{figures['confidence']:.0%}"
    table = _table("RewardBench 2", f"figure and {level} interval", "se", "prompts", "shared")
    bench = figures["rewardbench_two"]
    if bench is None:
        yield table
        return

    n_counted = 0
    for subset in bench["subsets"]:
        _row_of_prompts(table, subset["name"] or "(no subset)", subset["figure"])
        n_counted += subset["n_expected"] is not None and subset["figure"] is not None
    if bench["final"] is not None:
        name = "final" if bench["is_complete"] else f"mean of {n_counted} of 6 subsets"
        _row_of_prompts(table, name, bench["final"], style="bold")
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


def _row_of_pairs(
    table: Table, name: str, accuracy: Mapping[str, Any], weight: str, style: str = ""
) -> None:
    indent = "  " if name.startswith(" ") else ""  # visible_line takes it away
    table.add_row(
        Text(indent + visible_line(name, 40), style=style),
        interval(accuracy, PERCENT),
        number(accuracy["se"], PERCENT),
        f"{accuracy['n_pairs']:,}",
        f"{accuracy['n_ties']:,}",
        weight,
    )


def _calibration(
    calibration: Mapping[str, Any], figures: Mapping[str, Any]
) -> Iterator[RenderableType]:
    """Yield the page on calibration.

    What was predicted, the table of measures, the reliability curve, measures by gap.
    """
    if not calibration["n_pairs"]:
        yield Text(f"no calibration: {calibration['reason']}")
        return

    difference = "s_chosen - s_rejected"
    if figures["beta"] != 1.0:
        difference = f"{figures['beta']:g} * ({difference})"
    origin = ORIGINS_OF_BETA.get(figures["beta_from"], "")
    yield Text(
        f"predicted preference sigma({difference}){origin}; both orders of each pair", style="dim"
    )
    if calibration["outcome_gamma"] is not None:
        gap = f"{calibration['outcome_gamma']:g} * (rating of chosen - rating of rejected)"
        yield Text(f"against graded outcomes sigma({gap})", style="dim")

    fitted = calibration["temperature"]
    headings = ["", f"figure and {figures['confidence']:.0%} interval", "se"]
    if fitted["temperature"] is not None:
        headings += ["held out, T = 1", f"T = {fitted['temperature']:.3g}"]
    table = _table(*headings)

    for label, name, form in CALIBRATION_ROWS:
        drawn = calibration["intervals"][name]
        cells = [
            label,
            interval({"mean": calibration[name], **drawn}, form),
            number(drawn["se"], form),
        ]
        if fitted["temperature"] is not None:
            cells += [number(fitted["before"][name], form), number(fitted["after"][name], form)]
        table.add_row(*cells)
    yield table

    yield from _curve(calibration["reliability"])
    for name, title in (("by_gap", "score gap"), ("by_rater_gap", "raters' gap")):
        if calibration[name] is not None:
            yield _gaps(calibration[name], title)


def _curve(bins: Sequence[Mapping[str, float]]) -> Iterator[RenderableType]:
    """Yield the curve's upper half, which the lower mirrors.

    A bar is what was observed, | what was predicted.
    """
    yield Text("reliability: a bar is the share that won, | what was predicted", style="bold")
    gap = " " * (CURVE_WIDTH // 2 - 2)
    table = _table("predicted", "won", "pairs", f"0{gap}1/2{gap}1")
    table.columns[3].justify = "left"
    for each in bins:
        # 1/2 is an edge, up to the rounding of edges.
        if each["lower"] >= 0.5 - 1e-12:
            predicted, observed = f"{each['predicted']:.3f}", f"{each['observed']:.3f}"
            table.add_row(predicted, observed, f"{each['n']:,.0f}", _bar(each))
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
        figures = [number(row[name], form) for name, form in GAP_COLUMNS]
        table.add_row(bounds, f"{row['n_pairs']:,}", *figures)
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table
