"""Which candidates of one prompt become its positives and its negatives.

Notation: R candidates with rewards ``r_i`` and embeddings ``e_i``; N of them are candidate negatives, those that
are not positives. Every strategy works on the candidate negatives in ascending order of reward, equal rewards
in ascending order of index. So where rewards are distinct, permuting the candidates permutes the answer, for
``coreset`` and ``random`` too, and ties of any kind go to the lower reward and then to the lower index.
"""

import difflib
from collections.abc import Callable
from typing import Literal, NamedTuple, TypedDict, Unpack

import numpy as np
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.clusters import choose_coreset
from prefpipe.maths.facility import solve_k_medoids

LARGEST_REWARD = 1e150
"""Rewards are squared for their standard deviation, which must stay a finite number."""


class Selection(NamedTuple):
    """What one prompt keeps. Indices are places in the arrays given.

    ``positives`` (p,) best reward first; ``negatives`` (k,) ascending index; no index is in both.
    ``cost``, ``lower_bound`` and ``is_optimal`` speak of Opt-Select's objective; under the other strategies
    they are NaN, NaN and False. ``cost`` is in units of the largest weight: see `response_weights`.
    ``clusters`` (R,): the k-means cluster of each candidate negative (``coreset``), -1 elsewhere.
    ``represents`` (R,): the index of the chosen negative that stands for each candidate in the objective
    (``opt-select``), -1 elsewhere.
    """

    positives: np.ndarray
    negatives: np.ndarray
    cost: float
    lower_bound: float
    is_optimal: bool
    clusters: np.ndarray
    represents: np.ndarray


class OptSelectOptions(TypedDict, total=False):
    """Options of ``opt-select``; the other strategies ignore them.

    ``weight_temperature``: ``"paper"`` (1), ``"auto"`` (the standard deviation of the prompt's rewards) or a
    number > 0. ``cover``: whose distances the objective sums, the candidate ``"negatives"`` or ``"all"``
    candidates. ``time_limit_s``: for HiGHS, on the few prompts that need it (default 10 s).
    """

    weight_temperature: Literal["paper", "auto"] | float
    cover: Literal["negatives", "all"]
    time_limit_s: float


class Pool(NamedTuple):
    """What a strategy sees, checked: float64 arrays (R,), (R, D), (R, R), and indices.

    ``negatives`` (N,): the candidate negatives by ascending reward, then ascending index.
    """

    rewards: np.ndarray
    embeddings: np.ndarray | None
    distances: np.ndarray | None
    positives: np.ndarray
    negatives: np.ndarray
    k: int
    seed: int
    options: OptSelectOptions


class Strategy(NamedTuple):
    """A rule, and what it asks for.

    ``choose`` maps a pool, with ``1 <= k <= N``, to a selection whose negatives may be in any order.
    ``needs`` is ``"rewards"``, ``"embeddings"`` or ``"embeddings or distances"``. ``n_positives`` and
    ``n_negatives`` are None where the caller decides.
    """

    choose: Callable[[Pool], Selection]
    needs: Literal["rewards", "embeddings", "embeddings or distances"] = "rewards"
    n_positives: int | None = None
    n_negatives: int | None = None


