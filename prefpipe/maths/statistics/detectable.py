r"""The smallest difference that a study can distinguish from none, before and after the run.

A difference of two arms, by seed and prompt, has a part of its seed, a part of its prompt, and a
rest (samples)::

    d_sp = d + a_s + b_p + e_sp        sd of a, b, e: tau, delta, rho

The mean over S seeds and P prompts has the variance ``sigma^2``. The test is that of
`prefpipe.maths.statistics.two_errors`, whose A and B are independent of the mean and of each other,
and proportional to chi-square with S - 1 and P - 1 degrees of freedom::

    sigma^2 = tau^2/S + delta^2/P + rho^2/(S P)
    E[A] = tau^2/S + rho^2/(S P),      E[B] = delta^2/P + rho^2/(S P)

The detectable difference is the d that is found with probability 0.8 over all possible outcomes::

    P( |mean| > sqrt(A t_(S-1)^2 + B t_(P-1)^2) ) = 0.8      mean ~ Normal(d, sigma^2)

At Holm's first step of m tests alpha is divided by m: the smallest difference that is found
whatever the results of the other tests.

Axes: U equally probable values of a chi-square.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr, stdtrit

from prefpipe.errors import UsageError
from prefpipe.maths.statistics.two_errors import TwoErrors, two_errors

ALPHA, POWER = 0.05, 0.8
VALUES_OF_SEEDS, VALUES_OF_PROMPTS = 400, 15
"""Values of each chi-square: few seeds make a wide one."""


class Spreads(NamedTuple):
    """Standard deviations of a difference of two arms: of seeds, of prompts, and of the rest."""

    seeds: float
    prompts: float
    rest: float


class DifferenceError(NamedTuple):
    """Error of a mean difference: its ``sigma``, and the expected inputs of its test."""

    sigma: float
    errors: TwoErrors


def spread_of_samples(within_prompt: float, n_samples: int) -> float:
    """Return the sampling part of a difference of two arms: ``within_prompt sqrt(2 / n)``.

    Args:
        within_prompt: standard deviation of rewards of one prompt, as of a pool.
        n_samples: of each arm for each prompt.

    Raises:
        UsageError: no sample, or a spread below 0.
    """
    if n_samples < 1 or not within_prompt >= 0.0:
        raise UsageError(
            f"a spread of {within_prompt} over {n_samples} samples; it must be 0 or more, "
            "over 1 sample or more"
        )
    return float(within_prompt * np.sqrt(2.0 / n_samples))


def spreads_of(differences_SP: np.ndarray) -> Spreads:
    """Return the spreads of differences by seed and prompt, as a pilot's; one below 0 is 0.

    They are those of the mean squares. With one seed, the seeds' spread is NaN and the prompts'
    spread contains the rest.

    Raises:
        InputError: as in `two_errors`.
    """
    errors = two_errors(differences_SP)
    n_seeds, n_prompts = errors.n_seeds, errors.n_prompts
    of_prompts = errors.of_prompts * n_prompts
    if n_seeds == 1 or n_prompts < 2:
        return Spreads(np.nan, float(np.sqrt(of_prompts)), 0.0)

    rest = _mean_square_of_rest(differences_SP)
    of_seeds = errors.of_seeds * n_seeds
    return Spreads(
        seeds=float(np.sqrt(max(of_seeds - rest / n_prompts, 0.0))),
        prompts=float(np.sqrt(max(of_prompts - rest / n_seeds, 0.0))),
        rest=float(np.sqrt(rest)),
    )


def error_before(spreads: Spreads, n_seeds: int, n_prompts: int) -> DifferenceError:
    """Return the error that a study of this size will have with these spreads.

    With one seed it is the error over prompts, which does not cover other seeds.

    Raises:
        UsageError: a spread below 0, no seed, or fewer than two prompts.
    """
    if n_seeds < 1 or n_prompts < 2:
        raise UsageError(
            f"{n_seeds} seeds and {n_prompts} prompts; at least 1 seed and 2 prompts are needed"
        )
    counted = spreads[1:] if n_seeds == 1 else spreads
    if not all(spread >= 0.0 for spread in counted):
        raise UsageError(f"{spreads}: a spread must be 0 or more")
    rest = spreads.rest**2 / (n_seeds * n_prompts)
    of_prompts = spreads.prompts**2 / n_prompts + rest
    if n_seeds == 1:
        return DifferenceError(
            float(np.sqrt(of_prompts)), TwoErrors(np.nan, of_prompts, 1, n_prompts)
        )
    of_seeds = spreads.seeds**2 / n_seeds + rest
    sigma = float(np.sqrt(of_seeds + of_prompts - rest))
    return DifferenceError(sigma, TwoErrors(of_seeds, of_prompts, n_seeds, n_prompts))


def error_found(differences_SP: np.ndarray) -> DifferenceError:
    """Return the error of measured differences, by seed and prompt.

    ``sigma^2`` is ``A + B`` less the rest that is counted twice, and at least the larger of the
    two, for each contains that rest.

    Raises:
        InputError: as in `two_errors`.
    """
    errors = two_errors(differences_SP)
    if errors.n_seeds == 1 or errors.n_prompts < 2:
        return DifferenceError(errors.se, errors)
    twice = _mean_square_of_rest(differences_SP) / (errors.n_seeds * errors.n_prompts)
    variance = max(errors.se**2 - twice, errors.of_seeds, errors.of_prompts)
    return DifferenceError(float(np.sqrt(variance)), errors)


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
        UsageError: a level, power or number of tests out of range.
    """
    if not 0.0 < alpha < power < 1.0 or n_tests < 1:
        raise UsageError(
            f"level {alpha}, power {power} and {n_tests} tests; expected 0 < level < power < "
            "1 and at least 1 test"
        )
    sigma, errors = error
    if np.isnan(sigma):
        return np.nan
    if sigma == 0.0:
        return 0.0

    tail = 1.0 - alpha / (2.0 * n_tests)
    squares_U = _chi_squares(errors.n_prompts - 1, VALUES_OF_PROMPTS)
    squares = errors.of_prompts * squares_U * stdtrit(errors.n_prompts - 1, tail) ** 2
    if errors.n_seeds > 1:
        of_seeds_U = _chi_squares(errors.n_seeds - 1, VALUES_OF_SEEDS)
        of_seeds_U = errors.of_seeds * of_seeds_U * stdtrit(errors.n_seeds - 1, tail) ** 2
        squares = squares + of_seeds_U[:, None]
    thresholds = np.sqrt(squares) / sigma

    def lacks(shift: float) -> float:
        found = ndtr(shift - thresholds) + ndtr(-shift - thresholds)
        return float(found.mean() - power)

    # Beyond the largest threshold plus a few sigma everything is found.
    return float(brentq(lacks, 0.0, float(thresholds.max()) + 10.0)) * sigma


def _chi_squares(df: int, n_values: int) -> np.ndarray:
    """Return (U,) equally probable values of chi-square over its degrees of freedom."""
    levels_U = (np.arange(n_values) + 0.5) / n_values
    return np.asarray(2.0 * gammaincinv(df / 2.0, levels_U) / df)


def _mean_square_of_rest(values_SP: np.ndarray) -> float:
    n_seeds, n_prompts = values_SP.shape
    of_seeds, of_prompts = values_SP.mean(axis=1, keepdims=True), values_SP.mean(axis=0)
    rest_SP = values_SP - of_seeds - of_prompts + values_SP.mean()
    return float((rest_SP**2).sum() / ((n_seeds - 1) * (n_prompts - 1)))
