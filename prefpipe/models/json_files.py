"""JSON files of a model folder, with an error that names the file."""

import json
from pathlib import Path
from typing import Any

from prefpipe.errors import ModelError

HINT = "download or copy the model again"


def load_json(path: Path) -> Any:
    """Return the content of a JSON file; a ModelError when it cannot be read or parsed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}", hint=HINT) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; a ModelError when it holds anything else."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object", hint=HINT)
    return content
