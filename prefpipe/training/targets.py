"""What is trained: how a model's word on a batch becomes scores, losses, and what is logged.

The trainer knows batches, passes and averages; a target knows the rest, and is all in which a policy and a reward model differ
there. What a model says of responses is a named tuple of figures: (S,) one after the other, (P, R) by group.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prefpipe.maths.objectives.knobs import KnobValue
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets
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


class Target(Protocol):
    """What `GroupTrainer` asks of a target.

    ``measures``: names of the columns that ``measure`` returns, ``loss`` the first.
    """

    measures: Sequence[str]

    def read(self, model: nn.Module, batch: Batch, *, measured: bool = True) -> Any:
        """Return what the model says of the batch's responses: a named tuple of figures (S,) with ``n_tokens``.

        ``measured``: with the figures that are logged and not trained on.
        """

    def measure(self, batch: Batch, found: Any) -> tuple[Tensor, Tensor]:
        """Return the measures (P, M) and the losses (P,) of figures by group."""

    def examine(self, batch: Batch, found: Any) -> Tensor:
        """Return a row (P, E) for each evaluated prompt, the loss first; E is the same in all batches."""

    def summarise(self, rows: np.ndarray) -> dict[str, float]:
        """Return the evaluation's figures by name, of the rows (P, E) of all prompts."""


class PolicyTarget:
    """Scores are made of log-probabilities."""

    measures: Sequence[str] = MEASURES

    def __init__(self, objective: str, knobs: Mapping[str, KnobValue]) -> None:
        self.objective, self.knobs = objective, knobs

    def read(self, model: nn.Module, batch: Batch, *, measured: bool = True) -> ResponseLogps:
        """Return log-probabilities, token counts and ends; measured, entropies too."""
        return batch_logps(model, batch, entropy=measured)

    def measure(self, batch: Batch, found: ResponseLogps) -> tuple[Tensor, Tensor]:
        """Return the columns of ``MEASURES``, and the losses."""
        targets = targets_of(batch)
        scores = score_responses(
            self.objective, found, batch.get("ref_logps"), targets.mask, self.knobs
        )
        losses = group_losses(self.objective, scores, targets, self.knobs, found)
        return measure_groups(losses, scores, found, targets, batch.get("ref_logps")), losses

    def examine(self, batch: Batch, found: ResponseLogps) -> Tensor:
        """Return the measures."""
        return self.measure(batch, found)[0]

    def summarise(self, rows: np.ndarray) -> dict[str, float]:
        """Return the means."""
        return dict(zip(self.measures, rows.mean(0).tolist(), strict=True))


class RewardTarget:
    """Scores are what the head of a reward model says.

    An evaluation keeps the score difference of every pair, so that its calibration is that of all pairs, however they were
    batched; ``calibration`` is the last one, in full.
    """

    measures: Sequence[str] = SCORE_MEASURES

    def __init__(self, objective: str, knobs: Mapping[str, KnobValue], *, width: int = 0) -> None:
        """Take the objective, its knobs, and the most responses that an evaluated group has."""
        self.objective, self.knobs, self.width = objective, knobs, width
        self.calibration: dict[str, Any] | None = None

    def read(self, model: nn.Module, batch: Batch, *, measured: bool = True) -> HeadScores:
        """Return scores and token counts."""
        del measured
        return head_scores(model, batch)

    def measure(self, batch: Batch, found: HeadScores) -> tuple[Tensor, Tensor]:
        """Return the columns of ``measures``, and the losses."""
        targets = targets_of(batch)
        losses = group_losses(self.objective, found.scores, targets, self.knobs)
        return measure_pairs(losses, found.scores, named_pairs(targets)), losses

    def examine(self, batch: Batch, found: HeadScores) -> Tensor:
        """Return the measures, then ``width^2`` score differences and as many reward gaps, NaN where there is no pair."""
        measured, _ = self.measure(batch, found)
        pairs = named_pairs(targets_of(batch))
        n_prompts, n_responses = found.scores.shape
        columns = [measured]
        for values in (found.scores, batch["rewards"]):
            gaps = (values[:, :, None] - values[:, None, :]).float()
            padded = gaps.new_full((n_prompts, self.width, self.width), float("nan"))
            padded[:, :n_responses, :n_responses] = gaps.masked_fill(~pairs, float("nan"))
            columns.append(padded.flatten(1))
        return torch.cat(columns, 1)

    def summarise(self, rows: np.ndarray) -> dict[str, float]:
        """Return the means of the measures, and how right and how sure the scores are about the winners of the pairs."""
        means = dict(
            zip(self.measures, rows[:, : len(self.measures)].mean(0).tolist(), strict=True)
        )
        differences, gaps = np.split(rows[:, len(self.measures) :].astype(np.float64), 2, axis=1)
        exists = ~np.isnan(differences)
        figures = measure_calibration(differences[exists])
        curves = {
            kind: preference_curve(differences[exists], binning=kind)._asdict()
            for kind in ("width", "mass")
        }
        self.calibration = {
            **figures,
            "reliability": {
                kind: {name: column.tolist() for name, column in curve.items()}
                for kind, curve in curves.items()
            },
            "by_score_gap": calibration_by_gap(differences[exists]),
            # rounded, so that 2/3 is one gap whichever two float32 ratings it is the difference of
            "by_reward_gap": calibration_by_gap(
                differences[exists], 1.0, np.abs(gaps[exists]).round(5)
            ),
        }
        return means | {f"pairs/{name}": figures[name] for name in PAIR_FIGURES}


def targets_of(batch: Batch) -> Targets:
    """Return what the scores of a batch are compared with."""
    return Targets(batch["rewards"], batch["positives"], batch["slots"] >= 0, batch.get("pairs"))


def figures_of(found: Any) -> dict[str, Tensor]:
    """Return what has a derivative of what a model says: not the token counts, nor what is logged only or nobody asked for."""
    figures = (
        (name, value)
        for name, value in found._asdict().items()
        if value is not None and name not in LOGGED_ONLY
    )
    return {name: value for name, value in figures if value.is_floating_point()}
