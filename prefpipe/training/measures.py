"""What is logged about a batch of groups, beside the loss."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from prefpipe.maths.logps import ResponseLogps
from prefpipe.maths.losses import Targets

MEASURES = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracy",
    "rewards/best",
    "logps/chosen",
    "logps/rejected",
    "entropy",
)
MEASURE_MEANINGS = {
    "loss": "mean over prompts of the objective",
    "rewards/chosen": "mean score of the positives, in the objective's units (the implicit reward)",
    "rewards/rejected": "mean score of the negatives",
    "rewards/margins": "rewards/chosen - rewards/rejected",
    "rewards/accuracy": "share of pairs (positive, negative) in which the positive's score is higher, in [0, 1]",
    "rewards/best": "share of prompts in which every positive's score is above every negative's, in [0, 1]",
    "logps/chosen": "mean log-probability of the positives, nats a token",
    "logps/rejected": "mean log-probability of the negatives, nats a token",
    "entropy": "mean entropy of the policy's next-token distribution over the tokens of the responses, each response alike, nats",
}


def measure_groups(losses: Tensor, scores: Tensor, policy: ResponseLogps, targets: Targets) -> Tensor:
    """Return one row a prompt, (P, M), with the columns of ``MEASURES``.

    Args:
        losses: (P,).
        scores: (P, R) what the objective compared.
        policy: log-probabilities and token counts, each (P, R).
        targets: every prompt has a positive and a negative.
    """
    chosen = targets.positives & targets.mask
    rejected = targets.mask & ~targets.positives
    means = policy.logps / policy.n_tokens.clamp(min=1)
    wins = scores[:, :, None] > scores[:, None, :]
    pairs = chosen[:, :, None] & rejected[:, None, :]
    won = (wins & pairs).sum((-2, -1))
    n_pairs = pairs.sum((-2, -1))
    score_chosen, score_rejected = _mean(scores, chosen), _mean(scores, rejected)
    columns = [
        losses,
        score_chosen,
        score_rejected,
        score_chosen - score_rejected,
        won / n_pairs.clamp(min=1),
        won == n_pairs,
        _mean(means, chosen),
        _mean(means, rejected),
        _mean(policy.entropies, targets.mask) if policy.entropies is not None else torch.full_like(losses, torch.nan),
    ]
    return torch.stack([column.detach().float() for column in columns], -1)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, torch.zeros_like(values)).sum(-1) / where.sum(-1).clamp(min=1)


def mean_measures(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the mean of each measure over log rows."""
    return {name: fmean(row[name] for row in rows) for name in names if rows and all(name in row for row in rows)}


def describe_progress(figures: Mapping[str, Any]) -> str:
    """Return in words how the measures moved from the first steps of a run to the last."""
    first, last = figures["first"], figures["last"]
    if not first:
        return f"{figures['n_steps']} steps"
    return (
        f"{figures['n_steps']} steps on {figures['n_groups']} groups; mean of the first and of the last "
        f"{figures['n_steps_averaged']} steps: loss {first['loss']:.3f} to {last['loss']:.3f}, margin "
        f"{first['rewards/margins']:.3f} to {last['rewards/margins']:.3f}, accuracy {first['rewards/accuracy']:.0%} to "
        f"{last['rewards/accuracy']:.0%}"
    )
