"""Which candidates can be selected from, and whether a prompt is worth training on."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.compute.compiled import compiled

ANSWERED = ("ok", "truncated")
"""Statuses of candidates that have a response."""

NO_FLAWS: Mapping[str, np.ndarray] = MappingProxyType({})
"""Flaws of a strategy that needs only text and reward: none."""

LARGEST_REWARD = 1e150
"""Rewards are squared for their standard deviation, which must stay a finite number."""

NOTHING = np.array(None, dtype=object)


def is_none(objects_N: np.ndarray) -> np.ndarray:
    """Return (N,) bool: which of the objects are None; they are texts, or None."""
    # Compared in C: a loop in Python over all candidates of a part showed in its profile.
    return np.asarray(np.equal(objects_N, NOTHING), dtype=bool)


def screen_candidates(
    *,
    prompts_N: np.ndarray,
    texts_N: np.ndarray,
    is_blank_N: np.ndarray,
    rewards_N: np.ndarray,
    statuses_N: np.ndarray,
    flaws_N: Mapping[str, np.ndarray] = NO_FLAWS,
    drop_truncated: bool = False,
    keep_duplicates: bool = False,
) -> np.ndarray:
    """Return for each of N candidates None if it is usable, else why not, as objects (N,).

    The reason is the first of these that holds:

    - the status itself, unless it is ``ok`` or ``truncated``; ``error`` is named
      ``generation_error``;
    - ``empty``: only white space;
    - ``truncated``: that status, with ``drop_truncated``;
    - ``no_reward``: NaN; ``infinite_reward``: infinite, or beyond `LARGEST_REWARD`;
    - those of ``flaws_N``, in their order: ``no_embedding``; ``no_spread``, a required scorer gave
      no score; ``other_sampler``, a model that the strategy does not use;
    - ``duplicate``: exactly the text of an earlier usable candidate of the same prompt.

    Args:
        prompts_N: int, the prompt of each candidate.
        texts_N: int, equal where the texts are equal.
        is_blank_N: bool, no text or only white space.
        rewards_N: float, NaN if missing.
        statuses_N: text, as ``generate`` wrote it.
        flaws_N: for each reason, bool, which candidates have it; the reasons depend on the
            strategy.
        drop_truncated: drop responses that were cut at the token limit.
        keep_duplicates: keep equal texts of one prompt.

    Raises:
        InputError: columns of different lengths.
    """
    columns = [prompts_N, texts_N, is_blank_N, rewards_N, statuses_N, *flaws_N.values()]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise InputError(
            f"columns of {', '.join(map(str, lengths))} rows: expected one value per candidate"
        )

    # The last reason first: each line takes precedence over those before it.
    reasons_N = np.full(len(rewards_N), None, dtype=object)
    for reason, has_flaw_N in reversed(list(flaws_N.items())):
        reasons_N[has_flaw_N] = reason
    reasons_N[np.abs(rewards_N) > LARGEST_REWARD] = "infinite_reward"
    reasons_N[np.isnan(rewards_N)] = "no_reward"
    if drop_truncated:
        reasons_N[statuses_N == "truncated"] = "truncated"
    reasons_N[is_blank_N] = "empty"
    has_failed_N = ~np.isin(statuses_N, ANSWERED)
    reasons_N[has_failed_N] = statuses_N[has_failed_N]
    reasons_N[statuses_N == "error"] = "generation_error"

    # Only usable candidates count as originals: a dropped one does not block its copies.
    if not keep_duplicates:
        usable = np.flatnonzero(is_none(reasons_N))
        n_texts = int(texts_N.max(initial=0)) + 1
        keys = prompts_N[usable].astype(np.int64) * n_texts + texts_N[usable]
        _, firsts = np.unique(keys, return_index=True)
        is_copy = np.ones(len(usable), dtype=bool)
        is_copy[firsts] = False
        reasons_N[usable[is_copy]] = "duplicate"

    return reasons_N


def mask_near_duplicates(
    embeddings_PRD: np.ndarray,
    distances_PRR: np.ndarray,
    rewards_PR: np.ndarray,
    mask_PR: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Return (P, R) which candidates are near-copies of a better one.

    Candidates are taken from the highest reward down, equal rewards by ascending index; one whose
    embedding has a cosine similarity of ``threshold`` or more with one kept before is a near-copy.
    So the positive always stays, and no near-copy of it becomes its negative **(ours)**. A zero
    vector is similar to none.
    """
    squared_norms_PR = np.einsum("prd,prd->pr", embeddings_PRD, embeddings_PRD, dtype=np.float64)
    order_PR = np.argsort(np.where(mask_PR, -rewards_PR, np.inf), axis=1, kind="stable")
    n_usable_P = mask_PR.sum(axis=1)
    is_copy_PR = np.zeros(mask_PR.shape, dtype=np.bool_)
    _mark_copies(squared_norms_PR, distances_PRR, order_PR, n_usable_P, threshold, is_copy_PR)
    return is_copy_PR


