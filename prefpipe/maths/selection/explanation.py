"""The cost and coverage of a choice of negatives by Opt-Select's objective."""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.compute.compiled import compiled
from prefpipe.maths.selection.opt_select.coverage import (
    cost_matrix,
    expected_random_cost,
    marginal_gains,
    nearest_chosen,
)
from prefpipe.maths.selection.opt_select.k_medoids import coverage_cost
from prefpipe.maths.selection.opt_select.wide_spans import (
    LARGEST,
    TINY,
    costs_in_unit_of,
    unit_reward_of,
)
from prefpipe.maths.selection.pools import Choice, Pools, PoolWeights


class Explanation(NamedTuple):
    """The coverage of a choice; NaN, and -1 in ``represents``, without distances.

    Costs are in units of ``exp(log_unit)`` (P,) times the largest weight. ``log_unit`` is 0 unless
    the cost of the choice would leave the float range: then the unit is the weight of the response
    that costs most, and larger values are capped at the largest float.

    ``cost`` (P,) of the choice, ``cost_bottom_k`` (P,) of the lowest rewards, ``cost_random`` (P,)
    the mean over all choices of as many. ``gains`` (P, K) beside the chosen negatives.
    ``represents`` (P, R): the index of the chosen negative that represents each covered candidate.
    """

    cost: np.ndarray
    cost_bottom_k: np.ndarray
    cost_random: np.ndarray
    gains: np.ndarray
    represents: np.ndarray
    log_unit: np.ndarray


def explain(pools: Pools, choice: Choice) -> Explanation:
    """Measure a choice by Opt-Select's objective."""
    n_prompts, n_candidates = pools.negatives.shape
    explanation = Explanation(
        cost=np.full(n_prompts, np.nan),
        cost_bottom_k=np.full(n_prompts, np.nan),
        cost_random=np.full(n_prompts, np.nan),
        gains=np.full(choice.negatives.shape, np.nan),
        represents=np.full((n_prompts, n_candidates), -1, dtype=np.int64),
        log_unit=np.zeros(n_prompts),
    )
    if pools.distances is not None:
        explain_prompts(
            pools.distances,
            pools.weighting(),
            pools.clients(),
            pools.negatives,
            pools.n_negatives,
            choice.negatives,
            explanation,
        )
    return explanation


@compiled
def explain_prompts(
    distances_PRR: np.ndarray,
    weighting: PoolWeights,
    clients_PC: np.ndarray,
    negatives_PR: np.ndarray,
    n_negatives_P: np.ndarray,
    chosen_PK: np.ndarray,
    explanation: Explanation,
) -> None:
    """Fill ``explanation``, prompt by prompt."""
    for p in range(len(n_negatives_P)):
        negatives_N = negatives_PR[p, : n_negatives_P[p]]
        chosen_K = chosen_PK[p, : count_chosen(chosen_PK[p])]
        k = len(chosen_K)
        if k == 0:
            continue

        clients_C = clients_PC[p, : count_chosen(clients_PC[p])]
        cost_CN = cost_matrix(distances_PRR[p], weighting.weights[p], clients_C, negatives_N)

        # Of each candidate negative, its column in the cost matrix.
        place_R = np.empty(negatives_PR.shape[1], dtype=np.int64)
        for column in range(len(negatives_N)):
            place_R[negatives_N[column]] = column
        columns_K = np.sort(place_R[chosen_K])

        # A cost near the limits of floats is meaningless: use the unit of the largest term.
        cost = coverage_cost(cost_CN, columns_K)
        if cost < TINY:
            rewards_R, temperature = weighting.rewards[p], weighting.temperatures[p]
            unit_reward = unit_reward_of(
                distances_PRR[p], rewards_R, temperature, clients_C, negatives_N, columns_K
            )
            if not np.isnan(unit_reward):
                log_unit = (rewards_R[clients_C].min() - unit_reward) / temperature
                explanation.log_unit[p] = log_unit
                cost_CN = costs_in_unit_of(
                    distances_PRR[p], rewards_R, temperature, clients_C, negatives_N, unit_reward
                )
                cost = coverage_cost(cost_CN, columns_K)

        explanation.cost[p] = cost
        # Columns stand by ascending reward: the first k are the k lowest.
        explanation.cost_bottom_k[p] = min(LARGEST, coverage_cost(cost_CN, np.arange(k)))
        explanation.cost_random[p] = min(LARGEST, expected_random_cost(cost_CN, k))

        marginal_gains(cost_CN, place_R[chosen_K], explanation.gains[p, :k])
        for place in range(k):
            explanation.gains[p, place] = min(explanation.gains[p, place], LARGEST)

        nearest_chosen(
            distances_PRR[p], clients_C, negatives_N[columns_K], explanation.represents[p]
        )


@compiled
def count_chosen(indices: np.ndarray) -> int:
    """Return how many indices precede the first -1."""
    n = 0
    while n < len(indices) and indices[n] >= 0:
        n += 1
    return n
