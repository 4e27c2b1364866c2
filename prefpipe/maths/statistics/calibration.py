r"""Whether predicted preferences are right, and as sure as they should be.

A scorer that gives two responses of one prompt the scores ``s_w`` and ``s_l`` predicts that the first is preferred with
probability ``p = sigma(d)``, ``d = s_w - s_l``. An outcome ``y`` says whether it was: 1, 0, or a share in between where several
raters were asked or the preference is a probability itself.

Both orders. In preference data the winner stands first, so all outcomes are 1: a curve of them would have one half, and the area
under the ROC curve would not exist. Which response stands first means nothing, so `both_orders` takes each pair as it is
and turned round, (d, y) and (-d, 1 - y): what a random order gives in the mean, without its noise. Accuracy, Brier score and log
loss are the same in either order. Two consequences: N pairs are 2 N items, but not 2 N observations; and the number of
bins must be even, so that 1/2 is an edge: in a bin around 1/2 a pair would meet its own mirror image, which hides every error.

Axes: N items (pairs in some order), B bins. Natural logarithms.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError

BINNINGS = ("width", "mass")
EDGE_WIDTH = 1e-12
"""How far above an edge a confidence still lies on it: ``p`` and ``1 - p`` differ in their last digits, and are one bin."""
TEMPERATURES = (1e-3, 1e3)
"""Temperatures that are looked at: scores that separate all pairs ask for 0, scores that say nothing for infinity."""
Values = Sequence[float] | np.ndarray


class Pairs(NamedTuple):
    """Score differences and outcomes, each (N,), of pairs in some order."""

    differences: np.ndarray
    outcomes: np.ndarray


def both_orders(differences: Values, outcomes: Values | float = 1.0) -> Pairs:
    """Return each pair as it is and turned round: (2 N,) of (N,); see the module's text.

    Args:
        differences: (N,) ``s_w - s_l``.
        outcomes: (N,) in [0, 1], or one number for all.

    Raises:
        InputError: no pair, arrays of different lengths, a difference that is not finite, an outcome outside [0, 1].
    """
    d, y = _checked(differences, outcomes)
    return Pairs(np.concatenate([d, -d]), np.concatenate([y, 1.0 - y]))


def preference_probabilities(differences: Values, *, temperature: float = 1.0) -> np.ndarray:
    """Return ``sigma(d / temperature)`` (N,), without overflow.

    Raises:
        UsageError: a temperature that is not above 0.
    """
    if not temperature > 0.0:
        raise UsageError(f"temperature is {temperature}, and must be above 0")
    half = 0.5 * np.asarray(differences, dtype=np.float64) / temperature
    return np.asarray(0.5 * (1.0 + np.tanh(half)))


def pair_accuracy(differences: Values, outcomes: Values | float = 1.0) -> float:
    """Return the share of outcomes that the sign of the difference tells: ``mean( y h(d) + (1 - y) h(-d) )``.

    h is 1 above 0, 0 below and 1/2 at 0: equal scores are half right. (RewardBench v1 counts them as wrong.)
    """
    d, y = _checked(differences, outcomes)
    right = 0.5 * (1.0 + np.sign(d))
    return float(np.mean(y * right + (1.0 - y) * (1.0 - right)))


def roc_auc(differences: Values, outcomes: Values) -> float:
    """Return the area under the ROC curve, NaN where all outcomes are 1 or all are 0.

    ::

        AUC = sum_ij y_i (1 - y_j) h(d_i - d_j) / ( sum_i y_i * sum_j (1 - y_j) )

    an item with a share y is a positive of weight y and a negative of weight 1 - y. With outcomes of 0 and 1 it is
    the statistic of Mann and Whitney (Ann. Math. Stat. 18, 1947). Take it of `both_orders`.
    """
    d, y = _checked(differences, outcomes)
    values, places = np.unique(d, return_inverse=True)
    positive = np.bincount(places, weights=y, minlength=len(values))
    negative = np.bincount(places, weights=1.0 - y, minlength=len(values))
    n_pairs = positive.sum() * negative.sum()
    if n_pairs <= 0.0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + 0.5 * negative)) / n_pairs)


def brier_score(probabilities: Values, outcomes: Values | float = 1.0) -> float:
    """Return ``mean (p - y)^2``: 0 is perfect, 1/4 is what p = 1/2 gives with outcomes of 0 and 1.

    Source: Brier, Monthly Weather Review 78, 1950, in the form for two classes.
    """
    p, y = _probabilities(probabilities, outcomes)
    return float(np.mean(np.square(p - y)))


def preference_log_loss(
    differences: Values, outcomes: Values | float = 1.0, *, temperature: float = 1.0
) -> float:
    """Return ``mean( -y log sigma(d/T) - (1 - y) log sigma(-d/T) )`` in nats; log 2 is what d = 0 gives.

    Of differences, not probabilities: at d = 40 ``sigma(d)`` is 1 in float64 and the logarithm of the rest would be gone.
    """
    d, y = _checked(differences, outcomes)
    if not temperature > 0.0:
        raise UsageError(f"temperature is {temperature}, and must be above 0")
    scaled = d / temperature
    return float(np.mean(y * np.logaddexp(0.0, -scaled) + (1.0 - y) * np.logaddexp(0.0, scaled)))


class ReliabilityCurve(NamedTuple):
    """Predictions against outcomes, bin by bin, each (B,); bins without an item are left out.

    ``lower``, ``upper``: the bin's edges. ``n``: items, of which half an item may be one at exactly 1/2. ``predicted``: mean
    probability. ``observed``: mean outcome.
    """

    lower: np.ndarray
    upper: np.ndarray
    n: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray


def reliability_curve(
    probabilities: Values, outcomes: Values | float, *, n_bins: int = 10, binning: str = "width"
) -> ReliabilityCurve:
    """Return the reliability curve of probabilities in [0, 1].

    Bins are symmetric about 1/2: what falls into one falls into its mirror image when the pair is turned round. An upper bin
    is (lower, upper], a lower one [lower, upper), and an item at exactly 1/2 belongs by halves to the two that meet there.

    Args:
        probabilities: (N,).
        outcomes: (N,) in [0, 1]; pairs in both orders, or the curve has one half.
        n_bins: B, even (see the module's text).
        binning: ``width``: equal widths; ``mass``: equal numbers of items by confidence ``max(p, 1 - p)``. Equal
            probabilities are never torn apart, so bins may be fewer.

    Raises:
        UsageError: an odd or small ``n_bins``, or an unknown binning.
        InputError: as in `both_orders`, or a probability outside [0, 1].
    """
    p, y = _probabilities(probabilities, outcomes)
    if n_bins < 2 or n_bins % 2:
        raise UsageError(
            f"n_bins is {n_bins}: it must be even and at least 2",
            hint="with an odd number, errors near 1/2 vanish",
        )
    if binning not in BINNINGS:
        raise UsageError(
            f"unknown binning {binning!r}", hint=f"choose one of {', '.join(BINNINGS)}"
        )
    confidence = np.maximum(p, 1.0 - p)
    edges = np.linspace(0.5, 1.0, n_bins // 2 + 1)
    if binning == "mass":
        inner = np.quantile(
            confidence, np.linspace(0.0, 1.0, n_bins // 2 + 1)[1:-1], method="lower"
        )
        edges = np.unique(np.concatenate([[0.5], inner, [1.0]]))
    half = len(edges) - 1
    steps = np.clip(np.searchsorted(edges + EDGE_WIDTH, confidence, side="left") - 1, 0, half - 1)
    places = np.concatenate([half + steps, half - 1 - steps])
    weights = np.concatenate([0.5 * (1.0 + np.sign(p - 0.5)), 0.5 * (1.0 - np.sign(p - 0.5))])
    n, sums_p, sums_y = (
        np.bincount(places, weights=weights * np.tile(values, 2), minlength=2 * half)
        for values in (np.ones_like(p), p, y)
    )
    kept = n > 0
    lower = np.concatenate([1.0 - edges[:0:-1], edges[:-1]])
    upper = np.concatenate([1.0 - edges[-2::-1], edges[1:]])
    return ReliabilityCurve(
        lower[kept], upper[kept], n[kept], sums_p[kept] / n[kept], sums_y[kept] / n[kept]
    )


def expected_calibration_error(curve: ReliabilityCurve) -> float:
    """Return ``sum_b n_b / N |observed_b - predicted_b|``.

    With equal widths it is the usual figure: of B bins over [0, 1] and pairs in both orders, the same as of B / 2 bins over the
    confidence ``max(p, 1 - p)`` in [1/2, 1].

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; equal widths as in Guo et al., arXiv 1706.04599; equal masses as in Nixon
    et al., arXiv 1904.01685.
    """
    return float(np.sum(curve.n * np.abs(curve.observed - curve.predicted)) / np.sum(curve.n))


def fit_temperature(differences: Values, outcomes: Values | float = 1.0) -> float:
    """Return the temperature T whose ``sigma(d / T)`` has the smallest log loss: above 1, scores were too sure.

    The loss is convex in 1 / T, so its derivative ``mean( (sigma(d/T) - y) d )`` is bisected. Held within `TEMPERATURES`:
    the lower end where scores separate every pair, the upper where they say nothing, or the contrary.

    Source: Guo et al., arXiv 1706.04599, of Platt's method with the slope alone.
    """
    d, y = _checked(differences, outcomes)

    def slope(inverse: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.mean((0.5 * (1.0 + np.tanh(0.5 * inverse * d)) - y) * d))

    low, high = (-np.log(limit) for limit in reversed(TEMPERATURES))  # of log(1 / T)
    if slope(float(np.exp(low))) >= 0.0:
        return TEMPERATURES[1]
    if slope(float(np.exp(high))) <= 0.0:
        return TEMPERATURES[0]
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(float(np.exp(middle))) < 0.0 else (low, middle)
    return float(np.exp(-0.5 * (low + high)))


def _checked(differences: Values, outcomes: Values | float) -> Pairs:
    d = np.atleast_1d(np.asarray(differences, dtype=np.float64))
    y = np.asarray(outcomes, dtype=np.float64)
    y = np.full(d.shape, float(y)) if y.ndim == 0 else y
    if d.ndim != 1 or d.shape != y.shape:
        raise InputError(
            f"differences {d.shape} and outcomes {y.shape}: one of each a pair is expected"
        )
    if not len(d):
        raise InputError("there is no pair to look at", hint="hold out more prompts")
    if not np.isfinite(d).all():
        raise InputError(
            f"difference {int(np.argmin(np.isfinite(d)))} is {d[np.argmin(np.isfinite(d))]}, not a finite number"
        )
    _require_unit(y, "outcome")
    return Pairs(d, y)


def _probabilities(probabilities: Values, outcomes: Values | float) -> Pairs:
    p, y = _checked(probabilities, outcomes)
    _require_unit(p, "probability")
    return Pairs(p, y)


def _require_unit(values: np.ndarray, what: str) -> None:
    is_bad = ~((values >= 0.0) & (values <= 1.0))
    if is_bad.any():
        raise InputError(
            f"{what} {int(np.argmax(is_bad))} is {values[np.argmax(is_bad)]}, outside 0 to 1"
        )
