"""Where in its training an arm is judged: after how many optimizer steps a budget is used up.

They are known as soon as the groups are: which prompts a step sees follows from the seed.
"""

from pathlib import Path

import numpy as np

from prefpipe.configs.study_keys import PROMPTS, RESPONSE_TOKENS
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import Place, global_batch_size, groups_folder, round_plan_of
from prefpipe.errors import UsageError
from prefpipe.stages.train.seen_tokens import groups_prompts, tokens_by_step

MOST_EPOCHS = 1000
"""An arm that has not seen a budget of tokens after so many passes never does."""


def places_of(plan: StudyPlan, folder: Path, arm: str, seed: int) -> list[Place]:
    """Return where an arm is judged with a seed, by ascending step.

    Where two budgets end at one step, one evaluation serves both. Rounds end where their prompts
    do, and are judged there in every budget.

    Args:
        plan: of the study.
        folder: of the study.
        arm: which arm.
        seed: of the training.

    Raises:
        InputError: groups that are needed are not there, or cannot be read.
        UsageError: groups of which a budget cannot be made.
    """
    if plan.arm(arm).rounds is not None:
        return [Place(_steps_of_rounds(plan, arm, seed), plan.judged_at)]

    steps: dict[str, int] = {}
    for epoch, name in zip(plan.epochs, plan.judged_at, strict=False):
        steps[name] = epoch * _steps_an_epoch(plan, folder, arm, seed)
    if plan.budgets.prompts is not None:
        steps[PROMPTS] = _steps_of_prompts(plan, arm)
    n_tokens = _token_budget(plan, folder, seed)
    if n_tokens is not None:
        steps[RESPONSE_TOKENS] = _steps_of_tokens(plan, folder, arm, seed, n_tokens)

    by_step: dict[int, list[str]] = {}
    for name in plan.judged_at:
        by_step.setdefault(steps[name], []).append(name)
    return [Place(step, tuple(by_step[step])) for step in sorted(by_step)]


def seen_after(
    plan: StudyPlan, folder: Path, arm: str, seed: int, step: int
) -> tuple[int | None, int | None]:
    """Return how many prompts and response tokens an arm has seen after a step.

    None where no groups say it: those of rounds are many.

    Raises:
        InputError: the groups cannot be read.
    """
    groups = groups_folder(plan, folder, arm, seed)
    if groups is None:
        return None, None
    size = global_batch_size(plan, arm)
    n_groups = len(groups_prompts(groups))
    # the last step of an epoch sees what is left of it
    n_epochs, rest = divmod(step, -(-n_groups // size))
    n_prompts = n_epochs * n_groups + rest * size
    return n_prompts, int(_tokens(plan, groups, arm, seed, step)[-1])


def _steps_of_prompts(plan: StudyPlan, arm: str) -> int:
    assert plan.budgets.prompts is not None
    return max(1, plan.budgets.prompts // global_batch_size(plan, arm))


def _steps_of_rounds(plan: StudyPlan, arm: str, seed: int) -> int:
    """Return the steps of all rounds together."""
    rounds = round_plan_of(plan, arm, seed)
    return sum(int(rounds.section("train", r)["max_steps"]) for r in range(1, rounds.rounds + 1))


def _steps_an_epoch(plan: StudyPlan, folder: Path, arm: str, seed: int) -> int:
    groups = groups_folder(plan, folder, arm, seed)
    assert groups is not None
    return -(-len(groups_prompts(groups)) // global_batch_size(plan, arm))


def _token_budget(plan: StudyPlan, folder: Path, seed: int) -> int | None:
    """Return the response tokens that an arm may see, None where the plan has no such budget."""
    like = plan.budgets.like
    if like is None:
        return plan.budgets.response_tokens
    groups = groups_folder(plan, folder, like, seed)
    assert groups is not None
    return int(_tokens(plan, groups, like, seed, _steps_of_prompts(plan, like))[-1])


def _steps_of_tokens(plan: StudyPlan, folder: Path, arm: str, seed: int, n_tokens: int) -> int:
    """Return the first step after which an arm has seen so many tokens.

    Raises:
        UsageError: it never does.
    """
    groups = groups_folder(plan, folder, arm, seed)
    assert groups is not None
    n_steps = _steps_an_epoch(plan, folder, arm, seed)
    for _ in range(MOST_EPOCHS.bit_length()):
        seen = _tokens(plan, groups, arm, seed, n_steps)
        if seen[-1] >= n_tokens:
            return int(np.searchsorted(seen, n_tokens)) + 1
        n_steps *= 2
    raise UsageError(
        f"arm {arm}, seed {seed}: its groups, {groups}, do not come to {n_tokens:,} response "
        f"tokens in {MOST_EPOCHS:,} passes",
        hint="a smaller `response_tokens` of the plan's `budgets`, or other groups for this arm",
    )


def _tokens(plan: StudyPlan, groups: Path, arm: str, seed: int, n_steps: int) -> np.ndarray:
    """Return the response tokens that an arm has seen after each of so many steps."""
    size = global_batch_size(plan, arm)
    return tokens_by_step(groups, seed=seed, global_batch_size=size, n_steps=n_steps)
