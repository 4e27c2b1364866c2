"""What a reader of scored pairs should know, in sentences: rows left out, ties, what RewardBench's figures lack."""

from collections.abc import Mapping
from typing import Any

from prefpipe.maths.statistics.calibration import TEMPERATURES
from prefpipe.maths.statistics.rewardbench import ROWS
from prefpipe.spelling import nearest


def notes_of(figures: Mapping[str, Any], *, shows: str | None = None) -> list[str]:
    """Return what a reader should know.

    Args:
        figures: what ``summary.json`` of ``pair_scores`` holds.
        shows: ``rewardbench`` or ``calibration``: leave out what concerns the other's figures alone; None tells all.
    """
    notes = _notes_on_rows(figures)
    if shows != "calibration":
        notes += (
            _notes_on_completions(figures)
            if "rewardbench_two" in figures
            else _notes_on_accuracy(figures)
        )
    if shows != "rewardbench":
        notes += _notes_on_temperature(figures["calibration"])
    if shows != "calibration" and figures["rewardbench"] is not None:
        notes += _notes_on_subsets(figures["rewardbench"])
    return notes


def _notes_on_completions(figures: Mapping[str, Any]) -> list[str]:
    """Return what to know of RewardBench 2's figures."""
    found = figures["rewardbench_two"]
    notes = [
        "the file is of RewardBench 2: a prompt is won where its correct completion scores highest, and a tie is shared"
    ]
    if found is None:
        return [*notes, "no prompt has all of its completions scored"]
    if found["left_out"]:
        reasons = ", ".join(f"{count:,} {status}" for status, count in found["left_out"].items())
        notes.append(
            f"prompts of {found['n_items']:,} that are left out, since one of their completions has no score: {reasons}"
        )
    for subset in found["subsets"]:
        if subset["reason"] is not None:
            notes.append(f"{subset['name']}: {subset['reason']}")
        figure = subset["figure"]
        if figure is not None and subset["n_expected"] not in (None, figure["n_prompts"]):
            notes.append(
                f"{subset['name']} has {figure['n_prompts']:,} prompts, RewardBench 2 {subset['n_expected']:,}"
            )
    if found["final"] is None:
        notes.append("no subset is one of RewardBench 2's, so there is no final figure")
    elif found["missing"]:
        notes.append(
            f"no figure of {', '.join(found['missing'])}: the mean is of the others, and compares with no published one"
        )
    return notes


def _notes_on_accuracy(figures: Mapping[str, Any]) -> list[str]:
    notes = []
    if figures["n_ties"]:
        half = figures["accuracy"]["ties_half"]
        notes.append(
            f"{figures['n_ties']:,} of {figures['n_scored']:,} pairs tie and count as lost, as in RewardBench v1; "
            f"counted half, the accuracy is {half:.1%}"
        )
    if figures["n_rejected_preferred"]:
        notes.append(
            f"in {figures['n_rejected_preferred']:,} of {figures['n_scored']:,} pairs `preference` is below 1/2, for `rejected`: "
            "this accuracy takes `chosen` for the better one all the same; `prefpipe eval calibration` goes by the preference"
        )
    return notes


def _notes_on_temperature(calibration: Mapping[str, Any]) -> list[str]:
    fitted = calibration.get("temperature", {})
    if "reason" in fitted:
        return [f"no temperature: {fitted['reason']}"]
    if fitted.get("temperature") not in TEMPERATURES:
        return []
    what = (
        "separate all of them"
        if fitted["temperature"] == TEMPERATURES[0]
        else "say nothing, or the contrary, of them"
    )
    return [
        f"the temperature is {fitted['temperature']:g}, its limit: on the pairs that it was fitted on the scores {what}"
    ]


def _notes_on_rows(figures: Mapping[str, Any]) -> list[str]:
    n_left_out, n_too_long = (
        figures["n_pairs"] - figures["n_scored"],
        figures["counts"].get("too_long", 0),
    )
    checks = (
        (
            n_left_out,
            f"{n_left_out:,} of {figures['n_pairs']:,} pairs were not scored and count nowhere; `reason` says why",
        ),
        (
            n_too_long,
            f"{n_too_long:,} pairs are longer than the model or --max-length allows: kept, not scored, and never cut",
        ),
        (
            figures["n_identical"],
            f"{figures['n_identical']:,} pairs have two identical responses and tie by construction",
        ),
        (
            figures["n_duplicates"],
            f"{figures['n_duplicates']:,} pairs are copies of earlier rows; they count, and are drawn together by the bootstrap",
        ),
        (
            figures["n_contradictions"],
            f"{figures['n_contradictions']:,} pairs say the contrary of an earlier row: the same responses the other way round",
        ),
    )
    return [sentence for holds, sentence in checks if holds]


def _notes_on_subsets(bench: Mapping[str, Any]) -> list[str]:
    found = [subset for section in bench["sections"] for subset in section["subsets"]]
    other_size = [
        f"{subset['name']} {subset['accuracy']['n_pairs']:,} of {subset['n_expected']:,}"
        for subset in found
        if subset["n_expected"] not in (None, subset["accuracy"]["n_pairs"])
    ]
    notes = (
        [f"scored pairs, and RewardBench's number: {', '.join(other_size)}"] if other_size else []
    )
    notes += [
        f"{section['name']} lacks {', '.join(section['missing'])}: the other subsets' weights are renormalised"
        for section in bench["sections"]
        if section["missing"]
    ]
    if bench["subsets_not_scored"]:
        notes.append(
            f"no pair of these subsets was scored: {', '.join(bench['subsets_not_scored'])}"
        )
    if bench["other_subsets"] and bench["sections"]:
        names = ", ".join(subset["name"] or "(none)" for subset in bench["other_subsets"])
        notes.append(f"no subsets of RewardBench, in no section: {names}")
    notes += [
        _told_near(subset["name"])
        for subset in bench["other_subsets"]
        if near_subset(subset["name"]) is not None
    ]
    if not bench["sections"]:
        notes.append(
            "no subset is one of RewardBench's, so there are no sections and no final figure"
        )
    elif bench["missing_sections"]:
        notes.append(
            f"no pairs of {', '.join(bench['missing_sections'])}: the final figure is of the other sections, which no "
            "published one can be compared with"
        )
    return notes


def near_subset(name: str) -> str | None:
    """Return the one of RewardBench's subsets that ``name`` is probably meant for, None where it is like none of them."""
    known = {each.casefold(): each for each in ROWS}
    match = nearest(name.casefold().replace("_", "-"), known, cutoff=0.9)
    return None if match is None else known[match]


def _told_near(name: str) -> str:
    return f"the subset {name} counts in no section; RewardBench's is spelt {near_subset(name)}"
