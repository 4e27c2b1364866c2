"""How far apart the embeddings of a set of texts lie."""

from math import nan

import numpy as np


def mean_pairwise_distance(vectors_ND: np.ndarray) -> float:
    """Return the mean cosine distance of two of N embeddings (N, D), in [0, N / (N - 1)].

    ::

        mean over i < j of (1 - u_i . u_j) = N / (N - 1) (1 - |mean_i u_i|^2),  u = v / |v|

    0 where all point the same way, NaN for fewer than two. Rows of zeros, which stand for no
    embedding, are left out.
    """
    vectors_ND = np.asarray(vectors_ND, dtype=np.float64)
    lengths_N = np.linalg.norm(vectors_ND, axis=1)
    units_ND = vectors_ND[lengths_N > 0] / lengths_N[lengths_N > 0, None]
    n = len(units_ND)
    if n < 2:
        return nan

    # Rounding can put equal embeddings just below 0.
    distance = n / (n - 1) * (1.0 - (units_ND.mean(axis=0) ** 2).sum())
    return max(0.0, float(distance))
