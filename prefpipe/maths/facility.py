"""The k-medoids optimum of a cost matrix, with a certificate.

The problem, over the subsets ``S`` of ``k`` columns of ``cost_CJ`` (C clients, J facilities, entries >= 0)::

    minimise   sum_i  min_{j in S} cost_ij

Three steps, each used only where the one before leaves doubt: greedy start and best-swap local search give
a subset and an upper bound; a Lagrangian relaxation gives a lower bound and rules single columns in or out;
HiGHS solves the p-median program over what is left.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]

EQUAL = 1e-9
"""Costs closer than this, relative, are the same cost: far above rounding, far below any use."""

CERTIFIED = 1e-6
"""The relative gap below which HiGHS's own bound counts as a proof: its tolerances are of this order."""

_PROGRAM_SCALE = 1e3
"""HiGHS stops at an absolute gap of 1e-6; an upper bound scaled to 1e3 makes that 1e-9 relative."""

_N_FLAT_STEPS = 10
"""Subgradient steps without a better bound before the step is halved."""


class Medoids(NamedTuple):
    """``chosen`` (k,) ascending columns and their cost; ``lower_bound <= optimum <= cost``.

    ``is_optimal`` says that the optimum is proven: to 1e-9 relative by the swap neighbourhood or the
    relaxation (``lower_bound`` is then ``cost``), to 1e-6 relative by HiGHS.
    """

    chosen: np.ndarray
    cost: float
    lower_bound: float
    is_optimal: bool


class Relaxation(NamedTuple):
    """What is known of every subset that costs less than the best one at hand, which costs 1.

    Such a subset costs at least ``lower_bound``, has all ``required`` (J,) columns and none of the
    ``excluded`` (J,) ones. ``lower_bound = 1`` where the two masks leave no such subset.
    """

    lower_bound: float
    required: np.ndarray
    excluded: np.ndarray


def coverage_cost(cost_CJ: np.ndarray, chosen_K: np.ndarray) -> float:
    """Return ``sum_i min_{j in chosen} cost_ij``; ``cost_CJ`` (C, J), columns ``chosen_K`` (K,), K >= 1."""
    return float(cost_CJ[:, chosen_K].min(axis=1).sum())


def solve_k_medoids(cost_CJ: np.ndarray, k: int, *, time_limit_s: float = 10.0) -> Medoids:
    """Return the cheapest ``k`` columns of ``cost_CJ`` (C, J), ``1 <= k <= J``, with a certificate.

    Where the local-search subset costs the optimum (to 1e-9 relative) it is the one returned, so the answer
    among equals does not depend on the solver. ``time_limit_s`` bounds HiGHS alone; when it strikes, the
    best subset found and an honest lower bound come back with ``is_optimal`` false.
    """
    n_facilities = cost_CJ.shape[1]
    chosen = find_local_optimum(cost_CJ, k)
    cost = coverage_cost(cost_CJ, chosen)
    # With one column open, or one closed, a single swap reaches every subset: a local optimum is the optimum.
    if cost == 0.0 or k in {1, n_facilities - 1, n_facilities}:
        return Medoids(chosen, cost, cost, is_optimal=True)

    # In units of the upper bound. No better subset uses an entry above 1, so its size does not matter and 2
    # will do: weights that span hundreds of powers of e then cannot spoil the arithmetic of the bounds.
    with np.errstate(over="ignore"):
        unit_CJ = np.minimum(cost_CJ / cost, 2.0)
    relaxation = relax(unit_CJ, chosen)
    if relaxation.lower_bound >= 1.0 - EQUAL:
        return Medoids(chosen, cost, cost, is_optimal=True)

    program = solve_p_median(unit_CJ, k, relaxation, time_limit_s=time_limit_s)
    unit_cost = 1.0
    if program.chosen is not None and coverage_cost(cost_CJ, program.chosen) < cost * (1.0 - EQUAL):
        chosen, unit_cost = program.chosen, coverage_cost(unit_CJ, program.chosen)
        cost = coverage_cost(cost_CJ, chosen)
    if cost == 0.0:
        return Medoids(chosen, cost, cost, is_optimal=True)
    unit_bound = min(max(program.lower_bound, relaxation.lower_bound), unit_cost)
    is_optimal = program.is_solved and unit_bound >= unit_cost * (1.0 - CERTIFIED)
    return Medoids(chosen, cost, cost * (unit_bound / unit_cost), is_optimal)


