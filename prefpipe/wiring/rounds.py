"""From a plan to its steps, and one process after another that runs them."""

import fcntl
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from prefpipe.artifacts.atomic import make_folder
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.round_plan import RoundPlan, plan_error, read_plan
from prefpipe.configs.round_steps import Step, output_of, steps_of
from prefpipe.configs.rounds import RoundsConfig
from prefpipe.configs.rounds_record import write_rounds_record
from prefpipe.configs.score import ScoreConfig, parse_scorer
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import InputError, PrefpipeError, UsageError, error_with_code
from prefpipe.execution.rounds_script import rounds_script
from prefpipe.execution.step_process import run_step
from prefpipe.maths.selection.rewards import parse_reward
from prefpipe.wiring.batch_job import ARRAY, OWN_VARIABLES

HUB = "hf:"
LONGEST_WAIT_S = 30.0
"""For a step that outlived its `prefpipe rounds`: it ends within its grace."""
STOPPED = 75
WHAT_CODES_SAY = {
    2: "what it was given cannot be used",
    3: "more of its rows failed than --max-error-rate allows; what is good is on disk",
    4: "its input is incomplete",
    STOPPED: "stopped early; what is finished is kept",
    130: "interrupted; what is finished is kept",
}


class StopSource(Protocol):
    """What knows which signal asked for a stop, and lets a step finish."""

    number: int | None

    def finishing(self, *, however_long: bool = False) -> AbstractContextManager[None]:
        """Return a section in which a request waits."""
        ...


class Rounds(NamedTuple):
    """A plan, and the steps of it that are to be run."""

    plan: RoundPlan
    steps: Sequence[Step]
    config: RoundsConfig


class StepFailure(NamedTuple):
    """A step that did not end well, what to say of it, and the exit code to end with."""

    step: Step
    error: PrefpipeError
    exit_code: int


def open_rounds(config: RoundsConfig) -> Rounds:
    """Read the plan and make all steps, so that what is wrong is said before the first one.

    Raises:
        UsageError: a plan that cannot be run, or rounds that it does not have.
    """
    plan = read_plan(config.plan, seed=config.seed)
    steps = steps_of(plan, config.output, name=str(config.plan), overwrite=config.overwrite)
    problems = list(_reward_problems(steps))
    if problems:
        raise plan_error(str(config.plan), problems)

    last = plan.rounds if config.until_round is None else config.until_round
    for flag, number in (("--from-round", config.from_round), ("--until-round", last)):
        if number > plan.rounds:
            raise UsageError(f"{flag} {number}: {config.plan} has {plan.rounds} rounds")
    chosen = [step for step in steps if config.from_round <= step.number <= last]
    return Rounds(plan, chosen, config)


def script_of(rounds: Rounds) -> str:
    """Return the shell script that does what `run_rounds` does."""
    command = f"{_command(rounds.config)} --dry-run"
    return rounds_script(rounds.plan, rounds.steps, rounds.config.output, command=command)


def run_rounds(
    rounds: Rounds, stop: StopSource, log: Callable[[str], None], environment: Mapping[str, str]
) -> StepFailure | None:
    """Run the steps; return the one that did not end well, None where all did.

    Args:
        rounds: of `open_rounds`.
        stop: what knows of signals.
        log: what is run.
        environment: variables of the steps.

    Raises:
        InputError: files that are not there, or a finished round that has no policy.
        UsageError: another `prefpipe rounds` works in the folder.
    """
    plan, steps, config = rounds
    _refuse_missing_files(rounds)
    # a task of an array that runs rounds runs all of them: no step makes a share of its parts
    own = {
        name: value
        for name, value in environment.items()
        if name not in OWN_VARIABLES and not name.startswith(ARRAY)
    }

    make_folder(config.output)
    with _alone(config.output, log) as lock:
        write_rounds_record(config.output, config.plan, plan, seed=config.seed)
        for place, step in enumerate(steps, start=1):
            log(f"\nround {step.number} of {plan.rounds}, step {place} of {len(steps)}")
            log(f"$ {shlex.join(['prefpipe', *step.words])}")
            code = run_step(
                step.words,
                environment=own,
                signal_asked=lambda: stop.number,
                finishing=stop.finishing,
                kept_open=[] if lock is None else [lock],
            )
            if code != 0:
                return _failure(step, code, rounds, is_stopping=stop.number is not None)
    return None


