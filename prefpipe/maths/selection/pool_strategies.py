"""The strategies, over the pools of many prompts at once: which of each prompt's candidate negatives are chosen.

A `Pools` lists each prompt's candidate negatives by ascending reward, equal rewards by ascending index, and every rule works
on that list. So where rewards are distinct, permuting the candidates permutes the answer, and ties of any kind go to the
lower reward and then to the lower index.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from prefpipe.maths.compute.compiled import compiled, is_cached
from prefpipe.maths.selection.clusters import choose_lowest_members, k_means
from prefpipe.maths.selection.coverage import (
    cost_matrix,
    expected_random_cost,
    marginal_gains,
    nearest_chosen,
)
from prefpipe.maths.selection.facility import coverage_cost
from prefpipe.maths.selection.random_numbers import draw_below, seed_state
from prefpipe.maths.selection.wide_spans import (
    LARGEST,
    TINY,
    costs_in_unit_of,
    solve_weighted,
    unit_reward_of,
)


class Pools(NamedTuple):
    """What a strategy sees of P prompts with up to R candidates, checked.

    ``negatives`` (P, R): the candidate negatives in order, -1 behind the last; ``n_negatives`` (P,). ``positives`` (P, p)
    best first, -1 behind the last; ``n_positives`` (P,). ``distances`` (P, R, R), or None without embeddings.
    ``rewards`` (P, R), 0 where there is no candidate. ``weights`` (P, R): see
    `prefpipe.maths.selection.selection.response_weights`;
    ``temperatures`` (P,) their T. ``seeds`` (P,) uint64.
    """

    negatives: np.ndarray
    n_negatives: np.ndarray
    positives: np.ndarray
    n_positives: np.ndarray
    distances: np.ndarray | None
    rewards: np.ndarray
    weights: np.ndarray
    temperatures: np.ndarray
    seeds: np.ndarray
    k: int
    covers_all: bool
    n_init: int
    work_limit: int


class Choice(NamedTuple):
    """What was chosen: ``negatives`` (P, K) ascending, -1 behind the last, and what the strategy knows of it.

    ``bound_share`` (P,), the lower bound as a share of the choice's cost, and ``is_optimal`` (P,) are of ``opt-select``,
    ``clusters`` (P, R) of ``coreset``; NaN, False and -1 elsewhere.
    """

    negatives: np.ndarray
    bound_share: np.ndarray
    is_optimal: np.ndarray
    clusters: np.ndarray


class _Weighting(NamedTuple):
    """Opt-Select's weights (P, R), the rewards (P, R) and temperatures (P,) that they are made from."""

    rewards: np.ndarray
    weights: np.ndarray
    temperatures: np.ndarray


class Strategy(NamedTuple):
    """A rule, and what it asks for.

    ``needs`` is ``"rewards"`` or ``"embeddings"`` (or distances). ``n_positives`` and ``n_negatives`` are None where the
    caller decides.
    """

    choose: Callable[[Pools, Choice], None]
    needs: Literal["rewards", "embeddings"] = "rewards"
    n_positives: int | None = None
    n_negatives: int | None = None


def choose(strategy: Strategy, pools: Pools) -> Choice:
    """Apply a strategy; ``k`` of the pools is the number of negatives it may choose."""
    n_prompts, n_candidates = pools.negatives.shape
    choice = Choice(
        np.full((n_prompts, pools.k), -1, dtype=np.int64),
        np.full(n_prompts, np.nan),
        np.zeros(n_prompts, dtype=bool),
        np.full((n_prompts, n_candidates), -1, dtype=np.int64),
    )
    strategy.choose(pools, choice)
    return choice


def _choose_lowest(pools: Pools, choice: Choice) -> None:
    width = min(pools.k, pools.negatives.shape[1])
    choice.negatives[:, :width] = _ascending(pools.negatives[:, :width])


def _ascending(indices_PK: np.ndarray) -> np.ndarray:
    """Sort each row, -1 last."""
    last = np.iinfo(np.int64).max
    ordered = np.sort(np.where(indices_PK < 0, last, indices_PK), axis=1)
    return np.where(ordered == last, -1, ordered)


def _choose_random(pools: Pools, choice: Choice) -> None:
    _draw(pools.negatives, pools.n_negatives, pools.seeds, choice.negatives)


