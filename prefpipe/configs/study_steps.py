"""The steps of a study: the command lines that ``prefpipe study`` runs.

They come in three lists, as each can be made only when the one before it has run: what all arms
share, the selections, and the steps of an arm and seed, whose trainings end where `Place` says.

Seeds: seed s trains with ``s``, selects with ``s`` where the strategy draws, and samples held-out
responses with ``100 + s``. The pool is sampled with 0, and the model's own held-out responses with
100, once.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage.location import local_path
from prefpipe.artifacts.training_folders import kept_step_folder
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.plan_sections import SECTIONS, Section, words_of
from prefpipe.configs.recorded_commands import Word
from prefpipe.configs.round_plan import RoundPlan
from prefpipe.configs.round_steps import EVAL_SEED, policy_of, steps_of
from prefpipe.configs.sampling import SERVED
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.study_keys import (
    OF_POOL,
    REWARD,
)
from prefpipe.configs.study_plan import Arm, StudyPlan
from prefpipe.errors import UsageError
from prefpipe.maths.objectives.registry import objective_of
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.training.start_values import START_VALUES

ARMS = "arms"
"""The folder, in a study's, of all that is an arm's."""
TRAINER = "trainer"
"""The stage of a step that is no command of prefpipe."""
POOL_SEED = 0
_RATING = (
    "scorer",
    "device",
    "batch_size",
    "trust_remote_code",
    "trust_python_checks",
    "skip_bad_rows",
    "template_date",
    "max_error_rate",
)
"""Keys of `eval` with which it rates what it samples."""
_READING = ("template_arg", "trust_remote_code", "max_length", "max_batch_tokens", "shared_prompt")
"""Keys of `train` with which log-probabilities are measured, too."""


class Place(NamedTuple):
    """Where in its training an arm is judged: after ``step`` optimizer steps.

    ``budgets``: what it has used up there, ``prompts``, ``response_tokens`` or ``epoch-4``; several
    where they end at one step.
    """

    step: int
    budgets: tuple[str, ...]


@dataclass(frozen=True)
class StudyStep:
    """One command of a study.

    Attributes:
        name: what it is, ``coreset, seed 0, train``; no two steps of a study share one.
        stage: the command, or `TRAINER`.
        arguments: its words, by field; of a trainer the whole command.
        output: the folder that it writes.
        config: what the command makes of its words, None of a trainer.
        arm: whose step it is, None where all share it.
        seed: of the training that it belongs to, None where all seeds share it.
        judged_at: the optimizer step whose weights it judges, None where it judges none.
    """

    name: str
    stage: str
    arguments: tuple[Word, ...]
    output: Path
    config: StageConfig | None = None
    arm: str | None = None
    seed: int | None = None
    judged_at: int | None = None

    @property
    def words(self) -> list[str]:
        """The words after ``prefpipe``; of a trainer the command itself."""
        words = [] if self.stage == TRAINER else [self.stage]
        for argument in self.arguments:
            words += argument.words()
        return words


class StepDraft(NamedTuple):
    """A step before its values were checked; the same attributes, and the values by field."""

    name: str
    stage: str
    values: Mapping[str, Any]
    arm: str | None = None
    seed: int | None = None
    judged_at: int | None = None

    def step(self, overwrite: Overwrite = Overwrite.NO) -> StudyStep:
        """Make the step.

        Raises:
            UsageError: values that the command refuses.
        """
        config_class = LogprobsConfig if self.stage == "logprobs" else SECTIONS[self.stage]
        values = dict(self.values)
        if overwrite:
            values["overwrite"] = str(overwrite)
        config = config_class.from_values(values)
        arguments = tuple(words_of(config_class, values))
        return StudyStep(
            self.name,
            self.stage,
            arguments,
            local_path(config.output, "--output"),
            config,
            self.arm,
            self.seed,
            self.judged_at,
        )


def candidates_folder(plan: StudyPlan, folder: Path) -> Path:
    """Return the folder of the pool's responses."""
    given = plan.pool.candidates
    return folder / "pool" / "candidates" if given is None else Path(given)


