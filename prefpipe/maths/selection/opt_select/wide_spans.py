"""Opt-Select's optimum for rewards of any span: `k_medoids` with weights beyond the float range.

The cost of a subset is ``sum_i exp(-r_i / T) min_{j in S} A_ij``. A float64 holds weights down to
``e^-745`` and a sum shows differences of ``1e-16``; rewards in characters or summed
log-probabilities span thousands of T. Two things keep the choice that of exact arithmetic:

- *The unit moves.* What the heaviest responses cost is 0 as soon as they are chosen, and then
  lighter ones decide. Where the cost leaves the float range, weights are taken relative to the
  heaviest client that is not chosen, from differences of rewards, so that the deciding terms keep
  their digits.
- *Lighter clients break ties.* If heavy clients cost the same in several subsets (equal rewards
  whose twins can represent each other), clients too light to show in the sum decide. `compare`
  compares two subsets from the heaviest client to the lightest, and a search lists every subset
  within rounding of the optimum.
"""

import numpy as np

from prefpipe.maths.compute.compiled import compiled
from prefpipe.maths.selection.opt_select.coverage import cost_matrix
from prefpipe.maths.selection.opt_select.k_medoids import (
    ROOT_STEPS,
    certify,
    choose_greedily,
    coverage_cost,
    improve_by_swaps,
    in_units_of,
    shut_copies,
    start_multipliers,
)
from prefpipe.maths.selection.opt_select.lagrangian_bound import EQUAL, climb, new_workspace

TINY = 1e-250
"""A cost below this, in units of the largest weight, is near the limit of floats: another unit is
used."""

LIGHT = 1e-5
"""A client whose whole influence on the cost is smaller than this, relative, may decide between
subsets that tie."""

NOISE = 1e-12
"""Sums of distances that differ by less than this, relative, count as equal."""

LARGEST_EXPONENT = 200.0
"""Entries beyond e^200 units belong to no good subset; capped here, their sums stay finite."""

LARGEST = float(np.finfo(np.float64).max)


@compiled
def solve_weighted(
    distances_RR: np.ndarray,
    weights_R: np.ndarray,
    rewards_R: np.ndarray,
    temperature: float,
    clients_C: np.ndarray,
    facilities_J: np.ndarray,
    k: int,
    limit: int,
) -> tuple[np.ndarray, float, bool]:
    """Return the best ``k`` columns of one prompt, with a bound.

    Args:
        distances_RR: between all candidates of the prompt.
        weights_R: ``exp((lowest - r) / T)``, the lowest reward of the clients; 0 where that
            underflows.
        rewards_R: of all candidates.
        temperature: T.
        clients_C: indices of the candidates that the sum covers.
        facilities_J: indices of the candidates that can be chosen, by ascending reward.
        k: how many to choose, from 1 to J.
        limit: work that may be done after local search, for the proof and once more for ties.

    Returns:
        ``(columns (k,), lower bound as a share of their cost, whether they are the optimum)``.
    """
    cost_CJ = cost_matrix(distances_RR, weights_R, clients_C, facilities_J)
    chosen = choose_greedily(cost_CJ, k)
    cost = improve_by_swaps(cost_CJ, chosen)

    if cost < TINY:
        distance_CJ = _distances(distances_RR, clients_C, facilities_J)
        rewards_C = rewards_R[clients_C]

        # The local search ignored terms that underflowed: the heaviest k distinct responses may be
        # much better.
        order_C = np.argsort(rewards_C, kind="mergesort")
        heaviest = _heaviest_distinct(distances_RR, facilities_J, k)
        if compare(distance_CJ, rewards_C, order_C, temperature, heaviest, chosen) < 0:
            chosen = heaviest

        # Each unit is the heaviest term of the current choice, until the cost is representable.
        while cost < TINY:
            reference = heaviest_term(distance_CJ, rewards_C, temperature, chosen)
            if reference < 0:
                # Everyone is chosen, or equal to a chosen one: no subset is better.
                return chosen, 1.0, True
            cost_CJ = _costs_relative_to(distance_CJ, rewards_C, temperature, chosen, reference)
            cost = improve_by_swaps(cost_CJ, chosen)

    if k == len(facilities_J):
        return chosen, 1.0, True

    if _has_light_client(cost_CJ, cost):
        # In nearly all prompts the local optimum is the optimum, and the search for ties also
        # proves it.
        distance_CJ = _distances(distances_RR, clients_C, facilities_J)
        rewards_C = rewards_R[clients_C]
        unit_CJ = in_units_of(cost_CJ, cost)
        best, is_settled = settle_ties(unit_CJ, distance_CJ, rewards_C, temperature, chosen, limit)
        if is_settled:
            return best, 1.0, True

    chosen, cost, bound, is_optimal = certify(cost_CJ, chosen, cost, limit)
    if is_optimal and _has_light_client(cost_CJ, cost):
        distance_CJ = _distances(distances_RR, clients_C, facilities_J)
        rewards_C = rewards_R[clients_C]
        unit_CJ = in_units_of(cost_CJ, cost)
        chosen, _ = settle_ties(unit_CJ, distance_CJ, rewards_C, temperature, chosen, limit)

    return chosen, bound / cost, is_optimal


