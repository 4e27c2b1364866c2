"""By which recipe two sides were made, of `eval` and of `judge`, and whether it is the same one.

Of a side that prefpipe sampled the recipe is known: prompts, sampling settings, scorers. Of one that was imported it is known
which prompts it answers and what its scores are called, and nothing of how it was sampled: there the prompts themselves are
compared, and what is not known is told.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.fingerprint import canonical_json, field_differences
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.errors import FingerprintError

NOT_COMPARED = ("models", "seed", "stage", "columns", "part_size")
"""Fields in which the two sides may differ: which model, and what does not change the task."""
SIDES = ("policy", "baseline")
NOT_COMPARED_OF_PAIRS = ("n", "prompts", "drop_duplicate_prompts", "system_prompt")
IMPORT = "import"
HINT = "make both sides with the same prompts, sampling and scorers, or pass --force to compare them all the same"


class RatedCandidates(NamedTuple):
    """One side of the comparison: what it was given as, its candidates, their scores and, where given, their embeddings."""

    name: str
    candidates: Artifact
    scores: Artifact
    embeddings: Artifact | None = None

    @property
    def is_imported(self) -> bool:
        """Whether the responses are of another tool."""
        return self.candidates.record.stage == IMPORT


def check_recipes(policy: RatedCandidates, baseline: RatedCandidates, *, force: bool) -> list[str]:
    """Return in what two sides differ that were given other prompts, sampling settings or scorers, a line for each field.

    Raises:
        FingerprintError: they differ, and are not to be compared all the same.
    """
    names = ("the policy", "the baseline")
    if policy.is_imported or baseline.is_imported:
        lines = _differences_of_prompts(
            prompts_of(policy.candidates), prompts_of(baseline.candidates)
        )
    else:
        lines = _differences_of_identities(policy.candidates, baseline.candidates, names)
    lines += _differences_of_identities(policy.scores, baseline.scores, names)
    return _refuse_unless_forced(lines, force=force)


def check_sampling(a: Artifact, b: Artifact, *, force: bool) -> list[str]:
    """Return in what the sampling of two candidates folders differs, which are to be compared pair by pair.

    How many samples a prompt has, and which prompts, is no difference: pairs are joined, and what has no partner is counted.
    Nor is the system prompt: the judge is shown the conversation without it. Of imported candidates nobody knows how they were
    sampled.

    Raises:
        FingerprintError: it differs, and they are not to be compared all the same.
    """
    is_known = IMPORT not in (a.record.stage, b.record.stage)
    lines: list[str] = []
    if is_known:
        lines = _differences_of_identities(a, b, ("A", "B"), besides=NOT_COMPARED_OF_PAIRS)
    return _refuse_unless_forced(lines, force=force)


def _refuse_unless_forced(lines: list[str], *, force: bool) -> list[str]:
    """Return the lines, in which two sides differ, if they are to be compared all the same."""
    if lines and not force:
        shown = "\n  ".join(lines)
        raise FingerprintError(
            f"the two sides were not made by the same recipe:\n  {shown}", hint=HINT
        )
    return lines


def notes_on_force(differences: Sequence[str]) -> list[str]:
    """Return what a reader of a forced comparison must know."""
    return [
        f"compared with --force although not made by the same recipe: {line}"
        for line in differences
    ]


def _differences_of_identities(
    policy: Artifact, baseline: Artifact, names: tuple[str, str], besides: Sequence[str] = ()
) -> list[str]:
    """Return the fields in which two artifacts differ, a line each, with the names of policy and baseline."""
    ours, theirs = (
        {
            key: value
            for key, value in artifact.record.identity.items()
            if key not in (*NOT_COMPARED, "candidates", *besides)
        }
        for artifact in (baseline, policy)
    )
    return [
        difference.worded(f"for {names[1]}", f"for {names[0]}")
        for difference in field_differences(ours, theirs)
    ]


def prompts_of(candidates: Artifact, *, allow_partial: bool = False) -> dict[str, Any]:
    """Return the messages of each prompt."""
    found: dict[str, Any] = {}
    for index in candidates.present(range(candidates.n_parts), allow_partial=allow_partial):
        table = candidates.read(index, ["prompt_id", "messages"])[0]
        found |= {row["prompt_id"]: row["messages"] for row in rows_of(table)}
    return found


def _differences_of_prompts(policy: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    lines = []
    for ours, theirs, where in ((policy, baseline, "policy"), (baseline, policy, "baseline")):
        alone = [key for key in ours if key not in theirs]
        if alone:
            lines.append(
                f"prompts: {len(alone):,} of {len(ours):,} are the {where}'s alone, the first is {alone[0]}"
            )
    other_text = [
        key for key, messages in policy.items() if key in baseline and baseline[key] != messages
    ]
    if other_text:
        lines.append(
            f"prompts: {len(other_text):,} have another text on either side (a system prompt?), the first is {other_text[0]}"
        )
    return lines


def notes_on_recipe(policy: RatedCandidates, baseline: RatedCandidates) -> list[str]:
    """Return what of the recipe is not known, in sentences."""
    imported = [
        name for name, side in (("policy", policy), ("baseline", baseline)) if side.is_imported
    ]
    notes = (
        [f"imported, so that the sampling is not known: {', '.join(imported)}"] if imported else []
    )
    names = {name for side in (policy, baseline) for name in _imported_scorers(side)}
    if names:
        notes.append(
            f"imported, so that the name alone says that both sides have the same rater: {', '.join(sorted(names))}"
        )
    return notes


def _imported_scorers(side: RatedCandidates) -> list[str]:
    return [
        scorer["name"]
        for scorer in side.scores.record.identity["scorers"]
        if scorer.get("kind") == IMPORT
    ]


def digest_of_prompts(prompts: Mapping[str, Any]) -> str:
    """Return the sha256 of a set of prompts: of their ids and messages."""
    return hashlib.sha256(canonical_json(sorted(prompts.items())).encode()).hexdigest()


def recipe_of(
    policy: RatedCandidates,
    baseline: RatedCandidates,
    context: Mapping[str, Any],
    differences: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a reader needs to make the figures again, and a program to see whether two results can be compared.

    Args:
        policy: its prompts, sampling and scorers are told; without ``--force`` the baseline's are the same.
        baseline: for its model.
        context: of the run, for the versions.
        differences: what `check_recipes` found and ``--force`` let pass.
    """
    sampling = {
        key: value
        for key, value in policy.candidates.record.identity.items()
        if key not in ("models", "stage")
    }
    sides = {"policy": policy, "baseline": baseline}
    return {
        "prompts_sha256": digest_of_prompts(prompts_of(policy.candidates)),
        "sampling": sampling,
        "scorers": policy.scores.record.identity["scorers"],
        # the models' identities hold the hashes of weights, tokenizer and chat template
        "models": {
            name: side.candidates.record.identity.get("models") for name, side in sides.items()
        },
        "versions": context.get("versions"),
        "differences": list(differences),
    }


def recipe_of_pairs(
    a: Artifact, b: Artifact, record: RunRecord, differences: Sequence[str]
) -> dict[str, Any]:
    """Return what a reader of verdicts needs to make the figures again.

    Args:
        a: the candidates whose preference is told.
        b: those that they were compared with.
        record: of the verdicts; its judge holds the hashes of the prompt template and of a model that is run here.
        differences: what `check_sampling` found and ``--force`` let pass.
    """
    sides = {"a": a, "b": b}
    prompts = {
        key: turns
        for side in sides.values()
        for key, turns in prompts_of(side, allow_partial=True).items()
    }
    return {
        "prompts_sha256": digest_of_prompts(prompts),
        **{key: record.identity[key] for key in ("judge", "orders", "pairing")},
        "models": {name: side.record.identity.get("models") for name, side in sides.items()},
        "versions": record.context.get("versions"),
        "differences": list(differences),
    }
