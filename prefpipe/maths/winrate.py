"""Win rate of a policy against a baseline: ties count half, the error is over prompts."""

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.intervals import Estimate, estimate_mean


def preference(policy_rewards: np.ndarray, baseline_rewards: np.ndarray, *, tie_tolerance: float = 0.0) -> float:
    """Return the preference of one prompt, in [0, 1].

    The mean over all pairs (policy sample i, baseline sample j) of::

        1 if r_i - r_j > tie_tolerance,   0 if r_j - r_i > tie_tolerance,   1/2 otherwise

    so swapping the sides gives one minus it. ``policy_rewards`` (M,), ``baseline_rewards`` (N,). NaN, "no verdict", when
    a side is empty or a reward is NaN: leave out samples without a reward before, and count them.
    """
    if not tie_tolerance >= 0.0:
        raise UsageError(f"tie_tolerance is {tie_tolerance}; it is >= 0")
    policy_M = np.asarray(policy_rewards, dtype=np.float64)
    baseline_N = np.asarray(baseline_rewards, dtype=np.float64)
    if not policy_M.size or not baseline_N.size or np.isnan(policy_M).any() or np.isnan(baseline_N).any():
        return np.nan
    ours_MN, theirs_MN = np.broadcast_arrays(policy_M[:, None], baseline_N[None, :])
    # Equal infinities are a tie, not a NaN.
    lead_MN = np.subtract(ours_MN, theirs_MN, out=np.zeros(ours_MN.shape), where=ours_MN != theirs_MN)
    return float(np.where(lead_MN > tie_tolerance, 1.0, np.where(lead_MN < -tie_tolerance, 0.0, 0.5)).mean())


def win_rate(preferences_P: np.ndarray) -> Estimate:
    """Return the mean of the per-prompt preferences (P,) in [0, 1], with its standard error over prompts.

    ``se = s / sqrt(P)`` with ddof 1: NaN for one prompt, never 0. NaN preferences are prompts without a verdict;
    they are counted in ``n_missing`` and left out.
    """
    preferences_P = np.asarray(preferences_P, dtype=np.float64)
    is_outside = (preferences_P < 0.0) | (preferences_P > 1.0)
    if is_outside.any():
        first = int(np.flatnonzero(is_outside)[0])
        raise InputError(f"the preference of prompt {first} is {preferences_P[first]:g}; preferences lie in [0, 1]")
    return estimate_mean(preferences_P)
