"""How a model's output on a batch becomes scores, losses and logged measures.

The trainer handles batches, passes and averages; a scoring handles the rest, and is the only
difference between a policy and a reward model there. A model's output on responses is a named tuple
of figures: (S,) in sequence, (P, R) by group.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prefpipe.maths.objectives.knobs import KnobValue
from prefpipe.maths.objectives.likelihood import sft_loss
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets
from prefpipe.maths.objectives.registry import find_objective, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses, score_responses
from prefpipe.maths.statistics.calibration import (
    calibration_by_gap,
    measure_calibration,
    preference_curve,
)
from prefpipe.training.batches import Batch
from prefpipe.training.forward import batch_logps
from prefpipe.training.head_scores import HeadScores, head_scores
from prefpipe.training.measures import (
    MEASURES,
    PAIR_FIGURES,
    SCORE_MEASURES,
    measure_groups,
    measure_pairs,
    named_pairs,
)

LOGGED_ONLY = ("entropies",)
"""Figures of a model's output that no loss uses."""


class Scoring(Protocol):
    """The interface between `GroupTrainer` and a scoring.

    ``measures``: names of the columns that ``measure`` returns, ``loss`` the first.
    """

    measures: Sequence[str]

    def read(self, model: nn.Module, batch: Batch, *, measured: bool = True) -> Any:
        """Return the model's output on the batch's responses.

        A named tuple of figures (S,) with ``n_tokens``.

        ``measured``: include the figures that are only logged.
        """

    def measure(self, batch: Batch, output: Any) -> tuple[Tensor, Tensor]:
        """Return the measures (P, M) and the losses (P,) of figures by group."""

    def examine(self, batch: Batch, output: Any) -> Tensor:
        """Return a row (P, E) for each evaluated prompt, the loss first.

        E is the same in all batches.
        """

    def summarise(self, rows: np.ndarray) -> dict[str, float]:
        """Return the evaluation's figures by name, from the rows (P, E) of all prompts."""


class PolicyScoring:
    """Scores computed from log-probabilities.

    ``sft_weight``: weight of the positives' likelihood beside the objective, 0 for none.
    """

    measures: Sequence[str] = MEASURES

    def __init__(
        self, objective: str, knobs: Mapping[str, KnobValue], *, sft_weight: float = 0.0
    ) -> None:
        self.objective = objective
        self.knobs = knobs
        self.sft_weight = sft_weight

    def read(self, model: nn.Module, batch: Batch, *, measured: bool = True) -> ResponseLogps:
        """Return log-probabilities, token counts and ends; measured, entropies too."""
        return batch_logps(model, batch, entropy=measured)

    def measure(self, batch: Batch, output: ResponseLogps) -> tuple[Tensor, Tensor]:
        """Return the columns of ``MEASURES``, and the losses."""
        targets = targets_of(batch)
        ref_logps = batch.get("ref_logps")
        scores = score_responses(self.objective, output, ref_logps, targets.mask, self.knobs)
        losses = group_losses(self.objective, scores, targets, self.knobs, output)
        if self.sft_weight:
            a_token = score_responses("sft", output, None, targets.mask, resolve_knobs("sft", {}))
            losses = losses + self.sft_weight * sft_loss(a_token, targets)
        losses = weighted(losses, batch)
        compared = scores if find_objective(self.objective).compares else None
        return measure_groups(losses, compared, output, targets, ref_logps), losses

    def examine(self, batch: Batch, output: ResponseLogps) -> Tensor:
        """Return the measures."""
        measured, _ = self.measure(batch, output)
        return measured

    def summarise(self, rows: np.ndarray) -> dict[str, float]:
        """Return the means."""
        return dict(zip(self.measures, rows.mean(0).tolist(), strict=True))


