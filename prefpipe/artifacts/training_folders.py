"""The folders that a training makes inside its own: checkpoints and intermediate models."""

import re
from pathlib import Path

from prefpipe.artifacts.run_record import FILE_NAME
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location

CHECKPOINT_PREFIX = "checkpoint-"

KEPT_STEP_NAME = re.compile(r"step-\d{5,}")

KEPT_STEP = "kept_step"
"""Key of the context in the record of an intermediate step: the number of the step."""


def kept_step_folder(output: Path, step: int) -> Path:
    """Return where a training writes the model of a step: ``OUTPUT/step-00015``."""
    return output / f"step-{step:05d}"


def kept_step_folders(output: Path) -> list[Path]:
    """Return the models of intermediate steps that lie in the folder of a training."""
    if not output.is_dir():
        return []
    return [path for path in sorted(output.iterdir()) if KEPT_STEP_NAME.fullmatch(path.name)]


def is_within_training(folder: Location) -> bool:
    """Return whether a folder is a checkpoint or an intermediate step of its training."""
    if folder.name.startswith(CHECKPOINT_PREFIX):
        return True
    is_named = KEPT_STEP_NAME.fullmatch(folder.name) is not None
    return is_named and files.can_be_found(folder.parent / FILE_NAME)
