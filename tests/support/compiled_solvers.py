"""What selection computes for many prompts, for one prompt: for tests and benchmarks."""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.selection.clusters import k_means
from prefpipe.maths.selection.opt_select.k_medoids import (
    certify,
    choose_greedily,
    improve_by_swaps,
    work_limit,
)
from prefpipe.maths.selection.weights import pool_weights


class Medoids(NamedTuple):
    """``chosen`` (k,) ascending columns and their cost; ``lower_bound <= optimum <= cost``."""

    chosen: np.ndarray
    cost: float
    lower_bound: float
    is_optimal: bool


def solve_k_medoids(cost_CJ: np.ndarray, k: int, *, time_limit_s: float = 10.0) -> Medoids:
    """Return the cheapest ``k`` columns of ``cost_CJ`` (C, J) with their certificate."""
    cost_CJ = np.ascontiguousarray(cost_CJ, dtype=np.float64)
    chosen = choose_greedily(cost_CJ, k)
    cost = improve_by_swaps(cost_CJ, chosen)
    limit = work_limit(time_limit_s)
    chosen, cost, lower_bound, is_optimal = certify(cost_CJ, chosen, cost, limit)
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


def response_weights(rewards_C: np.ndarray, temperature: float) -> np.ndarray:
    """Return the weights of one prompt's clients, ``exp((min r - r_i) / T)``, for rewards (C,)."""
    all_clients = np.ones((1, len(rewards_C)), dtype=bool)
    return pool_weights(rewards_C[None], all_clients, np.array([temperature]))[0]
