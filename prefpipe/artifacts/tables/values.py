"""Which values are numbers and which are ids in users' tables: one rule for every reader.

A number is a whole number, a number with a point, a decimal, or a text that reads as one (`7.5`,
`-1e3`, `nan`, `inf`): CSV holds nothing but texts, and other tools write numbers as texts into JSON
and Parquet. A boolean is not a number.

An id is a text, a whole number, or a number with a point that is whole: `7.0`, which tables write
for 7 beside a missing value, is `7`.
"""

import re
from datetime import date
from decimal import Decimal
from math import isfinite, nan
from typing import Any, Final
from uuid import UUID

_NUMBER: Final = re.compile(
    r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?|[-+]?(?:nan|inf|infinity)",
    re.ASCII | re.IGNORECASE,
)
LARGEST_EXACT: Final = 2**53
"""Beyond it a float does not hold every whole number: two ids may have become one."""


def number_of(value: Any) -> tuple[float | None, str | None]:
    """Return a value as a number and, if it is not one, why.

    Null and an empty text are a missing number.
    """
    if value is None or value == "":
        return None, None

    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text) is None:
            return None, f"is {shortened(value)}, which is not a number"
        return float(text), None

    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None, f"is {shortened(value)}, which is not a number"
    try:
        return float(value), None
    except OverflowError:
        return None, f"is {shortened(value)}, which is too large a number"
    except ValueError:  # a signalling NaN of decimals
        return nan, None


def id_of(value: Any) -> tuple[str | None, str | None]:
    """Return a value as the text of an id and, if it is not one, why."""
    if value is None or value == "":
        return None, "is empty"
    if isinstance(value, str):
        return value, None
    if isinstance(value, bool):  # an int to Python
        return None, f"is {value}; an id is a text or a whole number"
    if isinstance(value, int | UUID | date):
        return str(value), None

    if isinstance(value, float | Decimal):
        if not isfinite(value) or value != int(value):
            return None, f"is {shortened(value)}; an id is a text or a whole number"
        if isinstance(value, float) and abs(value) > LARGEST_EXACT:
            return None, (
                f"is {shortened(value)}, a number with a point that is too large to hold an id "
                "exactly; write ids as texts"
            )
        return str(int(value)), None

    return None, f"is {shortened(value)}; an id is a text or a whole number"


def half_character_of(text: str) -> str | None:
    """Return the problem of a text that UTF-8 cannot hold, None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        return f"holds half of a surrogate pair ({half}), which is not a character"
    return None


def shortened(value: Any) -> str:
    """Return a value for a message, in 60 characters at most."""
    return f"{value!r:.60}"
