"""JSON has neither NaN nor infinity: they are read as null, and written as null."""

import json
from math import isfinite
from typing import Any


def parse_finite_json(text: str | bytes | bytearray) -> Any:
    """Return what a JSON text holds, with null for ``NaN``, ``Infinity`` and unreadable numbers.

    Python's own writers make the former, and servers of models write them for the log-probability
    of what cannot come. Python does not read whole numbers of thousands of digits.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
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
    """Return dicts, lists and tuples as JSON values, in which numbers that are not finite are null.

    A standard error of one prompt, for example, is NaN.
    """
    if isinstance(value, dict):
        return {key: finite_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_values(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
