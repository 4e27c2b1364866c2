"""What the commands of a study refuse of its plan, all at once and before the first of them runs.

Every arm's configs are made. What all arms share is named once, what an arm alone has with the arm.
"""

from collections.abc import Iterator
from pathlib import Path

from prefpipe.configs.plan_sections import PlanError
from prefpipe.configs.round_steps import steps_of
from prefpipe.configs.study_keys import PROMPTS, RESPONSE_TOKENS
from prefpipe.configs.study_plan import Arm, StudyPlan
from prefpipe.configs.study_steps import (
    Place,
    StepDraft,
    batch_size_of,
    global_batch_size,
    judgement_draft,
    round_plan_of,
    rounds_folder,
    selection_draft,
    shared_drafts,
    training_draft,
)
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import UsageError

AT_ONE_RATE = ("constant", "constant_with_warmup")
"""Schedules under which a training is as one that ends earlier, up to there."""


def step_problems(plan: StudyPlan, folder: Path) -> list[str]:
    """Return everything that a command refuses, and what budgets cannot be of some arms."""
    refused = _Refused(plan, folder)
    for arm in plan.arms.values():
        refused.try_arm(arm)
    for draft in shared_drafts(plan, folder):
        refused.try_step(draft, None)

    problems = refused.lines()
    # of values that are no numbers, no budget can be made
    return problems or [*_batch_problems(plan), *_place_problems(plan), *_trainer_problems(plan)]