class RewardScoring:
    """Scores are the output of a reward model's head.

    An evaluation keeps the score difference of every pair, so that its calibration covers all
    pairs, however they were batched; ``calibration`` is the last one, in full.
    """

    measures: Sequence[str] = SCORE_MEASURES

    def __init__(self, objective: str, knobs: Mapping[str, KnobValue], *, width: int = 0) -> None:
        """Take the objective, its knobs, and the most responses in an evaluated group."""
        self.objective = objective
        self.knobs = knobs
        self.width = width
        self.calibration: dict[str, Any] | None = None

    def read(self, model: nn.Module, batch: Batch, *, measured: bool = True) -> HeadScores:
        """Return scores and token counts."""
        del measured
        return head_scores(model, batch)

    def measure(self, batch: Batch, output: HeadScores) -> tuple[Tensor, Tensor]:
        """Return the columns of ``measures``, and the losses."""
        targets = targets_of(batch)
        losses = group_losses(self.objective, output.scores, targets, self.knobs)
        losses = weighted(losses, batch)
        return measure_pairs(losses, output.scores, named_pairs(targets)), losses

    def examine(self, batch: Batch, output: HeadScores) -> Tensor:
        """Return the measures, then ``width^2`` score differences and as many reward gaps.

        They are NaN without a pair.
        """
        measured, _ = self.measure(batch, output)
        pairs = named_pairs(targets_of(batch))
        n_prompts, n_responses = output.scores.shape

        columns = [measured]
        for values in (output.scores, batch["rewards"]):
            gaps = (values[:, :, None] - values[:, None, :]).float()
            # All batches have the same width: the trainer concatenates their rows.
            padded = gaps.new_full((n_prompts, self.width, self.width), float("nan"))
            padded[:, :n_responses, :n_responses] = gaps.masked_fill(~pairs, float("nan"))
            columns.append(padded.flatten(1))
        return torch.cat(columns, 1)

    def summarise(self, rows: np.ndarray) -> dict[str, float]:
        """Return the means of the measures, and the accuracy and calibration of the scores."""
        n_measures = len(self.measures)
        means = rows[:, :n_measures].mean(0).tolist()

        columns = rows[:, n_measures:].astype(np.float64)
        differences, gaps = np.split(columns, 2, axis=1)
        is_pair = ~np.isnan(differences)
        differences, gaps = differences[is_pair], gaps[is_pair]

        reliability = {}
        for binning in ("width", "mass"):
            curve = preference_curve(differences, binning=binning)._asdict()
            reliability[binning] = {name: column.tolist() for name, column in curve.items()}

        figures = measure_calibration(differences)
        # Rounded, so that 2/3 is one gap whichever two float32 ratings give it.
        reward_gaps = np.abs(gaps).round(5)
        self.calibration = {
            **figures,
            "reliability": reliability,
            "by_score_gap": calibration_by_gap(differences),
            "by_reward_gap": calibration_by_gap(differences, 1.0, reward_gaps),
        }

        pair_figures = {f"pairs/{name}": figures[name] for name in PAIR_FIGURES}
        return dict(zip(self.measures, means, strict=True)) | pair_figures


def targets_of(batch: Batch) -> Targets:
    """Return the targets of a batch's scores."""
    return Targets(
        batch["rewards"],
        batch["positives"],
        batch["slots"] >= 0,
        batch.get("pairs"),
        batch.get("pair_weights"),
    )


def weighted(losses: Tensor, batch: Batch) -> Tensor:
    """Return the losses (P,), times each prompt's weight if the batch has weights."""
    weights = batch.get("weights")
    return losses if weights is None else losses * weights


def differentiable_figures(output: Any) -> dict[str, Tensor]:
    """Return the figures of a model's output that a loss has a derivative to.

    Excluded are token counts, figures that are only logged, and figures that were not requested.
    """
    figures = {}
    for name, value in output._asdict().items():
        if value is None or name in LOGGED_ONLY:
            continue
        if value.is_floating_point():
            figures[name] = value
    return figures
