"""The k-medoids optimum of a cost matrix, with a certificate.

The problem, over the subsets ``S`` of ``k`` columns of ``cost_CJ`` (C clients, J facilities,
entries >= 0)::

    minimise   sum_i  min_{j in S} cost_ij

Greedy start and best-swap local search give a subset and an upper bound. Lagrangian relaxation
gives a lower bound and rules single columns in or out; where that leaves a gap, branch and bound
closes it with the same relaxation in every node.

Own code, because libraries offer either a local search without a proof (``kmedoids``) or a much
slower integer program (HiGHS in SciPy): docs/benchmarks.md compares the three. All of it is
compiled and limited by work instead of seconds, so that the answer is the same on every machine.
"""

import numpy as np

from prefpipe.maths.compute.compiled import compiled
from prefpipe.maths.selection.opt_select.lagrangian_bound import EQUAL, climb, new_workspace

WORK_PER_SECOND = 1_000_000_000
"""Matrix entries visited per nominal second: about one second of one core of 2023."""

ROOT_STEPS, NODE_STEPS = 300, 40
"""Subgradient steps: many at the root, which starts far from the optimum, and few in a node, which
starts at its parent's multipliers."""


def work_limit(time_limit_s: float) -> int:
    """Return seconds as work, within 64 bits."""
    return int(min(time_limit_s * WORK_PER_SECOND, 2.0**62))


@compiled
def certify(
    cost_CJ: np.ndarray, chosen: np.ndarray, cost: float, limit: int
) -> tuple[np.ndarray, float, float, bool]:
    """Prove that a local optimum is the optimum, or find a better one.

    Returns what `solve` returns. ``chosen`` (k,) is the local optimum and ``cost`` its cost.
    """
    n_clients, n_facilities = cost_CJ.shape
    k = len(chosen)

    # The cost of opening every column: no subset is cheaper.
    least = 0.0
    for i in range(n_clients):
        least += cost_CJ[i].min()

    # With one column open, or one closed, a single swap reaches every subset: a local optimum is
    # the optimum.
    if cost <= least * (1.0 + EQUAL) or k == 1 or k >= n_facilities - 1:
        return chosen, cost, cost, True

    unit_CJ = in_units_of(cost_CJ, cost)
    best, unit_bound, _ = branch_and_bound(unit_CJ, chosen, limit)

    # Only a gain above rounding replaces the local optimum.
    unit_cost = coverage_cost(unit_CJ, best)
    if unit_cost < 1.0 - EQUAL:
        chosen, cost = best, coverage_cost(cost_CJ, best)
    else:
        unit_cost = 1.0

    if unit_bound >= unit_cost * (1.0 - EQUAL):
        return chosen, cost, cost, True
    return chosen, cost, cost * (unit_bound / unit_cost), False


@compiled
def in_units_of(cost_CJ: np.ndarray, cost: float) -> np.ndarray:
    """Return the costs (C, J) in units of an upper bound, at most 2.

    No better subset uses an entry above 1, so its size does not matter and 2 will do: weights that
    span hundreds of powers of e then cannot spoil the arithmetic of the bounds.
    """
    unit_CJ = np.empty_like(cost_CJ)
    for i in range(cost_CJ.shape[0]):
        for j in range(cost_CJ.shape[1]):
            share = cost_CJ[i, j] / cost
            unit_CJ[i, j] = min(2.0, share)
    return unit_CJ


@compiled
def coverage_cost(cost_CJ: np.ndarray, chosen_K: np.ndarray) -> float:
    """Return ``sum_i min_{j in chosen} cost_ij`` for (C, J) and columns (K,), K >= 1."""
    total = 0.0
    for i in range(cost_CJ.shape[0]):
        nearest = cost_CJ[i, chosen_K[0]]
        for place in range(1, len(chosen_K)):
            value = cost_CJ[i, chosen_K[place]]
            nearest = min(nearest, value)
        total += nearest
    return total


@compiled
def choose_greedily(cost_CJ: np.ndarray, k: int) -> np.ndarray:
    """Return ``k`` ascending columns, each the one that lowers the cost most at its turn.

    Ties go to the lower column.
    """
    n_clients, n_facilities = cost_CJ.shape
    nearest_C = np.full(n_clients, np.inf)
    is_open = np.zeros(n_facilities, dtype=np.bool_)
    totals_J = np.empty(n_facilities)

    for _ in range(k):
        # What the cost would be with each column opened as well.
        totals_J[:] = 0.0
        for i in range(n_clients):
            nearest = nearest_C[i]
            for j in range(n_facilities):
                value = cost_CJ[i, j]
                totals_J[j] += min(nearest, value)

        best = -1
        for j in range(n_facilities):
            if not is_open[j] and (best < 0 or totals_J[j] < totals_J[best]):
                best = j

        is_open[best] = True
        for i in range(n_clients):
            value = cost_CJ[i, best]
            nearest_C[i] = min(nearest_C[i], value)

    return np.flatnonzero(is_open)


