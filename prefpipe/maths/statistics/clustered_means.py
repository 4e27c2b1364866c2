"""Weighted means of subsets of pairs, with errors over prompts: a prompt's pairs are dependent.

Unlike `prefpipe.maths.statistics.prompt_rows`, where every prompt counts once, every pair counts
once here: benchmarks define their figures so. The error is still that of drawing prompts.

Axes: N pairs, P prompts, S subsets, F figures, B resamples.
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from prefpipe.maths.statistics.bootstrap import Bootstrap

Name = TypeVar("Name", bound=Hashable)


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
    weights: Mapping[Name, np.ndarray],
    *,
    bootstrap: Bootstrap | None,
) -> dict[Name, ClusteredMean]:
    r"""Return figures ``sum_s w_s mean_s`` by name, with errors clustered by prompt.

    ``mean_s`` is the mean of the values of subset s. Prompts are grouped by the subset of their
    first pair, h, and drawn within their group, so that a resample has about the size of every
    subset. With ``u_p = sum_s w_s sum_{i in p, s} (v_i - mean_s) / N_s``::

        se^2 = sum_h P_h / (P_h - 1) sum_{p in h} (u_p - mean_h u)^2

    which for one subset and one pair a prompt is ``s / sqrt(N)``, s with ddof 1. Error and interval
    are NaN if a group that counts has only one prompt, whose spread is unknown; they are never 0.

    Args:
        values_N: (N,).
        subset_N: (N,) the number of each pair's subset, below S; every subset has a pair.
        prompt_N: (N,) the number of each pair's prompt, below P; every prompt has a pair.
        weights: for each figure, (S,) with sum 1.
        bootstrap: level, resamples and seed; None leaves the intervals out (NaN).
    """
    weights_FS = np.stack(list(weights.values()))
    n_figures, n_subsets = weights_FS.shape
    n_prompts = int(prompt_N.max()) + 1

    # Sums and counts of each prompt's pairs, subset by subset.
    cells_N, n_cells = prompt_N * n_subsets + subset_N, n_prompts * n_subsets
    sums_PS = np.bincount(cells_N, weights=values_N, minlength=n_cells)
    sums_PS = sums_PS.reshape(n_prompts, n_subsets)
    counts_PS = np.bincount(cells_N, weights=np.ones(len(values_N)), minlength=n_cells)
    counts_PS = counts_PS.reshape(n_prompts, n_subsets)

    means_S = sums_PS.sum(0) / counts_PS.sum(0)
    u_PF = ((sums_PS - means_S * counts_PS) / counts_PS.sum(0)) @ weights_FS.T

    # A prompt's group is the subset of its first pair, which is written last.
    group_P = np.empty(n_prompts, dtype=np.int64)
    group_P[prompt_N[::-1]] = subset_N[::-1]
    groups = [np.flatnonzero(group_P == group) for group in np.unique(group_P)]

    variance_F = np.zeros(n_figures)
    for members in groups:
        if len(members) > 1:
            variance_F += len(members) * u_PF[members].var(axis=0, ddof=1)
        else:
            counts_here = weights_FS[:, counts_PS[members[0]] > 0].any(axis=1)
            variance_F[counts_here] = np.nan

    low_F = high_F = np.full(n_figures, np.nan)
    if bootstrap is not None:
        low_F, high_F = _interval(sums_PS, counts_PS, groups, weights_FS, bootstrap)
        is_unknown_F = np.isnan(variance_F)
        low_F[is_unknown_F] = high_F[is_unknown_F] = np.nan

    columns = (weights_FS @ means_S, np.sqrt(variance_F), low_F, high_F)
    figures = [ClusteredMean(*map(float, row)) for row in zip(*columns, strict=True)]
    return dict(zip(weights, figures, strict=True))


def _interval(
    sums_PS: np.ndarray,
    counts_PS: np.ndarray,
    groups: list[np.ndarray],
    weights_FS: np.ndarray,
    bootstrap: Bootstrap,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (F,) each: quantiles of the resamples where every subset that counts is."""
    both_PS = np.concatenate([sums_PS, counts_PS], axis=1)
    sums_BS, counts_BS = np.split(bootstrap.resample_sums(both_PS, groups), 2, axis=1)

    is_empty_BS = counts_BS == 0
    means_BS = np.divide(sums_BS, counts_BS, out=np.zeros_like(sums_BS), where=~is_empty_BS)
    figures_BF = means_BS @ weights_FS.T
    needs_empty_BF = is_empty_BS.astype(float) @ (weights_FS > 0).T > 0
    figures_BF[needs_empty_BF] = np.nan

    with np.errstate(invalid="ignore"):
        low_F, high_F = np.nanquantile(figures_BF, bootstrap.tails, axis=0)
    return low_F, high_F
