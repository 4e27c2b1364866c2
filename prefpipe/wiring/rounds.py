"""From a plan to its steps, and one process after another that runs them."""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts.atomic import make_folder
from prefpipe.artifacts.holders import try_lock
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.round_plan import ALL, RoundPlan, plan_error, read_plan
from prefpipe.configs.round_steps import Step, output_of, steps_of
from prefpipe.configs.rounds import RoundsConfig
from prefpipe.configs.rounds_record import write_rounds_record
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, PrefpipeError, UsageError
from prefpipe.execution.rounds_script import rounds_script
from prefpipe.execution.step_process import STEP_VARIABLE, SignalSource, run_step
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.models.files import holds_config
from prefpipe.wiring.extras import require_extras
from prefpipe.wiring.plan_inputs import is_missing, require_inputs
from prefpipe.wiring.plan_rewards import reward_problem, weight_problem
from prefpipe.wiring.step_ends import environment_of_steps, error_of_step, settled_code

LONGEST_WAIT_S = 30.0
"""For a step that outlived its `prefpipe rounds`: it ends within its grace."""


class Rounds(NamedTuple):
    """A plan, and the steps of it to run."""

    plan: RoundPlan
    steps: Sequence[Step]
    config: RoundsConfig


class StepFailure(NamedTuple):
    """A failed step, its message, and the exit code to end with."""

    step: Step
    error: PrefpipeError
    exit_code: int


def open_rounds(config: RoundsConfig) -> Rounds:
    """Read the plan and make all steps, so that errors appear before the first one.

    Raises:
        UsageError: a plan that cannot be run, or rounds that it does not have.
    """
    plan = read_plan(config.plan, seed=config.seed)
    steps = steps_of(plan, config.output, name=str(config.plan), overwrite=config.overwrite)
    problems = [*_reward_problems(steps), *_pool_problems(plan, steps), *_weight_problems(steps)]
    if problems:
        raise plan_error(str(config.plan), problems)

    last = plan.rounds if config.until_round is None else config.until_round
    for flag, number in (("--from-round", config.from_round), ("--until-round", last)):
        if number > plan.rounds:
            raise UsageError(
                f"{flag} {number}: {config.plan} has {plan.rounds} rounds",
                hint=f"pass a round of 1 to {plan.rounds}, or raise `rounds` in the plan",
            )
    chosen = [step for step in steps if config.from_round <= step.number <= last]
    return Rounds(plan, chosen, config)


def script_of(rounds: Rounds) -> str:
    """Return the shell script that does what `run_rounds` does."""
    command = f"{_command(rounds.config)} --dry-run"
    return rounds_script(rounds.plan, rounds.steps, rounds.config.output, command=command)


def run_rounds(
    rounds: Rounds,
    signals: SignalSource,
    log: Callable[[str], None],
    environment: Mapping[str, str],
) -> StepFailure | None:
    """Run the steps; return the one that failed, None if all succeeded.

    Args:
        rounds: of `open_rounds`.
        signals: those that this process is sent.
        log: what is run.
        environment: variables of the steps.

    Raises:
        MissingExtraError: a package that a step needs is not installed.
        InputError: models, files or prompts that a step could not use, or a finished round that
            has no policy.
        UsageError: another `prefpipe rounds` works in the folder.
    """
    plan, steps, config = rounds
    for step in steps:
        require_extras(step.config)
    _refuse_missing_files(rounds)
    require_inputs(steps, config.output, config.plan)
    of_steps = environment_of_steps(environment)

    make_folder(config.output)
    with _alone(config.output, log) as lock:
        write_rounds_record(config.output, config.plan, plan, seed=config.seed)
        for place, step in enumerate(steps, start=1):
            which = f"round {step.number} of {plan.rounds}, step {place} of {len(steps)}"
            log(f"\n{which}")
            log(f"$ {shlex.join(['prefpipe', *step.words])}")
            try:
                code = run_step(
                    step.words,
                    environment={**of_steps, STEP_VARIABLE: which},
                    signals=signals,
                    kept_open=[] if lock is None else [lock],
                )
            except KeyboardInterrupt:  # Ctrl-C, or a second signal; the process says the rest
                log(f"round {step.number}, {step.stage}: to continue, run: {_command(config)}")
                raise
            code = settled_code(code, signals, is_last=step is steps[-1])
            if code != 0:
                return _failure(step, code, rounds)
    return None


def _failure(step: Step, code: int, rounds: Rounds) -> StepFailure:
    """Return the message for a step that ended with a code other than 0."""
    error, exit_code = error_of_step(
        f"round {step.number}, {step.stage}",
        code,
        go_on=_command(rounds.config),
        stage=step.stage,
        output=step.output,
        may_be_stale=rounds.config.overwrite is Overwrite.NO,
    )
    return StepFailure(step, error, exit_code)


