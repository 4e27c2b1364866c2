"""A ratio of two means over prompts, with its error and interval.

For a figure a token: sums of two things that both differ from prompt to prompt, where the mean of the prompts' own ratios would
weigh a token of a short response more than one of a long response.
"""

from typing import NamedTuple

import numpy as np

from prefpipe.errors import InputError
from prefpipe.maths.statistics.intervals import BOOTSTRAP, Bootstrap

_N_DRAWN_AT_ONCE = 2_000_000


class Ratio(NamedTuple):
    """``mean`` is the ratio of the means of ``n`` prompts; NaN where nothing is known."""

    mean: float
    se: float
    low: float
    high: float
    n: int
    n_missing: int


def ratio_of_means(
    above_P: np.ndarray, below_P: np.ndarray, bootstrap: Bootstrap = BOOTSTRAP
) -> Ratio:
    """Return ``mean(above) / mean(below)`` over prompts, (P,) each.

    ::

        r = mean(a) / mean(b)        se = sd(a - r b) / (sqrt(P) mean(b)),  sd with ddof 1

    The error is the first order of the ratio in its two means (delta method); the interval the percentile bootstrap that draws
    prompts, both of a prompt's numbers together. A prompt that lacks either (NaN) is left out. One prompt has no error.

    Raises:
        InputError: other shapes, or a denominator below 0.
    """
    above_P, below_P = np.asarray(above_P, dtype=np.float64), np.asarray(below_P, dtype=np.float64)
    if above_P.shape != below_P.shape or above_P.ndim != 1:
        raise InputError(
            f"a ratio of {above_P.shape} and {below_P.shape} values; one of each per prompt is expected"
        )
    known = ~(np.isnan(above_P) | np.isnan(below_P))
    a, b = above_P[known], below_P[known]
    n_missing = len(above_P) - len(a)
    if (b < 0).any():
        raise InputError(f"a ratio to {b.min():g}; denominators are counts, 0 or more")
    if not b.sum() > 0:
        return Ratio(np.nan, np.nan, np.nan, np.nan, len(a), n_missing)
    ratio = float(a.mean() / b.mean())
    if len(a) < 2:
        return Ratio(ratio, np.nan, np.nan, np.nan, len(a), n_missing)
    se = float((a - ratio * b).std(ddof=1) / (np.sqrt(len(a)) * b.mean()))
    low, high = _interval(a, b, bootstrap)
    return Ratio(ratio, se, low, high, len(a), n_missing)


def _interval(a: np.ndarray, b: np.ndarray, bootstrap: Bootstrap) -> tuple[float, float]:
    rng = np.random.default_rng(bootstrap.seed)
    step = max(1, _N_DRAWN_AT_ONCE // len(a))
    ratios_B = np.empty(bootstrap.n_draws)
    for start in range(0, bootstrap.n_draws, step):
        stop = min(start + step, bootstrap.n_draws)
        drawn = rng.integers(len(a), size=(stop - start, len(a)))
        with np.errstate(
            invalid="ignore", divide="ignore"
        ):  # a resample of prompts without a token has no ratio
            ratios_B[start:stop] = a[drawn].sum(axis=1) / b[drawn].sum(axis=1)
    sound = ratios_B[np.isfinite(ratios_B)]
    low, high = np.quantile(sound, [(1.0 - bootstrap.level) / 2.0, (1.0 + bootstrap.level) / 2.0])
    return float(low), float(high)
