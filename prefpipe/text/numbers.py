"""Figures as text: a mean with its interval, or a dash where there is none."""

from collections.abc import Mapping
from math import isnan
from typing import Any

LARGE = 1e9
"""From here on digits say nothing, and would push everything else out of a table."""


def interval(values: Mapping[str, Any], form: str, *, signed: bool = False) -> str:
    """Return ``0.412 [0.380, 0.444]``; the interval is left out where there is none."""
    if signed:
        form = form.replace("{:", "{:+")
    mean = number(values["mean"], form)
    if values["low"] is None or isnan(values["low"]):
        return mean
    low, high = number(values["low"], form), number(values["high"], form)
    return f"{mean} [{low}, {high}]"


def number(value: float | None, form: str) -> str:
    """Return a number in its form, or a dash where there is none."""
    if value is None or isnan(value):
        return "-"
    is_decimal = form[-2] == "f"
    return f"{value:.3g}" if is_decimal and abs(value) >= LARGE else form.format(value)
