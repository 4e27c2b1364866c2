"""Pairs chosen by rewards with an uncertainty: ActiveUltraFeedback (arXiv 2603.09692).

With rewards r, their uncertainty s and a weight b, the bounds are ``u = r + b s`` and
``l = r - b s``. The paper has r and s of an ensemble of reward models and asks an oracle which of
the two responses is better. Here s is the spread of several scorers (`scorer_spread`) and the
reward is the oracle: the higher of the two is the positive **(ours)**.

Read from the paper's public code (lasgroup/ActiveUltraFeedback, ``activeuf/acquisition_function``:
``deltaucb.py``, ``drts.py``, ``deltaquantile.py``).
"""

from typing import Any

import numpy as np

from prefpipe.errors import InputError
from prefpipe.maths.compute.compiled import compiled
from prefpipe.maths.selection.random_numbers import draw_below, draw_share, seed_state
from prefpipe.maths.selection.rewards import standardise
from prefpipe.maths.selection.screening import LARGEST_REWARD
from prefpipe.maths.selection.validation import as_numbers

MOST_DRAWS = 30
"""Draws for a second response that differs from the first; after them any other is used."""
PROMPTS_AT_ONCE = 256
"""Prompts whose gaps are compared at a time: R x R numbers each."""


def scorer_spread(scores: Any, rewards: Any = None) -> np.ndarray:
    """Return the spread of several scorers, (R,) or (P, R), on the scale of the rewards.

    Each scorer is standardised within the prompt, ``z_s = (x_s - mean x_s) / std x_s``, so that
    only its opinion of this response relative to the others counts. The spread is

        sigma_i = std_s(z_si) * std_i(r_i)

    with ddof 0 throughout; without rewards the second factor is 1. So ``r + b sigma`` orders
    responses as ``z(r) + b std(z)`` does, and scaling rewards or a scorer changes no choice. NaN if
    a scorer gave no score. **(ours)**: the paper has an ensemble on one scale.

    Args:
        scores: (S, R) or (S, P, R), of at least two scorers.
        rewards: (R,) or (P, R); NaN if missing.

    Raises:
        InputError: fewer than two scorers, shapes that do not agree, or values that are not
            numbers.
    """
    scores_SPR = as_numbers(scores, "scores").astype(np.float64)
    if scores_SPR.ndim not in (2, 3) or len(scores_SPR) < 2:
        raise InputError(
            f"scores have shape {scores_SPR.shape}, expected (S, R) or (S, P, R) of two or "
            "more scorers: a single scorer has no spread"
        )
    spread_PR = np.asarray(standardise(scores_SPR).std(axis=0))
    if rewards is None:
        return spread_PR

    rewards_PR = as_numbers(rewards, "rewards").astype(np.float64)
    if rewards_PR.shape != spread_PR.shape:
        raise InputError(
            f"rewards have shape {rewards_PR.shape} for scores of shape {scores_SPR.shape}; "
            f"expected {scores_SPR.shape[1:]}"
        )
    return np.asarray(spread_PR * _scale(rewards_PR))


def _scale(rewards_PR: np.ndarray) -> np.ndarray:
    """Return the standard deviation within each prompt, the last axis kept: (..., 1)."""
    is_usable_PR = np.abs(rewards_PR) <= LARGEST_REWARD
    n_P1 = np.maximum(is_usable_PR.sum(axis=-1, keepdims=True), 1)
    mean_P1 = np.where(is_usable_PR, rewards_PR, 0.0).sum(axis=-1, keepdims=True) / n_P1
    centred_PR = np.where(is_usable_PR, rewards_PR - mean_P1, 0.0)
    return np.asarray(np.sqrt(np.square(centred_PR).sum(axis=-1, keepdims=True) / n_P1))


