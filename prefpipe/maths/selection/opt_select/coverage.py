"""The cost matrix of a prompt, and what a choice of its columns covers.

Whom each chosen column stands for, what each is worth, and what a random choice would cost.
"""

import numpy as np

from prefpipe.maths.compute.compiled import compiled


@compiled
def cost_matrix(
    distances_RR: np.ndarray, weights_R: np.ndarray, clients_C: np.ndarray, facilities_J: np.ndarray
) -> np.ndarray:
    """Return ``w_i A_ij`` (C, J) for the clients and facilities of one prompt, given as indices."""
    cost_CJ = np.empty((len(clients_C), len(facilities_J)))
    for row in range(len(clients_C)):
        i = clients_C[row]
        for column in range(len(facilities_J)):
            cost_CJ[row, column] = weights_R[i] * distances_RR[i, facilities_J[column]]
    return cost_CJ


@compiled
def nearest_chosen(
    distances_RR: np.ndarray, clients_C: np.ndarray, chosen_K: np.ndarray, represents_R: np.ndarray
) -> None:
    """Write for each client the chosen index nearest to it, the earlier of equals.

    A chosen one stands for itself.
    """
    for i in clients_C:
        nearest = chosen_K[0]
        for j in chosen_K:
            if distances_RR[i, j] < distances_RR[i, nearest]:
                nearest = j
        represents_R[i] = nearest

    # After the others: a copy at distance 0 may stand before it.
    for j in chosen_K:
        represents_R[j] = j


@compiled
def marginal_gains(cost_CJ: np.ndarray, columns_K: np.ndarray, gains_K: np.ndarray) -> None:
    """Write by how much the cost would rise without each chosen column; NaN of the only one."""
    gains_K[:] = 0.0
    if len(columns_K) == 1:
        gains_K[:] = np.nan
        return

    for i in range(cost_CJ.shape[0]):
        first, second, place = np.inf, np.inf, 0
        for m in range(len(columns_K)):
            value = cost_CJ[i, columns_K[m]]
            if value < first:
                first, second, place = value, first, m
            elif value < second:
                second = value
        gains_K[place] += second - first


@compiled
def expected_random_cost(cost_CJ: np.ndarray, k: int) -> float:
    """Return the mean cost over all subsets of ``k`` columns, exactly.

    The cheapest of k columns drawn from J is a client's t-th cheapest, t from 1, with probability
    ``C(J - t, k - 1) / C(J, k)``.
    """
    n_clients, n_facilities = cost_CJ.shape
    shares_J = np.zeros(n_facilities)
    shares_J[0] = k / n_facilities
    for t in range(1, n_facilities - k + 1):
        shares_J[t] = shares_J[t - 1] * (n_facilities - k - t + 1) / (n_facilities - t)

    total = 0.0
    for i in range(n_clients):
        ascending_J = np.sort(cost_CJ[i])
        for t in range(n_facilities - k + 1):
            total += shares_J[t] * ascending_J[t]
    return total
