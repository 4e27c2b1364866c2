"""The cost matrix of a prompt, and the coverage of a choice of its columns.

Which clients each chosen column represents, its gain, and the cost of a random choice.
"""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.compute.compiled import compiled


class Ranking(NamedTuple):
    """Room to sort J numbers by how many are smaller than each.

    ``n_placed`` (J,): how many equals of each rank have their place.
    """

    ascending: np.ndarray
    n_smaller: np.ndarray
    n_placed: np.ndarray


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

    A chosen one represents itself.
    """
    for i in clients_C:
        nearest = chosen_K[0]
        for j in chosen_K:
            if distances_RR[i, j] < distances_RR[i, nearest]:
                nearest = j
        represents_R[i] = nearest

    # After the others: a copy at distance 0 may precede it.
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

    room = Ranking(
        np.empty(n_facilities),
        np.empty(n_facilities, dtype=np.int64),
        np.empty(n_facilities, dtype=np.int64),
    )
    total = 0.0
    for i in range(n_clients):
        _sort_few(cost_CJ[i], room)
        for t in range(n_facilities - k + 1):
            total += shares_J[t] * room.ascending[t]
    return total


@compiled
def _sort_few(values_J: np.ndarray, room: Ranking) -> None:
    """Sort a few dozen numbers into ``room.ascending``.

    By counting how many are smaller, which has no branch that depends on the numbers: many lanes of
    a register count at once, where a sort of so few waits for every comparison.
    """
    room.n_smaller[:] = 0
    for other in values_J:
        for j in range(len(values_J)):
            room.n_smaller[j] += other < values_J[j]

    # Equal numbers take the places behind each other.
    room.n_placed[:] = 0
    for j in range(len(values_J)):
        first = room.n_smaller[j]
        room.ascending[first + room.n_placed[first]] = values_J[j]
        room.n_placed[first] += 1
