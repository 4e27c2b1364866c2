"""The shell script of a plan: the steps that ``prefpipe rounds`` would run, for a person."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from prefpipe.configs.recorded_commands import Word
from prefpipe.configs.round_plan import ALL, SPLIT, RoundPlan
from prefpipe.configs.round_steps import Step
from prefpipe.execution.script_lines import command_lines, comment, flag_and_value

OF_STEPS = re.compile(r"/round-[0-9a-z/-]+")
"""A path in the folder of all rounds, without characters special in double quotes."""
MODELS = ("model", "baseline", "reference_model", "kl_reference")
"""Flags that may name the plan's model; of `embed`, the flag is another model's."""


def rounds_script(plan: RoundPlan, steps: Sequence[Step], run: Path, *, command: str) -> str:
    """Return a script that does the same as the command.

    Args:
        plan: the plan of the steps.
        steps: the steps to run.
        run: the folder of all rounds.
        command: the command that prints the script.
    """
    script = _Script(plan, steps, run)
    n_rounds = f"{plan.rounds} round{'s' if plan.rounds > 1 else ''}"
    lines = [
        "#!/usr/bin/env bash",
        comment(f"{n_rounds}, printed by: {command}"),
        "# Run it again after a stop: each command keeps what is finished. After a change of a",
        "# line, pass --overwrite=stale to each: only what depends on the change is made again.",
        "set -euo pipefail",
    ]
    body = list(script.body())
    for name, value in script.variables.items():
        if any(f"${name}" in line or f"(({name}" in line for line in body):
            lines.append(f"{name}={quote(value)}")
    return "\n".join([*lines, *body]) + "\n"


class _Script:
    """The steps as shell lines, with variables for values that a person may change."""

    def __init__(self, plan: RoundPlan, steps: Sequence[Step], run: Path) -> None:
        self._plan = plan
        self._steps = steps
        self._run = str(run)
        self.variables = {
            "run": self._run,
            "model": plan.model,
            "prompts": plan.prompts,
        }
        heldout = plan.sections.get("eval", {}).get("prompts")
        if heldout is not None:
            self.variables["heldout"] = str(heldout)
        self.variables["seed"] = str(plan.seed)

    def body(self) -> Iterator[str]:
        """Yield the lines of all rounds."""
        number = 0
        for step in self._steps:
            if step.number != number:
                number = step.number
                yield ""
                for line in described_round(self._plan, number):
                    yield comment(line)
            yield from self._lines(step)

    def _lines(self, step: Step) -> Iterator[str]:
        """Yield one command; a flag and its value stay on one line."""
        words = [self._words(step, argument) for argument in step.arguments]
        yield from command_lines(f"prefpipe {step.stage}", words)

    def _words(self, step: Step, argument: Word) -> str:
        """Return a flag and its value, or an argument, for the shell."""
        if argument.value is None:
            return argument.flag
        value = self._value(step, argument.field or "", argument.value)
        return flag_and_value(argument, value)

    def _value(self, step: Step, field: str, value: str) -> str:
        if field == "seed":
            more = int(value) - self._plan.seed
            return '"$((seed + ' + f'{more}))"' if more else '"$seed"'
        if field == "prompts" and value == self.variables["prompts"] and step.stage == "generate":
            return '"$prompts"'
        if field == "prompts" and value == self.variables.get("heldout"):
            return '"$heldout"'
        if field in MODELS and value == self._plan.model and step.stage != "embed":
            return '"$model"'
        # Paths between steps only; a plan's own text is never in double quotes.
        place = value.removeprefix(self._run)
        if place != value and OF_STEPS.fullmatch(place):
            return f'"$run{place}"'
        return quote(value)


def described_round(plan: RoundPlan, number: int) -> Iterator[str]:
    """Yield in words what is special to a round."""
    if number == 1:
        yield f"round 1: samples from {plan.model}"
    else:
        yield f"round {number}: samples from the policy of round {number - 1}"

    if plan.prompt_use == SPLIT and plan.rounds > 1:
        yield f"on share {number} of {plan.rounds} of the prompts"
    if plan.pools == ALL and number > 1:
        yield "selects from the pools of all rounds so far"
    reference = plan.reference_round(number)
    if reference != number - 1:
        whose = plan.model if reference == 0 else f"the policy of round {reference}"
        yield f"the reference is {whose}"
    for stage, section in plan.changes.get(number, {}).items():
        yield f"from here on, {stage}: {_knobs(section)}"


def _knobs(section: Mapping[str, object]) -> str:
    """Return in words the changed values; null is the command's default."""
    words = []
    for key, value in section.items():
        words.append(f"{key} {'at its default' if value is None else value}")
    return ", ".join(words)