def scores_folder(plan: StudyPlan, folder: Path) -> Path:
    """Return the folder of the pool's scores."""
    given = plan.pool.scores
    return folder / "pool" / "scores" if given is None else Path(given)


def embeddings_folder(plan: StudyPlan, folder: Path) -> Path | None:
    """Return the folder of the pool's embeddings, None where it has none."""
    if plan.pool.embeddings is not None:
        return Path(plan.pool.embeddings)
    return folder / "pool" / "embeddings" if "embed" in plan.sections else None


def heldout_candidates_folder(plan: StudyPlan, folder: Path) -> Path:
    """Return the folder of the model's own held-out responses."""
    given = plan.heldout.candidates
    return folder / "heldout" / "candidates" if given is None else Path(given)


def heldout_scores_folder(plan: StudyPlan, folder: Path) -> Path:
    """Return the folder of their scores."""
    given = plan.heldout.scores
    return folder / "heldout" / "scores" if given is None else Path(given)


def heldout_logprobs_folder(folder: Path) -> Path:
    """Return the folder of their log-probabilities under the model, where a plan has ``truth``."""
    return folder / "heldout" / "logprobs"


def arm_folder(folder: Path, arm: str) -> Path:
    """Return the folder of an arm."""
    return folder / ARMS / arm


def run_folder(folder: Path, arm: str, seed: int) -> Path:
    """Return the folder of an arm and seed."""
    return arm_folder(folder, arm) / f"seed-{seed}"


def groups_folder(plan: StudyPlan, folder: Path, arm: str, seed: int) -> Path | None:
    """Return the groups that an arm trains on with a seed, None where its rounds select them."""
    if plan.arm(arm).rounds is not None:
        return None
    of_seed = draws(plan.arm(arm))
    return (run_folder(folder, arm, seed) if of_seed else arm_folder(folder, arm)) / "groups"


def rounds_folder(folder: Path, arm: str, seed: int) -> Path:
    """Return the folder of the rounds of an arm that has some."""
    return run_folder(folder, arm, seed) / "rounds"


def policy_folder(plan: StudyPlan, folder: Path, arm: str, seed: int) -> Path:
    """Return the folder that an arm's training writes; of several rounds the last one's."""
    rounds = plan.arm(arm).rounds
    if rounds is None:
        return run_folder(folder, arm, seed) / "policy"
    round_plan = round_plan_of(plan, arm, seed)
    return Path(policy_of(round_plan, rounds_folder(folder, arm, seed), round_plan.rounds))


def judged_model(plan: StudyPlan, folder: Path, arm: str, seed: int, step: int) -> Path:
    """Return the model folder of an arm after so many optimizer steps."""
    policy = policy_folder(plan, folder, arm, seed)
    # the rounds of an arm end where it is judged
    return policy if plan.arm(arm).rounds is not None else kept_step_folder(policy, step)


def judgement_folder(plan: StudyPlan, folder: Path, arm: str, seed: int, step: int) -> Path:
    """Return the folder of what judges an arm after so many optimizer steps."""
    of_pairs = "scores" if plan.target == REWARD else "logprobs"
    kind = "eval" if plan.truth is None else of_pairs
    return run_folder(folder, arm, seed) / f"{kind}-{step:05d}"


def judged_folders(folder: Path) -> list[Path]:
    """Return the folders on disk of what judges any arm and seed, of any plan."""
    kinds = ("eval", "scores", "logprobs")
    return [path for kind in kinds for path in folder.glob(f"arms/*/seed-*/{kind}-*")]


def draws(arm: Arm) -> bool:
    """Return whether chance has a part in an arm's selection, so that each seed has its own."""
    section = arm.sections["select"]
    strategy = STRATEGIES.get(str(section.get("strategy", SelectConfig.strategy)))
    is_by_chance = strategy is not None and strategy.draws
    return is_by_chance or section.get("pairs") == "best-random"