def find_local_optimum(cost_CJ: np.ndarray, k: int) -> np.ndarray:
    """Return ``k`` ascending columns that no swap improves: greedy start, then best swaps until none helps.

    Within a factor 5 of the optimum on metric costs (Arya et al. 2004). Ties go to the lower column.
    """
    chosen = _choose_greedily(cost_CJ, k)
    cost = coverage_cost(cost_CJ, chosen)
    while k < cost_CJ.shape[1]:
        swapped_KJ = _swap_costs(cost_CJ, chosen)
        out, into = np.unravel_index(int(np.argmin(swapped_KJ)), swapped_KJ.shape)
        # A gain within rounding is none: it could come back as a loss and the search would circle.
        if not swapped_KJ[out, into] < cost * (1.0 - 1e-12):
            break
        chosen[out] = into
        chosen.sort()
        cost = coverage_cost(cost_CJ, chosen)
    return chosen


def _choose_greedily(cost_CJ: np.ndarray, k: int) -> np.ndarray:
    """Return ``k`` ascending columns, each the one that lowers the cost most at its turn."""
    nearest_C = np.full(cost_CJ.shape[0], np.inf)
    is_open = np.zeros(cost_CJ.shape[1], dtype=bool)
    for _ in range(k):
        totals_J = np.minimum(cost_CJ, nearest_C[:, None]).sum(axis=0)
        totals_J[is_open] = np.inf
        best = int(np.argmin(totals_J))
        is_open[best] = True
        nearest_C = np.minimum(nearest_C, cost_CJ[:, best])
    return np.flatnonzero(is_open)


def _swap_costs(cost_CJ: np.ndarray, chosen_K: np.ndarray) -> np.ndarray:
    """Return (K, J): the cost after closing ``chosen_K[row]`` and opening ``column``; inf where open."""
    open_CK = cost_CJ[:, chosen_K]
    swapped_KJ = np.empty((len(chosen_K), cost_CJ.shape[1]))
    for out in range(len(chosen_K)):
        without_C = np.delete(open_CK, out, axis=1).min(axis=1, initial=np.inf)
        swapped_KJ[out] = np.minimum(cost_CJ, without_C[:, None]).sum(axis=0)
    swapped_KJ[:, chosen_K] = np.inf
    return swapped_KJ


def relax(unit_CJ: np.ndarray, chosen_K: np.ndarray, *, n_steps: int = 400) -> Relaxation:
    """Bound the optimum from below by Lagrangian relaxation of "each client is served once".

    ``unit_CJ`` (C, J) is scaled so that ``chosen_K``, the best subset at hand, ``2 <= K < J``, costs 1. For
    any multipliers ``u`` (C,)::

        L(u) = sum_i u_i + (sum of the K smallest rho_j),   rho_j = sum_i min(0, cost_ij - u_i)

    is at most the optimum. The same sum with column j forced in (or out) bounds every subset that has (or
    lacks) j; where that reaches 1, the column is excluded (or required), at a loss of 1e-9 relative at most.
    ``u`` starts at the second-nearest chosen cost of each client and climbs by subgradient steps (Held,
    Wolfe and Crowder 1974).
    """
    k, n_facilities = len(chosen_K), unit_CJ.shape[1]
    is_chosen = np.zeros(n_facilities, dtype=bool)
    is_chosen[chosen_K] = True
    required, excluded = np.zeros(n_facilities, dtype=bool), np.zeros(n_facilities, dtype=bool)
    u_C = np.partition(unit_CJ[:, chosen_K], 1, axis=1)[:, 1]
    best_bound, best_u_C, damping, n_flat_steps = -np.inf, u_C, 1.5, 0
    for _ in range(n_steps):
        rho_J = np.minimum(unit_CJ - u_C[:, None], 0.0).sum(axis=0)
        order_J = np.argsort(rho_J, kind="stable")
        taken_K = order_J[:k]
        bound = float(u_C.sum() + rho_J[taken_K].sum())
        excluded |= bound + rho_J - rho_J[order_J[k - 1]] >= 1.0 - EQUAL
        required |= bound - rho_J + rho_J[order_J[k]] >= 1.0 - EQUAL
        if bound >= 1.0 - EQUAL or _is_nothing_left(required, excluded, is_chosen):
            return Relaxation(1.0, required, excluded)
        if bound > best_bound:
            best_bound, best_u_C, n_flat_steps = bound, u_C, 0
        else:
            n_flat_steps += 1
        if n_flat_steps == _N_FLAT_STEPS:
            u_C, damping, n_flat_steps = best_u_C, damping / 2.0, 0
            continue
        slope_C = 1.0 - (unit_CJ[:, taken_K] < u_C[:, None]).sum(axis=1)
        steepness = float(slope_C @ slope_C)
        if steepness == 0.0:
            break
        u_C = u_C + damping * (1.0 - bound) / steepness * slope_C
    return Relaxation(best_bound, required, excluded)


