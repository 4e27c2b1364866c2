"""Figures as text: a mean with its interval, or a dash where there is none."""

from collections.abc import Mapping
from math import isnan
from typing import Any

LARGE = 1e9
"""From here on digits say nothing, and would push everything else out of a table."""


def interval(values: Mapping[str, Any], form: str, *, signed: bool = False) -> str:
    """Return ``0.412 [0.380, 0.444]``; the interval is left out where there is none."""
    shown = form.replace("{:", "{:+") if signed else form
    mean = number(values["mean"], shown)
    if values["low"] is None or isnan(values["low"]):
        return mean
    return f"{mean} [{number(values['low'], shown)}, {number(values['high'], shown)}]"


def number(value: float | None, form: str) -> str:
    """Return a number in its form, or a dash where there is none."""
    if value is None or isnan(value):
        return "-"
    return f"{value:.3g}" if abs(value) >= LARGE and form[-2] == "f" else form.format(value)
