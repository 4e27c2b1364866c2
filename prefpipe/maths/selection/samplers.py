"""Delta learning: positives of one sampler, negatives of another (arXiv 2507.06187).

The paper pairs the response of a small model with that of a smaller one, ``y+ ~ A``, ``y- ~ B``,
and lets no reward decide. Its samplers answer once. With several answers of each, the first ones
are used, because samples of one prompt are exchangeable; a reward, if any, only drops inversions
**(ours)**.
"""

from typing import NamedTuple

import numpy as np


class Samplers(NamedTuple):
    """Which candidates (P, R) are of the sampler of the positives, and of the negatives'."""

    chosen: np.ndarray
    rejected: np.ndarray


def first_of_each(
    rewards_PR: np.ndarray, mask_PR: np.ndarray, samplers: Samplers, *, positives: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positives (P, positives) and the negatives (P, k), -1 after the last.

    The positives are the first of the one sampler by index, listed by descending reward; the
    negatives are the first of the other by index. A prompt that lacks either has neither.

    Args:
        rewards_PR: float.
        mask_PR: bool, the usable candidates, without inversions.
        samplers: the sampler of each candidate.
        positives: at least 1.
        k: at least 1.
    """
    positives_PK = _first(mask_PR & samplers.chosen, positives)
    negatives_PK = _first(mask_PR & samplers.rejected, k)
    lacks_one_P = (positives_PK < 0).all(axis=1) | (negatives_PK < 0).all(axis=1)
    positives_PK[lacks_one_P] = -1
    negatives_PK[lacks_one_P] = -1

    to_sort_by_PK = -_rewards_at(positives_PK, rewards_PR, nobody=-np.inf)
    best_first_PK = np.argsort(to_sort_by_PK, axis=1, kind="stable")
    return np.take_along_axis(positives_PK, best_first_PK, axis=1), negatives_PK


def mask_inversions(
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    samplers: Samplers,
    *,
    positives: int = 1,
    min_margin: float = 0.0,
) -> np.ndarray:
    """Return (P, R) which candidates of the negatives' sampler are rated too high.

    With ``floor`` the lowest reward of the positives that `first_of_each` takes, these are the
    candidates with ``floor - r < min_margin``: with 0, those rated above a positive.
    """
    positives_PK = _first(mask_PR & samplers.chosen, positives)
    floor_P1 = _rewards_at(positives_PK, rewards_PR, nobody=np.inf).min(axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        is_too_high_PR = floor_P1 - rewards_PR < min_margin
    return np.asarray(mask_PR & samplers.rejected & is_too_high_PR)


def _first(mask_PR: np.ndarray, n: int) -> np.ndarray:
    """Return (P, n) the first indices where the mask is True, -1 after the last."""
    width = min(n, mask_PR.shape[1])
    order_PR = np.argsort(~mask_PR, axis=1, kind="stable")[:, :width]
    is_there_PR = np.take_along_axis(mask_PR, order_PR, axis=1)
    first_PK = np.full((len(mask_PR), max(1, width)), -1, dtype=np.int64)
    first_PK[:, :width] = np.where(is_there_PR, order_PR, -1)
    return first_PK


def _rewards_at(places_PK: np.ndarray, rewards_PR: np.ndarray, nobody: float) -> np.ndarray:
    """Return (P, K) the rewards of candidates, ``nobody`` where the index is -1."""
    rewards_PK = np.full(places_PK.shape, nobody)
    prompts, columns = np.nonzero(places_PK >= 0)
    rewards_PK[prompts, columns] = rewards_PR[prompts, places_PK[prompts, columns]]
    return rewards_PK