class _Refused:
    """What commands refuse, by section and message, with the arms that it is of."""

    def __init__(self, plan: StudyPlan, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._n_tried: dict[str, int] = {}
        self._arms: dict[tuple[str, str], list[str]] = {}
        self._of_rounds: list[tuple[str, str]] = []

    def try_arm(self, arm: Arm) -> None:
        """Make the steps of an arm, and keep what their commands refuse."""
        plan, folder = self._plan, self._folder
        seed = max(plan.seeds)
        if arm.rounds is not None:
            self._try_rounds(arm, seed)
        else:
            self.try_step(selection_draft(plan, folder, arm.name, seed), arm)
            self.try_step(judgement_draft(plan, folder, arm, seed, 1), arm)
        if arm.rounds is None and arm.trainer is None:
            self.try_step(training_draft(plan, folder, arm, seed, [Place(1, ())]), arm)

    def try_step(self, draft: StepDraft, arm: Arm | None) -> None:
        """Make a step, and keep what its command refuses."""
        section = _section_of(draft)
        if arm is not None:
            self._n_tried[section] = self._n_tried.get(section, 0) + 1
        try:
            draft.step()
        except UsageError as error:
            message = error.message
            if draft.stage == "select" and "needs --embeddings" in message:
                where = "`embeddings`" if self._plan.pool.candidates else "the section `embed`"
                message = message.replace("needs --embeddings", f"needs {where} in `pool`")
            arms = self._arms.setdefault((section, message), [])
            if arm is not None:
                arms.append(arm.name)

    def _try_rounds(self, arm: Arm, seed: int) -> None:
        plan, folder = self._plan, self._folder
        try:
            rounds = round_plan_of(plan, arm.name, seed)
            steps_of(rounds, rounds_folder(folder, arm.name, seed), name=arm.name)
            self.try_step(judgement_draft(plan, folder, arm, seed, 1), arm)
        except PlanError as error:
            self._of_rounds += [(arm.name, each) for each in error.problems]
        except UsageError as error:
            self._of_rounds.append((arm.name, error.message))

    def lines(self) -> list[str]:
        """Return the problems, with the arms where not all have it."""
        lines = []
        for (section, message), arms in self._arms.items():
            if not arms or len(arms) == self._n_tried[section]:
                lines.append(f"{section}: {message}")
            else:
                lines.append(f"arms, {' and '.join(arms)}, {section}: {message}")
        # what the shared sections have is said already
        for arm, problem in self._of_rounds:
            if problem not in lines:
                lines.append(f"arms, {arm}, rounds: {problem}")
        return lines


def _section_of(draft: StepDraft) -> str:
    """Return where in the plan a step's values stand."""
    # log-probabilities, and rewards of a trained model, are measured as `train` reads
    if draft.stage == "logprobs":
        return "train"
    if draft.judged_at is not None:
        return "eval" if draft.stage == "eval" else "train"
    if draft.arm is not None:
        return draft.stage
    return draft.name if draft.name.startswith("pool") else "eval"


def _batch_problems(plan: StudyPlan) -> Iterator[str]:
    """Yield budgets of prompts that end within an optimizer step, or within a round's share."""
    n_prompts = plan.budgets.prompts
    if n_prompts is None:
        return
    for name, arm in plan.arms.items():
        size = global_batch_size(plan, name)
        n_rounds = 1 if arm.rounds is None else int(arm.rounds["rounds"])
        step = size * n_rounds
        if n_prompts % step == 0:
            continue
        near = [each for each in (n_prompts // step * step, -(-n_prompts // step) * step) if each]
        shares = f" in each of {n_rounds} rounds" if n_rounds > 1 else ""
        yield (
            f"budgets: `{PROMPTS}: {n_prompts}` are no whole number of optimizer steps of arm "
            f"{name}, of {size} prompts each (global_batch_size){shares}: pass "
            f"{' or '.join(map(str, near))}"
        )


def _place_problems(plan: StudyPlan) -> Iterator[str]:
    """Yield the arms that cannot be judged at all budgets of the plan."""
    with_tokens = RESPONSE_TOKENS in plan.judged_at
    like = plan.budgets.like
    for name, arm in plan.arms.items():
        if with_tokens and arm.rounds is not None and name != like:
            yield (
                f"budgets: arm {name} goes through rounds, which end where its prompts do: with "
                f"`{RESPONSE_TOKENS}: like {name}` the others are judged where they have seen as "
                f"many; or leave `{RESPONSE_TOKENS}` out"
            )
        elif with_tokens and arm.trainer is not None:
            yield (
                f"budgets: in which order the trainer of arm {name} takes prompts is not known, "
                f"and so not when it has seen so many tokens: leave `{RESPONSE_TOKENS}` out"
            )
        elif arm.rounds is not None:
            yield from _round_problems(plan, arm)
        elif len(plan.judged_at) > 1 and arm.trainer is None:
            yield from _schedule_problems(plan, arm)


def _round_problems(plan: StudyPlan, arm: Arm) -> Iterator[str]:
    """Yield the changes of an arm's rounds by which a round would see other prompts than it may."""
    rounds = round_plan_of(plan, arm.name, plan.seeds[0])
    for number, changed in rounds.changes.items():
        section = rounds.section("train", number)
        is_other = batch_size_of(section, plan.target) != global_batch_size(plan, arm.name)
        keys = [key for key in ("max_steps", "keep_step") if key in changed.get("train", {})]
        if is_other or keys:
            key = keys[0] if keys else "global_batch_size"
            yield (
                f"arms, {arm.name}, rounds: changes, round {number}, train: `{key}`: the plan's "
                "`budgets` set how many prompts each round trains on, in equal steps"
            )


def _schedule_problems(plan: StudyPlan, arm: Arm) -> Iterator[str]:
    """Yield why a training that is judged on its way is not one that ends there."""
    section = arm.sections["train"]
    schedule = section.get("lr_scheduler_type", TrainConfig.lr_scheduler_type)
    places = " and ".join(plan.judged_at)
    why = f"arm {arm.name} is judged at {places} of one training"
    if schedule not in AT_ONE_RATE:
        yield (
            f"train: {why}, and under `lr_scheduler_type: {schedule}` the learning rate depends on "
            "its last step: pass constant, or constant_with_warmup with `warmup_steps`"
        )
    elif schedule == "constant_with_warmup" and section.get("warmup_steps") is None:
        yield (
            f"train: {why}, and a warm-up that is a share of the steps (warmup_ratio) depends on "
            "its last step: pass `warmup_steps`"
        )


def _trainer_problems(plan: StudyPlan) -> Iterator[str]:
    """Yield the arms that have a trainer of their own and flags of ours, or rounds, beside it.

    What an arm says itself is refused before; this is of arms that are like another one.
    """
    shared = plan.sections.get("train", {})
    for name, arm in plan.arms.items():
        if arm.trainer is None:
            continue
        changed = [key for key, value in arm.sections["train"].items() if shared.get(key) != value]
        if changed:
            yield (
                f"arms, {name}: `{changed[0]}` of `train` has no effect beside `trainer`, whose "
                "command has its own flags"
            )
        if arm.rounds is not None:
            yield f"arms, {name}: `trainer` and `rounds` exclude each other"
