"""The result of a contrast as a sentence."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from prefpipe.text.numbers import interval, number


def sentence_of(contrast: Mapping[str, Any], *, label: str, form: str) -> str:
    """Return a contrast's verdict in words, with its numbers.

    Args:
        contrast: an entry of ``contrasts``, see `prefpipe.stages.study.figures`.
        label: the measure's name in a sentence.
        form: how its numbers are written.
    """
    first, second = contrast["first"], contrast["second"]
    if contrast["mean"] is None:
        return f"{first} and {second}: no seed has both"

    difference = f"difference {interval(contrast, form, signed=True)}"
    if contrast["verdict"] == "untested":
        return f"{first} minus {second}, {label}: {difference}"
    if contrast["verdict"] == "unknown":
        return f"{first} and {second}, {label}: {difference}; its error is not known"

    if contrast["declared"]:
        tested = f"Holm {p_value(contrast['p_holm'])}"
    else:
        tested = f"{p_value(contrast['p'])}, added later and not corrected"
    # an error over prompts says nothing of another seed
    alone = ", of one seed" if len(contrast["seeds"]) == 1 else ""
    detail = f"{difference}, {tested}{alone}"
    if contrast["verdict"] == "not_separable":
        least = number(contrast["detectable_holm"], form)
        said = f"{first} and {second}: not separable above {least} in {label} ({detail})"
    else:
        said = f"{first} is {contrast['verdict']} than {second} in {label} ({detail})"
    return said + _equivalence(contrast["equivalence"], form)


def p_value(p: float | None) -> str:
    """Return a p value in words, ``p = 0.031``, ``p < 0.0001``."""
    if p is None or isnan(p):
        return "no p"
    digits = p_digits(p)
    return f"p {digits}" if digits.startswith("<") else f"p = {digits}"


def p_digits(p: float) -> str:
    """Return a p value for a table cell: two digits, ``0.031``, and ``< 0.0001`` below that."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _equivalence(test: Mapping[str, Any] | None, form: str) -> str:
    if test is None:
        return ""
    p = test["p_holm"] if test["p_holm"] is not None else test["p"]
    ends = f"[{number(test['low'], form)}, {number(test['high'], form)}]"
    within = "lies within" if test["is_equivalent"] else "is not shown to lie within"
    margin = number(test["margin"], form)
    return f"; it {within} +-{margin} (two one-sided tests, {p_value(p)}, {ends})"