@compiled
def _distances(
    distances_RR: np.ndarray, clients_C: np.ndarray, facilities_J: np.ndarray
) -> np.ndarray:
    """Return the distances (C, J) of the clients to the facilities."""
    distance_CJ = np.empty((len(clients_C), len(facilities_J)))
    for row in range(len(clients_C)):
        for column in range(len(facilities_J)):
            distance_CJ[row, column] = distances_RR[clients_C[row], facilities_J[column]]
    return distance_CJ


@compiled
def _heaviest_distinct(distances_RR: np.ndarray, facilities_J: np.ndarray, k: int) -> np.ndarray:
    """Return the first ``k`` columns of which no two are at distance 0, ascending.

    If there are fewer, the first of the others fill up.
    """
    n_facilities = len(facilities_J)
    is_chosen = np.zeros(n_facilities, dtype=np.bool_)
    n_chosen = 0

    for column in range(n_facilities):
        if n_chosen == k:
            break
        is_copy = False
        for earlier in range(column):
            distance = distances_RR[facilities_J[column], facilities_J[earlier]]
            if is_chosen[earlier] and distance == 0.0:
                is_copy = True
                break
        if not is_copy:
            is_chosen[column] = True
            n_chosen += 1

    for column in range(n_facilities):
        if n_chosen < k and not is_chosen[column]:
            is_chosen[column] = True
            n_chosen += 1

    return np.flatnonzero(is_chosen)


@compiled
def _nearest(distance_J: np.ndarray, chosen_K: np.ndarray) -> float:
    """Return the distance of one client to the nearest chosen column."""
    nearest = np.inf
    for j in chosen_K:
        nearest = min(nearest, distance_J[j])
    return nearest


@compiled
def heaviest_term(
    distance_CJ: np.ndarray, rewards_C: np.ndarray, temperature: float, chosen_K: np.ndarray
) -> int:
    """Return the client whose ``w_i d_i`` is the largest of the sum; -1 where every term is 0.

    Terms are compared as logarithms, because weights may underflow.
    """
    best, best_distance = -1, 0.0
    for i in range(len(rewards_C)):
        distance = _nearest(distance_CJ[i], chosen_K)
        if distance <= 0.0:
            continue

        if best >= 0:
            advantage = (rewards_C[best] - rewards_C[i]) / temperature
            if not advantage + np.log(distance) - np.log(best_distance) > 0.0:
                continue

        best, best_distance = i, distance

    return best


@compiled
def _costs_relative_to(
    distance_CJ: np.ndarray,
    rewards_C: np.ndarray,
    temperature: float,
    chosen_K: np.ndarray,
    reference: int,
) -> np.ndarray:
    """Return the costs (C, J) in units of what ``chosen_K`` costs the reference client."""
    cost_CJ = np.zeros_like(distance_CJ)
    log_unit = np.log(_nearest(distance_CJ[reference], chosen_K))

    for i in range(len(rewards_C)):
        log_weight = (rewards_C[reference] - rewards_C[i]) / temperature
        for j in range(distance_CJ.shape[1]):
            if distance_CJ[i, j] > 0.0:
                exponent = log_weight + np.log(distance_CJ[i, j]) - log_unit
                cost_CJ[i, j] = np.exp(min(LARGEST_EXPONENT, exponent))

    return cost_CJ


@compiled
def _has_light_client(cost_CJ: np.ndarray, cost: float) -> bool:
    """Return whether some client is too light to show in the cost."""
    lightest = np.inf
    for i in range(cost_CJ.shape[0]):
        lightest = min(lightest, cost_CJ[i].max())
    return bool(lightest < LIGHT * cost)


@compiled
def compare(
    distance_CJ: np.ndarray,
    rewards_C: np.ndarray,
    order_C: np.ndarray,
    temperature: float,
    one_K: np.ndarray,
    other_K: np.ndarray,
) -> int:
    """Return -1 where subset ``one_K`` costs less than ``other_K``, 1 where more, 0 where they tie.

    ``order_C`` sorts the clients by ascending reward. The difference of the costs is summed from
    the heaviest client to the lightest, always in units of the present one's weight: what is
    exactly 0 stays 0, and what is not grows with every step, until nothing lighter can turn it.
    """
    n_clients = len(rewards_C)
    farthest = distance_CJ.max()
    difference, previous, place = 0.0, rewards_C[order_C[0]], 0

    while place < n_clients:
        reward = rewards_C[order_C[place]]
        if difference != 0.0:
            difference *= np.exp((reward - previous) / temperature)
            if abs(difference) > 1e20 * n_clients * farthest:
                break

        # Clients of one reward are summed first, for twins cancel exactly.
        ones, others = 0.0, 0.0
        while place < n_clients and rewards_C[order_C[place]] == reward:
            i = order_C[place]
            ones += _nearest(distance_CJ[i], one_K)
            others += _nearest(distance_CJ[i], other_K)
            place += 1
        if abs(ones - others) > NOISE * (ones + others):
            difference += ones - others
        previous = reward

    if difference == 0.0:
        return 0
    return -1 if difference < 0.0 else 1


