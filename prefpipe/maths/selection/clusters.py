"""k-means clusters of a prompt's candidates from distances only, and one member of each.

A cluster's centre is never formed. With ``D2`` the squared distances between the points, the centre
of cluster c is at squared distance ``S_ic / n_c - W_c / (2 n_c^2)`` from point i, where
``S_ic = sum_{j in c} D2_ij`` and ``W_c = sum_{i in c} S_ic``, and the cluster's inertia is
``W_c / (2 n_c)``: sums over a prompt's R x R matrix, whatever the dimension of the embeddings.

Own code, because scikit-learn's ``KMeans`` takes points instead of distances and is a hundred times
slower for a prompt's few dozen: docs/benchmarks.md.
"""

import numpy as np

from prefpipe.maths.compute.compiled import compiled
from prefpipe.maths.selection.random_numbers import draw_below, draw_share, seed_state

MAX_PASSES = 100
"""Passes over the points in one start; each ends sooner when no move lowers the inertia."""


@compiled
def k_means(
    squared_NN: np.ndarray, k: int, seed: np.uint64, n_init: int
) -> tuple[np.ndarray, float]:
    """Return the best of ``n_init`` k-means clusterings of N points into at most ``k`` clusters.

    Starts are scikit-learn's: greedy k-means++ (Arthur and Vassilvitskii 2007). From there points
    move one at a time while that lowers the inertia, a point's own pull on both centres counted
    (Hartigan and Wong 1979): every result is a fixed point of Lloyd's algorithm too, and most fixed
    points of Lloyd's are not results.

    Args:
        squared_NN: (N, N) squared Euclidean distances.
        k: clusters, at least 1. With ``k`` or fewer distinct points each is its own cluster,
            inertia 0.
        seed: below 2**64; equal inputs and seeds give equal clusters.
        n_init: starts, at least 1.

    Returns:
        ``(labels, inertia)``: labels (N,) numbered by the clusters' first members, and the sum of
        squared distances to the centres.
    """
    n_points = squared_NN.shape[0]
    labels = np.zeros(n_points, dtype=np.int64)
    n_distinct = _label_distinct(squared_NN, labels)
    if n_distinct <= k:
        return labels, 0.0

    state = seed_state(seed)
    best_labels, best_inertia = labels.copy(), np.inf
    sums_KN, within_K, sizes_K = np.empty((k, n_points)), np.empty(k), np.empty(k, dtype=np.int64)
    nearest, trial, chosen_trial = np.empty(n_points), np.empty(n_points), np.empty(n_points)

    for _ in range(n_init):
        _start(squared_NN, k, state, labels, nearest, trial, chosen_trial)
        inertia = _move_points(squared_NN, k, labels, sums_KN, within_K, sizes_K)
        # Beyond rounding: the first of equal results stays.
        if inertia < best_inertia * (1.0 - 1e-12):
            best_inertia = inertia
            best_labels[:] = labels

    _number_by_first_member(best_labels, k)
    return best_labels, best_inertia


@compiled
def choose_lowest_members(labels_N: np.ndarray, k: int) -> np.ndarray:
    """Return ``min(k, N)`` ascending rows: the first of each cluster, then the first left over.

    With rows in ascending order of reward this is AMPO-Coreset's choice (arXiv 2502.18293).
    """
    n_points = len(labels_N)
    is_chosen = np.zeros(n_points, dtype=np.bool_)
    is_seen = np.zeros(n_points + 1, dtype=np.bool_)
    n_chosen = 0

    for i in range(n_points):
        if not is_seen[labels_N[i]]:
            is_seen[labels_N[i]] = True
            is_chosen[i] = True
            n_chosen += 1

    for i in range(n_points):
        if n_chosen >= k:
            break
        if not is_chosen[i]:
            is_chosen[i] = True
            n_chosen += 1

    return np.flatnonzero(is_chosen)


@compiled
def _label_distinct(squared_NN: np.ndarray, labels: np.ndarray) -> int:
    """Give equal points equal labels, numbered by first member; return how many there are."""
    n_distinct = 0
    for i in range(len(labels)):
        labels[i] = -1
        for j in range(i):
            if squared_NN[i, j] == 0.0:
                labels[i] = labels[j]
                break
        if labels[i] < 0:
            labels[i] = n_distinct
            n_distinct += 1
    return n_distinct


