"""The Hugging Face trainer over groups.

The trainer brings accelerate, FSDP, DeepSpeed, checkpoints and trackers; this subclass says what the loss of a batch of
groups is, in which order groups are visited, how a step's loss is averaged and what is logged.

Averaging. The loss of a step is the mean over the prompts of the global batch, whatever the split into micro-batches and
devices: each micro-batch contributes its sum divided by the prompts of the whole step. (The trainer's default, a mean of
means, overweights prompts in a short last micro-batch.)
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    EvalPrediction,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from prefpipe.errors import PrefpipeError
from prefpipe.maths.losses import Targets
from prefpipe.maths.scores import group_losses, score_responses
from prefpipe.training.batches import GlobalBatchSampler, GroupCollator, longest_sequence
from prefpipe.training.forward import group_logps
from prefpipe.training.groups import Group, GroupDataset
from prefpipe.training.measures import MEASURES, measure_groups
from prefpipe.training.policy import end_token_ids
from prefpipe.training.settings import TrainSettings


class GroupTrainer(Trainer):  # type: ignore[misc]
    """Train a policy on groups with any objective of ``prefpipe.maths.objectives``."""

    # compute_loss normalises over the accumulated batch itself, so the trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        settings: TrainSettings,
        train_groups: Sequence[Group],
        *,
        tokenizer: PreTrainedTokenizerBase,
        eval_groups: Sequence[Group] = (),
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        super().__init__(
            model=model,
            args=arguments,
            data_collator=GroupCollator(pad_token_id, end_token_ids(model, tokenizer)),
            train_dataset=GroupDataset(train_groups),
            eval_dataset=GroupDataset(eval_groups) if eval_groups else None,
            compute_metrics=_mean_measures,
            callbacks=list(callbacks),
        )
        # Releases without loss_is_scaled_for_ga decide by this flag; the model itself gets no loss arguments from us.
        self.model_accepts_loss_kwargs = True
        self._measured: list[Tensor] = []
        self._n_tokens: list[Tensor] = []
        for callback in (PrinterCallback, ProgressCallback):  # stdout belongs to the command's result
            self.remove_callback(callback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        groups = (train_dataset if train_dataset is not None else self.train_dataset).groups
        return GlobalBatchSampler(
            [longest_sequence(group) for group in groups],
            global_batch_size=self.settings.global_batch_size,
            seed=self.settings.seed,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the micro-batches of one step and the number of prompts in them, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        n_prompts = torch.tensor(sum(len(batch["slots"]) for batch in batches), device=device)
        return batches, self.accelerator.reduce(n_prompts, "sum")

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this micro-batch's share of the step's mean loss.

        Errors:
            PrefpipeError: the loss is not finite; training on would only spoil the weights.
        """
        measured, losses = self._measure(model, inputs)
        loss_sum = losses.sum()
        if not bool(torch.isfinite(loss_sum)):
            raise PrefpipeError(
                f"the loss is {loss_sum.item()} at step {self.state.global_step + 1}",
                hint="lower --learning-rate or --beta and run again; the last checkpoint is still good",
            )
        self._measured.append(measured)
        self._n_tokens.append(inputs["response_mask"].sum())
        n_prompts = len(losses) if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over processes, and the divisor counts the prompts of all of them.
        loss = loss_sum * self.accelerator.num_processes / n_prompts
        return (loss, measured) if return_outputs else loss

    def _measure(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the measures (P, M) and the losses (P,) of a batch."""
        name, knobs = self.settings.objective, self.settings.knobs
        targets = Targets(inputs["rewards"], inputs["positives"], inputs["slots"] >= 0, inputs.get("pairs"))
        policy = group_logps(model, inputs)
        scores = score_responses(name, policy, inputs.get("ref_logps"), targets.mask, knobs)
        losses = group_losses(name, scores, targets, knobs, policy)
        return measure_groups(losses, scores, policy, targets), losses

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor]:
        """Return the measures of each prompt; their means, the loss among them, are the evaluation."""
        del prediction_loss_only, ignore_keys
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            measured, _ = self._measure(model, inputs)
        return None, measured, measured[:, 0]  # the loop computes metrics only where there are labels; nobody reads them

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the measures of the steps since the last log line to it."""
        if "loss" in logs and self._measured:
            rows = torch.cat(self._measured)
            sums = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
            n_tokens = self.accelerator.reduce(torch.stack(self._n_tokens).sum(), "sum")
            *totals, n_prompts = self.accelerator.reduce(sums, "sum").tolist()
            means = {name: total / n_prompts for name, total in zip(MEASURES, totals, strict=True)}
            # The trainer's own loss is a mean over steps; in a short last step prompts would count more than elsewhere.
            logs |= means | {"n_tokens": int(n_tokens), "n_prompts": int(n_prompts)}
            self._measured, self._n_tokens = [], []
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # a checkpoint is a whole model: tokenizer and chat template with it
            self.tokenizer.save_pretrained(output_dir or self.args.output_dir)


def _mean_measures(prediction: EvalPrediction) -> dict[str, float]:
    return dict(zip(MEASURES, np.asarray(prediction.predictions).mean(0).tolist(), strict=True))
