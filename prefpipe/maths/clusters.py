"""k-means clusters of a prompt's candidates, and the lowest-reward member of each."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning


class Coreset(NamedTuple):
    """``chosen`` (k,) ascending rows; ``labels`` (N,) cluster of each row, numbered by its first member."""

    chosen: np.ndarray
    labels: np.ndarray


def choose_coreset(rewards_N: np.ndarray, embeddings_ND: np.ndarray, k: int, *, seed: int) -> Coreset:
    """Choose from each of ``k`` k-means clusters its lowest-reward member (AMPO-Coreset, arXiv 2502.18293).

    ``rewards_N`` (N,), ``embeddings_ND`` (N, D). Ties go to the lower row. Where fewer than ``k`` clusters
    have a member, the lowest-reward rows not yet chosen make up the number; ``k >= N`` chooses every row.
    """
    labels_N = cluster_k_means(embeddings_ND, k, seed=seed)
    ascending_N = np.argsort(rewards_N, kind="stable")
    _, first_places = np.unique(labels_N[ascending_N], return_index=True)
    is_chosen = np.zeros(len(rewards_N), dtype=bool)
    is_chosen[ascending_N[first_places]] = True
    n_missing = min(k, len(rewards_N)) - len(first_places)
    unused = ascending_N[~is_chosen[ascending_N]]
    is_chosen[unused[:n_missing]] = True
    return Coreset(np.flatnonzero(is_chosen), labels_N)


def cluster_k_means(embeddings_ND: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """Return (N,) labels of at most ``k`` clusters: scikit-learn's KMeans, best of 10 k-means++ starts.

    With ``k`` or fewer distinct rows each distinct row is its own cluster, which is the optimum (inertia 0).
    """
    distinct, labels_N = np.unique(embeddings_ND, axis=0, return_inverse=True)
    if len(distinct) > k:
        # A 32-bit state from any non-negative seed: the stages' seeds are 64-bit hashes.
        state = int(np.random.SeedSequence(seed).generate_state(1)[0])
        with warnings.catch_warnings():
            # Rows apart by less than rounding make fewer clusters than k; the caller fills up.
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels_N = KMeans(k, n_init=10, random_state=state).fit_predict(embeddings_ND)
    return _number_by_first_member(np.asarray(labels_N).ravel())


def _number_by_first_member(labels_N: np.ndarray) -> np.ndarray:
    """Return the same partition with clusters numbered 0, 1, ... in the order of their first rows."""
    _, first_rows, dense_N = np.unique(labels_N, return_index=True, return_inverse=True)
    ranks = np.empty(len(first_rows), dtype=np.int64)
    ranks[np.argsort(first_rows)] = np.arange(len(first_rows))
    return ranks[dense_N]
