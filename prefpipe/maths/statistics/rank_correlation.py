"""Spearman's rank correlation, over all values and within groups.

Spearman 1904: Pearson's correlation of ranks, ties sharing their mean rank. Within groups, ranks
are taken group by group and centred there, and the sums of products run over all groups: a group of
one, or without spread, adds nothing. SciPy has no correlation within groups, and ranks all of them
in one call here.
"""

import numpy as np
from scipy.stats import rankdata


def spearman(x_N: np.ndarray, y_N: np.ndarray) -> float:
    """Return the rank correlation of two columns in [-1, 1], NaN where one has no spread."""
    return spearman_within(x_N, y_N, np.zeros(len(x_N), np.int64))


def spearman_within(x_N: np.ndarray, y_N: np.ndarray, groups_N: np.ndarray) -> float:
    """Return the rank correlation of two columns within groups, in [-1, 1].

    NaN where no group has spread in both.

    Args:
        x_N: (N,) numbers.
        y_N: (N,) numbers.
        groups_N: (N,) the group of each.
    """
    if not len(groups_N):
        return float("nan")
    _, group_N = np.unique(groups_N, return_inverse=True)
    x, y = _centred_ranks(x_N, group_N), _centred_ranks(y_N, group_N)

    # Sums by group, of whole quarters: exact in any order, up to 300,000 values a group.
    xx_G, yy_G = np.bincount(group_N, weights=x * x), np.bincount(group_N, weights=y * y)
    xy_G = np.bincount(group_N, weights=x * y)
    has_spread_G = (xx_G > 0.0) & (yy_G > 0.0)
    if not has_spread_G.any():
        return float("nan")
    xx, yy = float(xx_G[has_spread_G].sum()), float(yy_G[has_spread_G].sum())
    return float(xy_G[has_spread_G].sum() / np.sqrt(xx * yy))


def _centred_ranks(values_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Return each value's rank within its group less the group's mean rank, (N,)."""
    values, place_N = np.unique(values_N, return_inverse=True)

    # Whole numbers that sort by group, then by value: groups are ranked one after another.
    rank_N = rankdata(group_N * len(values) + place_N)
    size_G = np.bincount(group_N)
    n_before_G = np.cumsum(size_G) - size_G
    middle_G = n_before_G + (size_G + 1) / 2.0
    return np.asarray(rank_N - middle_G[group_N])
