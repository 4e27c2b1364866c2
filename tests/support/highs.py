"""Opt-Select's problem as the p-median program, solved by HiGHS: the reference that the own solver is compared with."""

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp


def p_median_by_highs(cost_CJ: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Return the ``k`` columns (ascending) of least ``sum_i min_j cost_ij`` and that cost.

    ::

        min sum_ij cost_ij z_ij   s.t.  sum_j z_ij = 1,  0 <= z_ij <= x_j,  sum_j x_j = k,  x_j in {0, 1}

    Costs are scaled so that HiGHS's absolute tolerance of 1e-6 is 1e-9 relative to the largest choice.
    """
    n_clients, n_facilities = cost_CJ.shape
    scale = 1e3 / max(float(cost_CJ[:, :k].min(axis=1).sum()), 1e-300)
    n_served = n_clients * n_facilities
    once = sparse.hstack(
        [
            sparse.kron(sparse.eye(n_clients), np.ones((1, n_facilities))),
            sparse.csr_matrix((n_clients, n_facilities)),
        ]
    )
    by_an_open_one = sparse.hstack(
        [sparse.eye(n_served), -sparse.kron(np.ones((n_clients, 1)), sparse.eye(n_facilities))]
    )
    n_open = sparse.hstack([sparse.csr_matrix((1, n_served)), np.ones((1, n_facilities))])
    result = milp(
        np.concatenate([scale * cost_CJ.ravel(), np.zeros(n_facilities)]),
        integrality=np.concatenate([np.zeros(n_served), np.ones(n_facilities)]),
        bounds=Bounds(0.0, 1.0),
        constraints=[
            LinearConstraint(once.tocsr(), 1.0, 1.0),
            LinearConstraint(by_an_open_one.tocsr(), -np.inf, 0.0),
            LinearConstraint(n_open.tocsr(), k, k),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert result.status == 0, result.message
    chosen = np.sort(np.argsort(-result.x[n_served:], kind="stable")[:k])
    return chosen, float(cost_CJ[:, chosen].min(axis=1).sum())
