"""Opt-Select's lower bound: the Lagrangian relaxation of the p-median program, in one search node.

For any multipliers ``u`` (C,), every subset of ``k`` columns costs at least::

    L(u) = sum_i u_i + (sum of the k smallest rho_j),   rho_j = sum_i min(0, cost_ij - u_i)

where columns that are fixed open are always among the k, and those fixed shut never. ``u`` climbs
by subgradient steps (Held, Wolfe and Crowder 1974).

The same sum with column j forced in (or out) bounds every subset that has (or lacks) j: where that
reaches the cost of the best subset known, the column is shut (or opened) for good.
"""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.compute.compiled import compiled

EQUAL = 1e-9
"""Costs closer than this, relative, count as equal: far above rounding, far below relevance."""

FLAT_STEPS = 7
"""Subgradient steps without a better bound before the step is halved."""

SMALLEST_DAMPING = 2e-3


class Workspace(NamedTuple):
    """Arrays that a search allocates once.

    ``columns`` (J, C): the costs, column by column. ``rho`` and ``best_rho`` (J,). ``order`` (J,):
    all columns by ascending rho; ``free`` (J,): the free ones, as many as there are. ``is_taken``
    (J,): the columns that the bound opens now, ``best_taken`` (J,) those of the best bound.
    ``slope`` and ``best_u`` (C,).
    """

    columns: np.ndarray
    rho: np.ndarray
    best_rho: np.ndarray
    order: np.ndarray
    free: np.ndarray
    is_taken: np.ndarray
    best_taken: np.ndarray
    slope: np.ndarray
    best_u: np.ndarray


@compiled
def new_workspace(unit_CJ: np.ndarray) -> Workspace:
    """Return room for a search over the costs of C clients and J facilities."""
    n_clients, n_facilities = unit_CJ.shape
    return Workspace(
        np.ascontiguousarray(unit_CJ.T),
        np.empty(n_facilities),
        np.empty(n_facilities),
        np.arange(n_facilities),
        np.empty(n_facilities, dtype=np.int64),
        np.empty(n_facilities, dtype=np.bool_),
        np.empty(n_facilities, dtype=np.bool_),
        np.empty(n_clients),
        np.empty(n_clients),
    )


@compiled
def climb(
    unit_CJ: np.ndarray,
    k: int,
    upper: float,
    fixed_J: np.ndarray,
    u_C: np.ndarray,
    room: Workspace,
    n_steps: int,
) -> tuple[float, int, int]:
    """Raise the bound of a node by at most ``n_steps`` steps.

    Args:
        unit_CJ: costs in units of the first local optimum.
        k: columns to choose.
        upper: the cost of the best subset known.
        fixed_J: (J,) 1 open, -1 shut, 0 free; columns that the bound decides are added.
        u_C: (C,) the multipliers to start from; left at the best.
        room: the search's arrays.
        n_steps: steps at most.

    Returns:
        ``(bound, split, steps)``. The bound is ``upper`` where nothing better is left. ``split`` is
        the column to branch on, -1 where the one subset left, or none, is in ``room.best_taken``.
    """
    target = upper * (1.0 - EQUAL)
    best_bound, damping, n_flat = -np.inf, 1.5, 0

    for step in range(n_steps):
        n_free, n_wanted = _price(unit_CJ, k, fixed_J, u_C, room)
        if n_wanted < 0 or n_wanted > n_free:
            return upper, -1, step + 1

        bound = _bound(fixed_J, u_C, room, n_wanted)
        if bound >= target:
            return upper, -1, step + 1

        if bound > best_bound:
            # A negligible gain is kept but still counts as a flat step.
            n_flat = 0 if bound > best_bound + 1e-6 * upper else n_flat + 1
            best_bound = bound
            room.best_u[:] = u_C
            room.best_rho[:] = room.rho
            room.best_taken[:] = room.is_taken
        else:
            n_flat += 1

        if _fix(fixed_J, room, n_free, n_wanted, target - bound):
            u_C[:] = room.best_u
            return best_bound, -1, step + 1

        # Too long a step jumps over the top: go back to the best point and take half of it.
        if n_flat >= FLAT_STEPS:
            damping, n_flat = damping / 2.0, 0
            u_C[:] = room.best_u
            if damping < SMALLEST_DAMPING:
                break
            continue

        if not _step(u_C, room, damping * (upper - bound)):
            break

    u_C[:] = room.best_u
    return best_bound, _choose_split(fixed_J, room), n_steps


