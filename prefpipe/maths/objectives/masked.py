"""What the losses are made of: a group's target, and sums that do not see what the mask leaves out.

Shapes: P prompts, R responses of a prompt.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """What a group's scores are compared with, each (P, R).

    ``rewards``: float, higher is better, any scale. ``positives``: bool, the role that selection
    gave. ``mask``: bool, True where there is a response; a response that is not a positive is a
    negative. ``pairs``: (P, R, R) bool, which response is to beat which under pairwise losses;
    None: every positive every negative.
    """

    rewards: Tensor
    positives: Tensor
    mask: Tensor
    pairs: Tensor | None = None


def clean(values: Tensor, mask: Tensor) -> Tensor:
    """Put 0 where there is no response: rubbish there then reaches neither value nor gradient."""
    return torch.where(mask, values, torch.zeros_like(values))


def deviations_of(targets: Targets, kind: str) -> Tensor:
    """Return ``r_i - mean r`` (P, R), ``signed`` or ``absolute``; 0 where there is no response."""
    rewards = clean(targets.rewards, targets.mask)
    mean = rewards.sum(-1, keepdim=True) / targets.mask.sum(-1, keepdim=True).clamp(min=1)
    deviations = clean(rewards - mean, targets.mask)
    return deviations.abs() if kind == "absolute" else deviations


def log_sum_exp(scores: Tensor, chosen: Tensor) -> Tensor:
    """Return ``log sum e^s`` over the last axis where ``chosen``; hugely negative where none is."""
    # The lowest finite number, not -inf: a row where nothing is chosen must stay free of inf - inf.
    return scores.masked_fill(~chosen, torch.finfo(scores.dtype).min).logsumexp(-1)


def shares_of(values: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax of (P, R) over the responses that exist; 0 elsewhere."""
    return clean(values.masked_fill(~mask, torch.finfo(values.dtype).min).softmax(-1), mask)


def cross_entropy(scores: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return ``-sum_i target_i * log softmax(s)_i`` (P,) over the responses that exist."""
    scores = clean(scores, mask)
    log_shares = scores - log_sum_exp(scores, mask)[..., None]
    return -(target * clean(log_shares, mask)).sum(-1)


def differences_of(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values[p, w] - values[p, l]`` (P, R, R), 0 in place of what does not exist."""
    values = clean(values, mask)
    return values[:, :, None] - values[:, None, :]


def mean_over_pairs(losses: Tensor, targets: Targets) -> Tensor:
    """Return the mean (P,) of losses (P, R, R) over each prompt's pairs; 0 where there is none.

    The pairs are those of ``targets.pairs``, else every positive with every negative.
    """
    positives = targets.positives & targets.mask
    if targets.pairs is None:
        pairs = positives[:, :, None] & (targets.mask & ~positives)[:, None, :]
    else:
        pairs = targets.pairs & targets.mask[:, :, None] & targets.mask[:, None, :]
    return clean(losses, pairs).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)
