"""How a step of a plan, run in its own process, ended, and the message for it.

`prefpipe rounds` and `prefpipe study` read exit codes and signals in the same way.
"""

import signal
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from prefpipe.errors import PrefpipeError, error_with_code
from prefpipe.execution.step_process import SignalSource
from prefpipe.wiring.batch_job import ARRAY, OWN_VARIABLES

STOPPED, INTERRUPTED = 75, 130
WHAT_CODES_SAY = {
    2: "its settings or inputs are not usable",
    3: "more rows failed than --max-error-rate allows; the rows that succeeded are on disk",
    4: "its input is incomplete",
    STOPPED: "stopped early; finished parts are kept",
    INTERRUPTED: "interrupted; finished parts are kept",
}
WITH_RETRY = ("generate", "score")
"""Stages of plans that make failed rows again only by ``--retry-errors``."""
ABOVE = ", its error is printed above"


def environment_of_steps(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of steps: that of this process without the variables of shards.

    A task that runs a plan runs all of it: no step makes only a share of its parts.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in OWN_VARIABLES and not name.startswith(ARRAY)
    }


def settled_code(code: int, signals: SignalSource, *, is_last: bool) -> int:
    """Return the exit code that counts: that of a stop if the step ended by a stop request.

    Args:
        code: the step's own, negative for the signal that ended it.
        signals: those that this process was sent.
        is_last: nothing is to be run behind the step.
    """
    asked = signals.number
    is_ended_by_it = asked is not None and (code < 0 or not is_last)
    if code <= 0 and is_ended_by_it:
        # at its end when the request came, or before it had its handlers
        return INTERRUPTED if asked == signal.SIGINT else STOPPED
    return code


def what_code_says(code: int) -> str:
    """Return how a step ended, to print after its name: ``was ended by SIGKILL``."""
    if code >= 0:
        return WHAT_CODES_SAY.get(code, f"it ended with exit code {code}{ABOVE}")
    name = signal.Signals(-code).name
    why = ", often by the system when memory runs out" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{why}"


def error_of_step(
    place: str, code: int, *, go_on: str, stage: str, output: Path, may_be_stale: bool
) -> tuple[PrefpipeError, int]:
    """Return the error for a step that ended with a code other than 0, and the final exit code.

    Args:
        place: names the step, ``round 1, train``.
        code: of `settled_code`.
        go_on: the command that continues it.
        stage: whose section of the plan is meant.
        output: the folder that the step writes.
        may_be_stale: steps were not asked to make again what a change of the plan affects.
    """
    hint = f"to continue, run: {go_on}"
    if code < 0:
        error = PrefpipeError(f"{place} {what_code_says(code)}", hint=hint)
        return error, error.exit_code

    if code == 2 and may_be_stale:
        hint += "; add --overwrite=stale if you changed the plan on purpose"
    if code == 3:
        retried = (
            "run the step's command with --retry-errors to make the failed rows again, or "
            if stage in WITH_RETRY
            else ""
        )
        hint = (
            f"run `prefpipe inspect {quote(str(output))}`; {retried}raise max_error_rate in "
            f"section `{stage}` of the plan. Then {hint}"
        )
    return error_with_code(code, f"{place}: {what_code_says(code)}", hint=hint), code