def global_batch_size(plan: StudyPlan, arm: str) -> int:
    """Return the prompts of an optimizer step, as given or as the objective starts from.

    Raises:
        UsageError: an objective that the target does not have, or a size that is none.
    """
    return batch_size_of(plan.arm(arm).sections["train"], plan.target)


def batch_size_of(section: Section, target: str) -> int:
    """Return the prompts of an optimizer step by a section `train`, as `global_batch_size` does."""
    if "global_batch_size" in section:
        given = section["global_batch_size"]
        text = "" if isinstance(given, bool) else str(given)
        if not (text.isascii() and text.isdecimal() and int(text) > 0):
            raise UsageError(f"train: `global_batch_size` must be 1 or more, not {given!r}")
        return int(text)
    objective = objective_of(target, section.get("objective"))
    return START_VALUES[objective].global_batch_size


def shared_steps(
    plan: StudyPlan, folder: Path, *, overwrite: Overwrite = Overwrite.NO
) -> list[StudyStep]:
    """Return the steps that make the pool and the model's own held-out responses, in order.

    Raises:
        UsageError: values that a command refuses.
    """
    return [draft.step(overwrite) for draft in shared_drafts(plan, folder)]


def selection_steps(
    plan: StudyPlan,
    folder: Path,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overwrite: Overwrite = Overwrite.NO,
) -> list[StudyStep]:
    """Return the steps that select, one an arm, and one a seed of it where its selection draws.

    Args:
        plan: of the study.
        folder: of the study.
        arms: of which arms, None for all; those with rounds select as they go.
        seeds: of which seeds, None for all.
        overwrite: handed to each command.

    Raises:
        UsageError: values that a command refuses.
    """
    steps = []
    for arm in plan.arms if arms is None else arms:
        if plan.arm(arm).rounds is not None:
            continue
        of_seeds: Sequence[int | None] = [None]
        if draws(plan.arm(arm)):
            of_seeds = plan.seeds if seeds is None else seeds
        drafts = [selection_draft(plan, folder, arm, seed) for seed in of_seeds]
        steps += [draft.step(overwrite) for draft in drafts]
    return steps


def run_steps(
    plan: StudyPlan,
    folder: Path,
    arm: str,
    seed: int,
    places: Sequence[Place],
    *,
    overwrite: Overwrite = Overwrite.NO,
) -> list[StudyStep]:
    """Return the steps of an arm and seed: its training, and what judges it at each place.

    Args:
        plan: of the study.
        folder: of the study.
        arm: which arm.
        seed: of the training.
        places: where it is judged, one or more, by ascending step.
        overwrite: handed to each command.

    Raises:
        UsageError: values that a command refuses.
    """
    how = plan.arm(arm)
    if how.rounds is not None:
        steps = _steps_of_rounds(plan, folder, arm, seed, overwrite)
    elif how.trainer is not None:
        steps = [_of_trainer(plan, folder, how, seed, place.step) for place in places]
    else:
        steps = [training_draft(plan, folder, how, seed, places).step(overwrite)]
    for place in places:
        steps.append(judgement_draft(plan, folder, how, seed, place.step).step(overwrite))
    return steps


