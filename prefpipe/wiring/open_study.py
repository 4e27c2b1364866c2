"""A study from its plan: everything that can be refused is, before the first step."""

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts.store import Artifact, open_input
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.study import StudyConfig
from prefpipe.configs.study_checks import step_problems
from prefpipe.configs.study_plan import StudyPlan, read_study_plan, study_plan_error
from prefpipe.configs.study_steps import judgement_draft, selection_draft, shared_steps
from prefpipe.errors import InputError, PrefpipeError, UsageError
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.spelling import did_you_mean
from prefpipe.wiring.plan_inputs import is_missing
from prefpipe.wiring.plan_rewards import reward_problem, weight_problem


class Study(NamedTuple):
    """A plan, and which of its arms and seeds to run, in the plan's order."""

    plan: StudyPlan
    config: StudyConfig
    arms: Sequence[str]
    seeds: Sequence[int]


def open_study(config: StudyConfig) -> Study:
    """Read the plan and make all steps, so that errors appear before the first one.

    Raises:
        UsageError: a plan that cannot be run, or arms and seeds that it does not have.
        InputError: files and folders that the plan names and that are not there, or are no such.
    """
    plan = read_study_plan(config.plan)
    name = str(config.plan)
    problems = step_problems(plan, config.output)
    if problems:
        raise study_plan_error(name, problems)
    arms, seeds = _chosen(plan, config)

    _refuse_missing_files(plan, config)
    folders = _Folders(plan)
    problems = [
        *_reward_problems(plan, config.output, folders),
        *_recipe_problems(plan, config.output, folders),
        *_leaks(plan, folders),
    ]
    if problems:
        raise study_plan_error(name, problems)
    return Study(plan, config, arms, seeds)


def command_of(config: StudyConfig, *, dry_run: bool = False) -> str:
    """Return the command that continues it, or with ``dry_run`` the one that prints the script."""
    plan, output = str(config.plan), str(config.output)
    # `Path` forgets the ./ by which it is no flag
    words = ["prefpipe", "study", f"./{plan}" if plan.startswith("-") else plan]
    words += ["-o", f"./{output}" if output.startswith("-") else output]
    for flag, value in (("--arms", config.arms), ("--seeds", config.seeds)):
        if value is not None:
            words += [flag, value]
    if config.keep_policies:
        words.append("--keep-policies")
    if config.overwrite:
        words.append(f"--overwrite={config.overwrite}")
    for flag, rate in (
        ("--train-tokens-per-s", config.train_tokens_per_s),
        ("--sample-tokens-per-s", config.sample_tokens_per_s),
    ):
        if rate is not None:
            words += [flag, f"{rate:g}"]
    if dry_run:
        words.append("--dry-run")
    return shlex.join(words)


def _chosen(plan: StudyPlan, config: StudyConfig) -> tuple[list[str], list[int]]:
    """Return the arms and seeds to run.

    Raises:
        UsageError: one that the plan does not have.
    """
    arms, seeds = config.chosen_arms, config.chosen_seeds
    for arm in arms or ():
        if arm not in plan.arms:
            raise UsageError(
                f"--arms {arm}: {config.plan} has no such arm{did_you_mean(arm, plan.arms)}",
                hint=f"its arms are {', '.join(plan.arms)}",
            )
    for seed in seeds or ():
        if seed not in plan.seeds:
            raise UsageError(
                f"--seeds {seed}: {config.plan} has the seeds {', '.join(map(str, plan.seeds))}",
                hint="add the seed to `seeds` in the plan; finished runs of the other seeds are "
                "kept",
            )
    return (
        [arm for arm in plan.arms if arms is None or arm in arms],
        [seed for seed in plan.seeds if seeds is None or seed in seeds],
    )


def _refuse_missing_files(plan: StudyPlan, config: StudyConfig) -> None:
    """Refuse missing prompts, files of trainings and commands of other trainers.

    Raises:
        InputError: naming the file and its place in the plan.
    """
    where = f"correct it in {config.plan}; paths are relative to the folder in which the command "
    where += "is run"
    for place, prompts in (("pool", plan.pool.prompts), ("heldout", plan.heldout.prompts)):
        if prompts is not None and is_missing(prompts):
            raise InputError(f"{place}: no prompts file at {prompts}", hint=where)

    for name, arm in plan.arms.items():
        for key in ("chat_template", "rater_scores", "eval_groups"):
            path = arm.sections["train"].get(key)
            if path is not None and not Path(str(path)).expanduser().exists():
                raise InputError(f"arms, {name}, train: `{key}`: {path} does not exist", hint=where)
        program = "" if arm.trainer is None else shlex.split(arm.trainer)[0]
        if program and "{" not in program and shutil.which(program) is None:
            raise InputError(
                f"arms, {name}, trainer: the program {program} does not exist",
                hint="install it, or give its path in the plan",
            )


class _Folders:
    """The existing artifacts that a plan names; None if the study makes them."""

    def __init__(self, plan: StudyPlan) -> None:
        """Open them.

        Raises:
            InputError: one that is not there, or of another kind.
        """
        pool, heldout = plan.pool, plan.heldout
        self.candidates = _opened(pool.candidates, "candidates", "pool")
        self.scores = _opened(pool.scores, "scores", "pool")
        self.embeddings = _opened(pool.embeddings, "embeddings", "pool")
        self.heldout_candidates = _opened(heldout.candidates, "candidates", "heldout")
        self.heldout_scores = _opened(heldout.scores, "scores", "heldout")