def _is_nothing_left(required: np.ndarray, excluded: np.ndarray, is_chosen: np.ndarray) -> bool:
    """Say whether only the chosen subset can have all required and no excluded columns; masks are (J,)."""
    k = int(is_chosen.sum())
    return bool(
        excluded[~is_chosen].all()
        or required[is_chosen].all()
        or (required & excluded).any()
        or required.sum() > k
        or (~excluded).sum() < k
    )


class ProgramSolution(NamedTuple):
    """``chosen`` (k,) ascending columns, None if time ran out first; ``is_solved`` as HiGHS tells."""

    chosen: np.ndarray | None
    lower_bound: float
    is_solved: bool


def solve_p_median(
    unit_CJ: np.ndarray, k: int, relaxation: Relaxation | None = None, *, time_limit_s: float = 10.0
) -> ProgramSolution:
    """Solve the p-median program with HiGHS.

    ::

        min sum_ij cost_ij z_ij   s.t.  sum_j z_ij = 1,  0 <= z_ij <= x_j,  sum_j x_j = k,  x_j in {0, 1}

    ``relaxation`` leaves out the columns it excludes and fixes those it requires; the lower bound is then one
    on the subsets that remain. ``unit_CJ`` (C, J) should be scaled so that its optimum is near 1, because
    HiGHS's tolerances are absolute.
    """
    n_clients, n_facilities = unit_CJ.shape
    if relaxation is None:
        relaxation = Relaxation(-np.inf, np.zeros(n_facilities, dtype=bool), np.zeros(n_facilities, dtype=bool))
    kept = np.flatnonzero(~relaxation.excluded)
    n_kept = len(kept)
    n_served = n_clients * n_kept
    # The variables: z client by client, then x.
    is_served = sparse.kron(sparse.eye(n_clients), np.ones((1, n_kept)))
    once = sparse.hstack([is_served, sparse.csr_matrix((n_clients, n_kept))])
    is_open = sparse.kron(np.ones((n_clients, 1)), sparse.eye(n_kept))
    by_an_open_one = sparse.hstack([sparse.eye(n_served), -is_open])
    n_open = sparse.hstack([sparse.csr_matrix((1, n_served)), np.ones((1, n_kept))])
    result = milp(
        np.concatenate([_PROGRAM_SCALE * unit_CJ[:, kept].ravel(), np.zeros(n_kept)]),
        integrality=np.concatenate([np.zeros(n_served), np.ones(n_kept)]),
        bounds=Bounds(np.concatenate([np.zeros(n_served), relaxation.required[kept].astype(float)]), 1.0),
        constraints=[
            LinearConstraint(once.tocsr(), 1.0, 1.0),
            LinearConstraint(by_an_open_one.tocsr(), -np.inf, 0.0),
            LinearConstraint(n_open.tocsr(), k, k),
        ],
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )
    bound = -np.inf if result.mip_dual_bound is None else float(result.mip_dual_bound) / _PROGRAM_SCALE
    if result.x is None:
        return ProgramSolution(None, bound, is_solved=False)
    chosen = np.sort(kept[np.argsort(-result.x[n_served:], kind="stable")[:k]])
    return ProgramSolution(chosen, bound, is_solved=result.status == 0)