def round_plan_of(plan: StudyPlan, arm: str, seed: int) -> RoundPlan:
    """Return the rounds that an arm goes through with a seed, made of the study's sections.

    Raises:
        PlanError: what a plan of rounds refuses.
    """
    how = plan.arm(arm)
    assert how.rounds is not None
    values: dict[str, Any] = {"prompts": plan.pool.prompts, "model": plan.model, "seed": seed}
    values |= how.rounds
    for stage in OF_POOL:
        if stage in plan.sections:
            values[stage] = _section(plan, stage)
    values |= {"select": dict(how.sections["select"]), "train": dict(how.sections["train"])}
    n_rounds = how.rounds.get("rounds")
    if isinstance(n_rounds, int) and n_rounds > 0 and plan.budgets.prompts is not None:
        n_steps = plan.budgets.prompts // global_batch_size(plan, arm)
        values["train"]["max_steps"] = max(1, n_steps // n_rounds)
    return RoundPlan.from_values(values, name=f"of arm {arm}")


def shared_drafts(plan: StudyPlan, folder: Path) -> Iterator[StepDraft]:
    """Yield the steps that all arms share, in order."""
    if plan.pool.candidates is None:
        yield from _pool_drafts(plan, folder)

    candidates = str(heldout_candidates_folder(plan, folder))
    values: dict[str, Any]
    if plan.heldout.candidates is None:
        section = _section(plan, "eval")
        values = {"prompts": plan.heldout.prompts, "output": candidates, "model": plan.model}
        values |= {**_sampling(section), "seed": EVAL_SEED}
        yield StepDraft("held-out, generate", "generate", values)
        values = {"candidates": candidates, "output": str(heldout_scores_folder(plan, folder))}
        yield StepDraft("held-out, score", "score", {**values, **_rating(section)})
    if plan.truth is not None and plan.target != REWARD:
        values = {"groups": candidates, "output": str(heldout_logprobs_folder(folder))}
        values |= {"model": plan.model, **_reading(_section(plan, "train"))}
        yield StepDraft("held-out, logprobs", "logprobs", values)


def _pool_drafts(plan: StudyPlan, folder: Path) -> Iterator[StepDraft]:
    candidates = str(candidates_folder(plan, folder))
    values: dict[str, Any]
    values = {"prompts": plan.pool.prompts, "output": candidates, "model": plan.model}
    values |= {**_section(plan, "generate"), "seed": POOL_SEED}
    yield StepDraft("pool, generate", "generate", values)

    outputs = {"score": scores_folder(plan, folder), "embed": embeddings_folder(plan, folder)}
    for stage, output in outputs.items():
        if stage in plan.sections:
            values = {"candidates": candidates, "output": str(output), **_section(plan, stage)}
            yield StepDraft(f"pool, {stage}", stage, values)


def selection_draft(plan: StudyPlan, folder: Path, arm: str, seed: int | None) -> StepDraft:
    """Return the selection of an arm, with a seed where it draws."""
    values: dict[str, Any] = {
        "candidates": str(candidates_folder(plan, folder)),
        "scores": str(scores_folder(plan, folder)),
    }
    embeddings = embeddings_folder(plan, folder)
    if embeddings is not None:
        values["embeddings"] = str(embeddings)
    values["output"] = str(groups_folder(plan, folder, arm, seed or 0))
    values |= plan.arm(arm).sections["select"]
    if seed is None:
        return StepDraft(f"{arm}, select", "select", values, arm)
    return StepDraft(f"{arm}, seed {seed}, select", "select", {**values, "seed": seed}, arm, seed)


def training_draft(
    plan: StudyPlan, folder: Path, arm: Arm, seed: int, places: Sequence[Place]
) -> StepDraft:
    """Return one training to the last of the places, which keeps the weights of each."""
    steps = [place.step for place in places]
    values: dict[str, Any] = {
        "groups": str(groups_folder(plan, folder, arm.name, seed)),
        "output": str(policy_folder(plan, folder, arm.name, seed)),
        "model": plan.model,
    }
    if plan.target == REWARD:
        values["target"] = REWARD
    values |= arm.sections["train"]
    values |= {"max_steps": max(steps), "keep_step": steps, "seed": seed}
    return StepDraft(f"{arm.name}, seed {seed}, train", "train", values, arm.name, seed)


def _of_trainer(plan: StudyPlan, folder: Path, arm: Arm, seed: int, step: int) -> StudyStep:
    """Return the training of another trainer to one place, which it knows no other of."""
    assert arm.trainer is not None
    output = judged_model(plan, folder, arm.name, seed, step)
    places = {
        "groups": str(groups_folder(plan, folder, arm.name, seed)),
        "policy": str(output),
        "model": plan.model,
        "steps": step,
        "seed": seed,
    }
    # parted before the places are filled, so that a path with a space stays one word
    words = [word.format_map(places) for word in shlex.split(arm.trainer)]
    return StudyStep(
        name=f"{arm.name}, seed {seed}, train to step {step}",
        stage=TRAINER,
        arguments=tuple(Word(None, "", word) for word in words),
        output=output,
        arm=arm.name,
        seed=seed,
    )


def _steps_of_rounds(
    plan: StudyPlan, folder: Path, arm: str, seed: int, overwrite: Overwrite
) -> list[StudyStep]:
    rounds = steps_of(
        round_plan_of(plan, arm, seed),
        rounds_folder(folder, arm, seed),
        name=f"of arm {arm}",
        overwrite=overwrite,
    )
    return [
        StudyStep(
            name=f"{arm}, seed {seed}, round {step.number}, {step.stage}",
            stage=step.stage,
            arguments=step.arguments,
            output=step.output,
            config=step.config,
            arm=arm,
            seed=seed,
        )
        for step in rounds
    ]


def judgement_draft(plan: StudyPlan, folder: Path, arm: Arm, seed: int, step: int) -> StepDraft:
    """Return what judges the weights of one place: an evaluation, or what pairs are judged by."""
    model = str(judged_model(plan, folder, arm.name, seed, step))
    output = str(judgement_folder(plan, folder, arm.name, seed, step))
    candidates = str(heldout_candidates_folder(plan, folder))
    train = arm.sections["train"]

    values: dict[str, Any]
    if plan.truth is None:
        stage = "eval"
        values = _sides(plan, folder, model, candidates) | {"output": output}
        values |= {**_section(plan, "eval"), "seed": EVAL_SEED + seed}
    elif plan.target == REWARD:
        stage = "score"
        values = {"candidates": candidates, "output": output, "scorer": f"reward-model:{model}"}
        values |= {key: train[key] for key in ("trust_remote_code",) if key in train}
    else:
        stage = "logprobs"
        values = {"groups": candidates, "output": output, "model": model, **_reading(train)}
    name = f"{arm.name}, seed {seed}, {stage} at step {step}"
    return StepDraft(name, stage, values, arm.name, seed, step)


def _sides(plan: StudyPlan, folder: Path, policy: str, baseline: str) -> dict[str, Any]:
    """Return what an evaluation compares: a policy, and what the model has sampled once."""
    section = _section(plan, "eval")
    sides = {
        "policy": policy,
        "baseline": baseline,
        "baseline_scores": str(heldout_scores_folder(plan, folder)),
        "prompts": plan.heldout.prompts,
    }
    # of a folder the command does not know the model, and of a served one there is no divergence
    if section.get("kl", True) and section.get("backend") not in SERVED:
        sides["kl_reference"] = plan.model
    return sides


def _section(plan: StudyPlan, stage: str) -> dict[str, Any]:
    """Return the shared values of a stage; null is the command's own default."""
    values = plan.sections.get(stage, {})
    return {key: value for key, value in values.items() if value is not None}


def _sampling(section: Section) -> dict[str, Any]:
    """Return what `generate` is given so that it samples as `eval` does with its section."""
    defaults = {item.name: item.default for item in fields(GenerateConfig)}
    values = {}
    for item in fields(EvalConfig):
        if item.name not in defaults or item.name in ("output", "overwrite", "prompts", "seed"):
            continue
        if item.name in section:
            values[item.name] = section[item.name]
        elif item.default != defaults[item.name]:
            values[item.name] = item.default
    return values


def _rating(section: Section) -> dict[str, Any]:
    """Return what `score` is given so that it rates as `eval` does with its section."""
    values = {key: section[key] for key in _RATING if key in section}
    # the server that samples the responses is no judge
    shared = None if section.get("backend") == "openai" else section.get("base_url")
    judge = section.get("judge_base_url", shared)
    return values if judge is None else {**values, "base_url": judge}


def _reading(section: Section) -> dict[str, Any]:
    """Return what `logprobs` is given so that it reads as `train` does with its section."""
    return {key: section[key] for key in _READING if key in section}