@compiled
def _mark_copies(
    squared_norms_PR: np.ndarray,
    distances_PRR: np.ndarray,
    order_PR: np.ndarray,
    n_usable_P: np.ndarray,
    threshold: float,
    is_copy_PR: np.ndarray,
) -> None:
    for p in range(len(n_usable_P)):
        for place in range(n_usable_P[p]):
            i = order_PR[p, place]
            for earlier in range(place):
                j = order_PR[p, earlier]
                if is_copy_PR[p, j]:
                    continue

                # The cosine from the distance: 2 a.b = |a|^2 + |b|^2 - |a - b|^2.
                twice_dot = (
                    squared_norms_PR[p, i] + squared_norms_PR[p, j] - distances_PRR[p, i, j] ** 2
                )
                length = 2.0 * np.sqrt(squared_norms_PR[p, i] * squared_norms_PR[p, j])

                # 1e-12: equal vectors must reach a threshold of 1 whatever the rounding.
                if length > 0.0 and twice_dot >= length * (threshold - 1e-12):
                    is_copy_PR[p, i] = True
                    break


def count_positives(usable_PR: np.ndarray, positives: int, *, n_spared: int = 1) -> np.ndarray:
    """Return (P,) how many positives each prompt has.

    ``positives`` of them, or as many as leave ``n_spared`` usable candidates to be negatives.
    """
    # A Python integer may be larger than any NumPy integer.
    most = min(positives, usable_PR.shape[1])
    return np.asarray(np.maximum(np.minimum(most, usable_PR.sum(axis=1) - n_spared), 0))


def mask_low_margins(
    rewards_PR: np.ndarray, mask_PR: np.ndarray, *, min_margin: float, positives: int = 1
) -> np.ndarray:
    """Return (P, R) which usable candidates are too close to the positives to be negatives.

    The positives are the `count_positives` highest rewards of ``mask_PR``, ties to the lower index,
    as in `prefpipe.maths.selection.select_pools`. Any other usable candidate i has margin
    ``min(r of positives) - r_i`` and is usable only with a margin of at least ``min_margin``. Zero,
    as in the papers, changes nothing; any number above zero excludes candidates tied with a
    positive from the negatives. A prompt may keep positives only: `prompt_rejections` reports it.
    """
    if not min_margin >= 0.0:
        raise UsageError(f"min_margin is {min_margin}; it must be >= 0")
    if rewards_PR.size == 0 or min_margin == 0.0:
        return np.zeros(mask_PR.shape, dtype=bool)

    best_first_PR = np.argsort(np.where(mask_PR, -rewards_PR, np.inf), axis=1, kind="stable")
    n_positives_P1 = count_positives(mask_PR, positives)[:, None]
    last_positive_P1 = np.take_along_axis(best_first_PR, np.maximum(n_positives_P1 - 1, 0), axis=1)
    floor_P1 = np.take_along_axis(rewards_PR, last_positive_P1, axis=1)

    is_positive_PR = np.zeros(mask_PR.shape, dtype=bool)
    is_place_of_positive_PR = np.arange(mask_PR.shape[1])[None] < n_positives_P1
    np.put_along_axis(is_positive_PR, best_first_PR, is_place_of_positive_PR, axis=1)

    with np.errstate(over="ignore"):
        is_close_PR = floor_P1 - rewards_PR < min_margin
    return np.asarray(mask_PR & ~is_positive_PR & is_close_PR & (n_positives_P1 > 0))


def prompt_rejections(
    rewards_PR: np.ndarray,
    is_there_PR: np.ndarray,
    unflawed_PR: np.ndarray,
    usable_PR: np.ndarray,
    *,
    positives: int = 1,
    n_spared: int = 1,
    accepts_ties: bool = False,
) -> np.ndarray:
    """Return for each prompt None if it can be selected from, else why not, as objects (P,).

    - ``no_rewards``: there are candidates, but none has a finite reward;
    - ``too_few_candidates``: fewer than two have no flaw; fewer than one without negatives;
    - ``tie``: all usable rewards are equal, so nothing says which response is better;
    - ``low_margin``: margins left no negative beside the positives.

    Args:
        rewards_PR: float; any value where there is no candidate.
        is_there_PR: bool, the candidates of each prompt, unusable ones included.
        unflawed_PR: bool, candidates without a flaw, before margins.
        usable_PR: bool, those that remain after margins.
        positives: positives wanted a prompt.
        n_spared: candidates that must remain for negatives: 1, or 0 for ``best-of-n``.
        accepts_ties: whether equal rewards are accepted.
    """
    highest_P = np.where(unflawed_PR, rewards_PR, -np.inf).max(axis=1, initial=-np.inf)
    lowest_P = np.where(unflawed_PR, rewards_PR, np.inf).min(axis=1, initial=np.inf)
    is_finite_PR = np.isfinite(np.where(is_there_PR, rewards_PR, np.nan))
    has_reward_P = (is_there_PR & is_finite_PR).any(axis=1)
    has_candidates_P = is_there_PR.any(axis=1)

    # The last verdict first: each line takes precedence over those before it.
    rejections_P = np.full(len(rewards_PR), None, dtype=object)
    n_positives_P = count_positives(unflawed_PR, positives, n_spared=n_spared)
    rejections_P[usable_PR.sum(axis=1) < n_positives_P + n_spared] = "low_margin"
    if not accepts_ties:
        rejections_P[highest_P == lowest_P] = "tie"
    rejections_P[unflawed_PR.sum(axis=1) < 1 + n_spared] = "too_few_candidates"
    rejections_P[has_candidates_P & ~has_reward_P] = "no_rewards"
    return rejections_P
