"""The story of a study: its figures as the page's charts and tables have them.

Reads: the figures of `prefpipe.stages.study.figures.figures_of`, the runs, and the record of what
was declared.

Promises: every contrast, arm and run of these is on the page, those without figures too; no number
is computed here.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe import __version__
from prefpipe.artifacts.finite_json import finite_values
from prefpipe.configs.study_record import StudyRecord
from prefpipe.stages.study.sentences import p_digits
from prefpipe.stages.study.wording import (
    LATER,
    budget_title,
    contrast_title,
    failure,
    intervals_are,
    is_separable,
    runs_of_arm,
    unfinished_lines,
)
from prefpipe.text.numbers import figure, interval, number

NONE = "\N{EN DASH}"
CHARTED = ("reward", "lowest_decile", "worst_rate")
"""Measures with a chart of all arms, beside the one that the contrasts are of."""
MARKS = ("●", "◆", "■", "▲", "★", "✕")
"""The symbols of ``study.js`` for the budgets, in order."""
COUNTS = ("step", "prompts", "response_tokens", "trained_tokens")
"""Of a run, in the table of all of them."""
KL, LENGTH, TOKENS, EPOCH = "kl_per_token", "n_tokens", "response_tokens", "epoch"
AT_BASE = {KL: 0.0, TOKENS: 0.0}
"""Where the base is along such an axis, by definition."""


class CostAxis(NamedTuple):
    """What the measure is drawn against: the chart's title behind the measure, and the axis's."""

    key: str
    title: str
    axis: str


COSTS = (
    CostAxis(KL, "against KL", "KL to the base, nats per token"),
    CostAxis(TOKENS, "against response tokens trained on", "response tokens trained on, mean"),
    CostAxis(LENGTH, "against the length of responses", "tokens a held-out response"),
    CostAxis(EPOCH, "by epoch", "epoch"),
)


def tell_study(
    folder: str,
    figures: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    record: StudyRecord,
) -> dict[str, Any]:
    """Return the story as JSON values, as ``study.html.jinja`` and ``study.js`` read it.

    Args:
        folder: its name.
        figures: of the study.
        runs: rows of ``runs.parquet``.
        record: what was declared.
    """
    figures = finite_values(dict(figures))
    story = {
        "folder": folder,
        "version": __version__,
        "name": figures["study"],
        "unfinished": list(unfinished_lines(figures)),
        "about": _about(figures),
        "tiles": list(_tiles(figures)),
        "contrasts": _contrasts(figures),
        "contrasts_about": _about_contrasts(figures),
        "measures": _arm_charts(figures),
        "arms_about": _about_arms(figures),
        "arm_tables": [_arm_table(entry, figures) for entry in figures["budgets"]],
        "untested": [_untested_at(entry, figures) for entry in figures["budgets"]],
        "costs": list(_costs(figures)),
        "costs_marks": _marks(figures),
        "runs": _runs(figures, runs),
        **_declared(figures, record),
        "notes": list(figures["notes"]),
        "figures": figures,
    }
    finite: dict[str, Any] = finite_values(story)
    return finite


def _judged(figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the budgets at which the measure of the contrasts is known of some run."""
    return [entry for entry in figures["budgets"] if figures["measure"] in entry["measures"]]


