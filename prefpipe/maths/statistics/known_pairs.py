r"""Predicted preferences against their true probabilities.

If the quality q of responses is set by hand, the probability that one is preferred is known::

    P(i beats j) = sigma(gamma (q_i - q_j))

A scorer predicts ``sigma(s_i - s_j)``. It is measured against the probability, and not against one
draw from it: a label adds noise to every figure, and the log loss of the truth itself would not be
known. With probabilities it is their entropy, and what a scorer loses beyond that is the
Kullback-Leibler divergence from the truth.

All pairs of a prompt's responses count, and the mean over them is the prompt's value: pairs of one
prompt share responses, and are not independent observations.

Axes: N responses, M pairs, P prompts. Natural logarithms.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import entr, expit

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.calibration import (
    EDGE_WIDTH,
    ReliabilityCurve,
    fit_temperature,
    preference_curve,
)
from prefpipe.maths.statistics.prompt_rows import PromptRows

MEASURES = (
    "log_loss",
    "excess_log_loss",
    "scaled_log_loss",
    "brier",
    "ece",
    "accuracy",
    "agreement",
)
"""What `measure_pairs` returns, in this order."""
N_BINS = 10
"""Bins of the reliability curve over [0, 1], of equal mass."""


class KnownPairs(NamedTuple):
    """Pairs of responses whose true probability is known.

    ``first`` and ``second`` (M,): their rows among the N responses. ``probabilities`` (M,): how
    often the first is preferred. ``prompts``: which prompt each pair is of.
    """

    first: np.ndarray
    second: np.ndarray
    probabilities: np.ndarray
    prompts: PromptRows


def pairs_of_responses(
    qualities: np.ndarray, prompts: np.ndarray, n_prompts: int, *, gamma: float
) -> KnownPairs:
    """Return all pairs within prompts, each once.

    Args:
        qualities: (N,) q, NaN if unknown: such a response is in no pair.
        prompts: (N,) the number of each response's prompt, below ``n_prompts``.
        n_prompts: P.
        gamma: nats of margin a unit of quality.

    Raises:
        UsageError: a gamma that is not above 0.
        InputError: no pair.
    """
    if not gamma > 0.0:
        raise UsageError(f"gamma of the truth is {gamma}; it must be above 0")

    first: list[int] = []
    second: list[int] = []
    for number in range(n_prompts):
        rows = np.flatnonzero((prompts == number) & ~np.isnan(qualities))
        places, others = np.triu_indices(len(rows), k=1)
        first += rows[places].tolist()
        second += rows[others].tolist()
    if not first:
        raise InputError("no prompt has two responses with a known quality, so there is no pair")

    firsts, seconds = np.array(first), np.array(second)
    return KnownPairs(
        firsts,
        seconds,
        np.asarray(expit(gamma * (qualities[firsts] - qualities[seconds]))),
        PromptRows(np.asarray(prompts)[firsts], n_prompts),
    )


def measure_pairs(scores: np.ndarray, pairs: KnownPairs) -> dict[str, np.ndarray]:
    r"""Return each of `MEASURES` by prompt (P,), NaN where a prompt has no pair.

    With d the difference of a pair's scores and p its true probability::

        log_loss          -p log sigma(d) - (1 - p) log sigma(-d)
        excess_log_loss   log_loss - entropy of p, the divergence of sigma(d) from p
        scaled_log_loss   log_loss of d / T, T fitted on the other half of the prompts
        brier             (sigma(d) - p)^2
        ece               s (sigma(d) - p), weighted so that the mean over prompts is the ECE
        accuracy          p h(d) + (1 - p) h(-d): the share of drawn labels that d tells
        agreement         h(d) where p > 1/2, h(-d) where p < 1/2: whether the better one scores
                          higher; of pairs that differ in quality alone

    h is 1 above 0, 0 below, and 1/2 at 0. The s of a pair is the sign of mean prediction minus mean
    probability in its bin of the reliability curve over all pairs (`curve_of_pairs`): the pairs of
    a bin add up to its part of the ECE, and a prompt's value may be below 0. A scorer that is right
    up to a scale, as one that was trained with a wrong gamma, loses in ``log_loss`` and not in
    ``scaled_log_loss``.

    A response without a score makes all of its prompt's values NaN: a mean over the other pairs
    would be one of easier or harder pairs than another scorer's.

    Args:
        scores: (N,), NaN if missing.
        pairs: of these responses.
    """
    d, p = _differences(scores, pairs), pairs.probabilities
    log_loss = _log_loss(d, p)
    right = 0.5 * (1.0 + np.sign(d))
    values = {
        "log_loss": log_loss,
        "excess_log_loss": log_loss - (entr(p) + entr(1.0 - p)),
        "scaled_log_loss": _log_loss(_rescaled(d, pairs), p),
        "brier": np.square(expit(d) - p),
        "ece": _of_calibration(d, pairs),
        "accuracy": p * right + (1.0 - p) * (1.0 - right),
        "agreement": np.where(p > 0.5, right, 1.0 - right),
    }

    n_pairs_P = pairs.prompts.sums(np.ones_like(p))
    is_known_P = ~np.isnan(pairs.prompts.sums(d))
    n_a_prompt = n_pairs_P[is_known_P].sum() / max(1, (is_known_P & (n_pairs_P > 0)).sum())
    n_unequal_P = pairs.prompts.sums((p != 0.5).astype(np.float64))
    measures = {}
    for name in MEASURES:
        counted_P, weighted = n_pairs_P, values[name]
        if name == "ece":
            # The ECE is over pairs: a prompt with many pairs weighs more.
            counted_P = np.where(n_pairs_P > 0, n_a_prompt, 0.0)
        if name == "agreement":
            counted_P = n_unequal_P
            # Zero times an unknown score stays unknown.
            weighted = weighted * (p != 0.5)
        none_P = np.full(len(counted_P), np.nan)
        measures[name] = np.divide(
            pairs.prompts.sums(weighted), counted_P, out=none_P, where=counted_P > 0
        )
    return measures


def curve_of_pairs(
    scores: np.ndarray, pairs: KnownPairs, *, n_bins: int = N_BINS
) -> ReliabilityCurve:
    """Return predicted against true probabilities in bins of equal mass, both orders of each pair.

    Its `expected_calibration_error` is the ECE against the truth. Pairs without both scores are
    left out.

    Args:
        scores: (N,), NaN if missing.
        pairs: of these responses.
        n_bins: even.

    Raises:
        InputError: no pair has both scores.
        UsageError: an odd number of bins.
    """
    d = _differences(scores, pairs)
    is_known = ~np.isnan(d)
    return preference_curve(
        d[is_known], pairs.probabilities[is_known], n_bins=n_bins, binning="mass"
    )


def _differences(scores: np.ndarray, pairs: KnownPairs) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    return np.asarray(scores[pairs.first] - scores[pairs.second])


def _log_loss(d: np.ndarray, p: np.ndarray) -> np.ndarray:
    # An unknown difference gives NaN without a warning.
    with np.errstate(invalid="ignore"):
        return np.asarray(p * np.logaddexp(0.0, -d) + (1.0 - p) * np.logaddexp(0.0, d))


def _of_calibration(d: np.ndarray, pairs: KnownPairs) -> np.ndarray:
    """Return (M,) what each pair adds to the ECE, times the number of pairs."""
    is_known = ~np.isnan(d)
    added = np.full_like(d, np.nan)
    if not is_known.any():
        return added

    # Swapped so that the prediction is 1/2 or more: the other half is its mirror image.
    curve = preference_curve(
        d[is_known], pairs.probabilities[is_known], n_bins=N_BINS, binning="mass"
    )
    is_upper = curve.lower > 0.5 - EDGE_WIDTH
    too_sure = np.sign(curve.predicted - curve.observed)[is_upper]
    places = np.searchsorted(curve.upper[is_upper] + EDGE_WIDTH, expit(np.abs(d[is_known])))
    signs = too_sure[np.minimum(places, len(too_sure) - 1)]

    residuals = np.sign(d) * (expit(d) - pairs.probabilities)
    added[is_known] = signs * residuals[is_known]
    return added


def _rescaled(d: np.ndarray, pairs: KnownPairs) -> np.ndarray:
    """Return differences over the temperature that fits the other half of the prompts best.

    Every second prompt is one half. NaN where the other half has no pair.
    """
    half = pairs.prompts.prompt_of_row % 2
    rescaled = np.full_like(d, np.nan)
    for fitted in (0, 1):
        fits = (half == fitted) & ~np.isnan(d)
        if fits.any():
            temperature = fit_temperature(d[fits], pairs.probabilities[fits])
            rescaled[half != fitted] = d[half != fitted] / temperature
    return rescaled
