"""Every strategy's rule a second time, in plain Python or by a solver of others', and how far selection is from it."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from prefpipe.maths.selection.select_responses import Selection, select_responses
from support.highs import p_median_by_highs

N_POOLS = 24
N_PARTITIONED = 7
"""Responses of the largest pool of which all partitions are looked at."""
N_SEEDS = 1500
"""Draws of a random strategy, whose shares are compared with probabilities."""


class Distance(NamedTuple):
    """How far selection is from a rule: pools with another choice, and a deviation in ``unit``."""

    n_pools: int
    n_different: int
    deviation: float | None = None


class Peer(NamedTuple):
    """What a strategy is compared with.

    ``reference``: in words, with the unit of the deviation. ``bound``: of the deviation.
    """

    reference: str
    measure: Callable[[], Distance]
    bound: float = 0.0


class Pool(NamedTuple):
    """Rewards, some tied, spreads, embeddings, and how much is chosen."""

    rewards: np.ndarray
    spreads: np.ndarray
    embeddings: np.ndarray
    k: int
    positives: int


def pools() -> list[Pool]:
    """Make pools of 3 to 12 responses; in every second one rewards tie."""
    made = []
    for seed in range(N_POOLS):
        rng = np.random.default_rng(seed)
        n = 3 + seed % 10
        rewards = rng.integers(0, 5, n).astype(float) if seed % 2 else rng.normal(size=n)
        if rewards.min() == rewards.max():
            rewards[0] += 1.0
        made.append(
            Pool(
                rewards,
                rng.exponential(size=n),
                rng.normal(size=(n, 3)),
                1 + seed % 4,
                1 + seed % 3,
            )
        )
    return made


def by_rule(strategy: str, rule: Callable, **options: object) -> Callable[[], Distance]:
    """Compare the roles with those of ``rule(pool) -> (positives, negatives)``."""

    def measure() -> Distance:
        n_different = 0
        for pool in pools():
            found = _selected(strategy, pool, **options)
            positives, negatives = rule(pool)
            same = found.positives.tolist() == positives
            n_different += not (same and found.negatives.tolist() == sorted(negatives))
        return Distance(N_POOLS, n_different)

    return measure


def _selected(strategy: str, pool: Pool, **options: object) -> Selection:
    given = dict(options)
    if strategy in ("delta-ucb", "drts", "delta-quantile"):
        given["uncertainty"] = pool.spreads
    else:
        given["k"] = pool.k
        if strategy not in ("best-worst", "best-random"):
            given["positives"] = pool.positives
    if strategy == "delta":
        given |= {"samplers": _samplers(pool), "chosen_from": "big", "rejected_from": "small"}
    if strategy == "delta":
        given["positives"] = 1
    return select_responses(pool.rewards, strategy=strategy, **given)


def best(pool: Pool, n: int) -> list[int]:
    """The n highest rewards, of equal ones the lower index; one candidate is left at least."""
    order = sorted(range(len(pool.rewards)), key=lambda i: (-pool.rewards[i], i))
    return order[: min(n, len(order) - 1)]


def lowest(pool: Pool, n: int, taken: list[int]) -> list[int]:
    others = [i for i in range(len(pool.rewards)) if i not in taken]
    return sorted(others, key=lambda i: (pool.rewards[i], i))[:n]


def _bottom_k(pool: Pool) -> tuple[list[int], list[int]]:
    chosen = best(pool, pool.positives)
    return chosen, lowest(pool, pool.k, chosen)


def _best_worst(pool: Pool) -> tuple[list[int], list[int]]:
    chosen = best(pool, 1)
    return chosen, lowest(pool, 1, chosen)


def _all(pool: Pool) -> tuple[list[int], list[int]]:
    chosen = best(pool, pool.positives)
    return chosen, lowest(pool, len(pool.rewards), chosen)


def _best_of_n(pool: Pool) -> tuple[list[int], list[int]]:
    order = sorted(range(len(pool.rewards)), key=lambda i: (-pool.rewards[i], i))
    return order[: pool.positives], []


def _reward_position(pool: Pool) -> tuple[list[int], list[int]]:
    chosen = best(pool, pool.positives)
    target = np.mean(pool.rewards) - 2 * np.std(pool.rewards)
    others = lowest(pool, len(pool.rewards), chosen)
    # The sort is stable: of two as near, the lower reward comes first.
    return chosen, sorted(others, key=lambda i: abs(pool.rewards[i] - target))[: pool.k]


def _samplers(pool: Pool) -> list[str]:
    return ["big", *("small" if i % 2 else "big" for i in range(len(pool.rewards) - 1, 0, -1))]


def _gaps(pool: Pool) -> list[tuple[int, int]]:
    """Ordered pairs by descending ``u_i - l_j``, then higher first, lower second, lower index."""
    r, s = pool.rewards, pool.spreads
    pairs = itertools.permutations(range(len(r)), 2)
    return sorted(
        pairs, key=lambda ij: (-(r[ij[0]] + s[ij[0]] - r[ij[1]] + s[ij[1]]), -r[ij[0]], r[ij[1]])
    )


def _in_order(pool: Pool, pair: tuple[int, int]) -> tuple[list[int], list[int]]:
    positive, negative = sorted(pair, key=lambda i: (-pool.rewards[i], i))
    return [positive], [negative]


def _delta_ucb(pool: Pool) -> tuple[list[int], list[int]]:
    return _in_order(pool, _gaps(pool)[0])


def _delta_quantile(pool: Pool) -> tuple[list[int], list[int]]:
    pairs = _gaps(pool)
    return _in_order(pool, pairs[int(len(pairs) * 0.3)])


def _delta() -> Distance:
    """Pools where every response of the weaker model is rated above have no group."""
    n_different = 0
    for pool in pools():
        samplers = _samplers(pool)
        big = [i for i, name in enumerate(samplers) if name == "big"][:1]
        small = [
            i
            for i, name in enumerate(samplers)
            if name == "small" and pool.rewards[i] <= pool.rewards[big[0]]
        ][: pool.k]
        batch = select_responses(
            pool.rewards[None],
            strategy="delta",
            k=pool.k,
            samplers=np.array([samplers]),
            chosen_from="big",
            rejected_from="small",
        )
        positives = [i for i in batch.positives[0].tolist() if i >= 0]
        negatives = [i for i in batch.negatives[0].tolist() if i >= 0]
        n_different += (positives, negatives) != (big if small else [], small)
    return Distance(N_POOLS, n_different)


def _weighted_distances(pool: Pool, chosen: list[int]) -> tuple[np.ndarray, list[int]]:
    """``w_i A_ij`` of the candidate negatives by ascending reward, and who they are."""
    others = lowest(pool, len(pool.rewards), chosen)
    rewards, embeddings = pool.rewards[others], pool.embeddings[others]
    weights = np.exp(rewards.min() - rewards)
    distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=-1)
    return weights[:, None] * distances, others


def _opt_select() -> Distance:
    """The cost that is reported against HiGHS's optimum, relative to it."""
    n_different, deviation = 0, 0.0
    for pool in pools():
        found = select_responses(pool.rewards, pool.embeddings, k=pool.k, positives=pool.positives)
        costs, others = _weighted_distances(pool, found.positives.tolist())
        k = min(pool.k, len(others))
        _, cost = p_median_by_highs(costs, k)
        chosen = [others.index(i) for i in found.negatives.tolist()]
        own_cost = float(costs[:, chosen].min(axis=1).sum())
        # Another set of the same cost is no other choice: HiGHS breaks ties in its own way.
        n_different += own_cost > cost * (1 + 1e-9)
        if cost > 0:
            deviation = max(deviation, abs(found.cost - cost) / cost)
    return Distance(N_POOLS, n_different, deviation)


