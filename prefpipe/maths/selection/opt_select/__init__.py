"""Opt-Select (AMPO, arXiv 2502.18293): the negatives of least coverage cost, with a proof.

For weights w and distances A, the subset S of k candidate negatives that minimises::

    Cost(S) = sum_i w_i min_{j in S} A_ij

Read in this order:

- `coverage`: the cost matrix ``w_i A_ij``, and what a choice of columns covers;
- `k_medoids`: greedy start, swaps, and branch and bound over the columns of a cost matrix;
- `lagrangian_bound`: **the lower bound** in one node of that search;
- `wide_spans`: the entry point, `solve_weighted`, for rewards whose weights fit into no float.
"""
