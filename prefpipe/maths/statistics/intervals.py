"""Means over prompts with standard errors and seeded bootstrap intervals.

The unit is the prompt: samples of one prompt are averaged before they come here, because they are not independent.
"""

from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError

_N_DRAWN_AT_ONCE = 2_000_000
"""Indices held in memory at a time (16 MB); the draws do not depend on it."""


class Estimate(NamedTuple):
    """A mean over ``n`` prompts and its standard error ``s / sqrt(n)``, s with ddof 1.

    ``se`` is NaN for one prompt, where nothing is known about the spread, and ``mean`` too for none.
    ``n_missing`` prompts had no value and are not in ``n``.
    """

    mean: float
    se: float
    n: int
    n_missing: int


class Bootstrap(NamedTuple):
    """How intervals are drawn: their level, the number of resamples, and the seed; the same three give the same interval."""

    level: float = 0.95
    n_draws: int = 10_000
    seed: int = 0


BOOTSTRAP = Bootstrap()


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


def estimate_mean(values_P: np.ndarray) -> Estimate:
    """Return mean and standard error of ``values_P`` (P,). NaN marks a prompt without a value."""
    values_P = np.asarray(values_P, dtype=np.float64)
    known = values_P[~np.isnan(values_P)]
    n_missing = len(values_P) - len(known)
    if not len(known):
        return Estimate(np.nan, np.nan, 0, n_missing)
    se = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else np.nan
    return Estimate(float(known.mean()), se, len(known), n_missing)


def bootstrap_interval(
    values_P: np.ndarray,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    n_draws: int = 10_000,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Return a bootstrap interval of the mean of ``values_P`` (P,), resampling prompts.

    ``percentile``: the ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles of the means of ``n_draws`` resamples.
    ``bca``: the same quantiles moved for bias and skewness (Efron 1987, "Better bootstrap confidence intervals"), with
    the share of means below the estimate counting ties half, and the jackknife acceleration of a mean,
    ``a = sum (x - mean)^3 / (6 (sum (x - mean)^2)^1.5)``.
    NaN values are left out. The same generator state gives the same interval.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"the interval's level is {level}; it is between 0 and 1")
    if n_draws < 1:
        raise UsageError(f"n_draws is {n_draws}; at least 1 resample is needed")
    if method not in ("percentile", "bca"):
        raise UsageError(f"the interval's method is {method!r}; it is percentile or bca")
    values_P = np.asarray(values_P, dtype=np.float64)
    known = values_P[~np.isnan(values_P)]
    if len(known) < 2:
        return Interval(np.nan, np.nan, level)
    means_B = _resample_means(known, rng, n_draws)
    ends = np.array([(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    if method == "bca":
        ends = _adjust_levels(known, means_B, ends)
    low, high = np.quantile(means_B, ends)
    return Interval(float(low), float(high), level)


def paired_difference(
    a_P: np.ndarray,
    b_P: np.ndarray,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    n_draws: int = 10_000,
    method: Literal["percentile", "bca"] = "percentile",
) -> PairedDifference:
    """Return the mean of ``a - b`` over prompts, (P,) each and in the same order, with error and interval.

    A prompt that lacks either value is left out of both. The error is that of the differences, smaller than for
    unpaired means when prompts that are hard for one are hard for the other.
    """
    a_P, b_P = np.asarray(a_P, dtype=np.float64), np.asarray(b_P, dtype=np.float64)
    if a_P.shape != b_P.shape or a_P.ndim != 1:
        raise InputError(
            f"a paired difference of {a_P.shape} and {b_P.shape} values; one of each per prompt is expected"
        )
    difference = estimate_mean(a_P - b_P)
    interval = bootstrap_interval(a_P - b_P, rng, level=level, n_draws=n_draws, method=method)
    return PairedDifference(
        difference.mean,
        difference.se,
        interval.low,
        interval.high,
        difference.n,
        difference.n_missing,
    )


def ratio_interval(
    above_P: np.ndarray, below_P: np.ndarray, bootstrap: Bootstrap
) -> tuple[float, float]:
    """Return the percentile interval of ``sum above / sum below``, (P,) each, resampling prompts; ``below_P`` is above 0."""
    rng, n_prompts = np.random.default_rng(bootstrap.seed), len(above_P)
    step = max(1, _N_DRAWN_AT_ONCE // n_prompts)
    ratios_B = np.empty(bootstrap.n_draws)
    for start in range(0, bootstrap.n_draws, step):
        stop = min(start + step, bootstrap.n_draws)
        drawn = rng.integers(n_prompts, size=(stop - start, n_prompts))
        ratios_B[start:stop] = above_P[drawn].sum(axis=1) / below_P[drawn].sum(axis=1)
    low, high = np.quantile(
        ratios_B, [(1.0 - bootstrap.level) / 2.0, (1.0 + bootstrap.level) / 2.0]
    )
    return float(low), float(high)


def _resample_means(known_P: np.ndarray, rng: np.random.Generator, n_draws: int) -> np.ndarray:
    """Return (B,) means of resamples with replacement."""
    n_prompts = len(known_P)
    step = max(1, _N_DRAWN_AT_ONCE // n_prompts)
    means_B = np.empty(n_draws)
    for start in range(0, n_draws, step):
        stop = min(start + step, n_draws)
        means_B[start:stop] = known_P[rng.integers(n_prompts, size=(stop - start, n_prompts))].mean(
            axis=1
        )
    return means_B


def _adjust_levels(known_P: np.ndarray, means_B: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the BCa quantile levels for the plain ones ``ends``."""
    normal = NormalDist()
    mean = float(known_P.mean())
    share_below = float(np.mean(means_B < mean) + 0.5 * np.mean(means_B == mean))
    # No finite sample of draws can say "never below": half a draw is the least.
    least = 0.5 / len(means_B)
    bias = normal.inv_cdf(min(max(share_below, least), 1.0 - least))
    deviations_P = known_P - mean
    squares = float((deviations_P**2).sum())
    acceleration = float((deviations_P**3).sum()) / (6.0 * squares**1.5) if squares > 0.0 else 0.0
    points = [bias + normal.inv_cdf(float(end)) for end in ends]
    return np.array([normal.cdf(bias + point / (1.0 - acceleration * point)) for point in points])