@compiled
def improve_by_swaps(cost_CJ: np.ndarray, chosen_K: np.ndarray) -> float:
    """Swap one chosen column for another, the best swap first, until none helps; return the cost.

    ``chosen_K`` is changed in place and stays ascending. The result is within a factor 5 of the
    optimum on metric costs (Arya et al. 2004).

    Every swap is priced in one pass over the matrix (Schubert and Rousseeuw 2021, FastPAM). With d1
    and d2 the costs of the nearest and second-nearest chosen column, a swap of m for j costs::

        sum_i min(d1_i, c_ij) + sum_{i nearest to m} (min(d2_i, c_ij) - min(d1_i, c_ij))
    """
    n_clients, n_facilities = cost_CJ.shape
    k = len(chosen_K)
    is_open = np.zeros(n_facilities, dtype=np.bool_)
    is_open[chosen_K] = True
    opened_J, closing_KJ = np.empty(n_facilities), np.empty((k, n_facilities))

    while True:
        # Price every swap: the two sums above, for every column and every pair.
        opened_J[:] = 0.0
        closing_KJ[:] = 0.0
        cost = 0.0
        for i in range(n_clients):
            first, second, place = np.inf, np.inf, 0
            for m in range(k):
                value = cost_CJ[i, chosen_K[m]]
                if value < first:
                    first, second, place = value, first, m
                elif value < second:
                    second = value
            cost += first

            for j in range(n_facilities):
                value = cost_CJ[i, j]
                near = min(first, value)
                far = min(second, value)
                opened_J[j] += near
                closing_KJ[place, j] += far - near

        # The cheapest swap; of equal ones the first.
        best, out, into = np.inf, -1, -1
        for m in range(k):
            for j in range(n_facilities):
                if not is_open[j] and opened_J[j] + closing_KJ[m, j] < best:
                    best, out, into = opened_J[j] + closing_KJ[m, j], m, j

        # A gain within rounding is none: it could come back as a loss and the search would circle.
        if not best < cost * (1.0 - 1e-12):
            return cost

        is_open[chosen_K[out]] = False
        is_open[into] = True
        chosen_K[out] = into
        chosen_K.sort()


@compiled
def branch_and_bound(
    unit_CJ: np.ndarray, chosen_K: np.ndarray, limit: int
) -> tuple[np.ndarray, float, int]:
    """Search the subsets that may cost less than ``chosen_K``, which costs 1; ``2 <= K <= J - 2``.

    Depth first. A node fixes some columns open and some shut, climbs its parent's multipliers a
    little further (`lagrangian_bound.climb`), and splits on the open column whose closing raises
    the bound most.

    Returns:
        ``(best (K,), lower bound, work done)``.
    """
    n_clients, n_facilities = unit_CJ.shape
    k = len(chosen_K)
    best, upper = chosen_K.copy(), 1.0

    # The stack of open nodes, N: what each has fixed, its multipliers and its parent's bound.
    # Each level fixes one more column and leaves one more node: there are never more than these.
    depth = n_facilities + 2
    fixed_NJ = np.zeros((depth, n_facilities), dtype=np.int8)
    u_NC, bound_N = np.empty((depth, n_clients)), np.zeros(depth)
    shut_copies(unit_CJ, k, fixed_NJ[0])
    start_multipliers(unit_CJ, chosen_K, u_NC[0])
    room = new_workspace(unit_CJ)

    n_open_nodes, n_steps, work, least_left = 1, ROOT_STEPS, 0, np.inf
    while n_open_nodes > 0:
        node = n_open_nodes - 1
        fixed_J, u_C = fixed_NJ[node].copy(), u_NC[node].copy()
        bound, split, steps = climb(unit_CJ, k, upper, fixed_J, u_C, room, n_steps)
        bound = max(bound, bound_N[node])
        work += (steps + 1) * n_clients * n_facilities
        n_steps = NODE_STEPS
        n_open_nodes -= 1
        if bound >= upper * (1.0 - EQUAL):
            continue

        # What the relaxation would open is a subset too, and swaps make it a good one.
        subset = np.flatnonzero(room.best_taken)
        if coverage_cost(unit_CJ, subset) < 2.0 * upper:
            cost = improve_by_swaps(unit_CJ, subset)
            work += 4 * n_clients * n_facilities
            if cost < upper * (1.0 - EQUAL):
                best, upper = subset, cost

        # The better subset may have closed the node's gap.
        if bound >= upper * (1.0 - EQUAL) or split < 0:
            continue

        # Out of work: nothing in the nodes that are left costs less than the least of their bounds.
        if work > limit:
            least_left = min(least_left, bound)
            for other in range(n_open_nodes):
                least_left = min(least_left, bound_N[other])
            break

        # The shut child lies below the open one: the open one is looked at first.
        for child, mark in ((n_open_nodes, -1), (n_open_nodes + 1, 1)):
            fixed_NJ[child] = fixed_J
            fixed_NJ[child, split] = mark
            u_NC[child] = u_C
            bound_N[child] = bound
        n_open_nodes += 2

    return best, min(upper, least_left), work


@compiled
def shut_copies(unit_CJ: np.ndarray, k: int, fixed_J: np.ndarray) -> None:
    """Shut every column that equals an earlier one, as long as ``k`` stay.

    A copy can always be exchanged for its original.
    """
    n_clients, n_facilities = unit_CJ.shape
    n_left = n_facilities
    for j in range(n_facilities):
        for earlier in range(j):
            if n_left <= k:
                return
            if fixed_J[earlier] == -1 or unit_CJ[0, j] != unit_CJ[0, earlier]:
                continue

            is_same = True
            for i in range(n_clients):
                if unit_CJ[i, j] != unit_CJ[i, earlier]:
                    is_same = False
                    break

            if is_same:
                fixed_J[j] = -1
                n_left -= 1
                break


@compiled
def start_multipliers(unit_CJ: np.ndarray, chosen_K: np.ndarray, u_C: np.ndarray) -> None:
    """Set each client's multiplier to its second-nearest chosen cost.

    There the chosen columns have negative ``rho``.
    """
    for i in range(unit_CJ.shape[0]):
        first, second = np.inf, np.inf
        for j in chosen_K:
            value = unit_CJ[i, j]
            if value < first:
                first, second = value, first
            elif value < second:
                second = value
        u_C[i] = second
