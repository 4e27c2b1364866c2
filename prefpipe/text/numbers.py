"""Figures as text: short numbers, a mean with its interval, or a dash where there is none."""

from collections.abc import Mapping
from math import isnan
from typing import Any

LARGE = 1e9
"""From here on digits say nothing, and would push everything else out of a table."""


def counted(n: int, noun: str) -> str:
    """Return a number and what is counted: ``1 part``, ``1,200 parts``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def per_second(value: float) -> str:
    """Return a number a second: ``1,234``, and ``0.5`` of slow ones."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def figure(value: float) -> str:
    """Return a number as people read it.

    It has four significant digits, thousands apart and no trailing zeros.
    """
    # every float is a whole number from 2^53 on, and its last digits say nothing
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) < 1000:
        return f"{value:.4g}"
    if abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interval(values: Mapping[str, Any], form: str, *, signed: bool = False) -> str:
    """Return ``0.412 [0.380, 0.444]``; the interval is left out where there is none.

    Args:
        values: ``mean``, ``low`` and ``high``.
        form: how each number is written, ``{:.3f}``.
        signed: write a plus sign too.
    """
    if signed:
        form = form.replace("{:", "{:+")

    mean = number(values["mean"], form)
    if values["low"] is None or isnan(values["low"]):
        return mean
    return f"{mean} [{number(values['low'], form)}, {number(values['high'], form)}]"


def number(value: float | None, form: str) -> str:
    """Return a number in its form, or a dash where there is none."""
    if value is None or isnan(value):
        return "-"

    is_fixed_point = form[-2] == "f"
    if is_fixed_point and abs(value) >= LARGE:
        return f"{value:.3g}"
    return form.format(value)
