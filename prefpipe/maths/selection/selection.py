"""Which candidates of a prompt become its positives and its negatives: the public interface for arrays.

`select_responses` takes one prompt or a batch of prompts; `select_pools` is the same choice for arrays that were checked and
screened before, as the ``select`` command has them.
"""

from typing import Any, Literal, NamedTuple, Unpack

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.distances import pairwise_distances
from prefpipe.maths.selection.facility import work_limit
from prefpipe.maths.selection.pool_strategies import STRATEGIES, Pools, Strategy, choose, explain
from prefpipe.maths.selection.screening import (
    count_positives,
    mask_low_margins,
    mask_near_duplicates,
)
from prefpipe.maths.selection.selection_inputs import (
    SelectOptions,
    check_geometry,
    check_options,
    check_rewards,
    checked_geometry,
    find_strategy,
)

__all__ = [
    "STRATEGIES",
    "SelectOptions",
    "Selection",
    "resolve_temperature",
    "response_weights",
    "select_pools",
    "select_responses",
]

PROMPTS_AT_ONCE = 256
"""A batch is worked through in slices, so that memory does not grow with it."""


class Selection(NamedTuple):
    """What is kept, as indices into the arrays given. Shapes are those of one prompt; a batch has P in front and -1 as padding.

    ``positives`` (p,) best reward first; ``negatives`` (k,) ascending index; no index is in both. ``cost`` is Opt-Select's
    objective of the negatives, ``lower_bound`` a proven bound on the least possible and ``is_optimal`` whether they agree to
    1e-9 relative. ``cost`` is NaN without embeddings or distances, the other two are NaN and False under other strategies than
    ``opt-select``. Costs are in units of ``exp(log_unit)`` times the largest weight: see `response_weights`. ``log_unit`` is 0
    unless the rewards span hundreds of T and the cost would leave the float range; what is beyond it then is the largest float.
    ``largest_share``: the share of the sum of the weights that the lowest reward has; near 1 it alone decides what is chosen
    first, and ``weight_temperature="auto"`` lets the others count. ``cost_bottom_k`` and ``cost_random`` are
    what the k lowest rewards and, on average, k random candidates would cost. ``gains`` (k,): by how much the cost would rise
    without each negative. ``clusters`` (R,): the k-means cluster of each candidate negative (``coreset``), -1 elsewhere.
    ``represents`` (R,): the index of the chosen negative nearest to each candidate that the objective covers, -1 elsewhere.
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


def select_responses(
    rewards: Any,
    embeddings: Any = None,
    k: int = 7,
    strategy: str = "opt-select",
    *,
    distances: Any = None,
    mask: Any = None,
    seed: int = 0,
    **options: Unpack[SelectOptions],
) -> Selection:
    """Choose the positives and the negatives of one prompt, or of a batch of prompts.

    The positives are the highest rewards, ties to the lower index. A positive is never a negative, also where its reward is
    tied. The strategies differ in the ``k`` negatives:

    - ``opt-select``: the set S of k candidate negatives with the least ``Cost(S) = sum_i w_i min_{j in S} ||e_i - e_j||`` (AMPO,
      arXiv 2502.18293), w as in `response_weights`, proven optimal;
    - ``coreset``: k-means with k clusters over the embeddings of the candidate negatives, and of each cluster the
      lowest-reward member (AMPO); missing clusters are made up by the lowest rewards left;
    - ``bottom-k``: the k lowest rewards (AMPO); ``top-bottom`` is the same rule, named for use with several positives;
    - ``random``: k candidate negatives without replacement, by ``seed``;
    - ``best-worst`` (SimPO, arXiv 2405.14734) and ``best-random``: one pair, argmax with argmin or with a random other
      candidate; ``k`` does not apply;
    - ``all``: every candidate negative; ``k`` does not apply.

    Args:
        rewards: (R,), or (P, R) for a batch; finite, higher is better, any scale. Adding a constant changes no choice.
        embeddings: (R, D) or (P, R, D), finite; Euclidean distances between the rows as they are.
        k: negatives wanted, at least 1. With fewer candidate negatives all of them are chosen; never more than R - 1.
        strategy: a key of `STRATEGIES`.
        distances: (R, R) or (P, R, R), finite, at least 0, instead of embeddings.
        mask: shape of ``rewards``, True where there is a candidate; values elsewhere are ignored. A prompt of a batch
            with fewer than two candidates, or none left to be a negative, gets no selection: -1 and NaN throughout.
        seed: at least 0, below 2**64, for ``random``, ``best-random`` and the k-means starts; one for every prompt of a
            batch, so that a row of a batch is chosen as it would be alone.
        **options: see `SelectOptions`.

    Raises:
        InputError: fewer than two candidates, or no negative left; a value that is no finite number; shapes that do not agree.
        UsageError: an unknown strategy or option, a value out of range, embeddings that the strategy needs and were not given.
    """
    find_strategy(strategy)
    check_options(strategy, k, seed, options)
    rewards_PR, mask_PR, is_single = check_rewards(rewards, mask)
    geometry, is_distance = check_geometry(
        strategy, rewards_PR.shape, is_single, embeddings, distances
    )
    if options.get("near_duplicates") is not None and (geometry is None or is_distance):
        raise UsageError(
            "near_duplicates is a cosine similarity, which needs embeddings",
            hint="pass embeddings, or leave it out",
        )
    slices = []
    for start in range(0, max(1, len(rewards_PR)), PROMPTS_AT_ONCE):
        rows = slice(start, start + PROMPTS_AT_ONCE)
        part = None if geometry is None else geometry[rows]
        if part is not None:
            part = checked_geometry(
                part,
                mask_PR[rows],
                is_distance=is_distance,
                first_prompt=None if is_single else start,
            )
        slices.append(
            _select_slice(
                rewards_PR[rows], part, mask_PR[rows], is_distance, (k, strategy, seed, options)
            )
        )
    found = Selection(*(np.concatenate(columns) for columns in zip(*slices, strict=True)))
    if is_single and not (found.negatives >= 0).any():
        raise InputError(
            "near_duplicates and min_margin leave no candidate to be a negative",
            hint="lower them, or drop the prompt",
        )
    return _only_prompt(found) if is_single else found


def _select_slice(
    rewards_PR: np.ndarray,
    geometry: np.ndarray | None,
    mask_PR: np.ndarray,
    is_distance: bool,
    what: tuple[Any, ...],
) -> Selection:
    k, strategy, seed, options = what
    distances_PRR = geometry
    if geometry is not None and not is_distance:
        distances_PRR = pairwise_distances(geometry)
        threshold = options.get("near_duplicates")
        if threshold is not None:
            mask_PR = mask_PR & ~mask_near_duplicates(
                geometry, distances_PRR, rewards_PR, mask_PR, threshold
            )
    margin = options.get("min_margin", 0.0)
    if margin > 0.0:
        positives = options.get("positives", 1)
        n_positives_P = count_positives(mask_PR, positives)
        mask_PR = mask_PR & ~mask_low_margins(
            rewards_PR, mask_PR, min_margin=margin, positives=positives
        )
        mask_PR = (
            mask_PR & (mask_PR.sum(axis=1) > n_positives_P)[:, None]
        )  # positives alone are no selection
    seeds_P = np.full(len(rewards_PR), seed, dtype=np.uint64)
    return select_pools(
        rewards_PR, distances_PRR, mask_PR, k=k, strategy=strategy, seeds_P=seeds_P, options=options
    )


def select_pools(
    rewards_PR: np.ndarray,
    distances_PRR: np.ndarray | None,
    mask_PR: np.ndarray,
    *,
    k: int,
    strategy: str,
    seeds_P: np.ndarray,
    options: SelectOptions,
) -> Selection:
    """Choose for prompts whose arrays are checked and screened: see `select_responses` for what each means.

    ``min_margin`` and ``near_duplicates`` are the caller's to apply, to ``mask_PR``.
    """
    rule = STRATEGIES[strategy]
    n_candidates = rewards_PR.shape[1]
    n_usable_P = mask_PR.sum(axis=1)
    wanted = rule.n_positives or options.get("positives", 1)
    n_positives_P = count_positives(mask_PR, wanted)
    # Stable sorts: equal rewards stay in ascending order of index. What is masked stands last.
    best_first_PR = np.argsort(np.where(mask_PR, -rewards_PR, np.inf), axis=1, kind="stable")
    places_R = np.arange(n_candidates)
    is_positive_PR = np.zeros(mask_PR.shape, dtype=bool)
    np.put_along_axis(
        is_positive_PR, best_first_PR, places_R[None] < n_positives_P[:, None], axis=1
    )
    is_negative_PR = mask_PR & ~is_positive_PR & (n_usable_P >= 2)[:, None]
    ascending_PR = np.argsort(np.where(is_negative_PR, rewards_PR, np.inf), axis=1, kind="stable")
    n_negatives_P = is_negative_PR.sum(axis=1)
    width = int(n_positives_P.max(initial=1))
    covers_all = options.get("cover", "negatives") == "all"
    clients_PR = (mask_PR if covers_all else is_negative_PR) & (n_negatives_P > 0)[:, None]
    temperatures_P = _temperatures(
        rewards_PR, mask_PR, clients_PR, options.get("weight_temperature", "paper")
    )
    weights_PR = _weights(rewards_PR, clients_PR, temperatures_P)
    pools = Pools(
        negatives=np.where(places_R[None] < n_negatives_P[:, None], ascending_PR, -1),
        n_negatives=n_negatives_P,
        positives=np.where(
            places_R[None, :width] < n_positives_P[:, None], best_first_PR[:, :width], -1
        ),
        n_positives=n_positives_P,
        distances=distances_PRR,
        rewards=rewards_PR,
        weights=weights_PR,
        temperatures=temperatures_P,
        seeds=seeds_P,
        k=_n_negatives(rule, strategy, k, n_candidates),
        covers_all=covers_all,
        n_init=options.get("n_init", 10),
        work_limit=work_limit(options.get("time_limit_s", 10.0)),
    )
    choice = choose(rule, pools)
    told = explain(pools, choice)
    # The largest weight is 1, so its share is one over the sum.
    sums_P = weights_PR.sum(axis=1)
    return Selection(
        positives=pools.positives,
        negatives=choice.negatives,
        cost=told.cost,
        lower_bound=told.cost * choice.bound_share,
        is_optimal=choice.is_optimal,
        clusters=choice.clusters,
        represents=told.represents,
        gains=told.gains,
        cost_bottom_k=told.cost_bottom_k,
        cost_random=told.cost_random,
        log_unit=told.log_unit,
        largest_share=np.divide(1.0, sums_P, out=np.full(len(sums_P), np.nan), where=sums_P > 0.0),
    )


def _n_negatives(rule: Strategy, strategy: str, k: int, n_candidates: int) -> int:
    most = max(1, n_candidates - 1)
    return rule.n_negatives or (most if strategy == "all" else min(k, most))


def response_weights(rewards_C: np.ndarray, temperature: float) -> np.ndarray:
    """Return ``w_i = exp((min r - r_i) / T)`` in (0, 1], for ``rewards_C`` (C,) and ``T > 0``.

    AMPO writes ``exp(mean r - r_i)``. That differs by the factor ``exp((mean r - min r) / T)``, the same for all i,
    which changes no choice but overflows for rewards that span hundreds; multiply a cost by it to have the
    paper's number.
    """
    # Rewards at opposite ends of the float range differ by infinity, whose weight is rightly 0.
    with np.errstate(over="ignore"):
        return np.asarray(np.exp((rewards_C.min() - rewards_C) / temperature))


def resolve_temperature(rewards_R: np.ndarray, setting: Literal["paper", "auto"] | float) -> float:
    """Return T: 1 for ``"paper"``, the standard deviation (ddof 0) of ``rewards_R`` (R,) for ``"auto"``.

    ``"auto"`` makes the choice independent of the reward's scale. Equal rewards give 1: their weights are equal
    at any temperature.
    """
    if setting == "paper":
        return 1.0
    if setting == "auto":
        return float(rewards_R.std()) or 1.0
    return float(setting)


def _temperatures(
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    clients_PR: np.ndarray,
    setting: Literal["paper", "auto"] | float,
) -> np.ndarray:
    """Return T of each prompt (P,), of all its candidates; 1 where it covers nobody."""
    if setting != "auto":
        return np.full(len(rewards_PR), 1.0 if setting == "paper" else float(setting))
    temperatures_P = np.ones(len(rewards_PR))
    for p in np.flatnonzero(clients_PR.any(axis=1)):
        temperatures_P[p] = resolve_temperature(rewards_PR[p, mask_PR[p]], setting)
    return temperatures_P


def _weights(
    rewards_PR: np.ndarray, clients_PR: np.ndarray, temperatures_P: np.ndarray
) -> np.ndarray:
    """Return the weights (P, R) of the clients, the largest 1; 0 elsewhere and where they underflow."""
    weights_PR = np.zeros(rewards_PR.shape)
    lowest_P1 = np.where(clients_PR, rewards_PR, np.inf).min(axis=1, initial=np.inf)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        weights_PR[clients_PR] = np.exp((lowest_P1 - rewards_PR) / temperatures_P[:, None])[
            clients_PR
        ]
    return weights_PR


def _only_prompt(found: Selection) -> Selection:
    """Return the one prompt of a batch without its padding."""
    one = Selection(*(column[0] for column in found))
    kept = one.negatives >= 0
    return one._replace(
        positives=one.positives[one.positives >= 0],
        negatives=one.negatives[kept],
        gains=one.gains[kept],
        cost=float(one.cost),
        lower_bound=float(one.lower_bound),
        is_optimal=bool(one.is_optimal),
        cost_bottom_k=float(one.cost_bottom_k),
        cost_random=float(one.cost_random),
        log_unit=float(one.log_unit),
        largest_share=float(one.largest_share),
    )
