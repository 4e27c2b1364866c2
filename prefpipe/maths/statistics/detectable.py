r"""The smallest difference that a study can tell from none: before it is run, and after.

A difference of two arms, by seed and prompt, has a part of its seed, a part of its prompt, and a
rest (samples)::

    d_sp = d + a_s + b_p + e_sp        sd of a, b, e: tau, delta, rho

The mean over S seeds and P prompts has the variance ``sigma^2``; the test of
`prefpipe.maths.statistics.two_level` divides by an error whose square has the expectation
``se^2``, as it counts the rest twice, with Satterthwaite's degrees of freedom::

    sigma^2 = tau^2/S + delta^2/P + rho^2/(S P)
    se^2    = A + B,   A = tau^2/S + rho^2/(S P),   B = delta^2/P + rho^2/(S P)
    df      = (A + B)^2 / (A^2/(S-1) + B^2/(P-1))

So ``mean / se`` is, but for the factor ``sigma / se``, noncentral t, and the detectable difference
is the d whose power is 80 %::

    P( |T_df(d / sigma)| > t_(df, 1 - alpha/2) se / sigma ) = 0.8

At Holm's first step of m tests alpha is divided by m: the smallest difference found whatever the
other tests say.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtr, stdtrit

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.two_level import error_of_seeds_and_prompts

ALPHA, POWER = 0.05, 0.8
MOST_DF = 1e6
"""From here on Student's t is the normal distribution to all digits that are shown."""


class Spreads(NamedTuple):
    """Standard deviations of a difference of two arms: of seeds, of prompts, and of the rest."""

    seeds: float
    prompts: float
    rest: float


class DifferenceError(NamedTuple):
    """Error of a mean difference: its ``sigma``, and ``se`` and ``df`` of its test."""

    sigma: float
    se: float
    df: float


def spread_of_samples(within_prompt: float, n_samples: int) -> float:
    """Return the rest of a difference of two arms: ``within_prompt sqrt(2 / n)``.

    Args:
        within_prompt: standard deviation of rewards of one prompt, as of a pool.
        n_samples: of each arm for each prompt.

    Raises:
        UsageError: no sample, or a spread below 0.
    """
    if n_samples < 1 or not within_prompt >= 0.0:
        raise UsageError(
            f"a spread of {within_prompt} over {n_samples} samples; it is 0 or more, over 1 sample "
            "or more"
        )
    return float(within_prompt * np.sqrt(2.0 / n_samples))


def spreads_of(differences_SP: np.ndarray) -> Spreads:
    """Return the spreads of differences by seed and prompt, as a pilot's; one below 0 is 0.

    They are those of the mean squares. Of one seed, what seeds differ by is NaN, and the prompts'
    spread contains the rest.

    Raises:
        InputError: not two axes, fewer than two prompts, or a value that is not finite.
    """
    differences_SP = _checked(differences_SP)
    n_seeds, n_prompts = differences_SP.shape
    of_prompts = float(differences_SP.mean(axis=0).var(ddof=1))
    if n_seeds == 1:
        return Spreads(np.nan, float(np.sqrt(of_prompts)), 0.0)

    rest = _mean_square_of_rest(differences_SP)
    of_seeds = float(differences_SP.mean(axis=1).var(ddof=1))
    return Spreads(
        seeds=float(np.sqrt(max(of_seeds - rest / n_prompts, 0.0))),
        prompts=float(np.sqrt(max(of_prompts - rest / n_seeds, 0.0))),
        rest=float(np.sqrt(rest)),
    )


