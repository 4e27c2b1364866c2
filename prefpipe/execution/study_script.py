"""The shell script of a study: the steps that ``prefpipe study`` would run, for a person."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from prefpipe.configs.recorded_commands import Word
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import TRAINER, Place, StudyStep
from prefpipe.execution.script_lines import command_lines, comment, flag_and_value

OF_STEPS = re.compile(r"/(pool|heldout|arms)/[0-9A-Za-z._+/-]+")
"""A path in the folder of a study, without characters special in double quotes."""
MODELS = ("model", "kl_reference")
"""Flags that may name the plan's model; of `embed`, the flag is another model's."""


class ScriptedRun(NamedTuple):
    """An arm and seed in a script.

    ``places``: where it is judged; none if not known yet. ``steps``: none if the run is finished.
        ``note``: shown instead of places.
    """

    arm: str
    seed: int
    places: Sequence[Place] = ()
    steps: Sequence[StudyStep] = ()
    note: str = ""


class StudySteps(NamedTuple):
    """The steps of a script: shared steps, selections, then arms and seeds."""

    shared: Sequence[StudyStep]
    selections: Sequence[StudyStep]
    runs: Sequence[ScriptedRun]

    @property
    def all(self) -> list[StudyStep]:
        """All known steps, in order."""
        return [*self.shared, *self.selections, *(step for run in self.runs for step in run.steps)]

    @property
    def is_whole(self) -> bool:
        """Whether all steps are known."""
        return all(run.places for run in self.runs)


def study_script(
    plan: StudyPlan,
    steps: StudySteps,
    folder: Path,
    *,
    command: str,
    seconds: Mapping[str, float],
    notes: Sequence[str] = (),
) -> str:
    """Return a script that makes the same as the command, but keeps judged weights.

    Args:
        plan: the plan of the steps.
        steps: the steps to run.
        folder: the study's folder.
        command: the command that prints the script.
        seconds: expected time of each step, as far as known.
        notes: other facts known before the run, printed at the end.
    """
    script = _Script(plan, folder, seconds)
    n_arms = len({run.arm for run in steps.runs})
    n_seeds = len({run.seed for run in steps.runs})
    lines = [
        "#!/usr/bin/env bash",
        comment(f"study {plan.study}: {_count(n_arms, 'arm')} by {_count(n_seeds, 'seed')}"),
        comment(f"printed by: {command}"),
        "# Run it again after a stop: each command keeps finished parts. It ends at the first",
        "# step that fails and keeps all weights; without --dry-run the other runs go on.",
        "set -euo pipefail",
    ]
    body = list(script.body(steps))
    for name, value in script.variables.items():
        if any(f"${name}" in line for line in body):
            lines.append(f"{name}={quote(value)}")
    lines += body
    if not steps.is_whole:
        lines += [
            "",
            "# The steps at which the other runs are judged are known now: the rest of the study.",
        ]
        lines += [f'rest="$({command})"', 'eval "$rest"']
    lines += ["", *(comment(note) for note in (*_times(steps, seconds), *notes))]
    return "\n".join(lines) + "\n"


def _times(steps: StudySteps, seconds: Mapping[str, float]) -> Iterator[str]:
    """Yield how long the steps take together, as far as known."""
    known = [seconds[step.name] for step in steps.all if step.name in seconds]
    n_unknown = len(steps.all) - len(known)
    if known:
        yield f"about {_time(sum(known))} together, of {_count(len(known), 'step')}"
    if n_unknown:
        yield (
            f"how long {_count(n_unknown, 'step')} take{'s' if n_unknown == 1 else ''} is "
            "unknown until one of the kind is done; to estimate it now, pass "
            "--sample-tokens-per-s and --train-tokens-per-s"
        )
    unplaced = [f"{run.arm}, seed {run.seed}" for run in steps.runs if not run.places]
    if unplaced:
        yield f"not counted, because their steps are not known yet: {_count(len(unplaced), 'run')}"


class _Script:
    """The steps as shell lines, with variables for values that a person may change."""

    def __init__(self, plan: StudyPlan, folder: Path, seconds: Mapping[str, float]) -> None:
        self._plan = plan
        self._folder = str(folder)
        self._seconds = seconds
        self.variables = {"study": self._folder, "model": plan.model}

    def body(self, steps: StudySteps) -> Iterator[str]:
        """Yield the lines of all steps."""
        for title, some in (("shared by all arms", steps.shared), ("groups", steps.selections)):
            if some:
                yield from ("", f"# {title}")
                yield from self._steps(some)
        for run in steps.runs:
            yield ""
            yield comment(f"arm {run.arm}, seed {run.seed}: {run.note or _judged(run.places)}")
            yield from self._steps(run.steps)

    def _steps(self, steps: Sequence[StudyStep]) -> Iterator[str]:
        for step in steps:
            if step.name in self._seconds:
                yield comment(f"{step.name}: about {self._seconds[step.name]:,.0f} s")
            words = [self._words(step, argument) for argument in step.arguments]
            if step.stage == TRAINER:
                yield from command_lines(words[0], words[1:])
            else:
                yield from command_lines(f"prefpipe {step.stage}", words)

    def _words(self, step: StudyStep, argument: Word) -> str:
        """Return a flag and its value, or an argument, for the shell."""
        if argument.value is None:
            return argument.flag
        value = self._value(step, argument.field or "", argument.value)
        return flag_and_value(argument, value)

    def _value(self, step: StudyStep, field: str, value: str) -> str:
        is_model = value == self._plan.model and (field in MODELS or step.stage == TRAINER)
        if is_model and step.stage != "embed":
            return '"$model"'
        # Paths between steps only; a plan's own text is never in double quotes.
        place = value.removeprefix(self._folder)
        if place != value and OF_STEPS.fullmatch(place):
            return f'"$study{place}"'
        return quote(value)


def _judged(places: Sequence[Place]) -> str:
    """Return in words where an arm is judged."""
    at = [f"step {place.step} ({', '.join(place.budgets)})" for place in places]
    return f"judged after {' and '.join(at)}"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 360 else f"{seconds:,.0f} s"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