def choose_pairs(
    strategy: str,
    rewards_PR: np.ndarray,
    spreads_PR: np.ndarray,
    mask_PR: np.ndarray,
    *,
    seeds_P: np.ndarray,
    spread_weight: float,
    quantile: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positive and the negative of each prompt, (P, 1) and (P, 1), -1 if there is none.

    - ``delta-ucb``: ``(i, j) = argmax over i != j of u_i - l_j``;
    - ``drts``, double reverse Thompson sampling: ``i = argmax(r + b z s)``,
      ``j = argmax(-r + b z' s)`` with z and z' uniform on (-1, 1), one a response; z' is drawn
      again while j = i, `MOST_DRAWS` times, and then j is any other response;
    - ``delta-quantile``: of the n (n - 1) pairs by descending ``u_i - l_j`` the one with rank
      ``floor(n (n - 1) q)``, the first 0.

    Where s is 0, ``delta-ucb`` and ``drts`` are ``best-worst``. Ties go to the higher first
    response, then to the lower second one, then to the lower index.

    Args:
        strategy: one of the three.
        rewards_PR: finite where the mask is True.
        spreads_PR: finite and at least 0 where the mask is True.
        mask_PR: bool, the usable candidates; a prompt with fewer than two has no pair.
        seeds_P: uint64, for ``drts``.
        spread_weight: b, at least 0.
        quantile: q, in [0, 1].
    """
    pairs_P2 = np.full((len(mask_PR), 2), -1, dtype=np.int64)
    if mask_PR.shape[1] < 2:
        return pairs_P2[:, :1], pairs_P2[:, 1:]

    n_usable_P = mask_PR.sum(axis=1)
    best_first_PR = np.argsort(np.where(mask_PR, -rewards_PR, np.inf), axis=1, kind="stable")
    ascending_PR = np.argsort(np.where(mask_PR, rewards_PR, np.inf), axis=1, kind="stable")

    # Above the lowest reward: a constant added to all rewards then changes nothing.
    lowest_P1 = np.where(mask_PR, rewards_PR, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    heights_PR = np.where(mask_PR, rewards_PR, 0.0) - np.where(np.isinf(lowest_P1), 0.0, lowest_P1)
    weighted_PR = spread_weight * np.where(mask_PR, spreads_PR, 0.0)

    if strategy == "drts":
        _draw_pairs(
            heights_PR, weighted_PR, best_first_PR, ascending_PR, n_usable_P, seeds_P, pairs_P2
        )
    else:
        # The widest gap is the first of the ranking.
        quantile = quantile if strategy == "delta-quantile" else 0.0
        for start in range(0, len(mask_PR), PROMPTS_AT_ONCE):
            rows = slice(start, start + PROMPTS_AT_ONCE)
            pairs_P2[rows] = _rank_pairs(
                heights_PR[rows],
                weighted_PR[rows],
                best_first_PR[rows],
                ascending_PR[rows],
                n_usable_P[rows],
                quantile,
            )

    # The reward decides which is better; equal rewards go to the lower index.
    has_pair_P = pairs_P2[:, 0] >= 0
    rewards_P2 = np.take_along_axis(rewards_PR, np.maximum(pairs_P2, 0), axis=1)
    is_higher_P = rewards_P2[:, 1] > rewards_P2[:, 0]
    is_tied_P = rewards_P2[:, 1] == rewards_P2[:, 0]
    is_turned_P = is_higher_P | (is_tied_P & (pairs_P2[:, 1] < pairs_P2[:, 0]))
    is_turned_P &= has_pair_P
    pairs_P2[is_turned_P] = pairs_P2[is_turned_P][:, ::-1]
    return pairs_P2[:, :1], pairs_P2[:, 1:]


def _rank_pairs(
    heights_PR: np.ndarray,
    weighted_PR: np.ndarray,
    best_first_PR: np.ndarray,
    ascending_PR: np.ndarray,
    n_usable_P: np.ndarray,
    quantile: float,
) -> np.ndarray:
    """Return (P, 2) the pair at a quantile of the descending gaps, -1 if there is none."""
    n_candidates = heights_PR.shape[1]
    upper_PR = np.take_along_axis(heights_PR + weighted_PR, best_first_PR, axis=1)
    lower_PR = np.take_along_axis(heights_PR - weighted_PR, ascending_PR, axis=1)
    gaps_PRR = upper_PR[:, :, None] - lower_PR[:, None, :]

    # Rows are first responses from the best, columns second ones from the worst: a stable sort
    # then breaks ties as documented. Usable candidates precede the others in both.
    is_usable_PR = np.arange(n_candidates)[None] < n_usable_P[:, None]
    is_pair_PRR = is_usable_PR[:, :, None] & is_usable_PR[:, None, :]
    is_pair_PRR &= best_first_PR[:, :, None] != ascending_PR[:, None, :]
    descending = np.where(is_pair_PRR, -gaps_PRR, np.inf).reshape(len(gaps_PRR), -1)

    n_pairs_P = n_usable_P * (n_usable_P - 1)
    ranks_P = np.minimum((n_pairs_P * quantile).astype(np.int64), n_pairs_P - 1)
    if quantile == 0.0:
        places_P = np.argmin(descending, axis=1)
    else:
        order = np.argsort(descending, axis=1, kind="stable")
        places_P = np.take_along_axis(order, np.maximum(ranks_P, 0)[:, None], axis=1)[:, 0]

    first_P = np.take_along_axis(best_first_PR, places_P[:, None] // n_candidates, axis=1)
    second_P = np.take_along_axis(ascending_PR, places_P[:, None] % n_candidates, axis=1)
    pairs_P2 = np.concatenate([first_P, second_P], axis=1)
    pairs_P2[n_pairs_P < 1] = -1
    return pairs_P2


@compiled
def _draw_pairs(
    heights_PR: np.ndarray,
    weighted_PR: np.ndarray,
    best_first_PR: np.ndarray,
    ascending_PR: np.ndarray,
    n_usable_P: np.ndarray,
    seeds_P: np.ndarray,
    pairs_P2: np.ndarray,
) -> None:
    """Write each prompt's pair by double reverse Thompson sampling."""
    for p in range(len(n_usable_P)):
        n = n_usable_P[p]
        if n < 2:
            continue

        state = seed_state(seeds_P[p])
        ascending_N = ascending_PR[p, :n]
        first = _draw_highest(heights_PR[p], weighted_PR[p], best_first_PR[p, :n], 1.0, state)
        second = first
        for _ in range(MOST_DRAWS):
            second = _draw_highest(heights_PR[p], weighted_PR[p], ascending_N, -1.0, state)
            if second != first:
                break

        # One response is best and worst in every draw: take any other one.
        if second == first:
            place = draw_below(state, n - 1)
            for candidate in ascending_N:
                if candidate == first:
                    continue
                if place == 0:
                    second = candidate
                    break
                place -= 1

        pairs_P2[p, 0] = first
        pairs_P2[p, 1] = second


@compiled
def _draw_highest(
    heights_R: np.ndarray,
    weighted_R: np.ndarray,
    order_N: np.ndarray,
    sign: float,
    state: np.ndarray,
) -> int:
    """Return the candidate of the highest ``sign r + b z s``, z drawn for each in turn."""
    best, highest = -1, -np.inf
    for candidate in order_N:
        z = 2.0 * draw_share(state) - 1.0
        value = sign * heights_R[candidate] + z * weighted_R[candidate]
        if value > highest:
            best, highest = candidate, value
    return best
