"""JSON has neither NaN nor infinity: what others write of them is read as null, and so is what we have of them written."""

import json
from math import isfinite
from typing import Any


def parse_finite_json(text: str | bytes | bytearray) -> Any:
    """Return what a JSON text holds, with null for ``NaN``, ``Infinity`` and numbers that Python does not read.

    Python's own writers make them, and servers of models write them for the log-probability of what cannot come.

    Raises:
        ValueError: it is no JSON. RecursionError: it is nested too deeply.
    """
    return json.loads(
        text, parse_constant=lambda _name: None, parse_float=_finite, parse_int=_readable
    )


def _finite(text: str) -> float | None:
    number = float(text)
    return number if isfinite(number) else None


def _readable(text: str) -> int | None:
    """Return a whole number, None for one of thousands of digits, which ``int`` refuses."""
    try:
        return int(text)
    except ValueError:
        return None


def finite_values(value: Any) -> Any:
    """Return JSON values of dicts, lists and tuples, in which every number that is not finite is null.

    A standard error of one prompt is NaN, for one.
    """
    if isinstance(value, dict):
        return {key: finite_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_values(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
