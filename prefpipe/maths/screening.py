"""Which candidates of a prompt can be selected from, and whether the prompt is worth training on."""

from collections.abc import Sequence

import numpy as np

from prefpipe.errors import InputError, UsageError


def screen_candidates(
    texts: Sequence[str],
    rewards: Sequence[float | None] | np.ndarray,
    has_embedding: Sequence[bool] | np.ndarray | None,
    statuses: Sequence[str],
    *,
    drop_truncated: bool = False,
) -> list[str | None]:
    """Return for each candidate None if it is usable, else the first of these reasons that holds.

    - the status itself, unless it is ``ok`` or ``truncated``; ``error`` is named ``generation_error``;
    - ``empty``: no text but white space;
    - ``truncated``: that status, with ``drop_truncated``;
    - ``no_reward``: None or NaN; ``infinite_reward``: too large to be a number;
    - ``no_embedding``: where ``has_embedding`` is given (None: embeddings are not needed);
    - ``duplicate``: the text, character for character, of a usable candidate of lower index.

    Raises
    ------
    InputError
        Columns of different lengths.

    """
    rewards_R = np.asarray(rewards, dtype=np.float64)
    if has_embedding is None:
        has_embedding = [True] * len(texts)
    lengths = {len(texts), len(rewards_R), len(has_embedding), len(statuses)}
    if len(lengths) > 1:
        raise InputError(
            f"{len(texts)} texts, {len(rewards_R)} rewards, {len(has_embedding)} embedding marks and "
            f"{len(statuses)} statuses: one of each per candidate is expected"
        )
    reasons: list[str | None] = []
    seen: set[str] = set()
    for text, reward, is_embedded, status in zip(texts, rewards_R, has_embedding, statuses, strict=True):
        reason = _name_flaw(text, status, drop_truncated=drop_truncated) or _name_gap(float(reward), is_embedded)
        if reason is None and text in seen:
            reason = "duplicate"
        if reason is None:
            seen.add(text)
        reasons.append(reason)
    return reasons


def _name_flaw(text: str, status: str, *, drop_truncated: bool) -> str | None:
    """Name what is wrong with the response itself."""
    if status not in ("ok", "truncated"):
        return "generation_error" if status == "error" else status
    if not text.strip():
        return "empty"
    return "truncated" if drop_truncated and status == "truncated" else None


def _name_gap(reward: float, is_embedded: bool) -> str | None:
    """Name what later stages have not said about the response."""
    if np.isnan(reward):
        return "no_reward"
    if np.isinf(reward):
        return "infinite_reward"
    return None if is_embedded else "no_embedding"


def screen_margins(
    reasons: Sequence[str | None], rewards: Sequence[float | None] | np.ndarray, *, min_margin: float, positives: int = 1
) -> list[str | None]:
    """Return ``reasons`` with ``low_margin`` for usable candidates too close to the positives to be negatives.

    The positives are the ``positives`` highest rewards among the usable candidates, ties to the lower index, as
    in `prefpipe.maths.selection`. Any other usable candidate i has margin ``min(r of positives) - r_i`` and is
    usable only with a margin of at least ``min_margin``. Zero, as in the papers, changes nothing; any number above
    zero keeps candidates tied with a positive out of the negatives.
    """
    if not min_margin >= 0.0:
        raise UsageError(f"min_margin is {min_margin}; it is >= 0")
    rewards_R = np.asarray(rewards, dtype=np.float64)
    usable = np.array([place for place, reason in enumerate(reasons) if reason is None], dtype=np.int64)
    best_first = usable[np.argsort(-rewards_R[usable], kind="stable")]
    screened = list(reasons)
    if len(best_first) > positives:
        floor = rewards_R[best_first[positives - 1]]
        for place in best_first[positives:]:
            if floor - rewards_R[place] < min_margin:
                screened[place] = "low_margin"
    return screened


def pool_verdict(
    reasons: Sequence[str | None], rewards: Sequence[float | None] | np.ndarray, *, min_candidates: int = 2
) -> str | None:
    """Return None if the prompt can be selected from, else why not.

    ``reasons`` and ``rewards`` speak of all candidates of the prompt, the unusable ones included.

    - ``no_rewards``: there are candidates, and not one has a finite reward;
    - ``too_few_candidates``: fewer than ``min_candidates`` (at least 2) are usable, margins aside;
    - ``tie``: all usable rewards are equal, so nothing says which response is better;
    - ``low_margin``: `screen_margins` left fewer than two.
    """
    if min_candidates < 2:
        raise UsageError(f"min_candidates is {min_candidates}; a positive and a negative make 2")
    rewards_R = np.asarray(rewards, dtype=np.float64)
    if len(rewards_R) and not np.isfinite(rewards_R).any():
        return "no_rewards"
    usable_rewards = rewards_R[[reason in (None, "low_margin") for reason in reasons]]
    if len(usable_rewards) < min_candidates:
        return "too_few_candidates"
    if usable_rewards.max() == usable_rewards.min():
        return "tie"
    return "low_margin" if sum(reason is None for reason in reasons) < 2 else None