def _choose_coreset(pools: Pools, choice: Choice) -> None:
    assert pools.distances is not None
    _cluster(pools.distances, pools.negatives, pools.n_negatives, pools.n_init, pools.seeds, choice)


def _choose_opt_select(pools: Pools, choice: Choice) -> None:
    assert pools.distances is not None
    weighting = _Weighting(pools.rewards, pools.weights, pools.temperatures)
    _solve(
        pools.distances,
        weighting,
        _clients(pools),
        pools.negatives,
        pools.n_negatives,
        pools.work_limit,
        choice,
    )


STRATEGIES: dict[str, Strategy] = {
    "bottom-k": Strategy(_choose_lowest),
    "coreset": Strategy(_choose_coreset, needs="embeddings"),
    "opt-select": Strategy(_choose_opt_select, needs="embeddings"),
    "random": Strategy(_choose_random),
    "best-worst": Strategy(_choose_lowest, n_positives=1, n_negatives=1),
    "top-bottom": Strategy(_choose_lowest),
    "best-random": Strategy(_choose_random, n_positives=1, n_negatives=1),
    "all": Strategy(_choose_lowest),
}
"""Every strategy by the name that ``--strategy`` takes; ``all`` is ``bottom-k`` with k as large as the pool."""


def _clients(pools: Pools) -> np.ndarray:
    """Return (P, C) whom the objective covers, -1 behind the last: the candidate negatives, or with ``covers_all`` everyone."""
    if not pools.covers_all:
        return pools.negatives
    both = np.concatenate([pools.negatives, pools.positives], axis=1)
    return np.asarray(np.take_along_axis(both, np.argsort(both < 0, axis=1, kind="stable"), axis=1))


def is_ready() -> bool:
    """Return whether the loops over pools are compiled, or whether their first use will take a quarter of a minute."""
    return is_cached(_explain) and is_cached(_solve)


class Explanation(NamedTuple):
    """What a choice covers: NaN, and -1 in ``represents``, without distances.

    Costs are in units of ``exp(log_unit)`` (P,) times the largest weight. ``log_unit`` is 0 except where the cost of the
    choice would leave the float range: there the unit is the weight of the response that costs most, and what is beyond
    the largest float stands as the largest float.

    ``cost`` (P,) of the choice, ``cost_bottom_k`` (P,) of the lowest rewards, ``cost_random`` (P,) the mean over all choices
    of as many. ``gains`` (P, K) beside the chosen negatives. ``represents`` (P, R): the index of the chosen negative that
    stands for each covered candidate.
    """

    cost: np.ndarray
    cost_bottom_k: np.ndarray
    cost_random: np.ndarray
    gains: np.ndarray
    represents: np.ndarray
    log_unit: np.ndarray


def explain(pools: Pools, choice: Choice) -> Explanation:
    """Measure a choice by Opt-Select's objective, whatever strategy made it."""
    n_prompts, n_candidates = pools.negatives.shape
    told = Explanation(
        np.full(n_prompts, np.nan),
        np.full(n_prompts, np.nan),
        np.full(n_prompts, np.nan),
        np.full(choice.negatives.shape, np.nan),
        np.full((n_prompts, n_candidates), -1, dtype=np.int64),
        np.zeros(n_prompts),
    )
    if pools.distances is not None:
        clients = _clients(pools)
        weighting = _Weighting(pools.rewards, pools.weights, pools.temperatures)
        _explain(
            pools.distances,
            weighting,
            clients,
            pools.negatives,
            pools.n_negatives,
            choice.negatives,
            told,
        )
    return told


@compiled
def _count(indices: np.ndarray) -> int:
    """Return how many indices stand before the first -1."""
    n = 0
    while n < len(indices) and indices[n] >= 0:
        n += 1
    return n


@compiled
def _draw(
    negatives_PR: np.ndarray, n_negatives_P: np.ndarray, seeds_P: np.ndarray, chosen_PK: np.ndarray
) -> None:
    """Draw without replacement (Fisher and Yates)."""
    for p in range(len(n_negatives_P)):
        n = n_negatives_P[p]
        k = min(chosen_PK.shape[1], n)
        state, deck = seed_state(seeds_P[p]), negatives_PR[p, :n].copy()
        for place in range(k):
            other = place + draw_below(state, n - place)
            deck[place], deck[other] = deck[other], deck[place]
        chosen_PK[p, :k] = np.sort(deck[:k])


