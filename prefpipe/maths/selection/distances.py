"""Euclidean distances between the candidates of each prompt."""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.compute.compiled import compiled_sum

ROWS_AT_ONCE = 8
"""Vectors whose distances are computed at once: 24 KiB at 384 dimensions."""


class Geometry(NamedTuple):
    """Distances and norms of embeddings (P, R, D), float64.

    Attributes:
        distances: (P, R, R) ``||e_i - e_j||``.
        squared_norms: (P, R) ``||e_i||^2``. It is not finite if a coordinate is not.
    """

    distances: np.ndarray
    squared_norms: np.ndarray


def pairwise_distances(embeddings_PRD: np.ndarray) -> np.ndarray:
    """Return ``||e_i - e_j||`` (P, R, R), float64, for embeddings (P, R, D) of any float type."""
    everyone_PR = np.ones(embeddings_PRD.shape[:2], dtype=bool)
    return measure_embeddings(embeddings_PRD, everyone_PR).distances


def measure_embeddings(embeddings_PRD: np.ndarray, mask_PR: np.ndarray) -> Geometry:
    """Return the distances and norms of embeddings (P, R, D) of any float type.

    Entries where the mask (P, R) is False count as zeros.

    Summed over differences, not over a product of norms, so that equal vectors are at distance 0
    exactly and vectors far from the origin lose nothing. Own code, because SciPy's ``cdist`` takes
    one prompt a call, first copies float32 to float64, and adds in a different order.
    """
    n_prompts, n_candidates, _ = embeddings_PRD.shape
    if embeddings_PRD.dtype == np.float16:
        embeddings_PRD = embeddings_PRD.astype(np.float32)
    elif embeddings_PRD.dtype not in (np.float32, np.float64):
        # A longer float that does not fit becomes infinity, which shows in its norm.
        with np.errstate(over="ignore"):
            embeddings_PRD = embeddings_PRD.astype(np.float64)

    geometry = Geometry(
        distances=np.empty((n_prompts, n_candidates, n_candidates)),
        squared_norms=np.empty((n_prompts, n_candidates)),
    )
    _fill(_read_only(embeddings_PRD), _read_only(mask_PR), geometry)
    return geometry


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return an array as Arrow's are, so that one kind of array is compiled once."""
    whole = np.ascontiguousarray(array).view()
    whole.flags.writeable = False
    return whole


@compiled_sum
def _fill(embeddings_PRD: np.ndarray, mask_PR: np.ndarray, geometry: Geometry) -> None:
    n_prompts, n_candidates, n_dimensions = embeddings_PRD.shape
    rows_RD = np.empty((n_candidates, n_dimensions))
    for p in range(n_prompts):
        # Converted to float64 once a prompt, not once a pair.
        for i in range(n_candidates):
            if not mask_PR[p, i]:
                rows_RD[i] = 0.0
                geometry.squared_norms[p, i] = 0.0
                continue

            squared = 0.0
            for d in range(n_dimensions):
                value = np.float64(embeddings_PRD[p, i, d])
                rows_RD[i, d] = value
                squared += value * value
            geometry.squared_norms[p, i] = squared

        # A few rows at a time beside all others, so that they stay in the nearest cache.
        for first in range(0, n_candidates, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, n_candidates)
            for i in range(last):
                for j in range(max(i + 1, first), last):
                    squared = 0.0
                    for d in range(n_dimensions):
                        difference = rows_RD[i, d] - rows_RD[j, d]
                        squared += difference * difference
                    distance = np.sqrt(squared)
                    geometry.distances[p, i, j] = geometry.distances[p, j, i] = distance
        for i in range(n_candidates):
            geometry.distances[p, i, i] = 0.0
