"""Spearman's rank correlation, over all values and within groups.

Spearman 1904: Pearson's correlation of ranks, ties sharing their mean rank. Within groups, ranks are taken group by group and
centred there, and the sums of products run over all groups: a group of one, or without spread, adds nothing.
"""

import numpy as np


def average_ranks(values_N: np.ndarray) -> np.ndarray:
    """Return (N,) ranks from 1; equal values share the mean of their places."""
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse])


def spearman(x_N: np.ndarray, y_N: np.ndarray) -> float:
    """Return the rank correlation of two columns in [-1, 1], NaN where one of them has no spread."""
    return spearman_within(x_N, y_N, np.zeros(len(x_N), np.int64))


def spearman_within(x_N: np.ndarray, y_N: np.ndarray, groups_N: np.ndarray) -> float:
    """Return the rank correlation of two columns within groups, in [-1, 1], NaN where no group has spread in both.

    Args:
        x_N: (N,) numbers.
        y_N: (N,) numbers.
        groups_N: (N,) the group of each.
    """
    order = np.argsort(groups_N, kind="stable")
    x, y, groups = x_N[order], y_N[order], groups_N[order]
    xy = xx = yy = 0.0
    for members in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1):
        if len(members) < 2:
            continue
        a, b = (average_ranks(values[members]) for values in (x, y))
        a, b = a - a.mean(), b - b.mean()
        if a.any() and b.any():
            xy, xx, yy = xy + float(a @ b), xx + float(a @ a), yy + float(b @ b)
    return float("nan") if not xx or not yy else xy / (xx * yy) ** 0.5
