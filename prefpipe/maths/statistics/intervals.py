"""Means, differences and ratios over prompts, with standard errors and seeded bootstrap intervals.

The unit is the prompt: samples of one prompt are averaged before they come here, because they are
not independent. Axes: P prompts, B resamples.
"""

from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import BOOTSTRAP, Bootstrap

Method = Literal["percentile", "bca"]


class Estimate(NamedTuple):
    """A mean over ``n`` prompts and its standard error ``s / sqrt(n)``, s with ddof 1.

    ``se`` is NaN for one prompt, whose spread is unknown; ``mean`` is NaN, too, for none.
    ``n_missing`` prompts had no value and are not in ``n``.
    """

    mean: float
    se: float
    n: int
    n_missing: int


class Interval(NamedTuple):
    """A bootstrap interval of a mean; NaN ends for fewer than two prompts."""

    low: float
    high: float
    level: float


class PairedDifference(NamedTuple):
    """The mean over prompts of ``a - b``, its standard error and its bootstrap interval."""

    mean: float
    se: float
    low: float
    high: float
    n: int
    n_missing: int


class Ratio(NamedTuple):
    """``mean`` is the ratio of the means of ``n`` prompts; NaN if unknown."""

    mean: float
    se: float
    low: float
    high: float
    n: int
    n_missing: int


def estimate_mean(values_P: np.ndarray) -> Estimate:
    """Return mean and standard error of ``values_P`` (P,). NaN marks a prompt without a value."""
    values_P = np.asarray(values_P, dtype=np.float64)
    known = values_P[~np.isnan(values_P)]
    n_missing = len(values_P) - len(known)
    if not len(known):
        return Estimate(np.nan, np.nan, 0, n_missing)

    se = np.nan
    if len(known) > 1:
        se = float(known.std(ddof=1) / np.sqrt(len(known)))
    return Estimate(float(known.mean()), se, len(known), n_missing)


def bootstrap_interval(
    values_P: np.ndarray, bootstrap: Bootstrap = BOOTSTRAP, *, method: Method = "percentile"
) -> Interval:
    """Return a bootstrap interval of the mean of ``values_P`` (P,), resampling prompts.

    NaN values are left out.

    Args:
        values_P: (P,).
        bootstrap: level, resamples and seed.
        method: ``percentile``: the quantiles of the means of the resamples. ``bca``: the same
            quantiles moved for bias and skewness (Efron 1987, "Better bootstrap confidence
            intervals"), with the share of means below the estimate counting ties half, and the
            jackknife acceleration of a mean, ``a = sum (x - mean)^3 / (6 (sum (x - mean)^2)^1.5)``.
    """
    bootstrap.check()
    if method not in ("percentile", "bca"):
        raise UsageError(f"the interval's method is {method!r}; it must be percentile or bca")

    values_P = np.asarray(values_P, dtype=np.float64)
    known = values_P[~np.isnan(values_P)]
    if len(known) < 2:
        return Interval(np.nan, np.nan, bootstrap.level)

    means_B = bootstrap.resample(lambda drawn: known[drawn].mean(axis=1), len(known))
    if method == "bca":
        low, high = np.quantile(means_B, _bca_tails(known, means_B, bootstrap))
        return Interval(float(low), float(high), bootstrap.level)
    return Interval(*bootstrap.ends(means_B), bootstrap.level)


def _bca_tails(known_P: np.ndarray, means_B: np.ndarray, bootstrap: Bootstrap) -> list[float]:
    """Return the levels of the quantiles, moved for bias and skewness."""
    normal = NormalDist()
    mean = float(known_P.mean())

    # A finite sample cannot show "never below": half a draw is the minimum.
    share_below = float(np.mean(means_B < mean) + 0.5 * np.mean(means_B == mean))
    least = 0.5 / len(means_B)
    bias = normal.inv_cdf(min(max(share_below, least), 1.0 - least))

    deviations_P = known_P - mean
    squares = float((deviations_P**2).sum())
    acceleration = 0.0
    if squares > 0.0:
        acceleration = float((deviations_P**3).sum()) / (6.0 * squares**1.5)

    tails = []
    for tail in bootstrap.tails:
        point = bias + normal.inv_cdf(tail)
        tails.append(normal.cdf(bias + point / (1.0 - acceleration * point)))
    return tails