@compiled
def _start(
    squared_NN: np.ndarray,
    k: int,
    state: np.ndarray,
    labels: np.ndarray,
    nearest: np.ndarray,
    trial: np.ndarray,
    chosen_trial: np.ndarray,
) -> None:
    """Label each point with the nearest of ``k`` points drawn by greedy k-means++.

    Each is the best of 2 + log k draws.
    """
    n_points = len(labels)
    n_trials = 2 + int(np.log(k))

    # The first centre is any point; the potential is the sum of squared distances to the nearest.
    centre = draw_below(state, n_points)
    potential = 0.0
    for i in range(n_points):
        labels[i] = 0
        nearest[i] = squared_NN[centre, i]
        potential += nearest[i]

    for cluster in range(1, k):
        best_potential, best_centre = np.inf, 0
        for _ in range(n_trials):
            # A point, with a probability that is its share of the potential.
            threshold, candidate, total = draw_share(state) * potential, 0, 0.0
            for i in range(n_points):
                total += nearest[i]
                # Never a centre; where rounding leaves the sum short, the last that is none.
                if nearest[i] > 0.0:
                    candidate = i
                    if total > threshold:
                        break

            # The potential with it as a centre.
            total = 0.0
            for i in range(n_points):
                value = squared_NN[candidate, i]
                trial[i] = min(nearest[i], value)
                total += trial[i]
            if total < best_potential:
                best_potential, best_centre = total, candidate
                chosen_trial[:] = trial

        for i in range(n_points):
            if squared_NN[best_centre, i] < nearest[i]:
                labels[i] = cluster
        nearest[:] = chosen_trial
        potential = best_potential


@compiled
def _move_points(
    squared_NN: np.ndarray,
    k: int,
    labels: np.ndarray,
    sums_KN: np.ndarray,
    within_K: np.ndarray,
    sizes_K: np.ndarray,
) -> float:
    """Move points between clusters while that lowers the inertia; return it.

    No cluster is emptied.
    """
    n_points = len(labels)
    inertia = _sum_up(squared_NN, k, labels, sums_KN, within_K, sizes_K)

    for _ in range(MAX_PASSES):
        n_moves = 0
        for i in range(n_points):
            source = labels[i]
            n_source = sizes_K[source]
            if n_source == 1:
                continue

            # Removing i lowers its cluster's inertia by n / (n - 1) d2, adding it raises another's
            # by n / (n + 1) d2.
            relief = (sums_KN[source, i] - within_K[source] / (2.0 * n_source)) / (n_source - 1.0)
            least, target = relief - 1e-12 * inertia, -1
            for c in range(k):
                if c != source:
                    price = (sums_KN[c, i] - within_K[c] / (2.0 * sizes_K[c])) / (sizes_K[c] + 1.0)
                    if price < least:
                        least, target = price, c
            if target < 0:
                continue

            within_K[source] -= 2.0 * sums_KN[source, i]
            within_K[target] += 2.0 * sums_KN[target, i]
            sizes_K[source] -= 1
            sizes_K[target] += 1
            labels[i] = target
            for j in range(n_points):
                sums_KN[source, j] -= squared_NN[i, j]
                sums_KN[target, j] += squared_NN[i, j]
            n_moves += 1

        if n_moves == 0:
            break

    # Summed afresh: the running sums gather rounding with every move.
    return _sum_up(squared_NN, k, labels, sums_KN, within_K, sizes_K)


@compiled
def _sum_up(
    squared_NN: np.ndarray,
    k: int,
    labels: np.ndarray,
    sums_KN: np.ndarray,
    within_K: np.ndarray,
    sizes_K: np.ndarray,
) -> float:
    """Fill the sums of the module's formulas from the labels; return the inertia."""
    sums_KN[:] = 0.0
    within_K[:] = 0.0
    sizes_K[:] = 0

    for j in range(len(labels)):
        c = labels[j]
        sizes_K[c] += 1
        for i in range(len(labels)):
            sums_KN[c, i] += squared_NN[j, i]

    inertia = 0.0
    for i in range(len(labels)):
        within_K[labels[i]] += sums_KN[labels[i], i]
    for c in range(k):
        inertia += within_K[c] / (2.0 * sizes_K[c])
    return inertia


@compiled
def _number_by_first_member(labels: np.ndarray, k: int) -> None:
    """Renumber the clusters 0, 1, ... in the order of their first rows."""
    numbers, n_seen = np.full(k, -1, dtype=np.int64), 0
    for i in range(len(labels)):
        if numbers[labels[i]] < 0:
            numbers[labels[i]] = n_seen
            n_seen += 1
        labels[i] = numbers[labels[i]]
