r"""Means over seeds and prompts, with errors for other seeds and other prompts.

A study repeats a run with several seeds and measures every one on the same held-out prompts. So a
value has a part of its seed, a part of its prompt, and a rest::

    x_sp = m + a_s + b_p + e_sp        Var(mean) = Var(a)/S + Var(b)/P + Var(e)/(S P)

An error over prompts of the means over seeds leaves out ``Var(a)``; one over all S P values, as if
each were independent, leaves out nearly all of ``Var(a)`` and ``Var(b)``. Own code: SciPy's
``bootstrap`` draws from one list.

Axes: S seeds, P prompts, B resamples, b resamples of a batch.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import BOOTSTRAP, Bootstrap
from prefpipe.maths.statistics.intervals import (
    bootstrap_interval,
    estimate_mean,
    ratio_of_means,
)

RESAMPLES_AT_ONCE = 2_000
MOST_DRAWS_KEPT = 4_000_000
"""Counts cached for the next figure of the same size (32 MB)."""


class TwoLevelMean(NamedTuple):
    """A mean over seeds and prompts, its standard error and its interval.

    ``df``: degrees of freedom of the error, few where seeds differ and are few. ``n_missing``
    prompts lack a value under one seed or more and are left out of all. Error and interval are NaN
    if the spread is unknown; for one seed they are those over prompts.
    """

    mean: float
    se: float
    low: float
    high: float
    df: float
    n_seeds: int
    n_prompts: int
    n_missing: int


def two_level_mean(values_SP: np.ndarray, bootstrap: Bootstrap = BOOTSTRAP) -> TwoLevelMean:
    r"""Return the mean of values by seed and prompt, with the interval of a two-level bootstrap.

    The error adds what seeds and what prompts differ by, with ddof 1::

        se^2 = var(seed means)/S + var(prompt means)/P
        df   = se^4 / ( (var(seed means)/S)^2/(S-1) + (var(prompt means)/P)^2/(P-1) )

    Its expectation is the variance of the mean plus ``Var(e)/(S P)``: never too small where the
    effects above hold. (The two-way clustered variance of Cameron, Gelbach and Miller 2011, "Robust
    inference with multiway clustering", subtracts that again, and may be negative; df are
    Satterthwaite's.)

    The interval: a resample draws S seeds, and P prompts, the same for all its seeds (Owen 2007,
    "The pigeonhole bootstrap"). With three seeds a resample often repeats one seed, and percentiles
    are too narrow by half if seeds differ. So the distances of the percentiles from the mean are
    stretched **(ours)** by::

        (se / sd of the resampled means) (t_df / z)

    which is the t interval ``mean +- t_df se`` where resampled means are normal, and keeps their
    skewness where they are not. Differences of two arms are paired: pass the differences.

    Args:
        values_SP: (S, P), NaN where there is no value. A row is a seed, a column a prompt.
        bootstrap: level, resamples and seed.

    Raises:
        InputError: another number of axes, or no seed.
    """
    values_SP = np.asarray(values_SP, dtype=np.float64)
    if values_SP.ndim != 2 or not len(values_SP):
        raise InputError(
            f"values of shape {values_SP.shape}; expected one row per seed and one column "
            "per prompt"
        )

    is_known_P = ~np.isnan(values_SP).any(axis=0)
    known_SP = values_SP[:, is_known_P]
    n_seeds, n_prompts = known_SP.shape
    n_missing = int((~is_known_P).sum())
    if n_seeds == 1:
        # One seed carries no information about others; the interval is that of every other figure.
        mean, se, _, _ = estimate_mean(known_SP[0])
        low, high, _ = bootstrap_interval(known_SP[0], bootstrap)
        return TwoLevelMean(mean, se, low, high, n_prompts - 1, 1, n_prompts, n_missing)
    if n_prompts < 2:
        mean = float(known_SP.mean()) if n_prompts else np.nan
        unknown = (np.nan, np.nan, np.nan, np.nan)
        return TwoLevelMean(mean, *unknown, n_seeds, n_prompts, n_missing)

    mean = float(known_SP.mean())
    of_seeds = float(known_SP.mean(axis=1).var(ddof=1)) / n_seeds
    of_prompts = float(known_SP.mean(axis=0).var(ddof=1)) / n_prompts
    variance = of_seeds + of_prompts
    if variance == 0.0:
        return TwoLevelMean(mean, 0.0, mean, mean, np.inf, n_seeds, n_prompts, n_missing)
    df = variance**2 / (of_seeds**2 / (n_seeds - 1) + of_prompts**2 / (n_prompts - 1))

    se = float(np.sqrt(variance))
    means_B = resampled_means(known_SP, bootstrap)
    upper_tail = bootstrap.tails[1]
    t, z = float(stdtrit(df, upper_tail)), float(ndtri(upper_tail))
    spread = float(means_B.std())
    # A few resamples may all be equal.
    distances = np.array([-t, t]) * se
    if spread > 0.0:
        distances = (np.array(bootstrap.ends(means_B)) - mean) * (se / spread) * (t / z)
    low, high = mean + distances
    return TwoLevelMean(mean, se, float(low), float(high), float(df), n_seeds, n_prompts, n_missing)


def two_level_ratio(
    above_SP: np.ndarray, below_SP: np.ndarray, bootstrap: Bootstrap = BOOTSTRAP
) -> TwoLevelMean:
    """Return ``mean(above) / mean(below)`` over seeds and prompts, such as nats a token.

    Error and interval are those of the mean of the ratio's first order in its two means::

        r = mean(a) / mean(b)        u = (a - r b) / mean(b)

    For one seed they are `ratio_of_means`'. A prompt that lacks a value under any seed is left out
    everywhere.

    Args:
        above_SP: (S, P), NaN where there is no value.
        below_SP: the same; 0 or more.
        bootstrap: level, resamples and seed.

    Raises:
        InputError: other shapes, or a denominator below 0.
    """
    above_SP = np.asarray(above_SP, dtype=np.float64)
    below_SP = np.asarray(below_SP, dtype=np.float64)
    if above_SP.shape != below_SP.shape:
        raise InputError(
            f"a ratio of {above_SP.shape} and {below_SP.shape} values; expected the same shape"
        )

    is_known_P = ~(np.isnan(above_SP) | np.isnan(below_SP)).any(axis=0)
    above, below = above_SP[:, is_known_P], below_SP[:, is_known_P]
    n_missing = int((~is_known_P).sum())
    if (below < 0).any():
        raise InputError(f"a ratio to {below.min():g}; denominators must be counts, 0 or more")
    if len(above_SP) == 1:
        one = ratio_of_means(above[0], below[0], bootstrap)
        return TwoLevelMean(one.mean, one.se, one.low, one.high, one.n - 1, 1, one.n, n_missing)
    if not below.sum() > 0:
        unknown = (np.nan, np.nan, np.nan, np.nan, np.nan)
        return TwoLevelMean(*unknown, len(above), above.shape[1], n_missing)

    ratio = float(above.mean() / below.mean())
    linear = two_level_mean((above - ratio * below) / below.mean(), bootstrap)
    return linear._replace(
        mean=ratio, low=ratio + linear.low, high=ratio + linear.high, n_missing=n_missing
    )


def resampled_means(values_SP: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """Return the means of all resamples (B,): S seeds, and P prompts for all of them.

    Args:
        values_SP: (S, P), every value known.
        bootstrap: resamples and seed.

    Raises:
        UsageError: as in `Bootstrap.check`.
    """
    bootstrap.check()
    n_seeds, n_prompts = values_SP.shape
    batches = []
    for seeds_bS, prompts_bP in _draws(bootstrap, n_seeds, n_prompts):
        of_prompts_bS = prompts_bP @ values_SP.T
        batches.append((seeds_bS * of_prompts_bS).sum(axis=1) / (n_seeds * n_prompts))
    return np.concatenate(batches)


def _draws(
    bootstrap: Bootstrap, n_seeds: int, n_prompts: int
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Return how often each seed and each prompt is drawn, batch by batch.

    A study uses the same draws for every measure and arm, so they are cached if they are few
    enough.
    """
    if bootstrap.n_draws * (n_seeds + n_prompts) <= MOST_DRAWS_KEPT:
        return _kept_draws(bootstrap.n_draws, bootstrap.seed, n_seeds, n_prompts)
    return _drawn(bootstrap.n_draws, bootstrap.seed, n_seeds, n_prompts)


@lru_cache(maxsize=2)
def _kept_draws(
    n_draws: int, seed: int, n_seeds: int, n_prompts: int
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return tuple(_drawn(n_draws, seed, n_seeds, n_prompts))


def _drawn(
    n_draws: int, seed: int, n_seeds: int, n_prompts: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for start in range(0, n_draws, RESAMPLES_AT_ONCE):
        n_drawn = min(RESAMPLES_AT_ONCE, n_draws - start)
        # A mean only needs to know how often each seed and each prompt was drawn.
        seeds_bS = rng.multinomial(n_seeds, np.full(n_seeds, 1.0 / n_seeds), size=n_drawn)
        prompts_bP = rng.multinomial(n_prompts, np.full(n_prompts, 1.0 / n_prompts), size=n_drawn)
        # As floats: products of integers are slow.
        yield seeds_bS.astype(np.float64), prompts_bP.astype(np.float64)
