"""The compiled solvers of selection as Python functions, for tests and benchmarks."""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.selection.clusters import k_means
from prefpipe.maths.selection.opt_select.k_medoids import solve, work_limit


class Medoids(NamedTuple):
    """``chosen`` (k,) ascending columns and their cost; ``lower_bound <= optimum <= cost``."""

    chosen: np.ndarray
    cost: float
    lower_bound: float
    is_optimal: bool


def solve_k_medoids(cost_CJ: np.ndarray, k: int, *, time_limit_s: float = 10.0) -> Medoids:
    """Return the cheapest ``k`` columns of ``cost_CJ`` (C, J) with their certificate."""
    cost_CJ = np.ascontiguousarray(cost_CJ, dtype=np.float64)
    chosen, cost, lower_bound, is_optimal = solve(cost_CJ, k, work_limit(time_limit_s))
    return Medoids(chosen, float(cost), float(lower_bound), bool(is_optimal))


class Clustering(NamedTuple):
    """``labels`` (N,) of clusters; ``inertia`` the sum of squared distances to the centres."""

    labels: np.ndarray
    inertia: float


def cluster_k_means(distances_NN: np.ndarray, k: int, *, seed: int, n_init: int = 10) -> Clustering:
    """Return k-means clusters of N points from their Euclidean distances (N, N)."""
    distances_NN = np.ascontiguousarray(distances_NN, dtype=np.float64)
    labels_N, inertia = k_means(distances_NN * distances_NN, k, np.uint64(seed), n_init)
    return Clustering(labels_N, float(inertia))
