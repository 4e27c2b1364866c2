"""The tables of a study as Markdown, for a document."""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from prefpipe.stages.study.sentences import p_value
from prefpipe.stages.study.wording import (
    budget_title,
    contrast_title,
    intervals_are,
    runs_of_arm,
    unfinished_lines,
)
from prefpipe.text.numbers import figure, interval, number
from prefpipe.text.untrusted import visible_line

NONE = "-"
OF_RESPONSES = (
    "n_tokens",
    "kl_per_token",
    "repetition",
    "self_bleu",
    "distinct_2",
    "embedding_diversity",
)
"""Measures of a table of their own: what became of the responses while rewards rose."""
LINE_LIMIT = 600


def study_markdown(figures: Mapping[str, Any]) -> str:
    """Return the tables of each budget: arms, their responses, contrasts, and what these rest on.

    Args:
        figures: of `prefpipe.stages.study.figures.figures_of`.
    """
    blocks = [_line(f"**{line}**") for line in unfinished_lines(figures)]
    for entry in figures["budgets"]:
        title = budget_title(entry["budget"])
        blocks.append(f"**{title[:1].upper()}{title[1:]}**")
        if not entry["measures"]:
            blocks.append("No run is judged here yet.")
            continue
        measures = entry["measures"]
        rewards = [key for key in measures if key not in OF_RESPONSES]
        responses = [key for key in measures if key in OF_RESPONSES]
        blocks.append(_arms(entry, rewards, figures["measure"]))
        if responses:
            blocks.append(_arms(entry, responses))
        blocks += _contrasts(measures, figures)
    blocks += [_line(line) for line in _lines(figures)]
    return "\n\n".join(blocks)


def _arms(entry: Mapping[str, Any], keys: Sequence[str], tested: str = "") -> str:
    """Return a row an arm, the base first; ``tested`` has its difference to the base, too."""
    measures = entry["measures"]
    head, base = ["arm"], ["base"]
    if tested:
        head += ["runs", "step", "response tokens"]
        base += ["", "", ""]
    for key in keys:
        head.append(measures[key]["label"])
        base.append(_interval(measures[key]["base"], measures[key]["form"]))
        if key == tested and measures[key]["base"] is not None:
            head.append("minus the base")
            base.append("")

    rows = [base] if any(cell not in ("", NONE) for cell in base[1:]) else []
    for arm in entry["arms"]:
        row = [arm["arm"]]
        if tested:
            row += [runs_of_arm(arm), _count(arm["step"]), _count(arm["response_tokens"])]
        for key in keys:
            of_arm = next(
                (each for each in measures[key]["arms"] if each["arm"] == arm["arm"]), None
            )
            form = measures[key]["form"]
            row.append(_interval(of_arm, form))
            if key == tested and measures[key]["base"] is not None:
                to_base = None if of_arm is None else of_arm["to_base"]
                row.append(_interval(to_base, form, signed=True))
        rows.append(row)
    return _table(head, rows)


def _contrasts(
    measures: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the table of the tested measure, and one of the other measures' differences."""
    tested = measures.get(figures["measure"])
    if tested is not None and tested["contrasts"]:
        form = tested["form"]
        head = [
            f"contrast, {tested['label']}",
            "seeds",
            "difference",
            "Holm's p",
            "detectable",
            "what it says",
        ]
        rows = []
        for contrast in tested["contrasts"]:
            p_holm = p_value(contrast["p_holm"]).removeprefix("p = ").removeprefix("p ")
            rows.append(
                [
                    contrast_title(contrast),
                    f"{len(contrast['seeds'])} of {len(figures['seeds'])}",
                    _interval(contrast, form, signed=True),
                    p_holm if contrast["declared"] else "added later, not corrected",
                    _number(contrast["detectable_holm"], form),
                    _verdict(contrast, form),
                ]
            )
        yield _table(head, rows)

    others = [key for key in measures if key != figures["measure"] and measures[key]["contrasts"]]
    if others:
        head = ["difference, not tested", *(measures[key]["label"] for key in others)]
        rows = []
        for place, contrast in enumerate(measures[others[0]]["contrasts"]):
            of_measures = [measures[key] for key in others]
            cells = [
                _interval(each["contrasts"][place], each["form"], signed=True)
                for each in of_measures
            ]
            rows.append([contrast_title(contrast), *cells])
        yield _table(head, rows)


def _verdict(contrast: Mapping[str, Any], form: str) -> str:
    words = {
        "higher": f"{contrast['first']} is higher",
        "lower": f"{contrast['first']} is lower",
        "not_separable": f"not separable above {_number(contrast['detectable_holm'], form)}",
    }
    said = words.get(contrast["verdict"], NONE)
    test = contrast["equivalence"]
    if test is not None:
        margin = number(test["margin"], form)
        within = "within" if test["is_equivalent"] else "not shown to be within"
        ends = f"[{number(test['low'], form)}, {number(test['high'], form)}]"
        said += f"; {within} {margin} either way ({p_value(test['p_holm'] or test['p'])}, {ends})"
    return said


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the figures are of, and what a reader should know."""
    prompts = sorted(
        {
            measure["n_prompts"]
            for entry in figures["budgets"]
            for measure in entry["measures"].values()
        }
    )
    counted = " or ".join(f"{n:,}" for n in prompts) or "no"
    yield (
        f"{counted} held-out prompts, the same in every run; {intervals_are(figures)}; "
        f"{figures['bootstrap_draws']:,} resamples, seed {figures['bootstrap_seed']}. Detectable: "
        "the difference that this design finds with power 0.8 at Holm's first step, by what was "
        "found."
    )
    if figures["worst_below"] is not None:
        yield f"Worst failures: responses with a reward below {figures['worst_below']:g}."
    for entry in figures["budgets"]:
        for measure in entry["measures"].values():
            if measure["n_missing"]:
                yield (
                    f"{measure['label']}, {budget_title(entry['budget'])}: "
                    f"{measure['n_missing']:,} prompts lack a value in some run and count in none"
                )
    yield from (f"Note: {note}." for note in figures["notes"])


def _interval(values: Mapping[str, Any] | None, form: str, *, signed: bool = False) -> str:
    if values is None or values["mean"] is None:
        return NONE
    return interval(values, form, signed=signed)


def _number(value: float | None, form: str) -> str:
    return NONE if value is None or isnan(value) else number(value, form)


def _count(value: float | None) -> str:
    return NONE if value is None else figure(round(value, 1))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return visible_line(text, LINE_LIMIT).replace("|", "\\|")


def _line(text: str) -> str:
    return visible_line(text, LINE_LIMIT)