def _coreset() -> Distance:
    """The lowest reward of each cluster; its inertia above the least of all partitions, relative."""
    n_different, deviation = 0, 0.0
    for pool in pools():
        if len(pool.rewards) > N_PARTITIONED:
            continue
        found = select_responses(pool.rewards, pool.embeddings, k=pool.k, strategy="coreset")
        others = lowest(pool, len(pool.rewards), found.positives.tolist())
        k = min(pool.k, len(others))
        clusters = [[i for i in others if found.clusters[i] == c] for c in range(k)]
        n_different += found.negatives.tolist() != sorted(
            lowest(pool, 1, [i for i in range(len(pool.rewards)) if i not in members])[0]
            for members in clusters
        )
        least = min(
            _inertia(pool, _members(others, labels, k))
            for labels in itertools.product(range(k), repeat=len(others))
            if len(set(labels)) == k
        )
        if least > 1e-12:
            deviation = max(deviation, _inertia(pool, clusters) / least - 1.0)
    return Distance(
        sum(len(pool.rewards) <= N_PARTITIONED for pool in pools()), n_different, deviation
    )


def _members(others: list[int], labels: tuple[int, ...], k: int) -> list[list[int]]:
    return [
        [i for i, label in zip(others, labels, strict=True) if label == cluster]
        for cluster in range(k)
    ]


