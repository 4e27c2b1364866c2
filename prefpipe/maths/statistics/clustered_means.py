"""Weighted means of subsets of pairs, with errors over prompts: pairs of one prompt are not independent.

Unlike `prefpipe.maths.statistics.prompt_rows`, where every prompt counts once, every pair counts once here: benchmarks define
their figures so. The error is still that of drawing prompts. Axes: N pairs, P prompts, S subsets, F figures, B resamples.
"""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.statistics.intervals import Bootstrap

_N_DRAWN_AT_ONCE = 2_000_000
"""Counts held in memory at a time (16 MB); the draws do not depend on it but for their order."""


class ClusteredMean(NamedTuple):
    """A figure, its standard error and its percentile bootstrap interval."""

    mean: float
    se: float
    low: float
    high: float


def clustered_means(
    values_N: np.ndarray,
    subset_N: np.ndarray,
    prompt_N: np.ndarray,
    weights_FS: np.ndarray,
    *,
    bootstrap: Bootstrap | None,
) -> list[ClusteredMean]:
    r"""Return F figures ``sum_s w_fs mean_s``, ``mean_s`` the mean of the values of subset s, with errors clustered by prompt.

    Prompts are grouped by the subset of their first pair, h, and drawn within their group, so that a resample
    has about the size of every subset. With ``u_p = sum_s w_s sum_{i in p, s} (v_i - mean_s) / N_s``::

        se^2 = sum_h P_h / (P_h - 1) sum_{p in h} (u_p - mean_h u)^2

    which for one subset and one pair a prompt is ``s / sqrt(N)``, s with ddof 1. Error and interval are NaN where a group that
    counts has one prompt, of whose spread nothing is known; never 0.

    Args:
        values_N: (N,).
        subset_N: (N,) the number of each pair's subset, below S; every subset has a pair.
        prompt_N: (N,) the number of each pair's prompt, below P; every prompt has a pair.
        weights_FS: (F, S), each row with sum 1.
        bootstrap: level, resamples and seed; None leaves the intervals out (NaN).
    """
    n_subsets, n_prompts = weights_FS.shape[1], int(prompt_N.max()) + 1
    cells = prompt_N * n_subsets + subset_N
    sums_PS, counts_PS = (
        np.bincount(cells, weights=each, minlength=n_prompts * n_subsets).reshape(
            n_prompts, n_subsets
        )
        for each in (values_N, np.ones(len(values_N)))
    )
    means_S = sums_PS.sum(0) / counts_PS.sum(0)
    u_PF = ((sums_PS - means_S * counts_PS) / counts_PS.sum(0)) @ weights_FS.T
    group_P = np.empty(n_prompts, dtype=np.int64)
    group_P[prompt_N[::-1]] = subset_N[::-1]  # the first pair is written last
    groups = [np.flatnonzero(group_P == group) for group in np.unique(group_P)]
    variance_F = np.zeros(len(weights_FS))
    for members in groups:
        if len(members) > 1:
            variance_F += len(members) * u_PF[members].var(axis=0, ddof=1)
        else:
            variance_F[weights_FS[:, counts_PS[members[0]] > 0].any(axis=1)] = np.nan
    ends_2F = np.full((2, len(weights_FS)), np.nan)
    if bootstrap is not None:
        ends_2F = _interval(sums_PS, counts_PS, groups, weights_FS, bootstrap)
        ends_2F[:, np.isnan(variance_F)] = np.nan
    columns = (weights_FS @ means_S, np.sqrt(variance_F), *ends_2F)
    return [ClusteredMean(*map(float, row)) for row in zip(*columns, strict=True)]


def _interval(
    sums_PS: np.ndarray,
    counts_PS: np.ndarray,
    groups: list[np.ndarray],
    weights_FS: np.ndarray,
    bootstrap: Bootstrap,
) -> np.ndarray:
    """Return the ends (2, F): quantiles of the figures of resamples in which every subset that counts has a pair."""
    rng = np.random.default_rng(bootstrap.seed)
    both = np.concatenate([sums_PS, counts_PS], axis=1)
    totals = np.zeros((bootstrap.n_draws, both.shape[1]))
    for members in groups:
        n_members = len(members)
        step = max(1, _N_DRAWN_AT_ONCE // n_members)
        for start in range(0, bootstrap.n_draws, step):
            stop = min(start + step, bootstrap.n_draws)
            drawn = rng.multinomial(
                n_members, np.full(n_members, 1.0 / n_members), size=stop - start
            )
            totals[start:stop] += drawn @ both[members]
    sums_BS, counts_BS = np.split(totals, 2, axis=1)
    is_empty = counts_BS == 0
    means_BS = np.divide(sums_BS, counts_BS, out=np.zeros_like(sums_BS), where=~is_empty)
    figures_BF = means_BS @ weights_FS.T
    figures_BF[(is_empty.astype(float) @ (weights_FS > 0).T) > 0] = np.nan
    tail = (1.0 - bootstrap.level) / 2.0
    with np.errstate(invalid="ignore"):
        ends: np.ndarray = np.nanquantile(figures_BF, [tail, 1.0 - tail], axis=0)
    return ends
