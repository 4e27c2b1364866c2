"""The choice for many prompts whose arrays are checked and screened, as in ``select``."""

from typing import Any, NamedTuple

import numpy as np

from prefpipe.maths.selection.explanation import explain
from prefpipe.maths.selection.opt_select.k_medoids import work_limit
from prefpipe.maths.selection.pools import NO_EVIDENCE, Evidence, Pools
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.screening import count_positives
from prefpipe.maths.selection.strategies import choose, decide_roles
from prefpipe.maths.selection.validation import SelectOptions, with_defaults
from prefpipe.maths.selection.weights import pool_temperatures, pool_weights


class Selection(NamedTuple):
    """The kept responses, as indices into the given arrays.

    Shapes are those of one prompt; a batch has P in front and -1 as padding.

    Attributes:
        positives: (p,) best reward first.
        negatives: (k,) ascending index; no index is in both. None under ``best-of-n``, of which a
            batch has one column of -1.
        cost: Opt-Select's objective of the negatives; NaN without embeddings or distances.
        lower_bound: a proven bound on the least possible cost; NaN under other strategies than
            ``opt-select``.
        is_optimal: whether cost and bound agree to 1e-9 relative; False under other strategies.
        clusters: (R,) the k-means cluster of each candidate negative (``coreset``), -1 elsewhere.
        represents: (R,) the index of the chosen negative nearest to each candidate that the
            objective covers, -1 elsewhere.
        gains: (k,) by how much the cost would rise without each negative.
        cost_bottom_k: the cost of the k lowest rewards.
        cost_random: the mean cost of k random candidates.
        log_unit: costs are in units of ``exp(log_unit)`` times the largest weight (see
            `prefpipe.maths.selection.weights.pool_weights`). 0 unless the rewards span hundreds
            of T and the cost would leave the float range; larger costs are then the largest float.
        largest_share: the lowest reward's share of the sum of the weights. Near 1 it alone decides
            the first choice; ``weight_temperature="auto"`` gives the others weight.
    """

    positives: np.ndarray
    negatives: np.ndarray
    cost: Any
    lower_bound: Any
    is_optimal: Any
    clusters: np.ndarray
    represents: np.ndarray
    gains: np.ndarray
    cost_bottom_k: Any
    cost_random: Any
    log_unit: Any
    largest_share: Any


def select_pools(
    rewards_PR: np.ndarray,
    distances_PRR: np.ndarray | None,
    mask_PR: np.ndarray,
    *,
    k: int,
    strategy: str,
    seeds_P: np.ndarray,
    options: SelectOptions,
    evidence: Evidence = NO_EVIDENCE,
) -> Selection:
    """Choose the positives and negatives of many prompts.

    Arguments as for `prefpipe.maths.selection.select_responses.select_responses`. The caller
    applies ``min_margin``, ``near_duplicates`` and the inversions of ``delta`` to ``mask_PR``.
    ``evidence`` holds what the strategy needs beside rewards and distances.
    """
    rule = STRATEGIES[strategy]
    options = with_defaults(options)
    n_candidates = rewards_PR.shape[1]
    places_R = np.arange(n_candidates)
    most = max(1, n_candidates - 1)
    if rule.n_negatives is None:
        n_wanted = min(k, most)
    elif rule.n_negatives == "all":
        n_wanted = most
    else:
        n_wanted = rule.n_negatives

    positives = rule.n_positives or options["positives"]
    decided = decide_roles(
        strategy, rewards_PR, mask_PR, evidence, k=n_wanted, seeds_P=seeds_P, options=options
    )
    if decided is None:
        positives_PK = _highest_rewards(rewards_PR, mask_PR, positives, rule.n_spared)
    else:
        # A prompt without roles is left out everywhere.
        positives_PK = decided[0]
        mask_PR = mask_PR & (positives_PK >= 0).any(axis=1, keepdims=True)
    n_positives_P = (positives_PK >= 0).sum(axis=1)
    is_positive_PR = np.zeros(mask_PR.shape, dtype=bool)
    prompts, columns = np.nonzero(positives_PK >= 0)
    is_positive_PR[prompts, positives_PK[prompts, columns]] = True

    # The candidate negatives: all others, if there are at least two candidates.
    has_two_P = mask_PR.sum(axis=1) >= 2
    is_negative_PR = mask_PR & ~is_positive_PR & has_two_P[:, None]
    n_negatives_P = is_negative_PR.sum(axis=1)
    ascending_PR = np.argsort(np.where(is_negative_PR, rewards_PR, np.inf), axis=1, kind="stable")
    negatives_PR = np.where(places_R[None] < n_negatives_P[:, None], ascending_PR, -1)

    # The candidates that the objective covers, and their weights.
    covers_all = options["cover"] == "all"
    covered_PR = mask_PR if covers_all else is_negative_PR
    clients_PR = covered_PR & (n_negatives_P > 0)[:, None]
    temperature = options["weight_temperature"]
    temperatures_P = pool_temperatures(rewards_PR, mask_PR, clients_PR, temperature)
    weights_PR = pool_weights(rewards_PR, clients_PR, temperatures_P)

    pools = Pools(
        negatives=negatives_PR,
        n_negatives=n_negatives_P,
        positives=positives_PK,
        n_positives=n_positives_P,
        distances=distances_PRR,
        rewards=rewards_PR,
        weights=weights_PR,
        temperatures=temperatures_P,
        seeds=seeds_P,
        k=n_wanted,
        covers_all=covers_all,
        n_init=options["n_init"],
        work_limit=work_limit(options["time_limit_s"]),
        position=options["position"],
        decided=None if decided is None else decided[1],
    )
    choice = choose(strategy, pools)
    explanation = explain(pools, choice)

    # The largest weight is 1, so its share is one over the sum.
    sums_P = weights_PR.sum(axis=1)
    nothing_P = np.full(len(sums_P), np.nan)
    largest_share_P = np.divide(1.0, sums_P, out=nothing_P, where=sums_P > 0.0)

    return Selection(
        positives=pools.positives,
        negatives=choice.negatives,
        cost=explanation.cost,
        lower_bound=explanation.cost * choice.bound_share,
        is_optimal=choice.is_optimal,
        clusters=choice.clusters,
        represents=explanation.represents,
        gains=explanation.gains,
        cost_bottom_k=explanation.cost_bottom_k,
        cost_random=explanation.cost_random,
        log_unit=explanation.log_unit,
        largest_share=largest_share_P,
    )


def _highest_rewards(
    rewards_PR: np.ndarray, mask_PR: np.ndarray, positives: int, n_spared: int
) -> np.ndarray:
    """Return (P, p) each prompt's positives: the highest rewards, -1 after the last."""
    n_positives_P = count_positives(mask_PR, positives, n_spared=n_spared)
    width = int(n_positives_P.max(initial=1))

    # Stable: equal rewards stay in ascending order of index. Masked entries come last.
    best_first_PR = np.argsort(np.where(mask_PR, -rewards_PR, np.inf), axis=1, kind="stable")
    is_place_of_positive_PR = np.arange(rewards_PR.shape[1])[None, :width] < n_positives_P[:, None]
    return np.where(is_place_of_positive_PR, best_first_PR[:, :width], -1)
