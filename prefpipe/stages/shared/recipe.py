"""By which recipe two sides were made, of `eval` and of `judge`, and whether it is the same one.

Of a side that prefpipe sampled the recipe is known: prompts, sampling settings, scorers. Of one
that was imported it is known which prompts it answers and what its scores are called, and nothing
of how it was sampled. There the prompts themselves are compared, and a note says what is not known.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.fingerprint import canonical_json, field_differences
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.errors import FingerprintError

SIDES = ("policy", "baseline")
NOT_COMPARED = ("models", "seed", "stage", "columns", "part_size", "candidates")
"""Fields in which the two sides may differ: which model, and what does not change the task."""
NOT_COMPARED_OF_PAIRS = ("n", "prompts", "drop_duplicate_prompts", "system_prompt", "prompt_share")
"""Fields in which they may differ as well where pairs are joined, one by one."""
IMPORT = "import"
HINT = (
    "make both sides with the same prompts, sampling and scorers, or pass --force to compare "
    "them anyway"
)


class RatedCandidates(NamedTuple):
    """One side of a comparison.

    It has its name on the command line, its candidates, their scores and, if given, their
    embeddings.
    """

    name: str
    candidates: Artifact
    scores: Artifact
    embeddings: Artifact | None = None

    @property
    def is_imported(self) -> bool:
        """Whether the responses come from another tool."""
        return self.candidates.record.stage == IMPORT


def check_recipes(policy: RatedCandidates, baseline: RatedCandidates, *, force: bool) -> list[str]:
    """Return the differences of two sides, one line per field.

    Sides differ in prompts, sampling settings or scorers.

    Raises:
        FingerprintError: they differ, and ``--force`` was not given.
    """
    names = ("the policy", "the baseline")
    if policy.is_imported or baseline.is_imported:
        # An import records its file and no prompts: the prompts themselves are compared.
        lines = _differences_of_prompts(
            prompts_of(policy.candidates), prompts_of(baseline.candidates)
        )
    else:
        lines = _differences_of_identities(
            policy.candidates, baseline.candidates, names, NOT_COMPARED
        )
    lines += _differences_of_identities(policy.scores, baseline.scores, names, NOT_COMPARED)
    _refuse_unless_forced(lines, force=force)
    return lines


def check_sampling(a: Artifact, b: Artifact, *, force: bool) -> list[str]:
    """Return the differences in the sampling of two candidates folders.

    Their responses are compared pair by pair.

    How many samples a prompt has, and which prompts, is no difference: pairs are joined, and what
    has no partner is counted. Nor is the system prompt: the judge is shown the conversation without
    it. The sampling of imported candidates is not known.

    Raises:
        FingerprintError: it differs, and ``--force`` was not given.
    """
    if IMPORT in (a.record.stage, b.record.stage):
        return []
    left_out = (*NOT_COMPARED, *NOT_COMPARED_OF_PAIRS)
    lines = _differences_of_identities(a, b, ("A", "B"), left_out)
    _refuse_unless_forced(lines, force=force)
    return lines


def _refuse_unless_forced(lines: Sequence[str], *, force: bool) -> None:
    if lines and not force:
        raise FingerprintError(
            "the recipes of the two sides differ:\n  " + "\n  ".join(lines), hint=HINT
        )


def notes_on_force(differences: Sequence[str]) -> list[str]:
    """Return notes for a reader of a forced comparison."""
    return [f"compared with --force although the recipes differ: {line}" for line in differences]


def _differences_of_identities(
    first: Artifact, other: Artifact, names: tuple[str, str], left_out: Collection[str]
) -> list[str]:
    """Return the fields in which two artifacts differ, one line each.

    Args:
        first: of the first side.
        other: of the other side, whose value stands first in a line.
        names: of the two sides.
        left_out: fields that are not compared.
    """
    before = {key: value for key, value in other.record.identity.items() if key not in left_out}
    after = {key: value for key, value in first.record.identity.items() if key not in left_out}
    lines = []
    for difference in field_differences(before, after):
        line = difference.worded(f"for {names[1]}", f"for {names[0]}")
        lines.append(line)
    return lines


def prompts_of(candidates: Artifact, *, allow_partial: bool = False) -> dict[str, Any]:
    """Return the messages of each prompt."""
    messages: dict[str, Any] = {}
    present = candidates.present(range(candidates.n_parts), allow_partial=allow_partial)
    for index in candidates.in_turn(present):
        table, _ = candidates.read(index, ["prompt_id", "messages"])
        for row in rows_of(table):
            messages[row["prompt_id"]] = row["messages"]
    return messages


def _differences_of_prompts(policy: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """Return the prompts that only one side answers, and those that differ in text."""
    lines = []
    for name, prompts, others in (("policy", policy, baseline), ("baseline", baseline, policy)):
        alone = [prompt_id for prompt_id in prompts if prompt_id not in others]
        if alone:
            lines.append(
                f"prompts: {len(alone):,} of {len(prompts):,} are only in the {name}, the first "
                f"is {alone[0]}"
            )

    with_other_text = [
        prompt_id
        for prompt_id, messages in policy.items()
        if prompt_id in baseline and baseline[prompt_id] != messages
    ]
    if with_other_text:
        lines.append(
            f"prompts: {len(with_other_text):,} differ in text between the sides (check the "
            f"system prompt), the first is {with_other_text[0]}"
        )
    return lines


def notes_on_recipe(policy: RatedCandidates, baseline: RatedCandidates) -> list[str]:
    """Return the unknown parts of the recipe, in sentences."""
    sides = dict(zip(SIDES, (policy, baseline), strict=True))
    imported = [name for name, side in sides.items() if side.is_imported]
    scorers: set[str] = set()
    for side in sides.values():
        for scorer in side.scores.record.identity["scorers"]:
            if scorer.get("kind") == IMPORT:
                scorers.add(scorer["name"])

    notes = []
    if imported:
        notes.append(f"imported, so the sampling is not known: {', '.join(imported)}")
    if scorers:
        notes.append(
            "imported, so only the name shows that both sides have the same rater: "
            + ", ".join(sorted(scorers))
        )
    return notes


def digest_of_prompts(prompts: Mapping[str, Any]) -> str:
    """Return the sha256 of a set of prompts: of their ids and messages."""
    # Sorted, for the order of the prompts is no difference.
    text = canonical_json(sorted(prompts.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_of(
    policy: RatedCandidates,
    baseline: RatedCandidates,
    context: Mapping[str, Any],
    differences: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a reader needs to reproduce the figures.

    A program can tell by it whether two results are comparable.

    Args:
        policy: whose prompts, sampling and scorers are given; without ``--force`` the baseline's
            are the same.
        baseline: for its model.
        context: of the run, for the versions.
        differences: what `check_recipes` returned and ``--force`` let pass.
    """
    identity = policy.candidates.record.identity
    sampling = {key: value for key, value in identity.items() if key not in ("models", "stage")}
    return {
        "prompts_sha256": digest_of_prompts(prompts_of(policy.candidates)),
        "sampling": sampling,
        "scorers": policy.scores.record.identity["scorers"],
        # the models' identities hold the hashes of weights, tokenizer and chat template
        "models": {
            "policy": identity.get("models"),
            "baseline": baseline.candidates.record.identity.get("models"),
        },
        "versions": context.get("versions"),
        "differences": list(differences),
    }


def recipe_of_pairs(
    a: Artifact, b: Artifact, record: RunRecord, differences: Sequence[str]
) -> dict[str, Any]:
    """Return what a reader of verdicts needs to reproduce the figures.

    Args:
        a: the candidates whose preference is measured.
        b: those that they were compared with.
        record: of the verdicts; its judge holds the hashes of the prompt template and of a model
            that is run here.
        differences: what `check_sampling` returned and ``--force`` let pass.
    """
    prompts = prompts_of(a, allow_partial=True) | prompts_of(b, allow_partial=True)

    return {
        "prompts_sha256": digest_of_prompts(prompts),
        "judge": record.identity["judge"],
        "orders": record.identity["orders"],
        "pairing": record.identity["pairing"],
        "models": {
            "a": a.record.identity.get("models"),
            "b": b.record.identity.get("models"),
        },
        "versions": record.context.get("versions"),
        "differences": list(differences),
    }
