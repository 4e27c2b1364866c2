"""Building blocks of the losses: a group's target, and sums that ignore masked entries.

Shapes: P prompts, R responses of a prompt.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """The targets of a group's scores, each (P, R).

    ``rewards``: float, higher is better, any scale. ``positives``: bool, the role from selection.
        ``mask``: bool, True where there is a response; a response that is not a positive is a
    negative. ``pairs``: (P, R, R) bool, which response should beat which under pairwise losses;
    None: every positive beats every negative. ``pair_weights``: (P, R, R) at least 0, each pair's
        weight within its prompt; None: equal weights.
    """

    rewards: Tensor
    positives: Tensor
    mask: Tensor
    pairs: Tensor | None = None
    pair_weights: Tensor | None = None


def clean(values: Tensor, mask: Tensor) -> Tensor:
    """Set entries without a response to 0, so that they reach neither value nor gradient."""
    return torch.where(mask, values, torch.zeros_like(values))


def deviations_of(targets: Targets, kind: str) -> Tensor:
    """Return ``r_i - mean r`` (P, R), ``signed`` or ``absolute``; 0 where there is no response."""
    rewards = clean(targets.rewards, targets.mask)
    mean = rewards.sum(-1, keepdim=True) / targets.mask.sum(-1, keepdim=True).clamp(min=1)
    deviations = clean(rewards - mean, targets.mask)
    return deviations.abs() if kind == "absolute" else deviations


def log_sum_exp(scores: Tensor, chosen: Tensor) -> Tensor:
    """Return ``log sum e^s`` over the last axis where ``chosen``; hugely negative if none is."""
    # The lowest finite number, not -inf: a row without a choice must avoid inf - inf.
    return scores.masked_fill(~chosen, torch.finfo(scores.dtype).min).logsumexp(-1)


def shares_of(values: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax of (P, R) over the responses that exist; 0 elsewhere."""
    return clean(values.masked_fill(~mask, torch.finfo(values.dtype).min).softmax(-1), mask)


def log_shares_of(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the log of the softmax of (P, R) over the responses that exist; 0 elsewhere."""
    scores = clean(scores, mask)
    return clean(scores - log_sum_exp(scores, mask)[..., None], mask)


def cross_entropy(scores: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return ``-sum_i target_i * log softmax(s)_i`` (P,) over the responses that exist."""
    return -(target * log_shares_of(scores, mask)).sum(-1)


def differences_of(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values[p, w] - values[p, l]`` (P, R, R), 0 for missing entries."""
    values = clean(values, mask)
    return values[:, :, None] - values[:, None, :]


def mean_over_pairs(losses: Tensor, targets: Targets) -> Tensor:
    """Return the mean (P,) of losses (P, R, R) over each prompt's pairs; 0 without pairs.

    The pairs are those of ``targets.pairs``, else every positive with every negative. With
    ``targets.pair_weights`` w it is the weighted mean, ``sum w * loss / sum w``.
    """
    positives = targets.positives & targets.mask
    if targets.pairs is None:
        pairs = positives[:, :, None] & (targets.mask & ~positives)[:, None, :]
    else:
        pairs = targets.pairs & targets.mask[:, :, None] & targets.mask[:, None, :]
    losses = clean(losses, pairs)
    if targets.pair_weights is None:
        return losses.sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)

    weights = clean(targets.pair_weights, pairs)
    total = weights.sum((-2, -1))
    # If all weights are 0, the sum above is 0, too, and any divisor works.
    return (weights * losses).sum((-2, -1)) / torch.where(total > 0, total, torch.ones_like(total))
