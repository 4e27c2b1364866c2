"""The evaluations of runs by round, for ``prefpipe eval by-round``."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefpipe.stages.evaluate.by_round import RunEvaluations


def open_evaluations(run: Path) -> "RunEvaluations":
    """Return the evaluations in a folder by the round of their policy.

    Raises:
        InputError: there is none.
        UsageError: two of one round.
    """
    from shlex import quote

    from prefpipe.artifacts.rounds import round_of
    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.store import Artifact
    from prefpipe.errors import InputError, UsageError
    from prefpipe.stages.evaluate.by_round import RunEvaluations
    from prefpipe.status.folders import find_artifacts

    by_round: dict[int, Artifact] = {}
    for path in find_artifacts(run):
        record = read_run_record(path)
        number = round_of(record)
        if record.schema.partition("/")[0] != "evaluation" or not number:
            continue
        if number in by_round:
            raise UsageError(
                f"{run} has two evaluations of round {number}, {by_round[number].path} and {path}",
                hint="pass a folder that holds one of each round",
            )
        by_round[number] = Artifact(path, record)
    if not by_round:
        raise InputError(
            f"{run} holds no evaluation of a round's policy",
            hint=f"give the plan a section `eval`, or run `prefpipe eval --policy "
            f"{quote(str(run / 'round-01' / 'policy'))} --baseline MODEL ...`",
        )
    return RunEvaluations(str(run), by_round)
