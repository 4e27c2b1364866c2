"""Which candidates of a prompt become its positives and its negatives: the public interface for arrays.

`select_responses` takes one prompt or a batch of prompts; `select_pools` is the same choice for arrays that were checked and
screened before, as the ``select`` command has them.
"""

import difflib
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.distances import pairwise_distances
from prefpipe.maths.facility import work_limit
from prefpipe.maths.pool_strategies import STRATEGIES, Pools, Strategy, choose, explain
from prefpipe.maths.screening import LARGEST_REWARD, mask_low_margins, mask_near_duplicates

PROMPTS_AT_ONCE = 256
"""A batch is worked through in slices, so that memory does not grow with it."""


class Selection(NamedTuple):
    """What is kept, as indices into the arrays given. Shapes are those of one prompt; a batch has P in front and -1 as padding.

    ``positives`` (p,) best reward first; ``negatives`` (k,) ascending index; no index is in both. ``cost`` is Opt-Select's
    objective of the negatives, ``lower_bound`` a proven bound on the least possible and ``is_optimal`` whether they agree to
    1e-9 relative. ``cost`` is NaN without embeddings or distances, the other two are NaN and False under other strategies than
    ``opt-select``. Costs are in units of the largest weight: see `response_weights`. ``cost_bottom_k`` and ``cost_random`` are
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


class SelectOptions(TypedDict, total=False):
    """Options of `select_responses`.

    ``positives``: positives wanted, at least 1 (default 1); at least one candidate is left to be a negative.
    ``min_margin``: least reward difference between the lowest positive and a negative (0). ``near_duplicates``: cosine
    similarity, in (0, 1], from which two embeddings count as one response (None: never); the higher reward stays.
    ``weight_temperature``: T of Opt-Select's weights, ``"paper"`` (1), ``"auto"`` (the standard deviation of the prompt's
    rewards) or a number above 0. ``cover``: whom the objective sums over, the candidate ``"negatives"`` or ``"all"``.
    ``n_init``: k-means starts (10). ``time_limit_s``: for one prompt's proof, counted in work so that the answer is the same
    on any machine (10).
    """

    positives: int
    min_margin: float
    near_duplicates: float | None
    weight_temperature: Literal["paper", "auto"] | float
    cover: Literal["negatives", "all"]
    n_init: int
    time_limit_s: float


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
        k: negatives wanted, at least 1. With fewer candidate negatives all of them are chosen.
        strategy: a key of `STRATEGIES`.
        distances: (R, R) or (P, R, R), finite, at least 0, instead of embeddings.
        mask: shape of ``rewards``, True where there is a candidate; values elsewhere are ignored. A prompt of a batch
            with fewer than two candidates gets no selection: -1 and NaN throughout.
        seed: at least 0, below 2**64, for ``random``, ``best-random`` and the k-means starts; one for every prompt of a
            batch, so that a row of a batch is chosen as it would be alone.
        **options: see `SelectOptions`.

    Errors:
        InputError: fewer than two candidates; a value that is not finite; shapes that do not agree.
        UsageError: an unknown strategy or option, a value out of range, embeddings that the strategy needs and were not given.
    """
    find_strategy(strategy)
    check_options(strategy, k, seed, options)
    rewards_PR, mask_PR, is_single = _check_rewards(rewards, mask)
    geometry, is_distance = _check_geometry(strategy, rewards_PR.shape, is_single, embeddings, distances)
    if options.get("near_duplicates") is not None and (geometry is None or is_distance):
        raise UsageError(
            "near_duplicates is a cosine similarity, which needs embeddings", hint="pass embeddings, or leave it out"
        )
    slices = []
    for start in range(0, max(1, len(rewards_PR)), PROMPTS_AT_ONCE):
        rows = slice(start, start + PROMPTS_AT_ONCE)
        part = None if geometry is None else geometry[rows]
        if part is not None:
            part = _checked_geometry(part, mask_PR[rows], is_distance=is_distance, first_prompt=None if is_single else start)
        slices.append(_select_slice(rewards_PR[rows], part, mask_PR[rows], is_distance, (k, strategy, seed, options)))
    found = Selection(*(np.concatenate(columns) for columns in zip(*slices, strict=True)))
    return _only_prompt(found) if is_single else found


