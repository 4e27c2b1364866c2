"""Pairs for pairwise objectives: which kept response is to beat which, and by how much their rewards differ."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError

PAIR_RULES = ("positive-negative", "best-worst", "best-random", "all-ordered", "adjacent")


class Pair(NamedTuple):
    """Indices of the better and the worse response, and the difference of their rewards."""

    chosen: int
    rejected: int
    margin: float


def build_pairs(
    rewards: Sequence[float] | np.ndarray,
    is_positive: Sequence[bool] | np.ndarray,
    rule: str = "positive-negative",
    *,
    max_pairs: int | None = None,
    min_margin: float = 0.0,
    seed: int = 0,
) -> list[Pair]:
    """Return the pairs of one prompt's kept responses, the largest margin first, then by index.

    - ``positive-negative``: every positive with every negative;
    - ``best-worst``: the highest with the lowest reward; ``best-random``: the highest with another one drawn by ``seed``;
    - ``all-ordered``: every two responses with different rewards, of whatever role;
    - ``adjacent``: each response with the nearest one below it.

    Equal rewards make no pair, except of a positive with a negative, which are what selection says. With ``min_margin`` above
    zero a smaller difference makes no pair, and ``adjacent`` skips to the next response below that is far enough.

    Args:
        rewards: (R,) finite, of the kept responses.
        is_positive: (R,) bool.
        rule: one of `PAIR_RULES`.
        max_pairs: at most so many, at least 1, spread evenly over the pairs by margin, the largest and the smallest included.
        min_margin: at least 0.
        seed: at least 0.

    Raises:
        UsageError: an unknown rule or a value out of range.
        InputError: arrays of different lengths.
    """
    if rule not in PAIR_RULES:
        raise UsageError(
            f"unknown pair rule {rule!r}", hint=f"choose one of {', '.join(PAIR_RULES)}"
        )
    if (max_pairs is not None and max_pairs < 1) or not min_margin >= 0.0:
        raise UsageError(
            f"max_pairs is {max_pairs} and min_margin {min_margin}; they are at least 1 and 0"
        )
    if len(rewards) != len(is_positive):
        raise InputError(
            f"{len(rewards)} rewards and {len(is_positive)} roles: one of each a response is expected"
        )
    values = [float(reward) for reward in rewards]
    found = [
        Pair(i, j, values[i] - values[j])
        for i, j in _ordered(values, [bool(each) for each in is_positive], rule, min_margin, seed)
        if values[i] - values[j] >= min_margin
    ]
    found.sort(key=lambda pair: (-pair.margin, pair.chosen, pair.rejected))
    if max_pairs is None or len(found) <= max_pairs:
        return found
    if max_pairs == 1:
        return found[:1]
    return [found[round(place * (len(found) - 1) / (max_pairs - 1))] for place in range(max_pairs)]


def _ordered(
    rewards: list[float], is_positive: list[bool], rule: str, min_margin: float, seed: int
) -> list[tuple[int, int]]:
    everyone = range(len(rewards))
    if rule == "positive-negative":
        return [(i, j) for i in everyone for j in everyone if is_positive[i] and not is_positive[j]]
    if rule == "all-ordered":
        return [(i, j) for i in everyone for j in everyone if rewards[i] > rewards[j]]
    best_first = sorted(everyone, key=lambda i: (-rewards[i], i))
    if len(best_first) < 2 or rewards[best_first[0]] == rewards[best_first[-1]]:
        return []
    best = best_first[0]
    if rule == "best-worst":
        return [(best, best_first[-1])]
    if rule == "best-random":
        below = [
            i
            for i in best_first
            if rewards[best] > rewards[i] and rewards[best] - rewards[i] >= min_margin
        ]
        return (
            [(best, below[int(np.random.default_rng(seed).integers(len(below)))])] if below else []
        )
    pairs = []
    for place, i in enumerate(best_first):
        lower = (
            j
            for j in best_first[place + 1 :]
            if rewards[i] > rewards[j] and rewards[i] - rewards[j] >= min_margin
        )
        j = next(lower, None)
        if j is not None:
            pairs.append((i, j))
    return pairs