@compiled
def _cluster(
    distances_PRR: np.ndarray,
    negatives_PR: np.ndarray,
    n_negatives_P: np.ndarray,
    n_init: int,
    seeds_P: np.ndarray,
    choice: Choice,
) -> None:
    for p in range(len(n_negatives_P)):
        negatives_N = negatives_PR[p, : n_negatives_P[p]]
        n = len(negatives_N)
        if n == 0:
            continue
        k = min(choice.negatives.shape[1], n)
        squared_NN = np.empty((n, n))
        for row in range(n):
            for column in range(n):
                squared_NN[row, column] = (
                    distances_PRR[p, negatives_N[row], negatives_N[column]] ** 2
                )
        labels, _ = k_means(squared_NN, k, seeds_P[p], n_init)
        for row in range(n):
            choice.clusters[p, negatives_N[row]] = labels[row]
        choice.negatives[p, :k] = np.sort(negatives_N[choose_lowest_members(labels, k)])


@compiled
def _solve(
    distances_PRR: np.ndarray,
    weighting: _Weighting,
    clients_PC: np.ndarray,
    negatives_PR: np.ndarray,
    n_negatives_P: np.ndarray,
    limit: int,
    choice: Choice,
) -> None:
    for p in range(len(n_negatives_P)):
        negatives_N = negatives_PR[p, : n_negatives_P[p]]
        if len(negatives_N) == 0:
            continue
        columns_K, bound_share, is_optimal = solve_weighted(
            distances_PRR[p],
            weighting.weights[p],
            weighting.rewards[p],
            weighting.temperatures[p],
            clients_PC[p, : _count(clients_PC[p])],
            negatives_N,
            min(choice.negatives.shape[1], len(negatives_N)),
            limit,
        )
        choice.negatives[p, : len(columns_K)] = np.sort(negatives_N[columns_K])
        choice.bound_share[p] = bound_share
        choice.is_optimal[p] = is_optimal


@compiled
def _explain(
    distances_PRR: np.ndarray,
    weighting: _Weighting,
    clients_PC: np.ndarray,
    negatives_PR: np.ndarray,
    n_negatives_P: np.ndarray,
    chosen_PK: np.ndarray,
    told: Explanation,
) -> None:
    for p in range(len(n_negatives_P)):
        negatives_N = negatives_PR[p, : n_negatives_P[p]]
        chosen_K = chosen_PK[p, : _count(chosen_PK[p])]
        k = len(chosen_K)
        if k == 0:
            continue
        clients_C = clients_PC[p, : _count(clients_PC[p])]
        cost_CN = cost_matrix(distances_PRR[p], weighting.weights[p], clients_C, negatives_N)
        place_R = np.empty(negatives_PR.shape[1], dtype=np.int64)
        for column in range(len(negatives_N)):
            place_R[negatives_N[column]] = column
        columns_K = np.sort(place_R[chosen_K])

        cost = coverage_cost(cost_CN, columns_K)
        if cost < TINY:
            rewards_R, temperature = weighting.rewards[p], weighting.temperatures[p]
            unit_reward = unit_reward_of(
                distances_PRR[p], rewards_R, temperature, clients_C, negatives_N, columns_K
            )
            if not np.isnan(unit_reward):
                told.log_unit[p] = (rewards_R[clients_C].min() - unit_reward) / temperature
                cost_CN = costs_in_unit_of(
                    distances_PRR[p], rewards_R, temperature, clients_C, negatives_N, unit_reward
                )
                cost = coverage_cost(cost_CN, columns_K)

        told.cost[p] = cost
        told.cost_bottom_k[p] = min(LARGEST, coverage_cost(cost_CN, np.arange(k)))
        told.cost_random[p] = min(LARGEST, expected_random_cost(cost_CN, k))
        marginal_gains(cost_CN, place_R[chosen_K], told.gains[p, :k])
        for place in range(k):
            told.gains[p, place] = min(told.gains[p, place], LARGEST)
        nearest_chosen(distances_PRR[p], clients_C, negatives_N[columns_K], told.represents[p])
