"""Which checkpoint to resume from.

The trainer writes a checkpoint file by file, ``trainer_state.json`` last. A process killed in
between leaves a folder that looks like a checkpoint; resuming from it would silently lose the
optimizer or the weights, so it is skipped with a log line.
"""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from prefpipe.errors import ModelError, UsageError
from prefpipe.models.weights import check_safetensors

HINT = "pass a complete checkpoint-N folder, or leave --resume-from out"

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")

STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")
"""Files of a checkpoint beside its weights, on one device and under DDP."""

SHARDED_STATES = ("optimizer_*", "global_step*", "pytorch_model_fsdp*")
"""Where FSDP and DeepSpeed store optimizer and weights: folders, checked by their own loaders, or
single files.
"""


def find_last_checkpoint(
    folder: Path, log: Callable[[str], None] = lambda _line: None
) -> Path | None:
    """Return the complete checkpoint with the highest step in ``folder``, or None.

    Each one that is skipped is logged.
    """
    if not folder.is_dir():
        return None

    checkpoints: list[tuple[int, Path]] = []
    for path in folder.iterdir():
        match = CHECKPOINT_NAME.fullmatch(path.name)
        if match:
            # By number: as text, checkpoint-1000 comes before checkpoint-200.
            checkpoints.append((int(match[1]), path))

    for _, path in sorted(checkpoints, reverse=True):
        problem = checkpoint_problem(path)
        if problem is None:
            return path
        log(f"{path} is skipped: {problem}")
    return None


def require_checkpoint(path: Path) -> Path:
    """Return ``path`` if it is a complete checkpoint, or the last complete one inside it.

    Raises:
        UsageError: it is neither. Silently training from the start would be a surprise.
    """
    if CHECKPOINT_NAME.fullmatch(path.name) or (path / "trainer_state.json").exists():
        problem = checkpoint_problem(path)
        if problem is not None:
            raise UsageError(f"{path} is not a complete checkpoint: {problem}", hint=HINT)
        return path

    if not path.is_dir():
        raise UsageError(f"{path} does not exist", hint=HINT)
    skipped: list[str] = []
    last = find_last_checkpoint(path, skipped.append)
    if last is None:
        details = f" ({'; '.join(skipped)})" if skipped else ""
        raise UsageError(f"{path} holds no complete checkpoint{details}", hint=HINT)
    return last


def step_of_checkpoint(path: Path) -> int:
    """Return the step that a complete checkpoint was written after."""
    state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def require_wrapper(path: Path, wrapper: str) -> None:
    """Refuse a checkpoint in the form of another wrapper for several devices.

    Args:
        path: a complete checkpoint.
        wrapper: the wrapper of this run: ``FSDP``, ``DeepSpeed``, or ``DDP``, whose checkpoints
            equal those of one device.

    Raises:
        UsageError: it was written under another wrapper.
    """
    written_under = "DDP"
    if any(path.glob("pytorch_model_fsdp*")):
        written_under = "FSDP"
    elif any(path.glob("global_step*")):
        written_under = "DeepSpeed"

    if written_under != wrapper:
        names = {"DDP": "DDP or on one device", "FSDP": "FSDP", "DeepSpeed": "DeepSpeed"}
        raise UsageError(
            f"{path} was written under {names[written_under]}, but this run is under "
            f"{names[wrapper]}",
            hint="start the run with the same launcher as before, or begin again with --overwrite",
        )


def checkpoint_problem(path: Path) -> str | None:
    """Return what a checkpoint folder lacks; None if it is complete and readable."""
    if not path.is_dir():
        return "it does not exist"
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return "trainer_state.json, which is written last, is missing or cut off"

    # Weights and optimizer are elsewhere then, and the files below are not needed.
    if any(any(path.glob(pattern)) for pattern in SHARDED_STATES):
        broken = _broken_archives(path, "*.bin")
        return f"{broken[0]} is cut off" if broken else None

    for pattern in STATE_FILES:
        broken = _broken_archives(path, pattern)
        if broken:
            return f"{broken[0]} is missing or cut off"
        if not any(path.glob(pattern)):
            return f"{pattern} is missing or cut off"
    return weights_problem(path)


def _broken_archives(folder: Path, pattern: str) -> list[str]:
    """Return the files that torch did not finish writing.

    It writes zip archives, whose directory comes last.
    """
    return [file.name for file in sorted(folder.glob(pattern)) if not zipfile.is_zipfile(file)]


def weights_problem(path: Path) -> str | None:
    """Return why the weights of a model or adapter folder are unusable; None if they are fine."""
    try:
        weights = _weight_files(path)
        for file in weights:
            check_safetensors(file)
    except (OSError, ValueError, KeyError, ModelError) as error:
        return f"its weights cannot be read: {error}"
    return None if weights else "it has no weights"


def _weight_files(path: Path) -> Sequence[Path]:
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (path / name).exists():
            return [path / name]
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return []
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [path / shard for shard in sorted(set(shards))]