def select_responses(
    rewards_R: np.ndarray,
    embeddings_RD: np.ndarray | None = None,
    *,
    k: int,
    strategy: str = "opt-select",
    positives: int = 1,
    distances_RR: np.ndarray | None = None,
    seed: int = 0,
    **options: Unpack[OptSelectOptions],
) -> Selection:
    """Choose the positives and the negatives of one prompt.

    The positives are the ``positives`` highest rewards, ties to the lower index. A positive is never a
    negative, also where its reward is tied. The strategies differ in the ``k`` negatives:

    - ``bottom-k``: the k lowest rewards (AMPO, arXiv 2502.18293); ``top-bottom`` is the same rule, named for use
      with several positives;
    - ``coreset``: k-means with k clusters over the embeddings of the candidate negatives, and of each cluster
      the lowest-reward member (AMPO); missing clusters are made up by the lowest rewards left;
    - ``opt-select``: the set S of k candidate negatives with the least
      ``Cost(S) = sum_i w_i min_{j in S} ||e_i - e_j||`` (AMPO), w as in `response_weights`;
    - ``random``: k candidate negatives without replacement, by ``seed``;
    - ``best-worst`` (SimPO, arXiv 2405.14734) and ``best-random``: one pair, argmax with argmin or with a random
      other candidate; ``k`` does not apply;
    - ``all``: every candidate negative; ``k`` does not apply.

    Parameters
    ----------
    rewards_R
        (R,) finite, higher is better, any scale. Adding a constant changes no choice.
    embeddings_RD
        (R, D) finite; ``opt-select`` uses Euclidean distances between the rows as they are.
    k
        Negatives wanted, >= 1. With fewer than k candidate negatives all of them are chosen.
    strategy
        A key of `STRATEGIES`.
    positives
        Positives wanted, >= 1; at least one candidate is left to be a negative.
    distances_RR
        (R, R) finite and >= 0, instead of embeddings, for ``opt-select``.
    seed
        >= 0, for ``random``, ``best-random`` and the k-means starts. Equal inputs give equal outputs.

    Raises
    ------
    InputError
        Fewer than two candidates; a value that is not finite; shapes that do not agree.
    UsageError
        An unknown strategy or option value; embeddings that the strategy needs and were not given.

    """
    rule = find_strategy(strategy)
    rewards_R = _check_rewards(rewards_R)
    _check_counts(strategy, k=k, positives=positives, seed=seed)
    _check_options(options)
    embeddings_RD, distances_RR = _check_geometry(strategy, len(rewards_R), embeddings_RD, distances_RR)

    best_first_R = np.argsort(-rewards_R, kind="stable")
    chosen = best_first_R[: min(positives, len(rewards_R) - 1)]
    is_positive = np.zeros(len(rewards_R), dtype=bool)
    is_positive[chosen] = True
    ascending_R = np.argsort(rewards_R, kind="stable")
    negatives_N = ascending_R[~is_positive[ascending_R]]
    n_negatives = min(rule.n_negatives or k, len(negatives_N))
    selection = rule.choose(Pool(rewards_R, embeddings_RD, distances_RR, chosen, negatives_N, n_negatives, seed, options))
    return selection._replace(negatives=np.sort(selection.negatives))


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


def _plain(pool: Pool, negatives: np.ndarray) -> Selection:
    """Return a selection under a rule without objective or clusters."""
    none_R = np.full(len(pool.rewards), -1)
    return Selection(
        pool.positives,
        negatives,
        cost=np.nan,
        lower_bound=np.nan,
        is_optimal=False,
        clusters=none_R,
        represents=none_R.copy(),
    )


def _choose_lowest(pool: Pool) -> Selection:
    return _plain(pool, pool.negatives[: pool.k])


def _choose_all(pool: Pool) -> Selection:
    return _plain(pool, pool.negatives)


def _choose_random(pool: Pool) -> Selection:
    rng = np.random.default_rng(pool.seed)
    return _plain(pool, rng.choice(pool.negatives, size=pool.k, replace=False))


def _choose_coreset(pool: Pool) -> Selection:
    assert pool.embeddings is not None
    negatives_N = pool.negatives
    coreset = choose_coreset(pool.rewards[negatives_N], pool.embeddings[negatives_N], pool.k, seed=pool.seed)
    selection = _plain(pool, negatives_N[coreset.chosen])
    selection.clusters[negatives_N] = coreset.labels
    return selection


def _choose_opt_select(pool: Pool) -> Selection:
    negatives_N = pool.negatives
    covers_all = pool.options.get("cover", "negatives") == "all"
    clients_C = np.concatenate([negatives_N, pool.positives]) if covers_all else negatives_N
    if pool.distances is not None:
        distances_CN = pool.distances[np.ix_(clients_C, negatives_N)]
    else:
        assert pool.embeddings is not None
        distances_CN = cdist(pool.embeddings[clients_C], pool.embeddings[negatives_N])
    temperature = resolve_temperature(pool.rewards, pool.options.get("weight_temperature", "paper"))
    weights_C = response_weights(pool.rewards[clients_C], temperature)

    time_limit_s = pool.options.get("time_limit_s", 10.0)
    medoids = solve_k_medoids(weights_C[:, None] * distances_CN, pool.k, time_limit_s=time_limit_s)

    selection = _plain(pool, negatives_N[medoids.chosen])
    nearest_C = medoids.chosen[np.argmin(distances_CN[:, medoids.chosen], axis=1)]
    selection.represents[clients_C] = negatives_N[nearest_C]
    # Each chosen negative stands for itself, also beside a chosen twin.
    selection.represents[selection.negatives] = selection.negatives
    return selection._replace(cost=medoids.cost, lower_bound=medoids.lower_bound, is_optimal=medoids.is_optimal)


