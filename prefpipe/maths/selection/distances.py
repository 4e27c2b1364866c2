"""Euclidean distances between the candidates of each prompt."""

import numpy as np

from prefpipe.maths.compute.compiled import compiled_sum


def pairwise_distances(embeddings_PRD: np.ndarray) -> np.ndarray:
    """Return ``||e_i - e_j||`` (P, R, R), float64, for embeddings (P, R, D) of any float type.

    Summed over differences, not over a product of norms, so that equal vectors are at distance 0
    exactly and vectors far from the origin lose nothing. Own code, as SciPy's ``cdist`` takes one
    prompt a call, copies float32 to float64 first, and adds in another order.
    """
    n_prompts, n_candidates, _ = embeddings_PRD.shape
    if embeddings_PRD.dtype == np.float16:
        embeddings_PRD = embeddings_PRD.astype(np.float32)
    elif embeddings_PRD.dtype not in (np.float32, np.float64):
        embeddings_PRD = embeddings_PRD.astype(np.float64)

    # Read-only, as Arrow's arrays are: one kind of array is compiled once.
    whole_PRD = np.ascontiguousarray(embeddings_PRD).view()
    whole_PRD.flags.writeable = False

    distances_PRR = np.empty((n_prompts, n_candidates, n_candidates))
    _fill(whole_PRD, distances_PRR)
    return distances_PRR


@compiled_sum
def _fill(embeddings_PRD: np.ndarray, distances_PRR: np.ndarray) -> None:
    n_prompts, n_candidates, n_dimensions = embeddings_PRD.shape
    rows_RD = np.empty((n_candidates, n_dimensions))
    for p in range(n_prompts):
        # To float64 once a prompt, and not once a pair.
        for i in range(n_candidates):
            for d in range(n_dimensions):
                rows_RD[i, d] = embeddings_PRD[p, i, d]

        for i in range(n_candidates):
            distances_PRR[p, i, i] = 0.0
            for j in range(i + 1, n_candidates):
                squared = 0.0
                for d in range(n_dimensions):
                    difference = rows_RD[i, d] - rows_RD[j, d]
                    squared += difference * difference
                distances_PRR[p, i, j] = distances_PRR[p, j, i] = np.sqrt(squared)
