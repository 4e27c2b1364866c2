"""What is a number and what is an id: one rule, at every entrance."""

import datetime as dt
import math
import uuid
from decimal import Decimal
from typing import Any

import pytest

from prefpipe.artifacts.interchange.checked_values import checked_id, checked_index, checked_number
from prefpipe.artifacts.tables.values import id_of, number_of


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7.0), (-0.5, -0.5), (Decimal("7.50"), 7.5), (Decimal("-1E+2"), -100.0), (2**60, 2.0**60),
        ("7.5", 7.5), (" 7 ", 7.0), ("+.5", 0.5), ("7.", 7.0), ("-1e3", -1000.0), ("1E-2", 0.01), ("007", 7.0),
        ("inf", math.inf), ("-Infinity", -math.inf), (math.inf, math.inf), (None, None), ("", None),
    ],
)  # fmt: skip
def test_number_of_reads_numbers_of_every_type(value: Any, number: float | None) -> None:
    assert number_of(value) == (number, None)


@pytest.mark.parametrize("value", [math.nan, "nan", "NaN", Decimal("NaN"), Decimal("sNaN")])
def test_no_number_is_a_number_that_is_left_for_the_status(value: Any) -> None:
    number, problem = number_of(value)
    assert (number is not None and math.isnan(number), problem) == (True, None)


@pytest.mark.parametrize(
    "value",
    [
        "N/A",
        "7,5",
        "1_000",
        "0x10",
        "٧",
        "7 of 10",
        " ",
        "1e",
        "e5",
        ".",
        "--1",
        True,
        False,
        [7],
        {"a": 1},
        b"7",
        dt.date(2024, 1, 1),
    ],
)
def test_number_of_shows_what_is_no_number(value: Any) -> None:
    assert number_of(value) == (None, f"is {value!r}, which is not a number")


def test_a_number_beyond_every_float_is_refused() -> None:
    assert number_of(10**400)[1] is not None
    assert checked_number(10**400, "judge")[1].endswith("which is too large a number")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"), ("7.0", "7.0"), (7, "7"), (7.0, "7"), (-0.0, "0"), (Decimal("7.00"), "7"), (2.0**53, str(2**53)),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"), (dt.date(2024, 1, 2), "2024-01-02"), (2**70, str(2**70)),
        (Decimal(2**70), str(2**70)),
    ],
)  # fmt: skip
def test_id_of_reads_texts_and_whole_numbers(value: Any, text: str) -> None:
    assert id_of(value) == (text, None)
    assert checked_id(value, "prompt_id") == (text, None)


@pytest.mark.parametrize(
    "value",
    [None, "", math.nan, math.inf, 7.5, Decimal("7.5"), Decimal("NaN"), 1e17, True, [1], b"a"],
)
def test_id_of_says_why_a_value_is_no_id(value: Any) -> None:
    text, problem = checked_id(value, "prompt_id")
    assert text is None
    assert problem is not None
    assert problem.startswith("`prompt_id` is ")


@pytest.mark.parametrize(
    ("value", "index"),
    [
        (0, 0),
        (0.0, 0),
        (3.0, 3),
        (Decimal("2.0"), 2),
        ("4", 4),
        ("4.0", 4),
        (None, None),
        ("", None),
    ],
)
def test_checked_index_reads_whole_numbers(value: Any, index: int | None) -> None:
    assert checked_index(value, "sample_idx") == (index, None)


@pytest.mark.parametrize("value", [-1, 0.5, math.nan, math.inf, "1.5", "a", True, 2**31, [0]])
def test_checked_index_says_why_a_value_is_no_index(value: Any) -> None:
    assert checked_index(value, "sample_idx") == (
        None,
        f"`sample_idx` is {value!r}, which is not a whole number of at least 0",
    )