def _select_slice(
    rewards_PR: np.ndarray, geometry: np.ndarray | None, mask_PR: np.ndarray, is_distance: bool, what: tuple[Any, ...]
) -> Selection:
    k, strategy, seed, options = what
    distances_PRR = geometry
    if geometry is not None and not is_distance:
        distances_PRR = pairwise_distances(geometry)
        threshold = options.get("near_duplicates")
        if threshold is not None:
            mask_PR = mask_PR & ~mask_near_duplicates(geometry, distances_PRR, rewards_PR, mask_PR, threshold)
    margin = options.get("min_margin", 0.0)
    if margin > 0.0:
        mask_PR = mask_PR & ~mask_low_margins(rewards_PR, mask_PR, min_margin=margin, positives=options.get("positives", 1))
    seeds_P = np.full(len(rewards_PR), seed, dtype=np.uint64)
    return select_pools(rewards_PR, distances_PRR, mask_PR, k=k, strategy=strategy, seeds_P=seeds_P, options=options)


def select_pools(
    rewards_PR: np.ndarray, distances_PRR: np.ndarray | None, mask_PR: np.ndarray, *, k: int, strategy: str, seeds_P: np.ndarray,
    options: SelectOptions,
) -> Selection:  # fmt: skip
    """Choose for prompts whose arrays are checked and screened: see `select_responses` for what each means.

    ``min_margin`` and ``near_duplicates`` are the caller's to apply, to ``mask_PR``.
    """
    rule = STRATEGIES[strategy]
    n_candidates = rewards_PR.shape[1]
    n_usable_P = mask_PR.sum(axis=1)
    wanted = rule.n_positives or options.get("positives", 1)
    n_positives_P = np.where(n_usable_P >= 2, np.minimum(wanted, n_usable_P - 1), 0)
    # Stable sorts: equal rewards stay in ascending order of index. What is masked stands last.
    best_first_PR = np.argsort(np.where(mask_PR, -rewards_PR, np.inf), axis=1, kind="stable")
    places_R = np.arange(n_candidates)
    is_positive_PR = np.zeros(mask_PR.shape, dtype=bool)
    np.put_along_axis(is_positive_PR, best_first_PR, places_R[None] < n_positives_P[:, None], axis=1)
    is_negative_PR = mask_PR & ~is_positive_PR & (n_usable_P >= 2)[:, None]
    ascending_PR = np.argsort(np.where(is_negative_PR, rewards_PR, np.inf), axis=1, kind="stable")
    n_negatives_P = is_negative_PR.sum(axis=1)
    width = int(n_positives_P.max(initial=1))
    covers_all = options.get("cover", "negatives") == "all"
    clients_PR = mask_PR if covers_all else is_negative_PR
    pools = Pools(
        negatives=np.where(places_R[None] < n_negatives_P[:, None], ascending_PR, -1),
        n_negatives=n_negatives_P,
        positives=np.where(places_R[None, :width] < n_positives_P[:, None], best_first_PR[:, :width], -1),
        n_positives=n_positives_P,
        distances=distances_PRR,
        weights=_weights(rewards_PR, mask_PR, clients_PR, options.get("weight_temperature", "paper")),
        seeds=seeds_P,
        k=_n_negatives(rule, strategy, k, n_candidates),
        covers_all=covers_all,
        n_init=options.get("n_init", 10),
        work_limit=work_limit(options.get("time_limit_s", 10.0)),
    )
    choice = choose(rule, pools)
    told = explain(pools, choice)
    return Selection(
        pools.positives, choice.negatives, told.cost, choice.lower_bound, choice.is_optimal, choice.clusters, told.represents,
        told.gains, told.cost_bottom_k, told.cost_random,
    )  # fmt: skip


