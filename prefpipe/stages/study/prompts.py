"""Refuse arms with different prompts, which do not compare how arms select and train.

Refuse held-out prompts that arms train on, which compare nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.store import open_input
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import (
    candidates_folder,
    groups_folder,
    heldout_candidates_folder,
)
from prefpipe.errors import PrefpipeError, UsageError
from prefpipe.stages.shared.recipe import prompts_of
from prefpipe.stages.study.places import trained_on
from prefpipe.stages.train.seen_tokens import groups_prompts

MOST_NAMED = 3
"""Prompts that a message names."""


def refuse_different_prompts(
    plan: StudyPlan, folder: Path, arms: Sequence[str], seeds: Sequence[int]
) -> None:
    """Refuse arms whose groups are of different prompts.

    Training sees prompts in an order that follows from their number and the seed: where two arms
    have different prompts, a difference between them may be that of the prompts.

    Groups may be of the same prompts, and a training skip some of them: responses that are too
    long for its `max_length`, or that are all one text.

    Args:
        plan: of the study; it may allow them.
        folder: of the study.
        arms: those that are compared; an arm without its own groups is left out.
        seeds: those that are run.

    Raises:
        UsageError: naming arms and prompts.
    """
    if plan.allow_different_prompts:
        return
    for seed in seeds:
        _refuse_different(
            _prompts_by_arm(plan, folder, arms, seed),
            f"seed {seed}, have groups of",
            hint="filter the pool in the shared section `select` (with `min_spread`, for "
            "example) to keep the same prompts in all arms; or set "
            "`allow_different_prompts: true` in the plan to compare them anyway, with a "
            "note in every table",
        )
        _refuse_different(
            _trained_by_arm(plan, folder, arms, seed),
            f"seed {seed}, train on",
            hint="training skips the others, as `prefpipe train` reports: raise `max_length` to "
            "keep them; or remove them from the pool; or set `allow_different_prompts: "
            "true` in the plan to compare the arms anyway, with a note in every table",
        )


def leaked_prompts(
    pool: Mapping[str, Sequence[Mapping[str, str]]],
    heldout: Mapping[str, Sequence[Mapping[str, str]]],
) -> str | None:
    """Return what is wrong with held-out prompts that are in the pool too, None if none is.

    System turns, case and white space make no other prompt.

    Args:
        pool: the turns of each prompt, by id.
        heldout: likewise.
    """
    trained = {_conversation(turns) for turns in pool.values()}
    both = [prompt_id for prompt_id, turns in heldout.items() if _conversation(turns) in trained]
    if not both:
        return None
    which = f"the first is {both[0]}"
    if 1 < len(both) <= MOST_NAMED:
        which = f"they are {', '.join(both)}"
    return (
        f"heldout: {len(both):,} of its {len(heldout):,} prompts are also in the pool, {which}: "
        "arms would be judged on their training prompts"
    )


def refuse_leaked_prompts(plan: StudyPlan, folder: Path) -> None:
    """Refuse held-out prompts that are in the pool, by what was sampled for both.

    Before the pool is made a plan's files are compared; prompts of the hub, and those that flags of
    `generate` say how to read, are known here alone.

    Raises:
        UsageError: naming the first.
    """
    sampled = []
    for place in (candidates_folder(plan, folder), heldout_candidates_folder(plan, folder)):
        artifact = open_input(place.expanduser(), schema="candidates", name="candidates")
        sampled.append(prompts_of(artifact, allow_partial=True))
    problem = leaked_prompts(*sampled)
    if problem is not None:
        raise UsageError(
            problem, hint="remove them from one of the two, and start in another folder"
        )


def _conversation(turns: Sequence[Mapping[str, str]]) -> str:
    """Return what a prompt asks, in a form in which the same question is the same text."""
    asked = []
    for turn in turns:
        if turn.get("role") == "system":
            continue
        content = turn.get("content")
        text = " ".join(content.casefold().split()) if isinstance(content, str) else content
        asked.append({**turn, "content": text})
    return canonical_json(asked)


def _refuse_different(of_arms: Iterator[tuple[str, list[str]]], what: str, *, hint: str) -> None:
    """Refuse arms whose prompts are not those of the first one.

    Raises:
        UsageError: naming both, and prompts.
    """
    first = next(of_arms, None)
    for other in of_arms:
        assert first is not None
        if other[1] != first[1]:
            raise UsageError(_difference(first, other, what), hint=hint)


def _prompts_by_arm(
    plan: StudyPlan, folder: Path, arms: Sequence[str], seed: int
) -> Iterator[tuple[str, list[str]]]:
    for arm in arms:
        prompts = _prompts_of(plan, folder, arm, seed)
        if prompts is not None:
            yield arm, prompts


def _trained_by_arm(
    plan: StudyPlan, folder: Path, arms: Sequence[str], seed: int
) -> Iterator[tuple[str, list[str]]]:
    for arm in arms:
        # what another trainer skips is its own
        if plan.arm(arm).trainer is not None:
            continue
        try:
            prompts = trained_on(plan, folder, arm, seed)
        except PrefpipeError:
            continue  # its training refuses them, which is said of its runs
        if prompts is not None:
            yield arm, sorted(prompts)


def _prompts_of(plan: StudyPlan, folder: Path, arm: str, seed: int) -> list[str] | None:
    """Return the prompts that an arm has groups of, None if there are no groups."""
    groups = groups_folder(plan, folder, arm, seed)
    if groups is None:
        return None
    try:
        return sorted(groups_prompts(groups))
    except PrefpipeError:
        return None  # its selection has failed, which is said of its runs


def _difference(first: tuple[str, list[str]], other: tuple[str, list[str]], what: str) -> str:
    lines = []
    for (name, prompts), (name_2, prompts_2) in ((first, other), (other, first)):
        alone = sorted(set(prompts) - set(prompts_2))
        if alone:
            named = ", ".join(alone[:MOST_NAMED]) + (", ..." if len(alone) > MOST_NAMED else "")
            lines.append(f"{len(alone):,} of {name} and not of {name_2} ({named})")
    return (
        f"arms {first[0]} ({len(first[1]):,} prompts) and {other[0]} ({len(other[1]):,}), {what} "
        f"different prompts: {'; '.join(lines)}"
    )
