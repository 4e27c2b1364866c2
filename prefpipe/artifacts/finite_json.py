"""JSON of other people's programs, which may write NaN and infinity, though JSON has neither and no answer is kept with one."""

import json
from math import isfinite
from typing import Any


def parse_finite_json(text: str | bytes | bytearray) -> Any:
    """Return what a JSON text holds, with null for ``NaN``, ``Infinity`` and numbers too large for a float.

    Python's own writers make them, and servers of models write them for the log-probability of what cannot come.

    Errors:
        ValueError: it is no JSON. RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=lambda _name: None, parse_float=_finite)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if isfinite(number) else None