def _failure(step: Step, code: int, rounds: Rounds, *, is_stopping: bool) -> StepFailure:
    """Return what to say of a step that ended with another code than 0."""
    place = f"round {step.number}, {step.stage}"
    go_on = f"go on with: {_command(rounds.config)}"
    if code < 0:
        name = signal.Signals(-code).name
        if is_stopping:  # it came before the command had its handlers
            error = error_with_code(STOPPED, f"{place}: stopped by {name}", hint=go_on)
            return StepFailure(step, error, STOPPED)
        why = ", by the system when the memory is full" if -code == signal.SIGKILL else ""
        error = PrefpipeError(f"{place} was ended by {name}{why}", hint=go_on)
        return StepFailure(step, error, error.exit_code)

    said = WHAT_CODES_SAY.get(code, f"it ended with exit code {code}, its error stands above")
    hint = go_on
    if code == 2 and rounds.config.overwrite is Overwrite.NO:
        hint = f"{go_on}; with --overwrite=stale where the plan was changed on purpose"
    if code == 3:
        hint = (
            f"look at `prefpipe inspect {shlex.quote(str(step.output))}`; a higher max_error_rate "
            f"in the plan's section `{step.stage}` lets it pass. Then {go_on}"
        )
    error = error_with_code(code, f"{place}: {said}", hint=hint)
    return StepFailure(step, error, code)


def _command(config: RoundsConfig) -> str:
    """Return the command that goes on."""
    words = ["prefpipe", "rounds", str(config.plan), "-o", str(config.output)]
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
    """Yield rewards that name scorers which the round does not have, or name none of several."""
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
        problem = _reward_problem(config, names)
        if problem is not None and problem not in said:
            said.add(problem)
            yield problem if step.number == 1 else f"round {step.number}, {problem}"


def _reward_problem(config: SelectConfig | EvalConfig, names: Sequence[str]) -> str | None:
    if config.reward is None:
        if len(names) == 1:
            return None
        if not names:
            return f"{config.stage}: it needs `scorer`"
        return f"{config.stage}: it needs `reward`, as the scorers are {', '.join(names)}"
    unknown = [name for name in parse_reward(config.reward).names if name not in names]
    if unknown:
        scorers = ", ".join(names) or "none"
        return (
            f"{config.stage}: the reward {config.reward!r} names `{unknown[0]}`, and the scorers "
            f"are: {scorers}"
        )
    return None


def _refuse_missing_files(rounds: Rounds) -> None:
    """Refuse prompts that are not there, and a first round without the policy that it starts from.

    Raises:
        InputError: naming the file or folder.
    """
    for step in rounds.steps:
        config = step.config
        if not isinstance(config, GenerateConfig | EvalConfig):
            continue
        prompts = config.prompts
        if prompts is None:
            raise UsageError(
                f"the plan {rounds.config.plan} cannot be run:\n  {step.stage}: it needs `prompts`"
            )
        if not prompts.startswith(HUB) and not Path(prompts).expanduser().exists():
            raise InputError(
                f"round {step.number}, {step.stage}: there are no prompts at {prompts}",
                hint=f"correct `prompts` in {rounds.config.plan}; paths are relative to the folder "
                "in which the command is run",
            )

    first = rounds.config.from_round
    for number in range(1, first):
        policy = output_of(rounds.config.output, number, "train")
        is_model = any((policy / name).is_file() for name in ("config.json", "adapter_config.json"))
        if not is_model:
            raise InputError(
                f"--from-round {first}: round {number} has no policy, {policy}",
                hint="leave out --from-round: what is finished of earlier rounds is kept",
            )


@contextmanager
def _alone(run: Path, log: Callable[[str], None]) -> Iterator[int | None]:
    """Hold a folder, so that no two trainings write one policy; a lock goes with its processes.

    Yields:
        What steps inherit, so that one which outlives this process holds it on; None where the
        file system has no locks.

    Raises:
        UsageError: another `prefpipe rounds`, or a step that one left behind, works there.
    """
    descriptor = os.open(run, os.O_RDONLY)
    try:
        yield descriptor if _is_locked(descriptor, run, log) else None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, run: Path, log: Callable[[str], None]) -> bool:
    gives_up_at = time.monotonic() + LONGEST_WAIT_S
    has_said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > gives_up_at:
                raise UsageError(
                    f"another `prefpipe rounds`, or a step of one, is at work in {run}",
                    hint="wait for its end, or stop it; `pgrep -af prefpipe` lists what runs here",
                ) from None
            if not has_said:
                log(f"{run} is in use: waiting up to {LONGEST_WAIT_S:.0f} s for its end")
                has_said = True
            time.sleep(0.2)
        except OSError:
            return False
        else:
            return True
