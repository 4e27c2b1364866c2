"""Win rate of a policy against a baseline: ties count half, the error is over prompts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import BOOTSTRAP, Bootstrap
from prefpipe.maths.statistics.intervals import (
    PairedDifference,
    bootstrap_interval,
    estimate_mean,
    paired_difference,
    ratio_interval,
)
from prefpipe.maths.statistics.prompt_rows import rows_of_prompts

HINT_FOR_MISSING = (
    "judge these rows again, or pass allow_missing=True to leave them out and count them"
)


class WinRate(NamedTuple):
    """A win rate in [0, 1] over ``n`` prompts, with error, bootstrap interval and counts.

    ``n_wins``, ``n_draws`` and ``n_losses`` count rows by AlpacaEval's rule: above 1/2, exactly
    1/2, below 1/2; and ``discrete`` is ``(n_wins + n_draws / 2) / (n_wins + n_draws + n_losses)``.
    ``n_missing`` prompts had no preference.
    """

    mean: float
    se: float
    low: float
    high: float
    level: float
    n: int
    n_missing: int
    n_wins: int
    n_draws: int
    n_losses: int
    discrete: float


def preference(
    policy_rewards: np.ndarray, baseline_rewards: np.ndarray, *, tie_tolerance: float = 0.0
) -> float:
    """Return the preference of one prompt, in [0, 1].

    The mean over all pairs (policy sample i, baseline sample j) of::

        1 if r_i - r_j > tie_tolerance,   0 if r_j - r_i > tie_tolerance,   1/2 otherwise

    so swapping policy and baseline gives one minus it.

    Args:
        policy_rewards: (M,).
        baseline_rewards: (N,).
        tie_tolerance: rewards that differ by no more are a tie, at least 0.

    Returns:
        NaN, "no verdict", if there is no sample or a reward is NaN: leave out samples without a
        reward beforehand, and count them.
    """
    # Not `< 0`, which would accept NaN.
    if not tie_tolerance >= 0.0:
        raise UsageError(f"tie_tolerance is {tie_tolerance}; it must be >= 0")
    policy_M = np.asarray(policy_rewards, dtype=np.float64)
    baseline_N = np.asarray(baseline_rewards, dtype=np.float64)
    for rewards in (policy_M, baseline_N):
        if not rewards.size or np.isnan(rewards).any():
            return np.nan

    # Equal infinities are a tie, not a NaN.
    policy_MN, baseline_MN = np.broadcast_arrays(policy_M[:, None], baseline_N[None, :])
    is_equal_MN = policy_MN == baseline_MN
    lead_MN = np.zeros(policy_MN.shape)
    np.subtract(policy_MN, baseline_MN, out=lead_MN, where=~is_equal_MN)

    lost_or_tied_MN = np.where(lead_MN < -tie_tolerance, 0.0, 0.5)
    return float(np.where(lead_MN > tie_tolerance, 1.0, lost_or_tied_MN).mean())


def win_rate(
    preferences: Any,
    prompt_ids: Sequence[Any] | None = None,
    *,
    allow_missing: bool = False,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> WinRate:
    """Return the win rate of preferences in [0, 1]; 1 means that the policy's response is better.

    The mean over prompts of each prompt's mean preference; ``se = s / sqrt(P)`` with s over
    prompts, ddof 1; a percentile bootstrap interval that resamples prompts. With one row a prompt
    these are AlpacaEval's win rate and standard error, divided by 100. One prompt has no error
    (NaN, never 0) and no interval.

    Args:
        preferences: (N,), one a row. AlpacaEval's files hold 1 to 2: subtract 1.
        prompt_ids: the prompt of each row, (N,); None if each row is its own prompt.
        allow_missing: treat NaN as "no verdict", leave such rows out and count the prompts without
            any; otherwise NaN is refused.
        bootstrap: level, resamples and seed of the interval.

    Raises:
        InputError: a value outside [0, 1], a NaN, or a number of ids that differs from that of
            preferences.
    """
    preferences_N = checked_preferences(preferences, allow_missing=allow_missing)
    values_P = rows_of_prompts(prompt_ids, len(preferences_N)).means(preferences_N)
    estimate = estimate_mean(values_P)
    interval = bootstrap_interval(values_P, bootstrap)

    n_wins = int((preferences_N > 0.5).sum())
    n_draws = int((preferences_N == 0.5).sum())
    n_losses = int((preferences_N < 0.5).sum())
    n_known = n_wins + n_draws + n_losses
    discrete = (n_wins + n_draws / 2) / n_known if n_known else np.nan

    return WinRate(
        mean=estimate.mean,
        se=estimate.se,
        low=interval.low,
        high=interval.high,
        level=interval.level,
        n=estimate.n,
        n_missing=estimate.n_missing,
        n_wins=n_wins,
        n_draws=n_draws,
        n_losses=n_losses,
        discrete=discrete,
    )


class WeightedRate(NamedTuple):
    """A weighted mean of preferences in [0, 1] over ``n`` prompts, with error and interval."""

    mean: float
    se: float
    low: float
    high: float
    level: float
    n: int


def weighted_win_rate(
    preferences: Any,
    weights: Any,
    prompt_ids: Sequence[Any] | None = None,
    *,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> WeightedRate:
    """Return the weighted mean of rows, as in Arena-Hard's scores.

    A prompt with clear verdicts weighs more.

    ``sum_i w_i y_i / sum_i w_i``. The error is that of a ratio of sums over prompts, linearised,
    with ``d_p`` the sum of ``w_i (y_i - mean)`` over the rows of prompt p:
    ``se = sqrt(P / (P - 1) sum_p d_p^2) / sum_i w_i``. The interval is a percentile bootstrap of
    that ratio over prompts. One prompt has no error and no interval (NaN).

    Args:
        preferences: (N,), one a row.
        weights: (N,), above 0.
        prompt_ids: the prompt of each row, (N,); None if each row is its own prompt.
        bootstrap: level, resamples and seed of the interval.

    Raises:
        InputError: a preference outside [0, 1] or NaN, a weight that is not above 0, different
            numbers of rows, no rows.
    """
    preferences_N, weights_N = checked_preferences(preferences), as_numbers(weights, "weights")
    fits = weights_N.shape == preferences_N.shape and len(weights_N) > 0
    if not fits or not ((weights_N > 0) & np.isfinite(weights_N)).all():
        raise InputError(
            f"weights of shape {weights_N.shape} for {len(preferences_N)} preferences; "
            "expected one above 0 per row"
        )

    rows = rows_of_prompts(prompt_ids, len(preferences_N))
    won_P, weight_P = rows.sums(weights_N * preferences_N), rows.sums(weights_N)
    mean, n = float(won_P.sum() / weight_P.sum()), rows.n_prompts
    if n < 2:
        return WeightedRate(mean, np.nan, np.nan, np.nan, bootstrap.level, n)

    off_P = won_P - mean * weight_P
    se = float(np.sqrt(n / (n - 1) * (off_P**2).sum()) / weight_P.sum())
    low, high = ratio_interval(won_P, weight_P, bootstrap)
    return WeightedRate(mean, se, low, high, bootstrap.level, n)


def win_rate_difference(
    first: Any,
    second: Any,
    prompt_ids: Sequence[Any] | None = None,
    *,
    allow_missing: bool = False,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> PairedDifference:
    """Return by how much the second policy's win rate is higher than the first's.

    Both are of the same rows, paired by prompt.

    Args:
        first: preferences (N,) in [0, 1].
        second: preferences (N,) of the other policy, row by row of the same prompts.
        prompt_ids: the prompt of each row, (N,); None if each row is its own prompt.
        allow_missing: leave out prompts for which either has no preference; else NaN is refused.
        bootstrap: level, resamples and seed of the interval.

    Raises:
        InputError: as in `win_rate`, and different numbers of rows.
    """
    first_N = checked_preferences(first, allow_missing=allow_missing)
    second_N = checked_preferences(second, allow_missing=allow_missing)
    if len(first_N) != len(second_N):
        raise InputError(
            f"{len(first_N)} and {len(second_N)} preferences; "
            "a paired difference needs one of each per row"
        )
    rows = rows_of_prompts(prompt_ids, len(first_N))
    return paired_difference(rows.means(second_N), rows.means(first_N), bootstrap)


def checked_preferences(
    preferences: Any, *, allow_missing: bool = False, hint: str = HINT_FOR_MISSING
) -> np.ndarray:
    """Return preferences (N,) as float64; ``hint`` says how to allow NaN.

    Raises:
        InputError: not one value a row, a value outside [0, 1], or a NaN that is not allowed; the
            first such row is named.
    """
    preferences_N = as_numbers(preferences, "preferences")
    if preferences_N.ndim != 1:
        raise InputError(f"preferences of shape {preferences_N.shape}; expected one value per row")

    is_outside = (preferences_N < 0.0) | (preferences_N > 1.0)
    if is_outside.any():
        row = int(np.flatnonzero(is_outside)[0])
        raise InputError(
            f"the preference in row {row} is {preferences_N[row]:g}; preferences must be in [0, 1]",
            hint="rescale them: AlpacaEval's files hold 1 to 2 (subtract 1), percentages 0 to 100 "
            "(divide by 100)",
        )

    is_missing = np.isnan(preferences_N)
    if is_missing.any() and not allow_missing:
        row = int(np.flatnonzero(is_missing)[0])
        raise InputError(
            f"the preference in row {row} is NaN, one of {int(is_missing.sum())}",
            hint=hint,
        )
    return preferences_N


def as_numbers(values: Any, what: str) -> np.ndarray:
    """Return values as float64.

    Raises:
        InputError: a value that is not a number, such as a text.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers: {error}") from error