STRATEGIES: dict[str, Strategy] = {
    "bottom-k": Strategy(_choose_lowest),
    "coreset": Strategy(_choose_coreset, needs="embeddings"),
    "opt-select": Strategy(_choose_opt_select, needs="embeddings or distances"),
    "random": Strategy(_choose_random),
    "best-worst": Strategy(_choose_lowest, n_positives=1, n_negatives=1),
    "top-bottom": Strategy(_choose_lowest),
    "best-random": Strategy(_choose_random, n_positives=1, n_negatives=1),
    "all": Strategy(_choose_all),
}
"""Every strategy by the name that ``--strategy`` takes."""


def _check_rewards(rewards_R: np.ndarray) -> np.ndarray:
    rewards_R = np.asarray(rewards_R, dtype=np.float64)
    if rewards_R.ndim != 1:
        raise InputError(f"rewards have shape {rewards_R.shape}, expected one axis: a reward per candidate")
    if len(rewards_R) < 2:
        raise InputError(
            f"{len(rewards_R)} usable candidates; selection needs at least 2, a positive and a negative",
            hint="generate more responses for the prompt, or drop it",
        )
    is_bad = ~(np.abs(rewards_R) <= LARGEST_REWARD)
    if is_bad.any():
        first = int(np.flatnonzero(is_bad)[0])
        raise InputError(
            f"the reward of candidate {first} is {rewards_R[first]}",
            hint="leave out candidates without a finite reward: prefpipe.maths.screening names them",
        )
    return rewards_R


def _check_counts(strategy: str, *, k: int, positives: int, seed: int) -> None:
    if k < 1:
        raise UsageError(f"k is {k}; at least 1 negative is needed")
    if positives < 1:
        raise UsageError(f"positives is {positives}; at least 1 is needed")
    if seed < 0:
        raise UsageError(f"seed is {seed}; seeds are >= 0")
    n_positives = STRATEGIES[strategy].n_positives
    if n_positives is not None and positives != n_positives:
        raise UsageError(
            f"{strategy} keeps {n_positives} positive, got positives={positives}",
            hint="use top-bottom for several positives",
        )


def _check_options(options: OptSelectOptions) -> None:
    unknown = sorted(set(options) - OptSelectOptions.__optional_keys__)
    if unknown:
        raise UsageError(
            f"unknown selection option {unknown[0]!r}",
            hint=f"options: {', '.join(sorted(OptSelectOptions.__optional_keys__))}",
        )
    temperature = options.get("weight_temperature", "paper")
    is_number = isinstance(temperature, int | float) and 0.0 < temperature < np.inf
    if temperature not in ("paper", "auto") and not is_number:
        raise UsageError(f"weight_temperature is {temperature!r}; it is paper, auto or a number > 0")
    if options.get("cover", "negatives") not in ("negatives", "all"):
        raise UsageError(f"cover is {options['cover']!r}; it is negatives or all")
    if not options.get("time_limit_s", 10.0) > 0.0:
        raise UsageError(f"time_limit_s is {options['time_limit_s']}; it is > 0")


def _check_geometry(
    strategy: str, n_candidates: int, embeddings_RD: np.ndarray | None, distances_RR: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return both as float64 where the strategy needs them, None where it does not."""
    needs = STRATEGIES[strategy].needs
    if needs == "rewards":
        return None, None
    if embeddings_RD is not None and distances_RR is not None:
        raise UsageError("embeddings and distances were both given", hint="give one of them")
    if embeddings_RD is None and (distances_RR is None or needs == "embeddings"):
        raise UsageError(f"{strategy} needs {needs}", hint="run prefpipe embed, or use a strategy on rewards such as bottom-k")
    if distances_RR is not None:
        distances_RR = np.asarray(distances_RR, dtype=np.float64)
        if distances_RR.shape != (n_candidates, n_candidates):
            raise InputError(f"distances have shape {distances_RR.shape} for {n_candidates} candidates")
        if not (np.isfinite(distances_RR) & (distances_RR >= 0.0)).all():
            raise InputError("a distance is negative or not finite")
        return None, distances_RR
    embeddings_RD = np.asarray(embeddings_RD, dtype=np.float64)
    if embeddings_RD.ndim != 2 or len(embeddings_RD) != n_candidates:
        raise InputError(f"embeddings have shape {embeddings_RD.shape} for {n_candidates} candidates")
    is_bad_R = ~np.isfinite(embeddings_RD).all(axis=1)
    if is_bad_R.any():
        raise InputError(f"the embedding of candidate {np.flatnonzero(is_bad_R)[0]} is not finite")
    return embeddings_RD, None
