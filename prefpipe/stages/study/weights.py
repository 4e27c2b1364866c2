"""Remove the weights of a judged run, which nothing reads any more.

A study of nine runs of a small model writes tens of gigabytes. The training's record, metrics and
rows stay.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefpipe.artifacts.training_folders import CHECKPOINT_PREFIX, KEPT_STEP_NAME
from prefpipe.configs.study_steps import TRAINER, StudyStep

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth")


def remove_weights(steps: Sequence[StudyStep]) -> int:
    """Remove the weights that a run's trainings wrote; return the bytes freed.

    After a kill in between, the next call removes the rest. Checkpoints are removed first, so a
    training that is run again anyway starts from its beginning.

    Args:
        steps: of a run, all of whose evaluations are finished.
    """
    folders = [step.output for step in steps if step.stage in ("train", TRAINER)]
    n_bytes = 0
    for folder in folders:
        for path in list(_weights_in(folder)):
            n_bytes += _size(path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return n_bytes


def has_weights(steps: Sequence[StudyStep]) -> bool:
    """Return whether any weights are left that `remove_weights` removes."""
    return any(any(_weights_in(step.output)) for step in steps if step.stage in ("train", TRAINER))


def _weights_in(folder: Path) -> Iterator[Path]:
    """Yield checkpoints, then the model's own weights, then the models of intermediate steps.

    The target of a link belongs to someone else: the link itself is yielded.
    """
    if folder.is_symlink():
        yield folder
        return
    if not folder.is_dir():
        return
    entries = sorted(path for path in folder.iterdir() if path.is_dir())
    yield from (path for path in entries if path.name.startswith(CHECKPOINT_PREFIX))
    for pattern in WEIGHT_FILES:
        yield from sorted(folder.glob(pattern))
    yield from (path for path in entries if KEPT_STEP_NAME.fullmatch(path.name))


def _size(path: Path) -> int:
    if path.is_symlink():
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
