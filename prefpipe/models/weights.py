"""The header of a safetensors file, read without loading it: enough to see that the file is whole.

Layout (https://github.com/huggingface/safetensors#format): eight bytes, the header's length N, little-endian;
N bytes of JSON with each tensor's ``data_offsets``; the tensors' bytes. So the size of a whole file is known.
"""

import json
from pathlib import Path

from prefpipe.errors import ModelError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""


def check_safetensors(path: Path) -> Path:
    """Return ``path`` if the file is a whole safetensors file.

    Raises:
        ModelError: the file is truncated, a Git LFS pointer, or not safetensors at all.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise ModelError(
                f"{path} is a Git LFS pointer, not the weights",
                hint="run git lfs pull in the model's folder",
            )
        if len(start) < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise _broken(path, f"its header is cut off or damaged (the file has {size} bytes)")
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [
            entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise _broken(path, "its header is not safetensors JSON") from error
    expected = LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise _broken(path, f"it has {size} bytes, its header promises {expected}")
    return path


def _broken(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is broken: {what}", hint="download or copy the model again")
