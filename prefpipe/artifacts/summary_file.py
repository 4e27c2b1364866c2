"""``summary.json``: the figures of a whole artifact.

It is written last, when everything else is on disk.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.finite_json import finite_values

SUMMARY_FILE = "summary.json"


def write_summary(folder: Path, figures: Mapping[str, Any]) -> None:
    """Write a stage's figures; a number that is not finite becomes null, for JSON has none.

    Args:
        folder: the artifact's folder.
        figures: JSON values, and numbers that may be NaN or infinite.
    """
    text = json.dumps(finite_values(figures), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(folder / SUMMARY_FILE) as file:
        file.write(f"{text}\n".encode())
