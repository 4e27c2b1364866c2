"""What an earlier run left in an output folder, and whether training can resume from it.

A run records its inputs in ``inputs.json``. Checkpoints beside that file belong to that run only.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.artifacts.training_folders import is_within_training
from prefpipe.errors import UsageError
from prefpipe.models.files import CONFIG_FILES, holds_config
from prefpipe.training.callbacks import TENSORBOARD_FOLDER
from prefpipe.training.checkpoints import require_checkpoint, weights_problem
from prefpipe.training.tables import METRICS_FILE

INPUTS_FILE = "inputs.json"

WRITTEN_FILES = (
    INPUTS_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    *CONFIG_FILES,
    "model.safetensors.index.json",
)
"""What a run writes beside its part, its checkpoints and its weights."""


def refuse_checkpoint_of_another_run(
    resume_from: Path, made_from: Mapping[str, str], log: Callable[[str], None]
) -> None:
    """Refuse to resume from another run's checkpoint.

    The result would carry this run's name but be that run's.

    Args:
        resume_from: a checkpoint, or a folder that holds some.
        made_from: digests of this run's groups, and its fingerprint as ``run``.
        log: where to say that nothing is known of the run that wrote it.

    Raises:
        UsageError: no complete checkpoint, or its folder says that it is of another configuration,
            model or groups.
    """
    checkpoint = require_checkpoint(resume_from)
    noted = _read_inputs(checkpoint.resolve().parent)
    if noted is None:
        log(
            f"{checkpoint}: no file beside it records which run wrote it, so it is treated as a "
            "checkpoint of this run"
        )
        return
    if noted == made_from:
        return

    other = "another configuration or model"
    if noted.get("groups") != made_from["groups"]:
        other = "other groups"
    raise UsageError(
        f"--resume-from {checkpoint} was written by a run with {other}",
        hint=f"pass the settings of that run, or start from its weights with --model {checkpoint}",
    )


def start_again_if_changed(
    folder: Path,
    made_from: Mapping[str, str],
    *,
    places: Mapping[str, Location | None],
    is_asked: bool,
    log: Callable[[str], None],
) -> None:
    """Delete results of other groups or of another run, or everything on request.

    Then record the inputs of this run. A kill may come after ``run.json`` is replaced and before
    the old checkpoints are deleted.

    Args:
        folder: the output.
        made_from: digests of this run's groups, by name, and its fingerprint as ``run``.
        places: where the groups are, by name.
        is_asked: whether to throw away what is of this very run, too.
        log: where to say what changed.
    """
    noted = _read_inputs(folder)
    is_changed = noted != made_from
    if not is_changed and not is_asked:
        return

    if noted is not None and not is_asked:
        changed = "the configuration"
        for name, place in places.items():
            if name in made_from and noted.get(name) != made_from[name]:
                changed = str(place)
                break
        log(f"{changed} changed since {folder} was trained: training starts again")

    # The note comes last: a kill before it leaves what is removed here by the next run.
    _remove_run(folder)
    with atomic_write(folder / INPUTS_FILE) as file:
        file.write(json.dumps(dict(made_from)).encode())


def holds_model(folder: Path, log: Callable[[str], None]) -> bool:
    """Return whether a finished run's model still exists and is complete.

    If not, it is saved again from the last checkpoint.
    """
    problem = weights_problem(folder)
    if not holds_config(folder):
        problem = "its configuration is missing"
    if problem is not None:
        log(f"{folder}: training finished, but the model is not usable: {problem}")
    return problem is None


def _read_inputs(folder: Path) -> dict[str, str] | None:
    """Return what the run in a folder was made from, None if it is not recorded."""
    try:
        noted: dict[str, str] = json.loads((folder / INPUTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted


def _remove_run(folder: Path) -> None:
    """Delete what an earlier run left beside its part: checkpoints, logs and models.

    The reference stays: its own stage knows whether it can be reused.
    """
    for path in folder.iterdir():
        is_written = is_within_training(path) or path.name == TENSORBOARD_FOLDER
        if path.is_dir() and is_written:
            shutil.rmtree(path)
        elif path.name in WRITTEN_FILES or path.suffix == ".safetensors":
            path.unlink()