def _measure(figures: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the measure of the contrasts, at the first budget that has it."""
    judged = _judged(figures)
    of_first: Mapping[str, Any] | None = (
        judged[0]["measures"][figures["measure"]] if judged else None
    )
    return of_first


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _about(figures: Mapping[str, Any]) -> str:
    measure = _measure(figures)
    sentence = (
        f"{_counted(figures['arms'], 'arm')} by {_counted(figures['seeds'], 'seed')} of "
        f"{figures['model']}"
    )
    if measure is None:
        return f"{sentence}. No run is judged yet."
    return (
        f"{sentence}, compared on {measure['n_prompts']:,} held-out prompts. "
        f"{_capital(intervals_are(figures))}."
    )


def _counted(items: Sequence[Any], name: str) -> str:
    return f"{len(items)} {name}" if len(items) == 1 else f"{len(items)} {name}s"


def _tiles(figures: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the few figures that stand on top: ``value`` and ``label``."""
    runs = figures["runs"]
    yield {"value": str(len(figures["arms"])), "label": "arms"}
    yield {"value": f"{runs['done']} of {runs['planned']}", "label": "runs done"}
    for entry in _judged(figures):
        declared = [
            each for each in entry["measures"][figures["measure"]]["contrasts"] if each["declared"]
        ]
        if declared:
            n_separable = sum(is_separable(each) for each in declared)
            label = f"contrasts separable, {budget_title(entry['budget'])}"
            yield {"value": f"{n_separable} of {len(declared)}", "label": label}


def _about_contrasts(figures: Mapping[str, Any]) -> str:
    measure = _measure(figures)
    if measure is None:
        return "No two arms of a contrast are judged yet."
    if not measure["contrasts"]:
        return "The plan declares no contrasts."

    n_declared = sum(each["declared"] for each in measure["contrasts"])
    text = (
        f"Each row is a difference of two arms in {measure['label']}, first minus second. "
        "A filled point with a star is separable from zero after Holm's correction over the "
        "declared contrasts of its picture; an open point is not. "
        "The band ends at the detectable difference: one that the study finds with probability "
        "0.8 at Holm's first step. It is likely to miss a smaller one."
    )
    if figures["equivalence"] is not None:
        text += f" Dotted: the margin of equivalence, {figures['equivalence']:g} either way."
    if n_declared < len(measure["contrasts"]):
        text += (
            f" Contrasts {LATER} are marked †: they were chosen after results were seen, and are "
            "not corrected for."
        )
    return text


def _contrasts(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the contrasts by budget; all charts have one scale."""
    at_budgets = [_contrasts_at(entry, figures) for entry in _judged(figures)]
    extent = _extent(each["chart"]["rows"] for each in at_budgets)
    for each in at_budgets:
        each["chart"]["extent"] = extent
    return at_budgets


def _extent(charts: Iterable[Sequence[Mapping[str, Any]]]) -> list[float]:
    """Return the lowest and the highest value of rows of several charts; [] without any."""
    values: list[float | None] = []
    for rows in charts:
        for row in rows:
            values += [row["mean"], row["low"], row["high"]]
            reach = row.get("detectable")
            values += [] if reach is None else [-reach, reach]
    known = [value for value in values if value is not None]
    return [min(known), max(known)] if known else []


def _contrasts_at(entry: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contrasts at a budget, as a chart's rows, a table and sentences."""
    measure = entry["measures"][figures["measure"]]
    has_margin = figures["equivalence"] is not None
    rows, table, sentences = [], [], []
    for contrast in measure["contrasts"]:
        rows.append(
            {
                "first": contrast["first"],
                "second": contrast["second"],
                "is_declared": contrast["declared"],
                "is_clear": is_separable(contrast),
                "detectable": contrast["detectable_holm"],
                **{key: contrast[key] for key in ("mean", "low", "high", "p_holm")},
            }
        )
        cells = [
            contrast_title(contrast) + ("" if contrast["declared"] else " †"),
            _difference(contrast, measure["form"]),
            _p_value(contrast["p"]),
            _p_value(contrast["p_holm"]) + (" *" if is_separable(contrast) else ""),
            _size(contrast["detectable_holm"], measure["form"]),
            _seeds(contrast["seeds"], figures),
        ]
        if has_margin:
            cells.append(_equivalence(contrast["equivalence"]))
        table.append(cells)
        if contrast["sentence"]:
            sentences.append(contrast["sentence"])

    head = ["Contrast", "Difference", "p", "Holm's p", "Detectable", "Seeds"]
    return {
        "budget": budget_title(entry["budget"]),
        "chart": {
            "rows": rows,
            "title": f"difference in {measure['label']}",
            "equivalence": figures["equivalence"],
            "is_share": "%" in measure["form"],
        },
        "head": [*head, "Equivalent"] if has_margin else head,
        "table": table,
        "sentences": sentences,
    }


def _untested_at(entry: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contrasts on the other measures at a budget: a column a measure."""
    others = [each for key, each in entry["measures"].items() if key != figures["measure"]]
    rows: dict[str, list[str]] = {}
    for column, measure in enumerate(others):
        for contrast in measure["contrasts"]:
            cells = rows.setdefault(contrast_title(contrast), [NONE] * len(others))
            cells[column] = _difference(contrast, measure["form"])
    return {
        "budget": budget_title(entry["budget"]),
        "head": ["Contrast", *(_capital(measure["label"]) for measure in others)],
        "table": [[title, *cells] for title, cells in rows.items()],
    }


def _about_arms(figures: Mapping[str, Any]) -> str:
    text = "Each arm with its interval."
    measure = _measure(figures)
    if measure is not None and measure["base"] is not None:
        text += " The line through all rows is the base, the band its interval."
    if figures["worst_below"] is not None:
        text += f" A worst failure is a response with a reward below {figures['worst_below']:g}."
    return text


def _arm_charts(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of all arms, by measure and budget."""
    keys = [key for key in (figures["measure"], *CHARTED) if key is not None]
    charts: list[dict[str, Any]] = []
    for key in dict.fromkeys(keys):
        at_budgets: list[dict[str, Any]] = []
        for entry in figures["budgets"]:
            if key in entry["measures"]:
                measure = entry["measures"][key]
                chart = {"rows": _arm_rows(measure, figures), "base": measure["base"]}
                chart |= {"title": measure["label"], "is_share": "%" in measure["form"]}
                at_budgets.append({"budget": budget_title(entry["budget"]), "chart": chart})
                title = _capital(measure["label"])
        extent = _extent(each["chart"]["rows"] for each in at_budgets)
        for each in at_budgets:
            each["chart"]["extent"] = extent
        if at_budgets:
            charts.append({"title": title, "budgets": at_budgets})
    return charts


def _arm_rows(measure: Mapping[str, Any], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the base, if it has the measure, and every arm, those without values too."""
    rows = []
    if measure["base"] is not None:
        rows.append({"name": "base", "is_base": True, **_ends(measure["base"])})
    by_arm = {each["arm"]: each for each in measure["arms"]}
    for arm in figures["arms"]:
        nothing = {"mean": None, "low": None, "high": None}
        values = _ends(by_arm[arm]) if arm in by_arm else nothing
        rows.append({"name": arm, "is_base": False, **values})
    return rows


def _arm_table(entry: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return every measure of every arm at a budget: a row an arm, the base first."""
    measures = entry["measures"]
    head, columns = ["Arm", "Runs"], []
    base_row = ["base", ""]
    for key, measure in measures.items():
        by_arm = {each["arm"]: each for each in measure["arms"]}
        form = measure["form"]
        head.append(_capital(measure["label"]))
        columns.append({arm: interval(values, form) for arm, values in by_arm.items()})
        base_row.append(NONE if measure["base"] is None else interval(measure["base"], form))
        if key == figures["measure"] and measure["base"] is not None:
            head.append("Minus the base")
            to_base = {arm: values["to_base"] for arm, values in by_arm.items()}
            columns.append({arm: _difference(each, form) for arm, each in to_base.items() if each})
            base_row.append("")

    rows = [base_row] if any(cell not in ("", NONE) for cell in base_row[1:]) else []
    for arm in entry["arms"]:
        cells = [column.get(arm["arm"], NONE) for column in columns]
        rows.append([arm["arm"], runs_of_arm(arm), *cells])
    return {"budget": budget_title(entry["budget"]), "head": head, "table": rows}


def _costs(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the charts of the measure against what it cost, those that have a point."""
    measure = _measure(figures)
    if measure is None:
        return
    for cost in COSTS:
        series = [
            {"name": arm, "number": place, "points": _points(arm, cost.key, figures)}
            for place, arm in enumerate(figures["arms"], start=1)
        ]
        n_points = sum(len(each["points"]) for each in series)
        if not n_points:
            continue
        titles = [budget_title(entry["budget"]) for entry in figures["budgets"]]
        base = _base_point(cost.key, figures)
        yield {
            "title": f"{_capital(measure['label'])} {cost.title}",
            "head": ["Arm", "Judged at", _capital(cost.axis), _capital(measure["label"])],
            "table": list(_point_rows(series, titles, measure["form"])),
            "chart": {
                "series": [each for each in series if each["points"]],
                "base": base,
                "budgets": titles,
                "x_title": cost.axis,
                "y_title": measure["label"],
                "is_whole": cost.key == EPOCH,
            },
        }


def _marks(figures: Mapping[str, Any]) -> list[str]:
    """Return what the symbols of those charts are, ``● equal prompts``."""
    titles = [budget_title(entry["budget"]) for entry in figures["budgets"]]
    symbols = [MARKS[place % len(MARKS)] for place in range(len(titles))]
    marks = [f"{symbol} {title}" for symbol, title in zip(symbols, titles, strict=True)]
    return [*marks, "□ the base"]


def _points(arm: str, key: str, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an arm's points: a budget each at which the measure and the cost are known."""
    points = []
    for place, entry in enumerate(figures["budgets"]):
        across = _cost_of(arm, key, entry)
        up = _of_arm(arm, figures["measure"], entry)
        if across is None or up is None or across["mean"] is None or up["mean"] is None:
            continue
        points.append({"place": place, **_on_axis("x", across), **_on_axis("y", up)})
    return points


def _cost_of(arm: str, key: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an arm cost at a budget: ``mean``, ``low`` and ``high``."""
    if key == EPOCH:
        kind, _, epoch = entry["budget"].rpartition("-")
        is_epoch = kind == EPOCH and epoch.isdecimal()
        return {"mean": int(epoch), "low": None, "high": None} if is_epoch else None
    if key == TOKENS:
        of_arm = next((each for each in entry["arms"] if each["arm"] == arm), None)
        tokens = None if of_arm is None else of_arm["response_tokens"]
        return {"mean": tokens, "low": None, "high": None}
    return _of_arm(arm, key, entry)


def _of_arm(arm: str, key: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figure of a measure of an arm at a budget, None where it has none."""
    if key not in entry["measures"]:
        return None
    found = (each for each in entry["measures"][key]["arms"] if each["arm"] == arm)
    values = next(found, None)
    return None if values is None else _ends(values)


def _base_point(key: str, figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return where the base is, None where it has no such value."""
    for entry in _judged(figures):
        up = entry["measures"][figures["measure"]]["base"]
        if up is None or up["mean"] is None:
            continue
        if key in AT_BASE:
            return {"x": AT_BASE[key], "y": up["mean"]}
        across = entry["measures"].get(key, {}).get("base")
        if across is not None and across["mean"] is not None:
            return {"x": across["mean"], "y": up["mean"]}
    return None


def _point_rows(
    series: Sequence[Mapping[str, Any]], titles: Sequence[str], form: str
) -> Iterator[list[str]]:
    """Yield the points of a chart as rows of a table."""
    for each in series:
        for point in each["points"]:
            across = figure(float(f"{point['x']:.4g}"))
            up = {"mean": point["y"], "low": point["y_low"], "high": point["y_high"]}
            if point["x_low"] is not None:
                across += f" [{point['x_low']:.4g}, {point['x_high']:.4g}]"
            name = f"{each['number']} {each['name']}"
            yield [name, titles[point["place"]], across, interval(up, form)]


def _runs(figures: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the runs: a grid of arms by seeds, and a table of all of them."""
    by_run: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        by_run.setdefault((run["arm"], run["seed"]), []).append(run)

    grid = []
    for arm in figures["arms"]:
        cells = [_run_cell(by_run.get((arm, seed), [])) for seed in figures["seeds"]]
        grid.append({"arm": arm, "cells": cells})
    # a column that no run has a number in says nothing
    counts = [name for name in COUNTS if any(run[name] is not None for run in runs)]
    table = []
    for run in runs:
        state = run["status"] if run["status"] != "failed" else f"failed: {failure(run)}"
        seconds = NONE if run["seconds"] is None else f"{run['seconds']:,.0f}"
        numbers = [NONE if run[name] is None else figure(run[name]) for name in counts]
        title = budget_title(run["budget"])
        table.append([run["arm"], str(run["seed"]), title, state, *numbers, seconds])
    return {
        "seeds": list(figures["seeds"]),
        "rows": grid,
        "head": [
            "Arm",
            "Seed",
            "Judged at",
            "State",
            *(_capital(name.replace("_", " ")) for name in counts),
            "Seconds",
        ],
        "table": table,
    }


def _run_cell(at_budgets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the state of an arm and seed over its budgets, the gravest first."""
    for run in at_budgets:
        if run["status"] == "failed":
            return {"state": "failed", "detail": failure(run)}
    done = [run for run in at_budgets if run["status"] == "done"]
    if at_budgets and len(done) == len(at_budgets):
        return {"state": "done", "detail": ""}
    detail = ", ".join(f"{budget_title(run['budget'])} done" for run in done)
    return {"state": "waiting", "detail": detail}


def _declared(figures: Mapping[str, Any], record: StudyRecord) -> dict[str, Any]:
    """Return what was said before the run: the contrasts, how they are tested, and the plan."""
    values = record.values
    rows = [
        ["Measure of the contrasts", str(figures["measure"])],
        ["Seeds", ", ".join(map(str, figures["seeds"]))],
        ["Model", str(figures["model"])],
        ["Target", str(figures["target"])],
    ]
    said = ("budgets", "epochs", "worst_below", "equivalence", "truth")
    rows += [
        [_capital(name.replace("_", " ")), _as_text(values[name])]
        for name in said
        if values.get(name) is not None
    ]
    rows += [
        ["Resamples", f"{figures['bootstrap_draws']:,}, seed {figures['bootstrap_seed']}"],
        ["prefpipe", record.version],
        ["Machine", ", ".join(f"{key} {value}" for key, value in record.machine.items())],
    ]
    arms = values.get("arms") or {}
    shared = ("pool", "heldout", "eval", "select", "train")
    return {
        "declared": rows,
        "contrasts_declared": [
            [
                contrast_title(each._asdict()),
                each.at,
                "before the run" if each.is_before else LATER,
            ]
            for each in record.declared
        ],
        "arm_changes": [[str(name), _as_text(arms.get(name))] for name in figures["arms"]],
        "shared": [[name, _as_text(values[name])] for name in shared if values.get(name)],
    }


def _as_text(value: Any) -> str:
    """Return a value of a plan as one line."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if value else NONE


def _ends(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("mean", "low", "high")}


def _on_axis(axis: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {axis: values["mean"], f"{axis}_low": values["low"], f"{axis}_high": values["high"]}


def _difference(values: Mapping[str, Any], form: str) -> str:
    return NONE if values["mean"] is None else interval(values, form, signed=True)


def _size(value: float | None, form: str) -> str:
    return NONE if value is None else number(value, form)


def _p_value(value: float | None) -> str:
    return NONE if value is None else p_digits(value)


def _seeds(seeds: Sequence[int], figures: Mapping[str, Any]) -> str:
    return f"{len(seeds)} of {len(figures['seeds'])}"


def _equivalence(test: Mapping[str, Any] | None) -> str:
    if test is None:
        return NONE
    return "yes" if test["is_equivalent"] else "not shown"
