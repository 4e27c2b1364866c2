"""JSON of users, strictly: a key that occurs twice in one object is refused, at any depth."""

import json
from typing import Any, Final


class RepeatedKeyError(ValueError):
    """An object has one key twice, so its value is ambiguous."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {json.dumps(key)} occurs twice in one object")


def parse_json(text: str) -> Any:
    """Return what a JSON text holds.

    ``NaN`` and ``Infinity``, which Python's own writer writes, are numbers.

    Raises:
        ValueError: in words, without the place: broken JSON, a key that stands twice, a number of
            too many digits.
    """
    try:
        return _DECODER.decode(text)
    except (json.JSONDecodeError, RepeatedKeyError):
        raise
    except RecursionError as error:
        raise ValueError("broken JSON (it is nested too deep)") from error
    except ValueError as error:  # Python refuses whole numbers of more than 4,300 digits
        raise ValueError("broken JSON (a whole number of more than 4,300 digits)") from error


def explained(error: ValueError) -> str:
    """Return the problem of a line of JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({error.msg}, column {error.colno})"
    return str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return values


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)
