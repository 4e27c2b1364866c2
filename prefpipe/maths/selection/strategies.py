"""The strategies: which of each prompt's candidate negatives are chosen.

A strategy is a function of `Pools`, many prompts at once, that writes into a `Choice`. `RULES`
holds it under its name in `registry`.

`Pools` lists each prompt's candidate negatives by ascending reward, equal rewards by ascending
index, and every rule works on that list. So where rewards are distinct, permuting the candidates
permutes the answer, and ties of any kind go to the lower reward and then to the lower index.
"""

from collections.abc import Callable

import numpy as np

from prefpipe.maths.compute.compiled import compiled, is_cached
from prefpipe.maths.selection.clusters import choose_lowest_members, k_means
from prefpipe.maths.selection.explanation import count_chosen, explain_prompts
from prefpipe.maths.selection.opt_select.wide_spans import solve_weighted
from prefpipe.maths.selection.pools import Choice, Evidence, Pools, PoolWeights
from prefpipe.maths.selection.random_numbers import draw_below, seed_state
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.samplers import first_of_each
from prefpipe.maths.selection.uncertainty import choose_pairs
from prefpipe.maths.selection.validation import SelectOptions


def choose(strategy: str, pools: Pools) -> Choice:
    """Apply a strategy by its name; the pools' ``k`` is the most negatives it may choose."""
    n_prompts, n_candidates = pools.negatives.shape
    choice = Choice(
        negatives=np.full((n_prompts, max(1, pools.k)), -1, dtype=np.int64),
        bound_share=np.full(n_prompts, np.nan),
        is_optimal=np.zeros(n_prompts, dtype=bool),
        clusters=np.full((n_prompts, n_candidates), -1, dtype=np.int64),
    )
    RULES[strategy](pools, choice)
    return choice


def _choose_lowest(pools: Pools, choice: Choice) -> None:
    """Choose the k lowest rewards."""
    width = min(pools.k, pools.negatives.shape[1])
    lowest_PK = pools.negatives[:, :width]

    # Ascending by index, with the padding of -1 at the end.
    last = np.iinfo(np.int64).max
    ordered_PK = np.sort(np.where(lowest_PK < 0, last, lowest_PK), axis=1)
    choice.negatives[:, :width] = np.where(ordered_PK == last, -1, ordered_PK)


def _choose_random(pools: Pools, choice: Choice) -> None:
    """Choose k candidate negatives without replacement."""
    _draw(pools.negatives, pools.n_negatives, pools.seeds, choice.negatives)


def _choose_coreset(pools: Pools, choice: Choice) -> None:
    """Choose the lowest reward of each of k clusters (AMPO-Coreset)."""
    assert pools.distances is not None
    _cluster(pools.distances, pools.negatives, pools.n_negatives, pools.n_init, pools.seeds, choice)


def _choose_opt_select(pools: Pools, choice: Choice) -> None:
    """Choose the k of least coverage cost, with a proven bound (AMPO-Opt-Select)."""
    assert pools.distances is not None
    _solve(
        pools.distances,
        pools.weighting(),
        pools.clients(),
        pools.negatives,
        pools.n_negatives,
        pools.work_limit,
        choice,
    )


def _choose_nearest_position(pools: Pools, choice: Choice) -> None:
    """Choose the k rewards nearest to mean + c std of the prompt's rewards (2502.16825)."""
    _choose_nearest(
        pools.rewards,
        pools.negatives,
        pools.n_negatives,
        pools.positives,
        pools.n_positives,
        pools.position,
        choice.negatives,
    )


def _choose_decided(pools: Pools, choice: Choice) -> None:
    """Choose the negatives that were decided together with the positives."""
    assert pools.decided is not None
    choice.negatives[:, : pools.decided.shape[1]] = pools.decided


def _choose_none(pools: Pools, choice: Choice) -> None:
    """Choose no negative."""


RULES: dict[str, Callable[[Pools, Choice], None]] = {
    "opt-select": _choose_opt_select,
    "coreset": _choose_coreset,
    "bottom-k": _choose_lowest,
    "random": _choose_random,
    "best-worst": _choose_lowest,
    "top-bottom": _choose_lowest,
    "best-random": _choose_random,
    "all": _choose_lowest,
    "reward-position": _choose_nearest_position,
    "delta": _choose_decided,
    "delta-ucb": _choose_decided,
    "drts": _choose_decided,
    "delta-quantile": _choose_decided,
    "best-of-n": _choose_none,
}
"""The rule of every strategy of `registry`; ``all`` is ``bottom-k`` with k as large as the pool."""