def error_before(spreads: Spreads, n_seeds: int, n_prompts: int) -> DifferenceError:
    """Return the error that a study of this size will have with these spreads.

    Of one seed it is that over prompts, which says nothing of other seeds.

    Raises:
        UsageError: a spread below 0, no seed, or fewer than two prompts.
    """
    if n_seeds < 1 or n_prompts < 2:
        raise UsageError(
            f"{n_seeds} seeds and {n_prompts} prompts; 1 seed and 2 prompts are needed at least"
        )
    rest = spreads.rest**2 / (n_seeds * n_prompts)
    of_prompts = spreads.prompts**2 / n_prompts + rest
    if n_seeds == 1:
        se = float(np.sqrt(of_prompts))
        return DifferenceError(se, se, n_prompts - 1.0)

    of_seeds = spreads.seeds**2 / n_seeds + rest
    if not of_seeds >= 0.0 or not of_prompts >= 0.0:
        raise UsageError(f"spreads of {spreads}; each is 0 or more")
    variance = of_seeds + of_prompts
    if variance == 0.0:
        return DifferenceError(0.0, 0.0, np.inf)
    df = variance**2 / (of_seeds**2 / (n_seeds - 1) + of_prompts**2 / (n_prompts - 1))
    return DifferenceError(float(np.sqrt(variance - rest)), float(np.sqrt(variance)), float(df))


def error_found(differences_SP: np.ndarray) -> DifferenceError:
    """Return the error of differences that were found, by seed and prompt.

    ``se`` and ``df`` are those of `two_level_mean`. ``sigma^2`` is ``se^2`` less the rest that is
    counted twice, and at least the larger of its two parts, for each contains that rest.

    Raises:
        InputError: as in `spreads_of`.
    """
    differences_SP = _checked(differences_SP)
    n_seeds, n_prompts = differences_SP.shape
    of_prompts = float(differences_SP.mean(axis=0).var(ddof=1)) / n_prompts
    if n_seeds == 1:
        se = float(np.sqrt(of_prompts))
        return DifferenceError(se, se, n_prompts - 1.0)

    se, df = error_of_seeds_and_prompts(differences_SP)
    if se == 0.0:
        return DifferenceError(0.0, 0.0, np.inf)
    twice = _mean_square_of_rest(differences_SP) / (n_seeds * n_prompts)
    of_seeds = se**2 - of_prompts
    sigma = float(np.sqrt(max(se**2 - twice, of_seeds, of_prompts)))
    return DifferenceError(sigma, se, df)


def detectable_difference(
    error: DifferenceError, *, n_tests: int = 1, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the difference that a two-sided test finds with the given power; 0 without an error.

    Args:
        error: of the difference.
        n_tests: m of Holm's first step; 1 for a test alone.
        alpha: level of all tests together.
        power: probability of finding a difference of this size, above alpha.

    Raises:
        UsageError: a level, a power or a number of tests that makes no sense.
    """
    if not 0.0 < alpha < power < 1.0 or n_tests < 1:
        raise UsageError(
            f"level {alpha}, power {power} and {n_tests} tests; 0 < level < power < 1, and 1 test "
            "or more"
        )
    if np.isnan(error.se):
        return np.nan
    if error.se == 0.0:
        return 0.0

    df = min(error.df, MOST_DF)
    critical = float(stdtrit(df, 1.0 - alpha / (2.0 * n_tests))) * error.se / error.sigma

    def lacks(shift: float) -> float:
        # far out in a tail scipy answers NaN: below 1e-20 there
        below = np.nan_to_num(nctdtr(df, shift, [critical, -critical]))
        return float(1.0 - below[0] + below[1] - power)

    # twice the critical value and more is found nearly always
    return float(brentq(lacks, 0.0, 2.0 * critical + 10.0)) * error.sigma


def _checked(differences_SP: np.ndarray) -> np.ndarray:
    differences_SP = np.asarray(differences_SP, dtype=np.float64)
    if differences_SP.ndim != 2 or not len(differences_SP) or differences_SP.shape[1] < 2:
        raise InputError(
            f"differences of shape {differences_SP.shape}; a row a seed and two prompts or more "
            "are expected"
        )
    if not np.isfinite(differences_SP).all():
        raise InputError("a difference is no finite number: leave out prompts without a value")
    return differences_SP


def _mean_square_of_rest(values_SP: np.ndarray) -> float:
    n_seeds, n_prompts = values_SP.shape
    of_seeds, of_prompts = values_SP.mean(axis=1, keepdims=True), values_SP.mean(axis=0)
    rest_SP = values_SP - of_seeds - of_prompts + values_SP.mean()
    return float((rest_SP**2).sum() / ((n_seeds - 1) * (n_prompts - 1)))
