"""Checks of single values: each returns the value and a sentence about its problem, if any.

If there is a problem, the value is an empty one of its type, so that reading can continue.
"""

from typing import Any

from prefpipe.artifacts.tables.strict_json import parse_json
from prefpipe.artifacts.tables.values import half_character_of, id_of, number_of, shortened

LONGEST_INDEX = 2**31 - 1  # sample_idx is an int32


def checked_text(value: Any, name: str) -> tuple[str, str | None]:
    """Return a text and its problem; an empty text is fine."""
    if value is None:
        return "", f"`{name}` is null"
    if not isinstance(value, str):
        return "", f"`{name}` is {shortened(value)}, which is not text"
    return value, surrogate_problem(value, name)


def checked_optional_text(value: Any, name: str) -> tuple[str | None, str | None]:
    """Return a text, None if there is none, and its problem."""
    if value is None or value == "":
        return None, None
    return checked_text(value, name)


def surrogate_problem(text: str, name: str) -> str | None:
    """Return the problem of a text that UTF-8 cannot hold."""
    reason = half_character_of(text)
    return None if reason is None else f"`{name}` {reason}"


def parsed_json(text: str) -> Any:
    """Return the value of a JSON text, None if it is not JSON.

    CSV, and often Parquet, holds lists as JSON.
    """
    try:
        return parse_json(text)
    except ValueError:
        return None


def checked_list(value: Any, name: str) -> tuple[list[Any], str | None]:
    """Return a list and its problem; an empty one is wrong, and JSON text is read."""
    if value is None:
        return [], f"`{name}` is null"

    members = parsed_json(value) if isinstance(value, str) else value
    if not isinstance(members, list):
        return [], f"`{name}` is {shortened(value)}, which is not a list"
    return members, None if members else f"`{name}` is an empty list"


def checked_id(value: Any, name: str) -> tuple[str | None, str | None]:
    """Return a prompt's id as text and its problem, by the rule of `id_of`."""
    text, reason = id_of(value)
    if text is None:
        return None, f"`{name}` {reason}"
    return text, surrogate_problem(text, name)


def checked_index(value: Any, name: str) -> tuple[int | None, str | None]:
    """Return a sample index and its problem; null is None, and 3.0 is 3."""
    number, reason = number_of(value)
    if reason is None and number is None:
        return None, None
    # NaN and infinity fail the bounds, before int() would raise
    if number is None or not 0 <= number <= LONGEST_INDEX or number != int(number):
        return None, f"`{name}` is {shortened(value)}, which is not a whole number of at least 0"
    return int(number), None


def checked_number(value: Any, name: str) -> tuple[float | None, str | None]:
    """Return a score and its problem, by the rule of `number_of`.

    Null is None; NaN and infinity are left for the rows' status.
    """
    number, reason = number_of(value)
    return number, None if reason is None else f"`{name}` {reason}"


def word_of(value: Any) -> str | None:
    """Return a name of any type as text, None if there is none."""
    return None if value is None or value == "" else str(value)
