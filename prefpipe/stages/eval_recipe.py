"""By which recipe two sides were made, and whether it is the same one.

Of a side that prefpipe sampled the recipe is known: prompts, sampling settings, scorers. Of one that was imported it is known
which prompts it answers and what its scores are called, and nothing of how it was sampled: there the prompts themselves are
compared, and what is not known is told.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from prefpipe.artifacts.fingerprint import canonical_json, describe_difference
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import FingerprintError

NOT_COMPARED = ("models", "seed", "stage", "columns", "part_size")
"""Fields in which the two sides may differ: which model, and what does not change the task."""
SIDES = ("policy", "baseline")
IMPORT = "import"
HINT = "make both sides with the same prompts, sampling and scorers, or pass --force to compare them all the same"


class Side(NamedTuple):
    """One side of the comparison: what it was given as, its candidates, their scores and, where given, their embeddings."""

    name: str
    candidates: Artifact
    scores: Artifact
    embeddings: Artifact | None = None

    @property
    def is_imported(self) -> bool:
        """Whether the responses are of another tool."""
        return self.candidates.record.stage == IMPORT


def refuse_other_recipe(policy: Side, baseline: Side) -> None:
    """Refuse two sides that were given other prompts, sampling settings or scorers.

    Errors:
        FingerprintError: listing every field that differs.
    """
    if policy.is_imported or baseline.is_imported:
        lines = _differences_of_prompts(_prompts(policy), _prompts(baseline))
    else:
        lines = _differences_of_identities(policy.candidates, baseline.candidates)
    lines += _differences_of_identities(policy.scores, baseline.scores)
    if lines:
        shown = "\n  ".join(line.replace("on disk", "for the baseline").replace("asked for", "for the policy") for line in lines)
        raise FingerprintError(f"the two sides were not made by the same recipe:\n  {shown}", hint=HINT)


def _differences_of_identities(policy: Artifact, baseline: Artifact) -> list[str]:
    ours, theirs = (
        {key: value for key, value in artifact.record.identity.items() if key not in (*NOT_COMPARED, "candidates")}
        for artifact in (baseline, policy)
    )
    return describe_difference(ours, theirs)


def _prompts(side: Side) -> dict[str, Any]:
    """Return the messages of each prompt."""
    found: dict[str, Any] = {}
    for index in side.candidates.present(range(side.candidates.n_parts), allow_partial=False):
        table = side.candidates.read(index, ["prompt_id", "messages"])[0]
        found |= {row["prompt_id"]: row["messages"] for row in table.to_pylist()}
    return found


def _differences_of_prompts(policy: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    lines = []
    for ours, theirs, where in ((policy, baseline, "policy"), (baseline, policy, "baseline")):
        alone = [key for key in ours if key not in theirs]
        if alone:
            lines.append(f"prompts: {len(alone):,} of {len(ours):,} are the {where}'s alone, the first is {alone[0]}")
    other_text = [key for key, messages in policy.items() if key in baseline and baseline[key] != messages]
    if other_text:
        lines.append(
            f"prompts: {len(other_text):,} have another text on either side (a system prompt?), the first is {other_text[0]}"
        )
    return lines


def notes_on_recipe(policy: Side, baseline: Side) -> list[str]:
    """Return what of the recipe is not known, in sentences."""
    imported = [name for name, side in (("policy", policy), ("baseline", baseline)) if side.is_imported]
    notes = [f"imported, so that the sampling is not known: {', '.join(imported)}"] if imported else []
    names = {name for side in (policy, baseline) for name in _imported_scorers(side)}
    if names:
        notes.append(f"imported, so that the name alone says that both sides have the same rater: {', '.join(sorted(names))}")
    return notes


def _imported_scorers(side: Side) -> list[str]:
    return [scorer["name"] for scorer in side.scores.record.identity["scorers"] if scorer.get("kind") == IMPORT]


def recipe_of(policy: Side, baseline: Side, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reader needs to make the figures again, and a program to see whether two results can be compared.

    Args:
        policy: its prompts, sampling and scorers are told; without ``--force`` the baseline's are the same.
        baseline: for its model.
        context: of the run, for the versions.
    """
    sampling = {key: value for key, value in policy.candidates.record.identity.items() if key not in ("models", "stage")}
    prompts = sorted(_prompts(policy).items())
    sides = {"policy": policy, "baseline": baseline}
    return {
        "prompts_sha256": hashlib.sha256(canonical_json(prompts).encode()).hexdigest(),
        "sampling": sampling, "scorers": policy.scores.record.identity["scorers"],
        # the models' identities hold the hashes of weights, tokenizer and chat template
        "models": {name: side.candidates.record.identity.get("models") for name, side in sides.items()},
        "versions": context.get("versions"),
    }  # fmt: skip