def _inertia(pool: Pool, clusters: list[list[int]]) -> float:
    total = 0.0
    for members in clusters:
        points = pool.embeddings[members]
        total += float(np.square(points - points.mean(axis=0)).sum())
    return total


def _shares(strategy: str, expected: Callable[[Pool], dict[tuple[int, ...], float]]) -> Callable:
    """The largest difference of a choice's share from its probability, in standard errors."""

    def measure() -> Distance:
        pool = pools()[6]
        counts: dict[tuple[int, ...], int] = {}
        for seed in range(N_SEEDS):
            found = _selected(strategy, pool, seed=seed)
            roles = (*found.positives.tolist(), -1, *found.negatives.tolist())
            counts[roles] = counts.get(roles, 0) + 1
        probabilities = expected(pool)
        n_different = sum(roles not in probabilities for roles in counts)
        deviation = 0.0
        for roles, share in probabilities.items():
            error = np.sqrt(share * (1 - share) / N_SEEDS)
            if error > 0:
                difference = abs(counts.get(roles, 0) / N_SEEDS - share)
                deviation = max(deviation, difference / error)
        return Distance(1, n_different, float(deviation))

    return measure


def _random(pool: Pool) -> dict[tuple[int, ...], float]:
    chosen = best(pool, pool.positives)
    others = sorted(lowest(pool, len(pool.rewards), chosen))
    sets = list(itertools.combinations(others, min(pool.k, len(others))))
    return {(*chosen, -1, *each): 1 / len(sets) for each in sets}


def _best_random(pool: Pool) -> dict[tuple[int, ...], float]:
    chosen = best(pool, 1)
    others = lowest(pool, len(pool.rewards), chosen)
    return {(*chosen, -1, each): 1 / len(others) for each in others}


def _drts(pool: Pool) -> dict[tuple[int, ...], float]:
    """Shares of a hundred thousand draws by NumPy."""
    rng = np.random.default_rng(1)
    n, size = len(pool.rewards), 100_000
    noise = rng.uniform(-1, 1, (2, size, n)) * pool.spreads
    first = np.argmax(pool.rewards + noise[0], axis=1)
    second = np.argmax(-pool.rewards + noise[1], axis=1)
    while (same := first == second).any():
        again = rng.uniform(-1, 1, (int(same.sum()), n)) * pool.spreads
        second[same] = np.argmax(-pool.rewards + again, axis=1)
    shares: dict[tuple[int, ...], float] = {}
    for pair in zip(first.tolist(), second.tolist(), strict=True):
        (positive,), (negative,) = _in_order(pool, pair)
        roles = positive, -1, negative
        shares[roles] = shares.get(roles, 0.0) + 1 / size
    return shares


STANDARD_ERRORS = 5.0

PEERS: dict[str, Peer] = {
    "opt-select": Peer(
        "HiGHS's optimum of the p-median program; cost, relative", _opt_select, 1e-9
    ),
    "coreset": Peer("all partitions; inertia above the least, relative", _coreset, 0.25),
    "bottom-k": Peer("sorted in plain Python", by_rule("bottom-k", _bottom_k)),
    "random": Peer(
        "all sets alike; share of a set, in standard errors",
        _shares("random", _random),
        STANDARD_ERRORS,
    ),
    "best-worst": Peer("sorted in plain Python", by_rule("best-worst", _best_worst)),
    "top-bottom": Peer("sorted in plain Python", by_rule("top-bottom", _bottom_k)),
    "best-random": Peer(
        "all others alike; share of one, in standard errors",
        _shares("best-random", _best_random),
        STANDARD_ERRORS,
    ),
    "all": Peer("sorted in plain Python", by_rule("all", _all)),
    "reward-position": Peer(
        "all candidates by their distance from mu + c sigma",
        by_rule("reward-position", _reward_position),
    ),
    "delta": Peer("the rule in plain loops", _delta),
    "delta-ucb": Peer("all ordered pairs by their gap", by_rule("delta-ucb", _delta_ucb)),
    "drts": Peer(
        "100,000 draws by NumPy; share of a pair, in standard errors",
        _shares("drts", _drts),
        STANDARD_ERRORS,
    ),
    "delta-quantile": Peer(
        "all ordered pairs by their gap, the one at the rank",
        by_rule("delta-quantile", _delta_quantile, quantile=0.3),
    ),
    "best-of-n": Peer("sorted in plain Python", by_rule("best-of-n", _best_of_n)),
}
