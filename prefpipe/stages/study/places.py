"""Where in its training an arm is judged: the optimizer step at which a budget is used up.

With only a budget of prompts, these steps are known at once; with other budgets, as soon as the
groups exist, because the seed decides which prompts a step sees.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefpipe.artifacts.store import open_input
from prefpipe.configs.round_steps import steps_of
from prefpipe.configs.study_keys import PROMPTS, RESPONSE_TOKENS
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import (
    Place,
    global_batch_size,
    groups_folder,
    round_plan_of,
    rounds_folder,
    training_draft,
)
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import PrefpipeError, UsageError
from prefpipe.stages.train.seen_tokens import (
    PromptTokens,
    sum_by_step,
    tokens_by_step,
    trained_prompts,
)

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
    if plan.judged_at == (PROMPTS,):
        return [Place(_steps_of_prompts(plan, arm), plan.judged_at)]
    seen = _seen_by(plan, folder, arm, seed)
    if seen is None:
        return [Place(_steps_of_rounds(plan, arm, seed), plan.judged_at)]

    steps: dict[str, int] = {}
    for epoch, name in zip(plan.epochs, plan.judged_at, strict=False):
        steps[name] = epoch * seen.steps_an_epoch
    if plan.budgets.prompts is not None:
        steps[PROMPTS] = _steps_of_prompts(plan, arm)
    n_tokens = _token_budget(plan, folder, seed)
    if n_tokens is not None:
        step = seen.first_step_with(n_tokens)
        if step is None:
            raise UsageError(
                f"arm {arm}, seed {seed}: {MOST_EPOCHS:,} passes over its groups have fewer than "
                f"{n_tokens:,} response tokens",
                hint="lower `response_tokens` in `budgets` of the plan",
            )
        steps[RESPONSE_TOKENS] = step

    by_step: dict[int, list[str]] = {}
    for name in plan.judged_at:
        by_step.setdefault(steps[name], []).append(name)
    return [Place(step, tuple(by_step[step])) for step in sorted(by_step)]


def seen_after(
    plan: StudyPlan, folder: Path, arm: str, seed: int, step: int
) -> tuple[int | None, int | None]:
    """Return how many prompts and response tokens an arm has seen after a step.

    None of rounds whose groups are not all there.

    Raises:
        InputError: the groups cannot be read.
    """
    seen = _seen_by(plan, folder, arm, seed)
    if seen is None:
        try:
            return plan.budgets.prompts, _tokens_of_rounds(plan, folder, arm, seed)
        except PrefpipeError:
            return None, None
    return seen.prompts_after(step), int(seen.tokens(step)[-1])


def trained_on(plan: StudyPlan, folder: Path, arm: str, seed: int) -> list[str] | None:
    """Return the prompts that a training does not skip, None of an arm whose rounds select.

    Raises:
        PrefpipeError: the groups cannot be read, or cannot be trained on.
    """
    seen = _seen_by(plan, folder, arm, seed)
    return None if seen is None else [prompt.prompt_id for prompt in seen.prompts]


def trained_tokens(plan: StudyPlan, folder: Path, arm: str, seed: int, n_steps: int) -> int | None:
    """Return the tokens that a training of so many steps computes: each prompt once a group.

    None if nothing says it: of another trainer, of rounds, and of imported conversations.

    Raises:
        InputError: the groups cannot be read.
    """
    seen = _seen_by(plan, folder, arm, seed)
    groups = groups_folder(plan, folder, arm, seed)
    if seen is None or groups is None or plan.arm(arm).trainer is not None:
        return None
    lengths = _prompt_lengths(groups)
    if any(lengths.get(prompt.prompt_id) is None for prompt in seen.prompts):
        return None
    with_prompts = [
        PromptTokens(prompt.prompt_id, prompt.n_tokens + (lengths[prompt.prompt_id] or 0))
        for prompt in seen.prompts
    ]
    return int(seen._replace(prompts=with_prompts).tokens(n_steps)[-1])


def _prompt_lengths(groups: Path) -> dict[str, int | None]:
    """Return the tokens of each prompt, None if they are not stored."""
    artifact = open_input(groups, schema="groups", name="groups")
    table = artifact.read_all(["prompt_id", "n_prompt_tokens"])
    prompt_ids, lengths = (table[name].to_pylist() for name in table.column_names)
    return dict(zip(prompt_ids, lengths, strict=True))


class _Seen(NamedTuple):
    """What the training of an arm and seed sees, step by step."""

    prompts: Sequence[PromptTokens]
    seed: int
    global_batch_size: int

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.prompts) // self.global_batch_size)

    def tokens(self, n_steps: int) -> np.ndarray:
        """Return the response tokens that are seen after each of so many steps."""
        size = self.global_batch_size
        return sum_by_step(self.prompts, seed=self.seed, global_batch_size=size, n_steps=n_steps)

    def prompts_after(self, step: int) -> int:
        """Return the prompts that are seen after a step, again in each epoch."""
        # the last step of an epoch sees what is left of it
        n_epochs, rest = divmod(step, self.steps_an_epoch)
        return n_epochs * len(self.prompts) + rest * self.global_batch_size

    def first_step_with(self, n_tokens: int) -> int | None:
        """Return the first step after which so many tokens are seen, None if none comes."""
        n_steps = self.steps_an_epoch
        while n_steps <= MOST_EPOCHS * self.steps_an_epoch:
            seen = self.tokens(n_steps)
            if seen[-1] >= n_tokens:
                return int(np.searchsorted(seen, n_tokens)) + 1
            n_steps *= 2
        return None


def _seen_by(plan: StudyPlan, folder: Path, arm: str, seed: int) -> _Seen | None:
    """Return what a training sees, None of an arm whose rounds select as they go.

    Raises:
        InputError: its groups are not there, or cannot be read.
    """
    groups = groups_folder(plan, folder, arm, seed)
    if groups is None:
        return None
    how = plan.arm(arm)
    training: TrainConfig | None = None
    if how.trainer is None:
        config = training_draft(plan, folder, how, seed, [Place(1, ())]).step().config
        assert isinstance(config, TrainConfig)
        # which seed and how many steps change nothing of which responses are trained on
        training = replace(config, seed=0)
    artifact = open_input(groups, schema="groups", name="groups")
    prompts = _trained_prompts(groups, artifact.digest(), training)
    return _Seen(prompts, seed, global_batch_size(plan, arm))


@lru_cache(maxsize=64)
def _trained_prompts(
    groups: Path,
    digest: str,  # noqa: ARG001 - groups that are made again are read again
    training: TrainConfig | None,
) -> Sequence[PromptTokens]:
    return trained_prompts(groups, training)


def _steps_of_prompts(plan: StudyPlan, arm: str) -> int:
    assert plan.budgets.prompts is not None
    return max(1, plan.budgets.prompts // global_batch_size(plan, arm))


def _steps_of_rounds(plan: StudyPlan, arm: str, seed: int) -> int:
    """Return the steps of all rounds together."""
    rounds = round_plan_of(plan, arm, seed)
    return sum(int(rounds.section("train", r)["max_steps"]) for r in range(1, rounds.rounds + 1))


def _token_budget(plan: StudyPlan, folder: Path, seed: int) -> int | None:
    """Return the response tokens that an arm may see, None if the plan has no such budget."""
    like = plan.budgets.like
    if like is None:
        return plan.budgets.response_tokens
    seen = _seen_by(plan, folder, like, seed)
    if seen is None:
        return _tokens_of_rounds(plan, folder, like, seed)
    return int(seen.tokens(_steps_of_prompts(plan, like))[-1])


def _tokens_of_rounds(plan: StudyPlan, folder: Path, arm: str, seed: int) -> int:
    """Return the response tokens that the rounds of an arm have seen together.

    Raises:
        InputError: a round has not selected yet.
    """
    n_tokens = 0
    rounds = round_plan_of(plan, arm, seed)
    for step in steps_of(rounds, rounds_folder(folder, arm, seed), name=f"of arm {arm}"):
        config = step.config
        if isinstance(config, TrainConfig):
            assert config.max_steps is not None
            seen = tokens_by_step(
                config.groups,
                seed=config.seed,
                global_batch_size=global_batch_size(plan, arm),
                n_steps=config.max_steps,
                training=config,
            )
            n_tokens += int(seen[-1])
    return n_tokens
