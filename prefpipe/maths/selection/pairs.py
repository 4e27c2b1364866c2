"""Pairs for pairwise objectives: which kept response should beat which, and by how much."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.registry import PAIR_RULES


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
    - ``best-worst``: the highest with the lowest reward;
    - ``best-random``: the highest with another one drawn by ``seed``;
    - ``all-ordered``: every two responses with different rewards, whatever their roles;
    - ``adjacent``: each response with the nearest one below it.

    Equal rewards make no pair, except a positive with a negative, where the roles decide. With
    ``min_margin`` above zero a smaller difference makes no pair, and ``adjacent`` skips to the next
    response that is far enough below.

    Args:
        rewards: (R,) finite, of the kept responses.
        is_positive: (R,) bool.
        rule: one of `PAIR_RULES`.
        max_pairs: the most pairs, at least 1, spread evenly over the margins, including the largest
            and the smallest.
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
            f"max_pairs is {max_pairs} and min_margin {min_margin}; they must be at least 1 and 0"
        )
    if len(rewards) != len(is_positive):
        raise InputError(
            f"{len(rewards)} rewards and {len(is_positive)} roles: expected one of each per "
            "response"
        )

    values = [float(reward) for reward in rewards]
    if rule == "positive-negative":
        indices = _positives_with_negatives([bool(role) for role in is_positive])
    elif rule == "all-ordered":
        indices = _all_ordered(values)
    elif rule == "adjacent":
        indices = _adjacent(values, min_margin)
    elif rule == "best-worst":
        indices = _best_with_worst(values)
    else:
        indices = _best_with_random(values, min_margin, seed)

    pairs = []
    for i, j in indices:
        margin = values[i] - values[j]
        if margin >= min_margin:
            pairs.append(Pair(i, j, margin))
    pairs.sort(key=lambda pair: (-pair.margin, pair.chosen, pair.rejected))

    if max_pairs is None or len(pairs) <= max_pairs:
        return pairs
    if max_pairs == 1:
        return pairs[:1]
    last = len(pairs) - 1
    return [pairs[round(place * last / (max_pairs - 1))] for place in range(max_pairs)]


def _positives_with_negatives(is_positive: list[bool]) -> list[tuple[int, int]]:
    positives = [i for i, role in enumerate(is_positive) if role]
    negatives = [j for j, role in enumerate(is_positive) if not role]
    return [(i, j) for i in positives for j in negatives]


def _all_ordered(rewards: list[float]) -> list[tuple[int, int]]:
    pairs = []
    for i, higher in enumerate(rewards):
        pairs += [(i, j) for j, lower in enumerate(rewards) if higher > lower]
    return pairs


def _adjacent(rewards: list[float], min_margin: float) -> list[tuple[int, int]]:
    best_first = _best_first(rewards)
    pairs = []
    for place, i in enumerate(best_first):
        for j in best_first[place + 1 :]:
            margin = rewards[i] - rewards[j]
            if margin > 0.0 and margin >= min_margin:
                pairs.append((i, j))
                break
    return pairs


def _best_with_worst(rewards: list[float]) -> list[tuple[int, int]]:
    best_first = _best_first(rewards)
    if not best_first or rewards[best_first[0]] == rewards[best_first[-1]]:
        return []
    return [(best_first[0], best_first[-1])]


def _best_with_random(rewards: list[float], min_margin: float, seed: int) -> list[tuple[int, int]]:
    best_first = _best_first(rewards)
    below = []
    for j in best_first[1:]:
        margin = rewards[best_first[0]] - rewards[j]
        if margin > 0.0 and margin >= min_margin:
            below.append(j)
    if not below:
        return []
    drawn = int(np.random.default_rng(seed).integers(len(below)))
    return [(best_first[0], below[drawn])]


def _best_first(rewards: list[float]) -> list[int]:
    """Return the indices by descending reward, equal rewards by ascending index."""
    return sorted(range(len(rewards)), key=lambda i: (-rewards[i], i))
