"""The recipe of a win rate, and how two recipes differ.

A recipe is prompts, baseline, judge, and the judge's prompt and settings.
"""

import json
import unicodedata
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from prefpipe import __version__
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.interchange.annotations import Annotations
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import parse_location
from prefpipe.artifacts.summary_file import SUMMARY_FILE

COMPARED = ("baseline", "judges", "judged_by")
"""What two results must share beside the prompts: the baseline, and who judged, and how."""
OF_THE_POLICY = ("policy_candidates", "policy_scores", "a")
"""What may differ in the identities of two folders: whose responses were judged."""


class WinRateSources(NamedTuple):
    """The inputs of the figures besides the annotations.

    ``baseline_outputs``, ``difficulty`` and ``regularising_rows`` are files; ``scale`` is of the
    preferences; ``category`` of Arena-Hard's prompts; ``allow_missing`` leaves out rows without a
    preference.
    """

    baseline_outputs: str | None = None
    difficulty: str | None = None
    regularising_rows: str | None = None
    scale: str | None = None
    category: str | None = None
    allow_missing: bool = False


def recipe_of(
    annotations: Annotations, prompts_sha256: str, sources: WinRateSources
) -> dict[str, Any]:
    """Return what a reader needs to reproduce the figures.

    Args:
        annotations: the rows that have a preference.
        prompts_sha256: of all prompts of the file, those without a preference too.
        sources: the files beside them, and the category.
    """
    judged_by = None
    if annotations.record is not None:
        identity = annotations.record.identity
        judged_by = {key: value for key, value in identity.items() if key not in OF_THE_POLICY}
    return {
        "file": annotations.source,
        "file_sha256": annotations.sha256,
        "format": annotations.kind,
        "prompts_sha256": prompts_sha256,
        "policy": annotations.policy,
        "baseline": annotations.baseline,
        "judges": list(annotations.judges),
        "judged_by": judged_by,
        "difficulty": sources.difficulty,
        "regularising_rows": sources.regularising_rows,
        "category": sources.category,
        "versions": {"prefpipe": __version__, "numpy": metadata.version("numpy")},
    }


def notes_of_folder(annotations: Annotations) -> list[str]:
    """Return the differences of two sides that were compared with --force.

    The folder's summary says it.
    """
    if annotations.record is None:
        return []
    folder = parse_location(annotations.source)
    try:
        recipe = json.loads(files.read(folder / SUMMARY_FILE)).get("recipe") or {}
        differences = recipe.get("differences") or ()
        return [
            f"its sides were compared with --force although their recipes differ: {line}"
            for line in differences
        ]
    except (OSError, ValueError, AttributeError):
        return []  # not all parts are there yet, or an earlier release's


def differences_of_recipes(
    first: tuple[Annotations, Mapping[str, Any]], other: tuple[Annotations, Mapping[str, Any]]
) -> list[str]:
    """Return the differences between the recipes of two files, one line each.

    Args:
        first: annotations, those without a preference included, and the recipe.
        other: the same of the other file.
    """
    (annotations, recipe), (other_annotations, other_recipe) = first, other
    lines = _differences_of_prompts(annotations, other_annotations)
    differences = field_differences(
        {name: recipe[name] for name in COMPARED},
        {name: other_recipe[name] for name in COMPARED},
    )
    for difference in differences:
        line = difference.worded(f"in {annotations.source}", f"in {other_annotations.source}")
        lines.append(line)
    return lines


def _differences_of_prompts(first: Annotations, other: Annotations) -> list[str]:
    """Return the prompts that only one file has, or that differ in text."""
    lines = []
    prompts, other_prompts = dict.fromkeys(first.keys), dict.fromkeys(other.keys)
    alone = [key for key in prompts if key not in other_prompts]
    other_alone = [key for key in other_prompts if key not in prompts]
    for keys, n_prompts, source in (
        (alone, len(prompts), first.source),
        (other_alone, len(other_prompts), other.source),
    ):
        if keys:
            lines.append(
                f"prompts: {len(keys):,} of {n_prompts:,} are in {source} alone, the first is "
                f"{keys[0][:60]!r}"
            )

    n_alike = len(set(map(_plain, alone)) & set(map(_plain, other_alone)))
    if n_alike:
        lines.append(f"prompts: {n_alike:,} of these differ only in white space or Unicode form")

    texts, other_texts = first.text_of(), other.text_of()
    with_other_text = [key for key, text in texts.items() if other_texts.get(key, text) != text]
    if with_other_text:
        lines.append(
            f"prompts: {len(with_other_text):,} have another text under the same prompt_id, the "
            f"first is {with_other_text[0]!r}"
        )
    return lines


def _plain(text: str) -> str:
    """Return a text in one form of Unicode, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).split())
