"""The measures of a batch of groups that are logged beside the loss."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets
from prefpipe.text.numbers import counted, per_second

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
    "kl",
    "logps/chosen_fall",
    "logps/rejected_fall",
)
SCORE_MEASURES = MEASURES[: MEASURES.index("logps/chosen")]
"""The measures that need only scores."""

FALLS = {"logps/chosen_fall": "logps/chosen", "logps/rejected_fall": "logps/rejected"}
"""Falls of log-probabilities, and the log-probability of each."""

N_FIRST_ROWS = 10
"""Rows averaged as a run's start: each is of other prompts, so single rows vary more.
"""

PAIR_FIGURES = ("accuracy", "ece", "brier", "log_loss")


def measure_groups(
    losses: Tensor,
    scores: Tensor | None,
    policy: ResponseLogps,
    targets: Targets,
    ref_logps: Tensor | None = None,
) -> Tensor:
    """Return one row a prompt, (P, M), with the columns of ``MEASURES``.

    Args:
        losses: (P,).
        scores: (P, R) the compared scores; None if the objective compares nothing: the columns of
            pairs and negatives are then NaN.
        policy: log-probabilities and token counts, each (P, R).
        targets: every prompt has a positive and, where scores are compared, a negative.
        ref_logps: (P, R) log-probabilities under the reference; without it the columns that need it
            are NaN.
    """
    chosen = targets.positives & targets.mask
    rejected = targets.mask & ~targets.positives

    # Per token, so that long responses count as much as short ones.
    n_tokens = policy.n_tokens.clamp(min=1)
    mean_logps = policy.logps / n_tokens
    falls = torch.full_like(mean_logps, torch.nan)
    if ref_logps is not None:
        falls = (ref_logps - policy.logps) / n_tokens
    entropy = torch.full_like(losses, torch.nan)
    if policy.entropies is not None:
        entropy = _mean(policy.entropies, targets.mask)

    unknown = torch.full_like(losses, torch.nan)
    of_pairs = [losses, *[unknown] * (len(SCORE_MEASURES) - 1)]
    of_rejected = [unknown, unknown]
    if scores is not None:
        of_pairs = list(measure_pairs(losses, scores, named_pairs(targets)).unbind(-1))
        of_rejected = [_mean(mean_logps, rejected), _mean(falls, rejected)]

    columns = [
        *of_pairs,
        _mean(mean_logps, chosen),
        of_rejected[0],
        entropy,
        _mean(falls, targets.mask),
        _mean(falls, chosen),
        of_rejected[1],
    ]
    return torch.stack([column.detach().float() for column in columns], -1)


def named_pairs(targets: Targets) -> Tensor:
    """Return (P, R, R) bool: the pairs named by selection, else positives with negatives."""
    exists = targets.mask[:, :, None] & targets.mask[:, None, :]
    if targets.pairs is not None:
        return targets.pairs & exists
    return targets.positives[:, :, None] & ~targets.positives[:, None, :] & exists


def measure_pairs(losses: Tensor, scores: Tensor, pairs: Tensor) -> Tensor:
    """Return the columns of ``SCORE_MEASURES`` over each prompt's pairs, one row a prompt, (P, M).

    Args:
        losses: (P,).
        scores: (P, R) the compared scores.
        pairs: (P, R, R) bool, which response should beat which; every prompt has a pair.
    """
    n_pairs = pairs.sum((-2, -1)).clamp(min=1)
    won = ((scores[:, :, None] > scores[:, None, :]) & pairs).sum((-2, -1))

    # Each response counts as often as it wins, or loses.
    chosen = _weighted_sum(scores, pairs.sum(-1)) / n_pairs
    rejected = _weighted_sum(scores, pairs.sum(-2)) / n_pairs
    columns = [losses, chosen, rejected, chosen - rejected, won / n_pairs, won == n_pairs]
    return torch.stack([column.detach().float() for column in columns], -1)


def _weighted_sum(values: Tensor, counts: Tensor) -> Tensor:
    """Return (P,) sums of values (P, R), each as often as its count.

    If the count is 0, the value may be anything, even infinite.
    """
    return torch.where(counts > 0, values * counts, torch.zeros_like(values)).sum(-1)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, torch.zeros_like(values)).sum(-1) / where.sum(-1).clamp(min=1)


def complete_entry(entry: dict[str, float], log_history: Sequence[Mapping[str, float]]) -> None:
    """Finish a log entry in place.

    NaN values of unavailable measures (no reference, nothing compared) are removed; falls are then
    counted from the beginning of the run.

    Args:
        entry: with the names of ``MEASURES``, all prefixed with ``eval_`` in an evaluation.
        log_history: the entries before it.
    """
    is_evaluation = "eval_loss" in entry
    prefix = "eval_" if is_evaluation else ""
    unknown = [*FALLS, "kl", "entropy", "logps/rejected"]
    # NaN scores stay visible; a share is NaN only if nothing is compared.
    if isnan(entry.get(prefix + "rewards/accuracy", nan)):
        unknown += SCORE_MEASURES[1:]
    for name in unknown:
        if isnan(entry.get(prefix + name, nan)):
            entry.pop(prefix + name, None)

    n_first = 1 if is_evaluation else N_FIRST_ROWS
    for fall, name in FALLS.items():
        if prefix + fall in entry or prefix + name not in entry:
            continue
        values = [row[prefix + name] for row in (*log_history, entry) if prefix + name in row]
        entry[prefix + fall] = fmean(values[:n_first]) - entry[prefix + name]


def mean_measures(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the mean over log rows of each measure that all rows have."""
    means: dict[str, float] = {}
    for name in names:
        values = [row[name] for row in rows if name in row]
        if values and len(values) == len(rows):
            means[name] = fmean(values)
    return means


