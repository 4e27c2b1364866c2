"""Notes on scored pairs, in sentences.

They cover rows left out, ties, and what RewardBench's figures lack.
"""

from collections.abc import Mapping
from typing import Any

from prefpipe.maths.statistics.calibration import TEMPERATURES
from prefpipe.maths.statistics.rewardbench import ROWS
from prefpipe.spelling import nearest

RULE_OF_REWARDBENCH_TWO = (
    "the file is of RewardBench 2: a prompt is won where its correct completion scores highest, "
    "and a tie is shared"
)


def notes_of(figures: Mapping[str, Any], *, shows: str | None = None) -> list[str]:
    """Return the notes for a reader.

    Args:
        figures: what ``summary.json`` of ``pair_scores`` holds.
        shows: ``rewardbench`` or ``calibration``: leave out notes on the other's figures; None
        returns all.
    """
    notes = _notes_on_rows(figures)
    if shows != "calibration" and "rewardbench_two" in figures:
        notes += _notes_on_completions(figures["rewardbench_two"])
    elif shows != "calibration":
        notes += _notes_on_accuracy(figures)
    if shows != "rewardbench":
        notes += _notes_on_temperature(figures["calibration"])
    if shows != "calibration" and figures["rewardbench"] is not None:
        notes += _notes_on_subsets(figures["rewardbench"])
    return notes


def _notes_on_rows(figures: Mapping[str, Any]) -> list[str]:
    """Return notes on pairs that were not scored, and on equal pairs."""
    n_pairs = figures["n_pairs"]
    n_left_out = n_pairs - figures["n_scored"]
    n_too_long = figures["counts"].get("too_long", 0)
    notes = []
    if n_left_out:
        notes.append(
            f"{n_left_out:,} of {n_pairs:,} pairs were not scored and are left out of all "
            "figures; column `reason` says why"
        )

    if n_too_long:
        notes.append(
            f"{n_too_long:,} pairs are longer than the model or --max-length allows: they are "
            "kept unscored, not truncated"
        )

    if figures["n_identical"]:
        notes.append(
            f"{figures['n_identical']:,} pairs have two identical responses and tie by construction"
        )
    if figures["n_duplicates"]:
        notes.append(
            f"{figures['n_duplicates']:,} pairs are copies of earlier rows; they count, and the "
            "bootstrap draws copies together"
        )
    if figures["n_contradictions"]:
        notes.append(
            f"{figures['n_contradictions']:,} pairs contradict an earlier row: the same "
            "responses with chosen and rejected swapped"
        )
    return notes


def _notes_on_completions(bench: Mapping[str, Any] | None) -> list[str]:
    """Return notes on RewardBench 2's figures, None if no prompt has any."""
    notes = [RULE_OF_REWARDBENCH_TWO]
    if bench is None:
        return [*notes, "no prompt has all of its completions scored"]

    if bench["left_out"]:
        reasons = ", ".join(f"{count:,} {status}" for status, count in bench["left_out"].items())
        notes.append(
            f"prompts of {bench['n_items']:,} that are left out because one of their completions "
            f"has no score: {reasons}"
        )

    for subset in bench["subsets"]:
        if subset["reason"] is not None:
            notes.append(f"{subset['name']}: {subset['reason']}")
        figure, n_expected = subset["figure"], subset["n_expected"]
        if figure is not None and n_expected not in (None, figure["n_prompts"]):
            notes.append(
                f"{subset['name']} has {figure['n_prompts']:,} prompts, RewardBench 2 "
                f"{n_expected:,}"
            )

    if bench["final"] is None:
        notes.append("no subset is one of RewardBench 2's, so there is no final figure")
    elif bench["missing"]:
        notes.append(
            f"no figure for {', '.join(bench['missing'])}: the mean covers the others and is not "
            "comparable with published ones"
        )
    return notes


def _notes_on_accuracy(figures: Mapping[str, Any]) -> list[str]:
    notes = []
    if figures["n_ties"]:
        half = figures["accuracy"]["ties_half"]
        notes.append(
            f"{figures['n_ties']:,} of {figures['n_scored']:,} pairs tie and count as lost, as in "
            f"RewardBench v1; counted half, the accuracy is {half:.1%}"
        )

    if figures["n_rejected_preferred"]:
        notes.append(
            f"in {figures['n_rejected_preferred']:,} of {figures['n_scored']:,} pairs "
            "`preference` is below 1/2, in favour of `rejected`; this accuracy still counts "
            "`chosen` as the better one, while `prefpipe eval calibration` uses the preference"
        )
    return notes


def _notes_on_temperature(calibration: Mapping[str, Any]) -> list[str]:
    fitted = calibration.get("temperature", {})
    if "reason" in fitted:
        return [f"no temperature: {fitted['reason']}"]
    temperature = fitted.get("temperature")
    if temperature not in TEMPERATURES:
        return []
    verdict = "predict them no better than chance, or worse"
    if temperature == TEMPERATURES[0]:
        verdict = "separate all of them perfectly"

    note = (
        f"the temperature is {temperature:g}, its limit: on the pairs that it was fitted on the "
        f"scores {verdict}"
    )
    return [note]


def _notes_on_subsets(bench: Mapping[str, Any]) -> list[str]:
    """Return how a file's subsets differ from RewardBench's."""
    notes = []
    other_size = []
    for section in bench["sections"]:
        for subset in section["subsets"]:
            n_pairs, n_expected = subset["accuracy"]["n_pairs"], subset["n_expected"]
            if n_expected not in (None, n_pairs):
                other_size.append(f"{subset['name']} {n_pairs:,} of {n_expected:,}")
    if other_size:
        notes.append(f"scored pairs, and RewardBench's number: {', '.join(other_size)}")

    for section in bench["sections"]:
        missing = ", ".join(section["missing"])
        if missing:
            notes.append(
                f"{section['name']} lacks {missing}: the other subsets' weights are renormalised"
            )

    if bench["subsets_not_scored"]:
        notes.append(
            f"no pair of these subsets was scored: {', '.join(bench['subsets_not_scored'])}"
        )

    if bench["other_subsets"] and bench["sections"]:
        names = ", ".join(subset["name"] or "(none)" for subset in bench["other_subsets"])
        notes.append(f"no subsets of RewardBench, in no section: {names}")

    for subset in bench["other_subsets"]:
        near = near_subset(subset["name"])
        if near is not None:
            notes.append(
                f"the subset {subset['name']} counts in no section; RewardBench's is spelt {near}"
            )

    if not bench["sections"]:
        notes.append(
            "no subset is one of RewardBench's, so there are no sections and no final figure"
        )
    elif bench["missing_sections"]:
        notes.append(
            f"no pairs of {', '.join(bench['missing_sections'])}: the final figure is of the other "
            "sections, which no published one can be compared with"
        )
    return notes


def near_subset(name: str) -> str | None:
    """Return the RewardBench subset that ``name`` is probably meant for, None for none."""
    known = {subset.casefold(): subset for subset in ROWS}
    match = nearest(name.casefold().replace("_", "-"), known, cutoff=0.9)
    return None if match is None else known[match]
