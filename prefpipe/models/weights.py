"""The weight files of a model folder: which exist, and whether each is complete.

Nothing is loaded.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from prefpipe.errors import ModelError
from prefpipe.models.json_files import read_json

MODEL_WEIGHTS, ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TRAINER_PICKLES = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
CONVERT_HINT = (
    "pickle files can run code when they are opened; if you trust this one, convert it to "
    "safetensors once: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
)

LFS_POINTER_START = b"version "
LENGTH_BYTES = 8
"""A safetensors file begins with its header's length N, little-endian, and N bytes of JSON.

Layout: https://github.com/huggingface/safetensors#format.
"""
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""


def has_model_weights(folder: Path) -> bool:
    """Return whether a folder holds the weights of a whole model, in one file or in shards."""
    index = folder / f"{MODEL_WEIGHTS}.index.json"
    return (folder / MODEL_WEIGHTS).is_file() or index.is_file()


def find_weights(folder: Path, name: str) -> list[Path]:
    """Return the weight files that transformers and peft would load from a folder, checked.

    Args:
        folder: of a model or an adapter.
        name: `MODEL_WEIGHTS` or `ADAPTER_WEIGHTS`.

    Raises:
        ModelError: there are none, a shard is missing or broken, or all weights are pickles.
    """
    if (folder / name).is_file():
        return [check_safetensors(folder / name)]

    index = folder / f"{name}.index.json"
    if index.is_file():
        return _find_shards(folder, index, name)

    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    for pickle in pickles:
        if pickle not in TRAINER_PICKLES:
            raise ModelError(
                f"the model folder {folder} has only pickle weights ({pickle}), "
                "which prefpipe refuses",
                hint=CONVERT_HINT,
            )
    raise ModelError(
        f"no {name} in the model folder {folder}",
        hint="pass the folder that holds the weights, or download the model again",
    )


def _find_shards(folder: Path, index: Path, name: str) -> list[Path]:
    shards = sorted(set(read_json(index).get("weight_map", {}).values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing or not shards:
        first = missing[0] if missing else name
        raise ModelError(
            f"the model folder {folder} lacks {len(missing)} of {len(shards)} weight files, "
            f"first {first}",
            hint="download or copy the model again",
        )
    return [check_safetensors(folder / shard) for shard in shards]


def check_safetensors(path: Path) -> Path:
    """Return ``path`` if the file is a whole safetensors file; only its header is read.

    Raises:
        ModelError: the file is truncated, a Git LFS pointer, or not safetensors at all.
    """
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
    if start == LFS_POINTER_START:
        raise ModelError(
            f"{path} is a Git LFS pointer, not the weights",
            hint="run git lfs pull in the model's folder",
        )

    try:
        with safe_open(path, "numpy"):
            return path
    except SafetensorError as error:
        raise ModelError(
            f"{path} is broken: {_damage(path, error)}", hint="download or copy the model again"
        ) from error


def _damage(path: Path, error: SafetensorError) -> str:
    """Return the damage of a file that `safe_open` refuses.

    The library reports "incomplete metadata" for a truncated download. Two sizes are clearer: the
    bytes in the file, and the bytes that the header promises.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        # Before so much is read: a damaged length may be any number.
        if length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            return f"its header is cut off or damaged (the file has {size} bytes)"
        header = file.read(length)

    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        n_bytes = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return "its header is not safetensors JSON"

    promised = LENGTH_BYTES + length + n_bytes
    if size != promised:
        return f"it has {size} bytes, its header promises {promised}"
    return f"its header is inconsistent: {error}"
