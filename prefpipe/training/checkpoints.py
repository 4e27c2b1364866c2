"""Which checkpoint to go on from.

The trainer writes a checkpoint file by file, ``trainer_state.json`` last. A process killed in between leaves a folder that
looks like a checkpoint; resuming from it would silently lose the optimizer or the weights, so it is skipped and said so.
"""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from prefpipe.errors import ModelError, UsageError
from prefpipe.models.weights import check_safetensors

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")
HINT = "give a complete checkpoint-N folder, or drop --resume-from"
SHARDED_STATES = ("optimizer_*", "global_step*", "pytorch_model_fsdp*")
"""Where FSDP and DeepSpeed keep optimizer and weights: folders, which their own loaders check, or files that hold all of it."""


def find_last_checkpoint(
    folder: Path, log: Callable[[str], None] = lambda _line: None
) -> Path | None:
    """Return the complete checkpoint with the highest step in ``folder``, or None; log each one skipped."""
    if not folder.is_dir():
        return None
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := CHECKPOINT_NAME.fullmatch(path.name))
    ]
    for _, path in sorted(found, reverse=True):
        problem = checkpoint_problem(path)
        if problem is None:
            return path
        log(f"{path} is skipped: {problem}")
    return None


def require_checkpoint(path: Path) -> Path:
    """Return ``path`` if it is a complete checkpoint, or the last complete one inside it.

    Raises:
        UsageError: it is neither. Training from the start instead would be the silent surprise.
    """
    if CHECKPOINT_NAME.fullmatch(path.name) or (path / "trainer_state.json").exists():
        problem = checkpoint_problem(path)
        if problem is not None:
            raise UsageError(f"{path} is not a complete checkpoint: {problem}", hint=HINT)
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such folder", hint=HINT)
    skipped: list[str] = []
    found = find_last_checkpoint(path, skipped.append)
    if found is None:
        details = f" ({'; '.join(skipped)})" if skipped else ""
        raise UsageError(f"{path} holds no complete checkpoint{details}", hint=HINT)
    return found


def require_wrapper(path: Path, wrapper: str) -> None:
    """Refuse a checkpoint whose weights and optimizer are in the form of another wrapper for several devices.

    Args:
        path: a complete checkpoint.
        wrapper: what this run is under: ``FSDP``, ``DeepSpeed``, or ``DDP``, whose checkpoints are those of one device.

    Raises:
        UsageError: it was written under another.
    """
    found = (
        "FSDP"
        if any(path.glob("pytorch_model_fsdp*"))
        else "DeepSpeed"
        if any(path.glob("global_step*"))
        else "DDP"
    )
    if found != wrapper:
        names = {"DDP": "DDP or on one device"}
        raise UsageError(
            f"{path} was written under {names.get(found, found)}, and this run is under {names.get(wrapper, wrapper)}",
            hint="start it as it was started before, or begin again with --overwrite",
        )


def checkpoint_problem(path: Path) -> str | None:
    """Say what a checkpoint folder lacks, or None when it is complete and its files can be read."""
    if not path.is_dir():
        return "there is no such folder"
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return "trainer_state.json, which is written last, is missing or cut off"
    if any(next(path.glob(pattern), None) for pattern in SHARDED_STATES):
        broken = [file.name for file in sorted(path.glob("*.bin")) if not zipfile.is_zipfile(file)]
        return f"{broken[0]} is cut off" if broken else None
    for pattern in STATE_FILES:
        files = sorted(path.glob(pattern))
        broken = [file.name for file in files if not zipfile.is_zipfile(file)]
        if not files or broken:
            return f"{broken[0] if broken else pattern} is missing or cut off"
    return weights_problem(path)


def weights_problem(path: Path) -> str | None:
    """Say why the weights of a model or adapter folder cannot be used, or None when their files are whole."""
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