@compiled
def settle_ties(
    unit_CJ: np.ndarray,
    distance_CJ: np.ndarray,
    rewards_C: np.ndarray,
    temperature: float,
    chosen_K: np.ndarray,
    limit: int,
) -> tuple[np.ndarray, bool]:
    """Return the best subset by `compare` of all that cost what ``chosen_K`` costs, 1.

    Depth first, as in `k_medoids.branch_and_bound`, but a node is left only where its bound is
    above the optimum, so that every subset within `EQUAL` of it is looked at. In nearly all prompts
    that is one.

    Returns:
        ``(subset (K,), whether all were looked at)``. False also where a subset costs less than 1:
        then ``chosen_K`` is not the optimum, and the search for that comes first.
    """
    n_clients, n_facilities = unit_CJ.shape
    k = len(chosen_K)
    if k == 1 or k >= n_facilities - 1:
        return _best_single_swap(distance_CJ, rewards_C, temperature, chosen_K), True

    best = chosen_K.copy()
    upper = 1.0 + 3.0 * EQUAL

    # The stack of open nodes, N: what each has fixed, and its multipliers.
    depth = n_facilities + 2
    fixed_NJ = np.zeros((depth, n_facilities), dtype=np.int8)
    u_NC = np.empty((depth, n_clients))
    shut_copies(distance_CJ, k, fixed_NJ[0])
    start_multipliers(unit_CJ, chosen_K, u_NC[0])
    room = new_workspace(unit_CJ)

    n_open_nodes, work = 1, 0
    while n_open_nodes > 0 and work <= limit:
        n_open_nodes -= 1
        fixed_J, u_C = fixed_NJ[n_open_nodes].copy(), u_NC[n_open_nodes].copy()
        bound, split, steps = climb(unit_CJ, k, upper, fixed_J, u_C, room, ROOT_STEPS)
        work += (steps + 1) * n_clients * n_facilities
        if bound >= upper * (1.0 - EQUAL):
            continue

        subset = np.flatnonzero(room.best_taken)
        if len(subset) == k:
            cost = coverage_cost(unit_CJ, subset)
            if cost < 1.0 - EQUAL:
                return best, False
            if cost <= 1.0 + EQUAL and (subset != best).any():
                order_C = np.argsort(rewards_C, kind="mergesort")
                if compare(distance_CJ, rewards_C, order_C, temperature, subset, best) < 0:
                    best = subset
        if split < 0:
            continue

        for child, mark in ((n_open_nodes, -1), (n_open_nodes + 1, 1)):
            fixed_NJ[child] = fixed_J
            fixed_NJ[child, split] = mark
            u_NC[child] = u_C
        n_open_nodes += 2

    return best, n_open_nodes == 0


@compiled
def _best_single_swap(
    distance_CJ: np.ndarray, rewards_C: np.ndarray, temperature: float, chosen_K: np.ndarray
) -> np.ndarray:
    """Return the best subset by `compare` of those that one swap reaches."""
    order_C = np.argsort(rewards_C, kind="mergesort")
    best = chosen_K
    for place in range(len(chosen_K)):
        for j in range(distance_CJ.shape[1]):
            if (chosen_K == j).any():
                continue

            subset = chosen_K.copy()
            subset[place] = j
            subset.sort()
            if compare(distance_CJ, rewards_C, order_C, temperature, subset, best) < 0:
                best = subset

    return best


@compiled
def costs_in_unit_of(
    distances_RR: np.ndarray,
    rewards_R: np.ndarray,
    temperature: float,
    clients_C: np.ndarray,
    facilities_J: np.ndarray,
    unit_reward: float,
) -> np.ndarray:
    """Return ``exp((unit_reward - r_i) / T) A_ij`` (C, J), at most the largest float."""
    cost_CJ = np.zeros((len(clients_C), len(facilities_J)))
    for row in range(len(clients_C)):
        i = clients_C[row]
        weight = np.exp((unit_reward - rewards_R[i]) / temperature)
        for column in range(len(facilities_J)):
            distance = distances_RR[i, facilities_J[column]]
            if distance > 0.0:
                cost_CJ[row, column] = min(LARGEST, weight * distance)

    return cost_CJ


@compiled
def unit_reward_of(
    distances_RR: np.ndarray,
    rewards_R: np.ndarray,
    temperature: float,
    clients_C: np.ndarray,
    facilities_J: np.ndarray,
    columns_K: np.ndarray,
) -> float:
    """Return the reward whose weight is the unit for a cost that leaves the float range.

    NaN where the cost is 0.
    """
    distance_CJ = _distances(distances_RR, clients_C, facilities_J)
    reference = heaviest_term(distance_CJ, rewards_R[clients_C], temperature, columns_K)
    return np.nan if reference < 0 else rewards_R[clients_C[reference]]
