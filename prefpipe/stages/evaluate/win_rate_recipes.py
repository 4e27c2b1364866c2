"""What a win rate was made of, and in what two of them differ: prompts, baseline, judge, and how the judge was asked."""

import json
import unicodedata
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe import __version__
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.interchange.annotations import Annotations

COMPARED = ("baseline", "judges", "judged_by")
"""What two results must share to be compared, beside the prompts: the baseline, and who judged, and how."""
OF_THE_POLICY = ("policy_candidates", "policy_scores", "a")
"""What may differ in the identities of two folders: whose responses were compared with the baseline's."""


class Beside(NamedTuple):
    """What the figures depend on beside the annotations: files, and the category of Arena-Hard's prompts."""

    difficulty: str | None = None
    regularising_rows: str | None = None
    category: str | None = None


def recipe_of(annotations: Annotations, prompts_sha256: str, beside: Beside) -> dict[str, Any]:
    """Return what a reader needs to make the figures again.

    Args:
        annotations: the rows that have a preference.
        prompts_sha256: of all prompts of the file, those without a preference too.
        beside: the files beside them.
    """
    record = annotations.record
    judged_by = None
    if record is not None:
        judged_by = {
            key: value for key, value in record.identity.items() if key not in OF_THE_POLICY
        }
    return {
        "file": annotations.source,
        "file_sha256": annotations.sha256,
        "format": annotations.kind,
        "prompts_sha256": prompts_sha256,
        "policy": annotations.policy,
        "baseline": annotations.baseline,
        "judges": list(annotations.judges),
        "judged_by": judged_by,
        "difficulty": beside.difficulty,
        "regularising_rows": beside.regularising_rows,
        "category": beside.category,
        "versions": {"prefpipe": __version__, "numpy": metadata.version("numpy")},
    }


def notes_of_folder(annotations: Annotations) -> list[str]:
    """Return in what the two sides of a folder differed when they were compared with --force, as its summary tells."""
    if annotations.record is None:
        return []
    try:
        recipe = (
            json.loads((Path(annotations.source) / "summary.json").read_bytes()).get("recipe") or {}
        )
        return [
            f"its sides were compared with --force although not made by the same recipe: {line}"
            for line in recipe.get("differences") or ()
        ]
    except (OSError, ValueError, AttributeError):
        return []  # not all parts are there yet, or an earlier release's


def differences_of_recipes(
    first: tuple[Annotations, Mapping[str, Any]], other: tuple[Annotations, Mapping[str, Any]]
) -> list[str]:
    """Return in what two files differ that are to be compared, a line each: annotations, nulls included, and recipe of either."""
    (ours, recipe), (theirs, its_recipe) = first, other
    differences = field_differences(
        {name: recipe[name] for name in COMPARED}, {name: its_recipe[name] for name in COMPARED}
    )
    lines = [
        difference.worded(f"in {ours.source}", f"in {theirs.source}") for difference in differences
    ]
    return _differences_of_prompts(ours, theirs) + lines


def _differences_of_prompts(ours: Annotations, theirs: Annotations) -> list[str]:
    """Return which prompts only one file has, or has with another text."""
    keys, others = (dict.fromkeys(item.keys) for item in (ours, theirs))
    lines, alone = [], []
    for these, those, source in ((keys, others, ours.source), (others, keys, theirs.source)):
        alone.append([key for key in these if key not in those])
        if alone[-1]:
            lines.append(
                f"prompts: {len(alone[-1]):,} of {len(these):,} are in {source} alone, the first is {alone[-1][0][:60]!r}"
            )
    n_alike = len({_plain(key) for key in alone[0]} & {_plain(key) for key in alone[1]})
    if n_alike:
        lines.append(
            f"prompts: {n_alike:,} of these differ in white space or in the form of Unicode alone"
        )
    texts, other_texts = ours.text_of(), theirs.text_of()
    other_text = [key for key, text in texts.items() if other_texts.get(key, text) != text]
    if other_text:
        lines.append(
            f"prompts: {len(other_text):,} have another text under the same prompt_id, the first is {other_text[0]!r}"
        )
    return lines


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())
