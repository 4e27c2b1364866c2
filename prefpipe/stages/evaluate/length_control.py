"""The length-controlled win rate of an evaluation, and its caveats."""

from collections.abc import Mapping
from math import isnan
from typing import Any

import numpy as np

from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.length_control import length_controlled_win_rate

MAX_FITS = 1_000
"""Resamples of the length-controlled fit, at most: each needs a separate fit."""
LEAST_SHARE = 0.1
"""Below this share of rows that are longer, or shorter, the figure is an extrapolation."""
MOST_SES_WIDE = 8.0
"""An interval of 95 % is about 4 standard errors wide; from here on the two do not agree."""
FLAT = 1e-3
"""A figure this near 0 or 1 is of a fit that went as far as the penalty let it."""


def length_controlled(
    preferences_P: np.ndarray,
    lengths_P: np.ndarray,
    baseline_lengths_P: np.ndarray,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return the figures at equal lengths, or the ``reason`` why there are none.

    The fit has no difficulty term.

    Args:
        preferences_P: for the policy, by prompt.
        lengths_P: the policy's mean characters a response, by prompt.
        baseline_lengths_P: the baseline's.
        bootstrap: of at most `MAX_FITS` resamples.
    """
    fits = bootstrap._replace(n_draws=min(bootstrap.n_draws, MAX_FITS))
    try:
        fit = length_controlled_win_rate(
            preferences_P, lengths_P, baseline_lengths_P, bootstrap=fits
        )
    except InputError as error:
        return {"mean": None, "se": None, "low": None, "high": None, "reason": error.message}
    return fit.figures()


def notes_on_length(figures: Mapping[str, Any]) -> list[str]:
    """Return notes on a length-controlled win rate, in sentences.

    Args:
        figures: what `length_controlled`, or ``LengthControlled.figures``, returned.
    """
    if "reason" in figures:
        return [f"no length-controlled win rate: {figures['reason']}"]

    notes = []
    without = figures["name"].partition(" without ")[2]
    if without:
        notes.append(
            f"without {without}: this is not AlpacaEval's length-controlled win rate and is not "
            "comparable with it"
        )

    rare, frequent = "shorter", "longer"
    if figures["share_longer"] < figures["share_shorter"]:
        rare, frequent = frequent, rare
    share = figures[f"share_{rare}"]
    if share < LEAST_SHARE < figures[f"share_{frequent}"]:
        notes.append(
            f"the policy's response is the {rare} one in {share:.1%} of rows only: the "
            "length-controlled win rate is an extrapolation"
        )

    if _runs_to_an_end(figures):
        notes.append(
            "the length-controlled fit reached a limit of its scale, where its standard error "
            "means nothing: there are too few prompts, or the lengths alone separate wins from "
            "losses"
        )

    if not figures["model_coefficient"]:
        notes.append(
            f"the penalty (C = {figures['penalty_c']:g}) removed every term of the model: the 50 "
            "% means nothing here"
        )
    return notes


def _runs_to_an_end(figures: Mapping[str, Any]) -> bool:
    """Return whether the win rate, or that of many resamples, is where the curve is flat.

    There the delta method sees no error.
    """
    se = figures["se"]
    if se is None or isnan(se):
        return False
    if min(figures["mean"], 1.0 - figures["mean"]) < FLAT:
        return True
    width = figures["high"] - figures["low"]
    return bool(width > MOST_SES_WIDE * se and width > LEAST_SHARE)