def _n_negatives(rule: Strategy, strategy: str, k: int, n_candidates: int) -> int:
    return rule.n_negatives or (max(1, n_candidates - 1) if strategy == "all" else k)


def find_strategy(name: str) -> Strategy:
    """Return the strategy called ``name``; raise UsageError with the nearest name otherwise."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    near = difflib.get_close_matches(name, STRATEGIES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"strategies: {', '.join(STRATEGIES)}"
    raise UsageError(f"unknown selection strategy {name!r}", hint=hint)


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


def _weights(
    rewards_PR: np.ndarray, mask_PR: np.ndarray, clients_PR: np.ndarray, setting: Literal["paper", "auto"] | float
) -> np.ndarray:
    """Return the weights (P, R) of the clients, 0 elsewhere; the temperature is of all candidates, the scale of the clients."""
    weights_PR = np.zeros(rewards_PR.shape)
    if setting == "auto":
        for p in np.flatnonzero(clients_PR.any(axis=1)):
            clients = clients_PR[p]
            temperature = resolve_temperature(rewards_PR[p, mask_PR[p]], setting)
            weights_PR[p, clients] = response_weights(rewards_PR[p, clients], temperature)
        return weights_PR
    temperature = 1.0 if setting == "paper" else float(setting)
    lowest_P1 = np.where(clients_PR, rewards_PR, np.inf).min(axis=1, initial=np.inf)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        weights_PR[clients_PR] = np.exp((lowest_P1 - rewards_PR) / temperature)[clients_PR]
    return weights_PR


def _only_prompt(found: Selection) -> Selection:
    """Return the one prompt of a batch without its padding."""
    one = Selection(*(column[0] for column in found))
    kept = one.negatives >= 0
    return one._replace(
        positives=one.positives[one.positives >= 0], negatives=one.negatives[kept], gains=one.gains[kept],
        cost=float(one.cost), lower_bound=float(one.lower_bound), is_optimal=bool(one.is_optimal),
        cost_bottom_k=float(one.cost_bottom_k), cost_random=float(one.cost_random),
    )  # fmt: skip


def _check_rewards(rewards: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return rewards (P, R), 0 where masked, the mask, and whether one prompt was given."""
    array = np.asarray(rewards, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise InputError(f"rewards have shape {array.shape}, expected (R,) or (P, R): a reward per candidate")
    is_there = np.ones(array.shape, dtype=bool) if mask is None else np.asarray(mask)
    if is_there.shape != array.shape or is_there.dtype != bool:
        raise InputError(f"mask is {is_there.dtype} of shape {is_there.shape}, expected bool of shape {array.shape}")
    is_bad = is_there & ~(np.abs(array) <= LARGEST_REWARD)
    if is_bad.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(is_bad))
        whose = f"candidate {first[-1]}" + (f" of prompt {first[0]}" if len(first) == 2 else "")
        raise InputError(f"the reward of {whose} is {array[first]}", hint="mask candidates without a finite reward")
    if array.ndim == 1 and is_there.sum() < 2:
        raise InputError(
            f"{is_there.sum()} usable candidates; selection needs at least 2, a positive and a negative",
            hint="generate more responses for the prompt, or drop it",
        )
    is_single = array.ndim == 1
    clean = np.where(is_there, array, 0.0)
    return (clean[None], is_there[None], True) if is_single else (clean, is_there, False)