@compiled
def _price(
    unit_CJ: np.ndarray, k: int, fixed_J: np.ndarray, u_C: np.ndarray, room: Workspace
) -> tuple[int, int]:
    """Fill ``rho`` and sort the free columns by it.

    Returns:
        How many columns are free, and how many of them are to be opened.
    """
    n_clients, n_facilities = unit_CJ.shape
    rho, order = room.rho, room.order

    rho[:] = 0.0
    for i in range(n_clients):
        u = u_C[i]
        for j in range(n_facilities):
            gain = unit_CJ[i, j] - u
            rho[j] += min(0.0, gain)

    # Insertion sort, from the order of the last step: few columns change places in one. Of equal
    # rho the lower column comes first, whatever that order was.
    for end in range(1, n_facilities):
        j, place = order[end], end
        while place > 0:
            before = order[place - 1]
            if rho[before] < rho[j] or (rho[before] == rho[j] and before < j):
                break
            order[place] = before
            place -= 1
        order[place] = j

    n_free, n_wanted = 0, k
    for j in order:
        if fixed_J[j] == 1:
            n_wanted -= 1
        elif fixed_J[j] == 0:
            room.free[n_free] = j
            n_free += 1

    return n_free, n_wanted


@compiled
def _bound(fixed_J: np.ndarray, u_C: np.ndarray, room: Workspace, n_wanted: int) -> float:
    """Return L(u) and mark the columns that it opens."""
    bound = 0.0
    for u in u_C:
        bound += u

    for j in range(len(fixed_J)):
        room.is_taken[j] = fixed_J[j] == 1
        if room.is_taken[j]:
            bound += room.rho[j]

    for place in range(n_wanted):
        room.is_taken[room.free[place]] = True
        bound += room.rho[room.free[place]]

    return bound


@compiled
def _fix(fixed_J: np.ndarray, room: Workspace, n_free: int, n_wanted: int, gap: float) -> bool:
    """Fix the columns whose other state cannot close ``gap``.

    Returns:
        Whether one subset is left, then in ``best_taken``.
    """
    # No local names for the workspace's arrays: with them this function took 116 ns a call in a
    # loop instead of 11.
    n_opened, n_shut = 0, 0

    # Closing a column that is in brings in the first one that is out, and vice versa.
    if 0 < n_wanted < n_free:
        last_in, first_out = room.rho[room.free[n_wanted - 1]], room.rho[room.free[n_wanted]]
        # They are in the order of rho: from either end no more than the first that can.
        while n_opened < n_wanted and first_out - room.rho[room.free[n_opened]] >= gap:
            fixed_J[room.free[n_opened]] = 1
            n_opened += 1
        n_out = n_free - n_wanted
        while n_shut < n_out and room.rho[room.free[n_free - 1 - n_shut]] - last_in >= gap:
            fixed_J[room.free[n_free - 1 - n_shut]] = -1
            n_shut += 1

    if n_opened < n_wanted < n_free - n_shut:
        return False

    # Either k columns are open already, or all remaining ones must be.
    opens_rest = n_wanted - n_opened == n_free - n_shut - n_opened
    for place in range(n_free):
        if fixed_J[room.free[place]] == 0:
            fixed_J[room.free[place]] = 1 if opens_rest else -1
    for j in range(len(fixed_J)):
        room.best_taken[j] = fixed_J[j] == 1
    return True


@compiled
def _step(u_C: np.ndarray, room: Workspace, reach: float) -> bool:
    """Move the multipliers along the subgradient.

    Returns:
        False where the subgradient is zero: the bound is then the optimum of the node.
    """
    n_clients, slope = len(u_C), room.slope

    # One, minus the open columns that serve the client below its multiplier.
    slope[:] = 1.0
    for j in range(len(room.is_taken)):
        if room.is_taken[j]:
            for i in range(n_clients):
                slope[i] -= 1.0 if room.columns[j, i] < u_C[i] else 0.0
    steepness = 0.0
    for i in range(n_clients):
        steepness += slope[i] * slope[i]

    if steepness == 0.0:
        return False
    for i in range(n_clients):
        u_C[i] += reach / steepness * slope[i]
    return True


@compiled
def _choose_split(fixed_J: np.ndarray, room: Workspace) -> int:
    """Return the free column of the best bound whose closing would raise it most."""
    split = -1
    for j in range(len(fixed_J)):
        if fixed_J[j] != 0 or not room.best_taken[j]:
            continue
        if split < 0 or room.best_rho[j] < room.best_rho[split]:
            split = j
    if split >= 0:
        return split

    # The bound opens no free column: of the others, the one it would open first.
    for j in range(len(fixed_J)):
        if fixed_J[j] != 0:
            continue
        if split < 0 or room.best_rho[j] < room.best_rho[split]:
            split = j
    return split
