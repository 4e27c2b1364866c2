"""Figures as text."""

import pytest

from prefpipe.text.numbers import byte_size, figure, interval, number


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (None, "{:.3f}", "-"),
        (float("nan"), "{:.3f}", "-"),
        (0.5, "{:.1%}", "50.0%"),
        (1e308, "{:.3f}", "1e+308"),
        (-2e12, "{:+.1f}", "-2e+12"),
        (123456.0, "{:.0f}", "123456"),
    ],
)
def test_large_numbers_stay_short(value: float | None, form: str, shown: str) -> None:
    """A mean of 1e308 in full is 309 digits, and hides every other column of the table."""
    assert number(value, form) == shown


def test_a_mean_without_an_interval_stands_alone() -> None:
    assert interval({"mean": 0.25, "low": None, "high": None}, "{:.2f}", signed=True) == "+0.25"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.0, "3"),
        (12345.0, "12,345"),
        (0.12345, "0.1235"),
        (1234.5, "1,234"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
    ],
)
def test_a_figure_has_four_significant_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (5_243_004, "5.2 MB"),
        (12_345_678_901, "12.3 GB"),
        (2_500 * 10**12, "2,500 TB"),
    ],
)
def test_bytes_in_the_unit_that_fits(n: int, shown: str) -> None:
    assert byte_size(n) == shown
