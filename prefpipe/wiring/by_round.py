"""The evaluations of runs by round, for ``prefpipe eval by-round``."""

from typing import TYPE_CHECKING

from prefpipe.artifacts.storage.location import Location

if TYPE_CHECKING:
    from prefpipe.stages.evaluate.by_round import RunEvaluations


def open_evaluations(run: Location) -> "RunEvaluations":
    """Return the evaluations in a folder by the round of their policy.

    Raises:
        InputError: there is none.
        UsageError: two are of one round.
    """
    from shlex import quote

    from prefpipe.artifacts.store import Artifact
    from prefpipe.errors import InputError
    from prefpipe.stages.evaluate.by_round import RunEvaluations, evaluations_by_round
    from prefpipe.status.folders import find_artifacts

    artifacts = [Artifact.open(path) for path in find_artifacts(run)]
    by_round = evaluations_by_round(each for each in artifacts if each.record.kind == "evaluation")
    if not by_round:
        raise InputError(
            f"{run} holds no evaluation of any round's policy",
            hint="add a section `eval` to the plan, or run `prefpipe eval --policy "
            f"{quote(str(run / 'round-01' / 'policy'))} --baseline MODEL ...`",
        )
    return RunEvaluations(str(run), by_round)