def paired_difference(
    a_P: np.ndarray,
    b_P: np.ndarray,
    bootstrap: Bootstrap = BOOTSTRAP,
    *,
    method: Method = "percentile",
) -> PairedDifference:
    """Return the mean of ``a - b`` over prompts, (P,) each and in the same order.

    A prompt that lacks either value is left out of both. The error is that of the differences,
    smaller than for unpaired means if prompts that are hard for one are hard for the other.

    Raises:
        InputError: other shapes.
    """
    a_P, b_P = np.asarray(a_P, dtype=np.float64), np.asarray(b_P, dtype=np.float64)
    if a_P.shape != b_P.shape or a_P.ndim != 1:
        raise InputError(
            f"a paired difference of {a_P.shape} and {b_P.shape} values; "
            "expected one of each per prompt"
        )

    mean, se, n, n_missing = estimate_mean(a_P - b_P)
    low, high, _ = bootstrap_interval(a_P - b_P, bootstrap, method=method)
    return PairedDifference(mean, se, low, high, n, n_missing)


def ratio_of_means(
    above_P: np.ndarray, below_P: np.ndarray, bootstrap: Bootstrap = BOOTSTRAP
) -> Ratio:
    """Return ``mean(above) / mean(below)`` over prompts, (P,) each.

    Use it for figures per token, where both sums vary between prompts: the mean of the prompts' own
    ratios would weigh a token of a short response more than one of a long response::

        r = mean(a) / mean(b)        se = sd(a - r b) / (sqrt(P) mean(b)),  sd with ddof 1

    The error is the first order of the ratio in its two means (delta method); the interval the
    percentile bootstrap that draws prompts, both of a prompt's numbers together. A prompt that
    lacks either (NaN) is left out. One prompt has no error.

    Raises:
        InputError: other shapes, or a denominator below 0.
    """
    above_P, below_P = np.asarray(above_P, dtype=np.float64), np.asarray(below_P, dtype=np.float64)
    if above_P.shape != below_P.shape or above_P.ndim != 1:
        raise InputError(
            f"a ratio of {above_P.shape} and {below_P.shape} values; "
            "expected one of each per prompt"
        )

    known = ~(np.isnan(above_P) | np.isnan(below_P))
    a, b = above_P[known], below_P[known]
    n, n_missing = len(a), len(above_P) - len(a)
    if (b < 0).any():
        raise InputError(f"a ratio to {b.min():g}; denominators must be counts, 0 or more")
    if not b.sum() > 0:
        return Ratio(np.nan, np.nan, np.nan, np.nan, n, n_missing)

    ratio = float(a.mean() / b.mean())
    if n < 2:
        return Ratio(ratio, np.nan, np.nan, np.nan, n, n_missing)
    se = float((a - ratio * b).std(ddof=1) / (np.sqrt(n) * b.mean()))
    low, high = ratio_interval(a, b, bootstrap)
    return Ratio(ratio, se, low, high, n, n_missing)


def ratio_interval(
    above_P: np.ndarray, below_P: np.ndarray, bootstrap: Bootstrap
) -> tuple[float, float]:
    """Return the percentile interval of ``sum above / sum below``, (P,) each, over prompts."""

    def ratios(drawn: np.ndarray) -> np.ndarray:
        return np.asarray(above_P[drawn].sum(axis=1) / below_P[drawn].sum(axis=1))

    # A resample of prompts without a token has no ratio.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios_B = bootstrap.resample(ratios, len(above_P))
    return bootstrap.ends(ratios_B[np.isfinite(ratios_B)])