def decide_roles(
    strategy: str,
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    evidence: Evidence,
    *,
    k: int,
    seeds_P: np.ndarray,
    options: SelectOptions,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return positives (P, p) and negatives (P, k) decided together, -1 after the last.

    None for a strategy whose positives are the highest rewards. ``options`` are `with_defaults`.
    """
    if evidence.samplers is not None and STRATEGIES[strategy].needs == "samplers":
        positives = options["positives"]
        return first_of_each(rewards_PR, mask_PR, evidence.samplers, positives=positives, k=k)
    if evidence.spreads is not None and STRATEGIES[strategy].needs == "uncertainty":
        return choose_pairs(
            strategy,
            rewards_PR,
            evidence.spreads,
            mask_PR,
            seeds_P=seeds_P,
            spread_weight=options["spread_weight"],
            quantile=options["quantile"],
        )
    return None


def is_ready() -> bool:
    """Return whether the loops over pools are compiled.

    If not, their first use takes a quarter of a minute.
    """
    return is_cached(explain_prompts) and is_cached(_solve)


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
def _choose_nearest(
    rewards_PR: np.ndarray,
    negatives_PR: np.ndarray,
    n_negatives_P: np.ndarray,
    positives_PK: np.ndarray,
    n_positives_P: np.ndarray,
    position: float,
    chosen_PK: np.ndarray,
) -> None:
    """Write each prompt's candidate negatives nearest to ``mean + position * std``."""
    for p in range(len(n_negatives_P)):
        negatives_N = negatives_PR[p, : n_negatives_P[p]]
        n, n_positives = len(negatives_N), n_positives_P[p]
        if n == 0:
            continue

        # Rewards in ascending order and above the lowest, so that neither the order of the
        # candidates nor a constant added to all of them moves a bit.
        heights = np.empty(n + n_positives)
        for place in range(n):
            heights[place] = rewards_PR[p, negatives_N[place]]
        for place in range(n_positives):
            heights[n + place] = rewards_PR[p, positives_PK[p, n_positives - 1 - place]]
        heights -= heights[0]

        mean = 0.0
        for height in heights:
            mean += height / len(heights)
        variance = 0.0
        for height in heights:
            variance += (height - mean) ** 2 / len(heights)
        target = mean + position * np.sqrt(variance)

        # Stable: of equal distances the lower reward, and then the lower index, comes first.
        nearest_first = np.argsort(np.abs(heights[:n] - target), kind="mergesort")
        k = min(chosen_PK.shape[1], n)
        chosen_PK[p, :k] = np.sort(negatives_N[nearest_first[:k]])


@compiled
def _cluster(
    distances_PRR: np.ndarray,
    negatives_PR: np.ndarray,
    n_negatives_P: np.ndarray,
    n_init: int,
    seeds_P: np.ndarray,
    choice: Choice,
) -> None:
    """Write each prompt's clusters and the lowest-reward member of each."""
    for p in range(len(n_negatives_P)):
        negatives_N = negatives_PR[p, : n_negatives_P[p]]
        n = len(negatives_N)
        if n == 0:
            continue

        squared_NN = np.empty((n, n))
        for row in range(n):
            for column in range(n):
                distance = distances_PRR[p, negatives_N[row], negatives_N[column]]
                squared_NN[row, column] = distance**2

        k = min(choice.negatives.shape[1], n)
        labels, _ = k_means(squared_NN, k, seeds_P[p], n_init)
        for row in range(n):
            choice.clusters[p, negatives_N[row]] = labels[row]
        choice.negatives[p, :k] = np.sort(negatives_N[choose_lowest_members(labels, k)])


@compiled
def _solve(
    distances_PRR: np.ndarray,
    weighting: PoolWeights,
    clients_PC: np.ndarray,
    negatives_PR: np.ndarray,
    n_negatives_P: np.ndarray,
    limit: int,
    choice: Choice,
) -> None:
    """Write each prompt's Opt-Select optimum with its bound."""
    for p in range(len(n_negatives_P)):
        negatives_N = negatives_PR[p, : n_negatives_P[p]]
        if len(negatives_N) == 0:
            continue

        columns_K, bound_share, is_optimal = solve_weighted(
            distances_PRR[p],
            weighting.weights[p],
            weighting.rewards[p],
            weighting.temperatures[p],
            clients_PC[p, : count_chosen(clients_PC[p])],
            negatives_N,
            min(choice.negatives.shape[1], len(negatives_N)),
            limit,
        )
        choice.negatives[p, : len(columns_K)] = np.sort(negatives_N[columns_K])
        choice.bound_share[p] = bound_share
        choice.is_optimal[p] = is_optimal
