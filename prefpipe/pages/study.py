"""The figures of a study for the terminal: what is not done, the contrasts, and every arm."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefpipe.artifacts.finite_json import finite_values
from prefpipe.stages.study.sentences import p_digits
from prefpipe.stages.study.wording import (
    budget_title,
    intervals_are,
    is_separable,
    runs_of_arm,
    unfinished_lines,
)
from prefpipe.text.numbers import interval, number
from prefpipe.text.untrusted import visible_line

HEADS = {
    "lowest_decile": "lowest 10%",
    "worst_rate": "worst",
    "win_rate": "win rate",
    "lc_win_rate": "LC win",
    "n_tokens": "tokens",
    "kl_per_token": "KL/token",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
}
"""Heads of narrow columns, in their order; other measures are in the report and in ``--json``."""
MOST_COLUMNS = 6
"""Beside the arm, in 80 columns."""
NAME_LIMIT, LINE_LIMIT = 64, 400


def study_page(figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the tables: a row a contrast and a row an arm, at each budget.

    Args:
        figures: of `prefpipe.stages.study.figures.figures_of`.
    """
    figures = finite_values(dict(figures))
    for place, line in enumerate(unfinished_lines(figures)):
        yield _line(line, "bold yellow" if place == 0 else "yellow")

    for entry in figures["budgets"]:
        measure = entry["measures"].get(figures["measure"])
        title = budget_title(entry["budget"])
        if measure is None:
            yield Text(f"\n{title}: no run is judged yet", style="bold")
            continue
        if measure["contrasts"]:
            yield Text(f"\nContrasts in {measure['label']}, {title}", style="bold")
            yield _contrasts(measure)
        yield Text(f"\nArms, {title}", style="bold")
        yield _arms(entry, measure)
        others = [key for key in HEADS if key in entry["measures"] and key != figures["measure"]]
        if others:
            yield Text("")
            yield _other_measures(entry, others[:MOST_COLUMNS])

    yield Text("")
    for sentence in _sentences(figures):
        yield _line(sentence)
    for note in _notes(figures):
        yield _line(note, "dim")


def _contrasts(measure: Mapping[str, Any]) -> Table:
    table = _table("contrast")
    for name in ("difference", "Holm's p", "detectable"):
        table.add_column(name, no_wrap=True)
    for contrast in measure["contrasts"]:
        title = f"{_name(contrast['first'])} - {_name(contrast['second'])}"
        p_holm = _p_value(contrast["p_holm"])
        if not contrast["declared"]:
            p_holm = "later"
        elif is_separable(contrast):
            p_holm += " *"
        style = "bold" if is_separable(contrast) else ""
        difference = interval(contrast, measure["form"], signed=True)
        detectable = number(contrast["detectable_holm"], measure["form"])
        table.add_row(title, difference, p_holm, detectable, style=style)
    return table


def _arms(entry: Mapping[str, Any], measure: Mapping[str, Any]) -> Table:
    """Return the measure of the contrasts of each arm, beside the base."""
    table = _table("arm")
    base, form = measure["base"], measure["form"]
    table.add_column("runs")
    table.add_column(measure["label"], no_wrap=True)
    if base is not None:
        table.add_column("minus the base", no_wrap=True)
        table.add_row("base", "", interval(base, form), "")
    values = {each["arm"]: each for each in measure["arms"]}
    for arm in entry["arms"]:
        of_arm = values.get(arm["arm"])
        cells = [_name(arm["arm"]), runs_of_arm(arm)]
        cells.append("-" if of_arm is None else interval(of_arm, form))
        if base is not None:
            to_base = None if of_arm is None else of_arm["to_base"]
            cells.append("-" if to_base is None else interval(to_base, form, signed=True))
        table.add_row(*cells)
    return table


def _other_measures(entry: Mapping[str, Any], keys: Sequence[str]) -> Table:
    """Return the means of other measures of each arm; their intervals are in the report."""
    measures = [entry["measures"][key] for key in keys]
    table = _table("arm, means")
    for key in keys:
        table.add_column(HEADS[key], no_wrap=True, justify="right")

    of_base = [
        number(measure["base"]["mean"], measure["form"]) if measure["base"] is not None else "-"
        for measure in measures
    ]
    if set(of_base) != {"-"}:
        table.add_row("base", *of_base)
    means = [{each["arm"]: each["mean"] for each in measure["arms"]} for measure in measures]
    for arm in entry["arms"]:
        cells = [
            number(by_arm.get(arm["arm"]), measure["form"])
            for by_arm, measure in zip(means, measures, strict=True)
        ]
        table.add_row(_name(arm["arm"]), *cells)
    return table


def _table(first: str) -> Table:
    """Return a table whose first column, of names, gives way to the numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    return table


def _sentences(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the contrasts say in words, at each budget."""
    for entry in figures["budgets"]:
        measure = entry["measures"].get(figures["measure"])
        for contrast in [] if measure is None else measure["contrasts"]:
            if contrast["sentence"]:
                yield f"{budget_title(entry['budget'])}: {contrast['sentence']}"


def _notes(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the figures are of."""
    prompts = {
        entry["measures"][figures["measure"]]["n_prompts"]
        for entry in figures["budgets"]
        if figures["measure"] in entry["measures"]
    }
    counted = " or ".join(f"{n:,}" for n in sorted(prompts)) or "none"
    n_arms, n_seeds = len(figures["arms"]), len(figures["seeds"])
    yield f"arms: {n_arms}, seeds: {n_seeds}, held-out prompts: {counted}"
    yield (
        f"{intervals_are(figures)}; prompts resampled {figures['bootstrap_draws']:,} times, seed "
        f"{figures['bootstrap_seed']}"
    )
    contrasts = list(_contrasts_of(figures))
    if any(contrast["declared"] for contrast in contrasts):
        yield (
            "* separable after Holm's correction over the declared contrasts. Detectable: found "
            "with probability 0.8 at Holm's first step; a smaller difference is likely to be missed"
        )
    if not all(contrast["declared"] for contrast in contrasts):
        yield "later: a contrast added after results were seen; it is not corrected for"
    yield from (f"note: {note}" for note in figures["notes"])


def _contrasts_of(figures: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the contrasts of the measure that is tested, at each budget."""
    for entry in figures["budgets"]:
        measure = entry["measures"].get(figures["measure"])
        yield from [] if measure is None else measure["contrasts"]


def _line(text: str, style: str = "") -> Group:
    """Return a sentence that is broken between words."""
    return Group(Text(visible_line(text, LINE_LIMIT), style=style))


def _name(text: str) -> str:
    return visible_line(text, NAME_LIMIT)


def _p_value(value: float | None) -> str:
    return "-" if value is None else p_digits(value)
