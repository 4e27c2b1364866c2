"""Figures as text: short numbers, a mean with its interval, or a dash for a missing value."""

from collections.abc import Mapping
from math import isnan
from typing import Any

LARGE = 1e9
"""From here on digits carry no information and would fill a table."""


def counted(n: int, noun: str) -> str:
    """Return a number and what is counted: ``1 part``, ``1,200 parts``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def byte_size(n: int) -> str:
    """Return a number of bytes as storages show it: ``812 bytes``, ``3.4 MB``, ``120 GB``."""
    if n < 1000:
        return counted(n, "byte")
    size, unit = n / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if size < 99.95 else f"{size:,.0f} {unit}"


def per_second(value: float) -> str:
    """Return a number a second: ``1,234``, and ``0.5`` of slow ones."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def figure(value: float) -> str:
    """Return a number for human readers.

    It has four significant digits, thousands separators and no trailing zeros.
    """
    # From 2^53 on every float is a whole number, and its last digits carry no information.
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) < 1000:
        return f"{value:.4g}"
    if abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interval(values: Mapping[str, Any], form: str, *, signed: bool = False) -> str:
    """Return ``0.412 [0.380, 0.444]``; the interval is omitted if there is none.

    Args:
        values: ``mean``, ``low`` and ``high``.
        form: the format of each number, ``{:.3f}``.
        signed: write a plus sign too.
    """
    if signed:
        form = form.replace("{:", "{:+")

    mean = number(values["mean"], form)
    if values["low"] is None or isnan(values["low"]):
        return mean
    return f"{mean} [{number(values['low'], form)}, {number(values['high'], form)}]"


def number(value: float | None, form: str) -> str:
    """Return a formatted number, or a dash for a missing value."""
    if value is None or isnan(value):
        return "-"

    is_fixed_point = form[-2] == "f"
    if is_fixed_point and abs(value) >= LARGE:
        return f"{value:.3g}"
    return form.format(value)