def _command(config: RoundsConfig) -> str:
    """Return the command that continues it."""
    plan = str(config.plan)
    # `Path` forgets the ./ by which it is no flag
    words = ["prefpipe", "rounds", f"./{plan}" if plan.startswith("-") else plan]
    words += ["-o", str(config.output)]
    if config.seed is not None:
        words += ["--seed", str(config.seed)]
    if config.from_round != RoundsConfig.from_round:
        words += ["--from-round", str(config.from_round)]
    if config.until_round is not None:
        words += ["--until-round", str(config.until_round)]
    if config.overwrite:
        words.append(f"--overwrite={config.overwrite}")
    return shlex.join(words)


def _reward_problems(steps: Sequence[Step]) -> Iterator[str]:
    """Yield problems of rewards that name missing scorers, or none of several."""
    given: dict[int, list[str]] = {}
    said = set()
    for step in steps:
        config = step.config
        if isinstance(config, ScoreConfig):
            given[step.number] = [parse_scorer(text).name for text in config.scorer]
        if not isinstance(config, SelectConfig | EvalConfig):
            continue
        names = given[step.number]
        if isinstance(config, EvalConfig):
            names = [parse_scorer(text).name for text in config.scorer]
        problem = reward_problem(config, names)
        if problem is not None and problem not in said:
            said.add(problem)
            yield problem if step.number == 1 else f"round {step.number}, {problem}"


def _weight_problems(steps: Sequence[Step]) -> Iterator[str]:
    """Yield each `weight_by` that is not an expression; its names are checked with the groups."""
    said: set[str] = set()
    for step in steps:
        text = step.config.weight_by if isinstance(step.config, TrainConfig) else None
        if text is None or text in said:
            continue
        said.add(text)
        problem = weight_problem(text)
        if problem is not None:
            yield problem if step.number == 1 else f"round {step.number}, {problem}"


def _pool_problems(plan: RoundPlan, steps: Sequence[Step]) -> Iterator[str]:
    """Yield the rounds that join pools of other raters, or of another embedding model."""
    if plan.pools != ALL:
        return
    raters: dict[int, dict[str, str]] = {}
    embedders: dict[int, str] = {}
    for step in steps:
        config, before = step.config, step.number - 1
        if isinstance(config, ScoreConfig):
            raters[step.number] = {parse_scorer(text).name: text for text in config.scorer}
        elif isinstance(config, EmbedConfig):
            embedders[step.number] = config.model
            was = embedders.get(before, config.model)
            if was != config.model:
                yield (
                    f"round {step.number}, embed: `pools: all` joins responses embedded by one "
                    f"model, and `model` is {config.model} but was {was}"
                )
        elif isinstance(config, SelectConfig) and before in raters:
            now, earlier = raters[step.number], raters[before]
            read = now if config.reward is None else parse_reward(config.reward).names
            for name in dict.fromkeys([*read, *config.spread_of]):
                if name in now and earlier.get(name) != now[name]:
                    yield (
                        f"round {step.number}, score: `pools: all` joins responses rated by the "
                        f"same scorers, and round {before} was not rated by {now[name]}"
                    )


def _refuse_missing_files(rounds: Rounds) -> None:
    """Refuse missing prompts, and a first round without the policy that it starts from.

    Raises:
        InputError: naming the file or folder.
    """
    for step in rounds.steps:
        config = step.config
        if not isinstance(config, GenerateConfig | EvalConfig):
            continue
        prompts = config.prompts
        if prompts is None:
            raise plan_error(str(rounds.config.plan), [f"{step.stage}: `prompts` is missing"])
        if is_missing(prompts):
            raise InputError(
                f"round {step.number}, {step.stage}: no prompts file at {prompts}",
                hint=f"correct `prompts` in {rounds.config.plan}; paths are relative to the folder "
                "in which the command is run",
            )

    first = rounds.config.from_round
    for number in range(1, first):
        policy = output_of(rounds.config.output, number, "train")
        if not holds_config(policy):
            raise InputError(
                f"--from-round {first}: round {number} has no policy, {policy}",
                hint="leave out --from-round; finished steps of earlier rounds are kept",
            )


@contextmanager
def _alone(run: Path, log: Callable[[str], None]) -> Iterator[int | None]:
    """Lock a folder, so that no two trainings write one policy; the lock ends with its processes.

    Yields:
        What steps inherit, so that one which outlives this process holds it on; None if the
        file system has no locks.

    Raises:
        UsageError: another `prefpipe rounds`, or a step that one left behind, works there.
    """
    descriptor = os.open(run, os.O_RDONLY)
    try:
        yield descriptor if _take_lock(descriptor, run, log) else None
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, run: Path, log: Callable[[str], None]) -> bool:
    """Wait for the lock of a folder; return False if the file system has no locks.

    Raises:
        UsageError: it is held by another process after `LONGEST_WAIT_S`.
    """
    gives_up_at = time.monotonic() + LONGEST_WAIT_S
    has_said = False
    while True:
        is_taken = try_lock(descriptor)
        if is_taken is not False:
            return is_taken is True

        if time.monotonic() > gives_up_at:
            raise UsageError(
                f"another `prefpipe rounds`, or a step of one, is running in {run}",
                hint="wait until it ends, or stop it; `pgrep -af prefpipe` lists the processes",
            )
        if not has_said:
            log(f"{run} is in use: waiting up to {LONGEST_WAIT_S:.0f} s for its end")
            has_said = True
        time.sleep(0.2)
