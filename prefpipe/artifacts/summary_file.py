"""``summary.json``: the figures of a whole artifact.

It is written last, when everything else is on disk.
"""

import json
from collections.abc import Mapping
from typing import Any

from prefpipe.artifacts.finite_json import finite_values
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location

SUMMARY_FILE = "summary.json"


def write_summary(folder: Location, figures: Mapping[str, Any]) -> None:
    """Write a stage's figures; a number that is not finite becomes null, for JSON has none.

    Args:
        folder: the artifact's folder.
        figures: JSON values, and numbers that may be NaN or infinite.
    """
    text = json.dumps(finite_values(figures), indent=2, ensure_ascii=False, allow_nan=False)
    files.write(folder / SUMMARY_FILE, f"{text}\n".encode())