UNDECIDED_MARGIN = 5e-4
"""Mean margins below it print as 0.000: the policy equals its reference, and the order of two
scores is rounding noise.
"""


def describe_accuracy(figures: Mapping[str, float], *, digits: int = 0) -> str:
    """Return the accuracy in words.

    It is ``undecided`` if the margins are known and only rounding noise.
    """
    margin = figures.get("rewards/margins")
    if margin is not None and abs(margin) < UNDECIDED_MARGIN:
        return "undecided (ties)"
    return f"{figures['rewards/accuracy']:.{digits}%}"


def shown_figures(row: Mapping[str, float]) -> dict[str, str]:
    """Return the figures of a log row that are shown while training, in words."""
    figures = {"loss": f"{row['loss']:.3f}"}
    # An objective that compares nothing has neither.
    if "rewards/margins" in row:
        figures |= {"margin": f"{row['rewards/margins']:.3f}", "accuracy": describe_accuracy(row)}
    if "tokens_per_s" in row:
        figures["tokens/s"] = per_second(row["tokens_per_s"])
    return figures


def describe_progress(figures: Mapping[str, Any]) -> str:
    """Return in words how the measures changed from the first steps of a run to the last."""
    first, last = figures["first"], figures["last"]
    if not first:
        return counted(figures["n_steps"], "step")
    text = (
        f"{counted(figures['n_steps'], 'step')} on {counted(figures['n_groups'], 'group')}; "
        f"mean of the first and of the last {counted(figures['n_steps_averaged'], 'step')}: "
        f"loss {first['loss']:.3f} to {last['loss']:.3f}"
    )
    # An objective without comparisons has neither.
    if "rewards/margins" in first:
        text += (
            f", margin {first['rewards/margins']:.3f} to {last['rewards/margins']:.3f}, "
            f"accuracy {describe_accuracy(first)} to {describe_accuracy(last)}"
        )
    return text


def describe_calibration(figures: Mapping[str, Any]) -> str:
    """Return in words the accuracy and calibration of the scores on held-out pairs."""
    return (
        f"{figures['n_pairs']} held-out pairs: accuracy {figures['accuracy']:.1%}, "
        f"ECE {figures['ece']:.3f}, Brier {figures['brier']:.3f}, "
        f"log loss {figures['log_loss']:.3f}"
    )