def check_options(strategy: str, k: int, seed: int, options: SelectOptions) -> None:
    """Refuse options that do not exist or are out of range.

    Errors:
        UsageError: naming the option, its value and what it takes.
    """
    unknown = sorted(set(options) - SelectOptions.__optional_keys__)
    if unknown:
        known = ", ".join(sorted(SelectOptions.__optional_keys__))
        raise UsageError(f"unknown selection option {unknown[0]!r}", hint=f"options: {known}")
    positives, n_positives = options.get("positives", 1), STRATEGIES[strategy].n_positives
    if n_positives is not None and positives != n_positives:
        raise UsageError(f"{strategy} keeps {n_positives} positive, got positives={positives}",
                         hint="use top-bottom for several positives")  # fmt: skip
    temperature = options.get("weight_temperature", "paper")
    is_number = isinstance(temperature, int | float) and 0.0 < temperature < np.inf
    threshold = options.get("near_duplicates")
    checks = (
        (k >= 1, f"k is {k}; at least 1 negative is needed"),
        (positives >= 1, f"positives is {positives}; at least 1 is needed"),
        (0 <= seed < 2**64, f"seed is {seed}; seeds are at least 0 and below 2**64"),
        (
            temperature in ("paper", "auto") or is_number,
            f"weight_temperature is {temperature!r}; it is paper, auto or a number > 0",
        ),
        (options.get("cover", "negatives") in ("negatives", "all"), f"cover is {options.get('cover')!r}; it is negatives or all"),
        (options.get("time_limit_s", 10.0) > 0.0, f"time_limit_s is {options.get('time_limit_s')}; it is > 0"),
        (options.get("n_init", 10) >= 1, f"n_init is {options.get('n_init')}; at least 1 start is needed"),
        (0.0 <= options.get("min_margin", 0.0) < np.inf, f"min_margin is {options.get('min_margin')}; it is >= 0"),
        (threshold is None or 0.0 < threshold <= 1.0, f"near_duplicates is {threshold}; it is a cosine in (0, 1]"),
    )
    for holds, sentence in checks:
        if not holds:
            raise UsageError(sentence)


def _check_geometry(
    strategy: str, shape: tuple[int, ...], is_single: bool, embeddings: Any, distances: Any
) -> tuple[np.ndarray | None, bool]:
    """Return embeddings (P, R, D) or distances (P, R, R), or None, and whether they are distances."""
    if embeddings is not None and distances is not None:
        raise UsageError("embeddings and distances were both given", hint="give one of them")
    if embeddings is None and distances is None:
        if STRATEGIES[strategy].needs == "embeddings":
            raise UsageError(f"{strategy} needs embeddings or distances",
                             hint="run prefpipe embed, or use a strategy on rewards such as bottom-k")  # fmt: skip
        return None, False
    name = "embeddings" if distances is None else "distances"
    array = np.asarray(embeddings if distances is None else distances)
    given = array.shape
    if is_single:
        array = array[None]
    expected = "(R, D)" if is_single else "(P, R, D)"
    if array.ndim != 3 or array.shape[:2] != shape or (distances is not None and array.shape[2] != shape[1]):
        whole = f"{shape[1]} candidates" if is_single else f"{shape[0]} prompts of {shape[1]} candidates"
        raise InputError(f"{name} have shape {given} for {whole}, expected {expected if distances is None else 'a square'}")
    return array, distances is not None


def _checked_geometry(array: np.ndarray, mask_PR: np.ndarray, *, is_distance: bool, first_prompt: int | None) -> np.ndarray:
    """Return a slice of embeddings or distances with 0 where the mask has nothing; refuse numbers that cannot be."""
    is_there = mask_PR[:, :, None] & mask_PR[:, None, :] if is_distance else mask_PR[:, :, None]
    clean = np.where(is_there, array, 0).astype(np.float64 if is_distance else array.dtype, copy=False)
    is_bad_PR = ~np.isfinite(clean).all(axis=2) | (is_distance & (clean < 0.0).any(axis=2))
    if is_bad_PR.any():
        p, candidate = (int(axis[0]) for axis in np.nonzero(is_bad_PR))
        whose = f"candidate {candidate}" + (f" of prompt {first_prompt + p}" if first_prompt is not None else "")
        what = "a distance" if is_distance else "the embedding"
        raise InputError(f"{what} of {whose} is {'negative or ' if is_distance else ''}not finite")
    return clean
