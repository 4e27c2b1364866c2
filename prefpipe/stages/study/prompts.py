"""Arms of different prompts, which are no comparison of how they choose and train."""

from collections.abc import Sequence
from pathlib import Path

from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import groups_folder
from prefpipe.errors import PrefpipeError, UsageError
from prefpipe.stages.train.seen_tokens import groups_prompts

MOST_NAMED = 3
"""Prompts that a message names."""


def refuse_different_prompts(
    plan: StudyPlan, folder: Path, arms: Sequence[str], seeds: Sequence[int]
) -> None:
    """Refuse arms whose groups are of different prompts.

    Training sees prompts in an order that follows from their number and the seed: where two arms
    have different prompts, a difference between them may be that of the prompts.

    Args:
        plan: of the study; it may allow them.
        folder: of the study.
        arms: those that are compared; one without groups of its own is left out.
        seeds: those that are run.

    Raises:
        UsageError: naming arms and prompts.
    """
    if plan.allow_different_prompts:
        return
    for seed in seeds:
        first: tuple[str, list[str]] | None = None
        for arm in arms:
            prompts = _prompts_of(plan, folder, arm, seed)
            if prompts is None:
                continue
            if first is None:
                first = arm, prompts
            elif prompts != first[1]:
                raise UsageError(
                    _difference(first, (arm, prompts), seed),
                    hint="a filter of the pool, `min_spread` of the shared section `select` say, "
                    "keeps the same prompts in all arms; `allow_different_prompts: true` in the "
                    "plan compares them all the same, with a note in every table",
                )


def _prompts_of(plan: StudyPlan, folder: Path, arm: str, seed: int) -> list[str] | None:
    """Return the prompts that an arm has groups of, None where there are no groups."""
    groups = groups_folder(plan, folder, arm, seed)
    if groups is None:
        return None
    try:
        return sorted(groups_prompts(groups))
    except PrefpipeError:
        return None  # its selection has failed, which is said of its runs


def _difference(first: tuple[str, list[str]], other: tuple[str, list[str]], seed: int) -> str:
    lines = []
    for (name, prompts), (name_2, prompts_2) in ((first, other), (other, first)):
        alone = sorted(set(prompts) - set(prompts_2))
        if alone:
            named = ", ".join(alone[:MOST_NAMED]) + (", ..." if len(alone) > MOST_NAMED else "")
            lines.append(f"{len(alone):,} of {name} and not of {name_2} ({named})")
    return (
        f"arms {first[0]} ({len(first[1]):,} prompts) and {other[0]} ({len(other[1]):,}), seed "
        f"{seed}, have groups of different prompts: {'; '.join(lines)}"
    )
