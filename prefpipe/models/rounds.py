"""The round of training that a model on this disk comes from."""

from pathlib import Path

from prefpipe.artifacts import run_record
from prefpipe.artifacts.rounds import round_of
from prefpipe.errors import PrefpipeError
from prefpipe.maths.objectives.registry import OBJECTIVES
from prefpipe.models.merge_record import read_merge_record


def round_of_model(folder: Path) -> int:
    """Return the round of a model: 0 if prefpipe did not train it, or it is a reward model.

    A checkpoint is of its training's round, a merged model of its adapter's or its base's,
    whichever is later. A policy of an earlier release, which does not say its round, counts as of
    round 1.
    """
    trained = folder.parent if folder.name.startswith("checkpoint-") else folder
    if (trained / run_record.FILE_NAME).exists():
        return _round_of_training(trained)

    merged = read_merge_record(folder)
    return 0 if merged is None else merged.round


def _round_of_training(folder: Path) -> int:
    try:
        record = run_record.read_run_record(folder)
    except PrefpipeError:
        # A record that cannot be read says nothing, and whoever needs it refuses it.
        return 0
    if record.stage != "train":
        return 0

    known = round_of(record)
    if known is not None:
        return known
    return 1 if str(record.identity.get("objective")) in OBJECTIVES else 0