def _opened(path: str | None, kind: str, place: str) -> Artifact | None:
    if path is None:
        return None
    return open_input(Path(path).expanduser(), schema=kind, name=f"{place}: {kind}")


def _scorers_of(scores: Artifact) -> list[str]:
    """Return the names of an artifact's scorers."""
    return [str(scorer["name"]) for scorer in scores.record.identity.get("scorers", [])]


def _names_of(scorers: Sequence[str]) -> list[str]:
    """Return the names of a command line's scorers."""
    return [parse_scorer(text).name for text in scorers]


def _reward_problems(plan: StudyPlan, folder: Path, folders: _Folders) -> Iterator[str]:
    """Yield problems of rewards that name missing scorers, or none of several."""
    of_pool, of_heldout = folders.scores, folders.heldout_scores
    names: list[str] = []
    if of_pool is not None:
        names = _scorers_of(of_pool)
    for step in shared_steps(plan, folder):
        if step.name == "pool, score" and isinstance(step.config, ScoreConfig):
            names = _names_of(step.config.scorer)
    judged_by = [] if of_heldout is None else _scorers_of(of_heldout)

    said: dict[str, list[str]] = {}
    for arm in plan.arms.values():
        seed = plan.seeds[0]
        configs = [selection_draft(plan, folder, arm.name, seed).step().config]
        configs.append(judgement_draft(plan, folder, arm, seed, 1).step().config)
        for config in configs:
            if isinstance(config, SelectConfig):
                problem = reward_problem(config, names)
            elif isinstance(config, EvalConfig):
                problem = reward_problem(config, _names_of(config.scorer))
            else:
                continue
            if problem is not None:
                said.setdefault(problem, []).append(arm.name)
        text = arm.sections["train"].get("weight_by")
        problem = None if text is None else weight_problem(str(text))
        if problem is not None:
            said.setdefault(problem, []).append(arm.name)
    for problem, arms in said.items():
        is_shared = len(arms) == len(plan.arms)
        yield problem if is_shared else f"arms, {' and '.join(arms)}, {problem}"

    if plan.truth is not None:
        for step in shared_steps(plan, folder):
            if step.name == "held-out, score" and isinstance(step.config, ScoreConfig):
                judged_by = _names_of(step.config.scorer)
        yield from _truth_problems(plan.truth.reward, judged_by)


def _truth_problems(reward: str, names: Sequence[str]) -> Iterator[str]:
    try:
        unknown = [name for name in parse_reward(reward).names if name not in names]
    except UsageError as error:
        yield f"truth: {error.message}"
        return
    if unknown:
        yield (
            f"truth: the reward {reward!r} names `{unknown[0]}`, and the held-out scorers are: "
            f"{', '.join(names)}"
        )


def _recipe_problems(plan: StudyPlan, folder: Path, folders: _Folders) -> Iterator[str]:
    """Yield how existing held-out responses differ from those that `eval` makes.

    An evaluation would refuse them, after a training.
    """
    candidates, scores = folders.heldout_candidates, folders.heldout_scores
    if candidates is None or scores is None or plan.truth is not None:
        return
    arm = next(iter(plan.arms.values()))
    config = judgement_draft(plan, folder, arm, plan.seeds[0], 1).step().config
    assert isinstance(config, EvalConfig)
    rated_by = _names_of(config.scorer)
    if rated_by != _scorers_of(scores):
        yield (
            f"heldout: {plan.heldout.scores} has the scorers {', '.join(_scorers_of(scores))}, and "
            f"`eval` rates by {', '.join(rated_by)}"
        )

    sampled = candidates.record.identity
    for key in ("n", "temperature", "max_tokens", "top_p", "top_k", "system_prompt"):
        value = getattr(config, key)
        wanted = list(value) if isinstance(value, tuple) else value
        if key in sampled and sampled[key] != wanted:
            yield (
                f"heldout: {plan.heldout.candidates} was sampled with {key} {sampled[key]}, and "
                f"`eval` samples with {wanted}"
            )


def _leaks(plan: StudyPlan, folders: _Folders) -> Iterator[str]:
    """Yield held-out prompts that arms train on."""
    from prefpipe.stages.study.prompts import leaked_prompts

    problem = leaked_prompts(
        _turns_of(plan.pool.prompts, folders.candidates),
        _turns_of(plan.heldout.prompts, folders.heldout_candidates),
    )
    if problem is not None:
        yield problem


def _turns_of(
    source: str | None, candidates: Artifact | None
) -> Mapping[str, Sequence[Mapping[str, str]]]:
    """Return the turns of prompts by id; none if their samples hold them."""
    from prefpipe.artifacts.prompts import load_prompts
    from prefpipe.stages.shared.recipe import prompts_of

    if candidates is not None:
        return prompts_of(candidates, allow_partial=True)
    if source is None or place_of(source) is None:
        return {}
    try:
        rows = load_prompts(source, drop_duplicates=True).rows
    except PrefpipeError:
        return {}  # flags of `generate` say how to read it, or it refuses the file itself
    return {row.prompt_id: row.messages for row in rows}
