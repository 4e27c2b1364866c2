"""The Hugging Face trainer over groups.

The trainer brings accelerate, FSDP, DeepSpeed, checkpoints and trackers; this subclass defines the
loss of a batch of groups, the order of groups, the averaging of a step's loss, and the logged
measures.

Averaging. The loss of a step is the mean over the prompts of the global batch, whatever the split
into micro-batches and devices: each micro-batch contributes its sum divided by the prompts of the
whole step. (The trainer's default, a mean of means, overweights prompts in a short last
micro-batch.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import Sampler
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from prefpipe.errors import PrefpipeError
from prefpipe.training.batches import (
    Batch,
    BudgetCollator,
    GlobalBatchSampler,
    GroupCollator,
    longest_sequence,
)
from prefpipe.training.early_stopping import EarlyStopping
from prefpipe.training.forward import by_group, shares_prompts
from prefpipe.training.group_dataset import GroupDataset
from prefpipe.training.groups import Group
from prefpipe.training.measures import complete_entry
from prefpipe.training.policy import end_token_ids
from prefpipe.training.scoring import PolicyScoring, Scoring, differentiable_figures
from prefpipe.training.settings import TrainSettings
from prefpipe.training.throughput import Throughput, throughput_figures


class GroupTrainer(Trainer):  # type: ignore[misc]
    """Train on groups with any objective of ``prefpipe.maths.objectives.registry``.

    ``scoring`` turns the model's output into scores; the default is a policy's.
    """

    # compute_loss normalises over the accumulated batch itself, so the trainer must not divide
    # again.
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
        scoring: Scoring | None = None,
    ) -> None:
        # The trainer's own __init__ reads some of these.
        self.settings = settings
        self.tokenizer = tokenizer
        self.scoring: Scoring = PolicyScoring(
            settings.objective, settings.knobs, sft_weight=settings.sft_weight
        )
        if scoring is not None:
            self.scoring = scoring
        self._measured: list[Tensor] = []
        self._n_tokens: list[Tensor] = []
        self._throughput = Throughput()

        # Padding is masked, so any id works if the tokenizer names none.
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        collator = GroupCollator(
            pad_token_id, end_token_ids(model, tokenizer), packed=shares_prompts(model)
        )
        super().__init__(
            model=model,
            args=arguments,
            data_collator=BudgetCollator(collator, settings.max_batch_tokens),
            train_dataset=GroupDataset(train_groups),
            eval_dataset=GroupDataset(eval_groups) if eval_groups else None,
            compute_metrics=self._summarise,
            callbacks=list(callbacks),
        )

        # Releases without loss_is_scaled_for_ga decide by this flag; the model itself gets no loss
        # arguments from us.
        self.model_accepts_loss_kwargs = True
        # Not in the arguments: they would refuse --save-steps that are not a multiple of
        # --eval-steps, and early stopping requests its own checkpoints.
        self.args.load_best_model_at_end = self._early_stopping() is not None
        # stdout belongs to the command's result
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def _summarise(self, prediction: Any) -> dict[str, float]:
        return self.scoring.summarise(np.asarray(prediction.predictions))

    def create_accelerator_and_postprocess(self) -> None:
        """Make FSDP2 compute the same as one device under autocast.

        Weights are sent in bfloat16; everything else stays unchanged.

        accelerate would keep hidden states and log-probabilities in bfloat16, too, and sum
        gradients in it; the policy would not begin at its reference, which is measured under
        autocast.
        """
        super().create_accelerator_and_postprocess()
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and plugin.fsdp_version == 2 and self.args.bf16:
            # Embeddings that are float32 on one device give float32 hidden states; a frozen
            # bfloat16 base does not.
            is_float32 = self.model.get_input_embeddings().weight.dtype == torch.float32
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16,
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,
                output_dtype=torch.float32 if is_float32 else None,
            )

    def compute_loss_context_manager(self) -> ExitStack:
        """Enter autocast if FSDP2 wraps the model.

        accelerate does this only for the other wrappers.
        """
        contexts: ExitStack = super().compute_loss_context_manager()
        if self.is_fsdp_enabled and self.args.bf16:
            contexts.enter_context(torch.autocast(self.args.device.type, torch.bfloat16))
        return contexts

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        groups = (train_dataset if train_dataset is not None else self.train_dataset).groups
        return GlobalBatchSampler(
            [longest_sequence(group) for group in groups],
            global_batch_size=self.settings.global_batch_size,
            seed=self.settings.seed,
            at_once=self.settings.per_device_train_batch_size * self.args.world_size,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the device's batches of one step, and the step's prompts on all processes."""
        self._throughput.begin()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        n_prompts = torch.tensor(sum(batch["n_prompts"] for batch in batches), device=device)
        return batches, self.accelerator.reduce(n_prompts, "sum")

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add a device's prompts to the gradients, micro-batch by micro-batch.

        Return their share of the step's mean loss.

        A group in several rows takes two passes (Gao et al. 2021, arXiv 2101.06983): the
        log-probabilities of all its responses without gradients, then the loss's derivative to each
        of them, and the rows again, each weighted with its own. The gradients are those of one
        pass. Every process makes as many passes as the one that needs most, because wrappers for
        several devices synchronise in each; a process without prompts makes idle passes.

        Raises:
            PrefpipeError: the loss is not finite; further training would ruin the weights.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        batches, idle_row = inputs["batches"], inputs["idle"]
        shares: list[Tensor] = []

        # The first passes over groups in several rows come together, so that processes agree on
        # their number.
        rows = [row for batch in batches for row in batch.get("rows", ())]
        outputs = iter(self._read_without_gradients(model, rows, spare=idle_row))

        # The passes with gradients: one a batch, and one a row of a group in several.
        whole = [batch for batch in batches if "rows" not in batch]
        passes: list[Callable[[], Tensor]] = [
            partial(self._share, model, batch, num_items_in_batch, shares) for batch in whole
        ]
        for batch in batches:
            if "rows" in batch:
                of_batch = list(islice(outputs, len(batch["rows"])))
                weights = self._weights(batch, of_batch, num_items_in_batch, shares)
                for row, row_weights in zip(batch["rows"], weights, strict=True):
                    passes.append(partial(self._weighted, model, row, row_weights))
        n_idle = self._most(len(passes)) - len(passes)
        passes += [partial(self._weighted, model, idle_row, None)] * n_idle

        ends_step = self.accelerator.sync_gradients
        for number, compute in enumerate(passes, start=1):
            is_last = number == len(passes)
            # DeepSpeed takes the optimizer's step inside a backward pass that ends one: only the
            # very last may.
            gradients = self.accelerator.gradient_state
            gradients._set_sync_gradients(ends_step and is_last)  # noqa: SLF001 - as the trainer does
            # Without syncing, FSDP would keep whole gradients on every device.
            syncs = is_last or self.is_fsdp_enabled
            with nullcontext() if syncs else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = compute()
                self._backward(loss)

        return torch.stack(shares).sum() if shares else torch.zeros((), device=self.args.device)

    def _read_without_gradients(
        self, model: nn.Module, rows: Sequence[Batch], *, spare: Batch
    ) -> list[Any]:
        """Return the model's output on rows without gradients.

        ``spare`` is computed while other processes have more rows.
        """
        n_spare = self._most(len(rows)) - len(rows)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = [self.scoring.read(model, row) for row in rows]
            for _ in range(n_spare):
                self.scoring.read(model, spare)
        return outputs

    def _most(self, count: int) -> int:
        """Return the largest count over all processes."""
        if self.accelerator.num_processes == 1:
            return count
        return int(self.accelerator.gather(torch.tensor([count], device=self.args.device)).max())

    def _backward(self, loss: Tensor) -> None:
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            # It would divide by the accumulated micro-batches, but the loss is already divided.
            self.accelerator.backward(loss, scale_wrt_gas=False)
        else:
            self.accelerator.backward(loss)

    def _share(
        self, model: nn.Module, batch: Batch, n_prompts: Any, shares: list[Tensor]
    ) -> Tensor:
        """Return a micro-batch's share of the step's mean loss."""
        output = by_group([self.scoring.read(model, batch)], batch["slots"])
        return self._count(batch, output, n_prompts, shares)

    def _weights(
        self, batch: Batch, row_outputs: Sequence[Any], n_prompts: Any, shares: list[Tensor]
    ) -> list[tuple[Tensor, ...]]:
        """Return for each row the loss's derivatives with respect to the model's figures."""
        output = by_group(row_outputs, batch["slots"])
        leaves: dict[str, Any] = {}
        for name, figure in differentiable_figures(output).items():
            leaves[name] = figure.detach().requires_grad_()
        # Back to the figures only: the model and its wrappers are not involved.
        loss: Any = self._count(batch, output._replace(**leaves), n_prompts, shares)
        loss.backward()

        # From prompts by responses back to the rows of the responses.
        exists = batch["slots"] >= 0
        sizes = [len(row_output.n_tokens) for row_output in row_outputs]
        weights = []
        for leaf in leaves.values():
            # Figures that the objective does not read have no derivative, usually how responses
            # end.
            grad = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
            weights.append(grad[exists].split(sizes))
        return list(zip(*weights, strict=True))

    def _weighted(self, model: nn.Module, row: Batch, weights: Sequence[Tensor] | None) -> Tensor:
        """Return the model's output on a row, each figure times its weight, summed.

        With None the pass adds nothing.
        """
        output = self.scoring.read(model, row, measured=False)
        figures = list(differentiable_figures(output).values())
        if weights is None:
            # Times 0, so that the backward pass runs through the model like the others.
            return figures[0].sum() * 0.0
        sums = [(figure * weight).sum() for figure, weight in zip(figures, weights, strict=True)]
        return torch.stack(sums).sum()

    def _count(self, batch: Batch, output: Any, n_prompts: Any, shares: list[Tensor]) -> Tensor:
        """Return the share of the step's mean loss, and store it and the measures for the log."""
        measured, losses = self.scoring.measure(batch, output)
        loss_sum = losses.sum()
        if not bool(torch.isfinite(loss_sum)):
            raise PrefpipeError(
                f"the loss is {loss_sum.item()} at step {self.state.global_step + 1}",
                hint="lower --learning-rate or --beta and run again; the last checkpoint is intact",
            )

        self._measured.append(measured)
        self._n_tokens.append(output.n_tokens.sum())
        self._throughput.count(batch)

        # Gradients are averaged over processes, and the divisor counts the prompts of all of them.
        n_averaged = len(losses) if n_prompts is None else n_prompts
        share: Tensor = loss_sum * self.accelerator.num_processes / n_averaged
        shares.append(share.detach())
        return share

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Return the measures of each prompt.

        Their means, the loss among them, are the evaluation.
        """
        del prediction_loss_only, ignore_keys
        batches = self._prepare_inputs(inputs)["batches"]
        rows_by_batch = [batch.get("rows", [batch]) for batch in batches]
        all_rows: list[Batch] = []
        for rows in rows_by_batch:
            all_rows += rows
        outputs = iter(self._read_without_gradients(model, all_rows, spare=all_rows[0]))

        examined = []
        with torch.no_grad():
            for batch, rows in zip(batches, rows_by_batch, strict=True):
                output = by_group(list(islice(outputs, len(rows))), batch["slots"])
                examined.append(self.scoring.examine(batch, output))
        measured = torch.cat(examined)

        # The loop computes metrics only if there are labels; these are not read.
        labels = measured[:, 0]
        return None, measured, labels

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Return the means over the evaluation groups.

        Training continues as if there had been no evaluation. A data loader draws a random number
        when it opens: without the fork, LoRA's dropout would depend on ``eval_steps``.
        """
        device = self.args.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices, device_type="cuda"), self._throughput.apart():
            metrics: dict[str, float] = super().evaluate(*arguments, **named)
        return metrics

    def _early_stopping(self) -> EarlyStopping | None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStopping):
                return callback
        return None

    def _init_training_state(
        self,
        max_steps: int,
        n_steps_per_epoch: int,
        n_epochs: int,
        checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Return where to resume; a run that early stopping ended resumes at its end."""
        where: tuple[int, int] = super()._init_training_state(
            max_steps, n_steps_per_epoch, n_epochs, checkpoint, trial
        )
        # A checkpoint stores its own steps between logs, evaluations and saves; the current ones
        # apply.
        self.state.compute_steps(self.args, max_steps)
        early = self._early_stopping()
        if early is not None and checkpoint is not None:
            early.restore(self.state, Path(self.args.output_dir), Path(checkpoint))
        return (n_epochs, 0) if early is not None and early.is_over else where

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the measures of the steps since the last log line to it."""
        # Evaluations have `eval_loss`, and the last line of a run `train_loss`.
        if "loss" in logs:
            logs |= self._take_measures()
        complete_entry(logs, self.state.log_history)
        super().log(logs, start_time)

    def _take_measures(self) -> dict[str, float]:
        """Return the means over all prompts of all processes since the last time, and their number.

        All processes must call it, including those without prompts. The trainer's own loss is a
        mean over steps, in which prompts of a short last step would count more; this mean replaces
        it.
        """
        measures = self.scoring.measures
        # Empty at first: a process without prompts adds nothing but takes part.
        no_rows = torch.zeros(0, len(measures), device=self.args.device)
        rows = torch.cat([no_rows, *self._measured])
        no_tokens = rows.new_zeros(()).long()
        n_tokens = torch.stack([no_tokens, *self._n_tokens]).sum()
        sums = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
        self._measured, self._n_tokens = [], []

        n_response = int(self.accelerator.reduce(n_tokens, "sum"))
        *totals, n_prompts = self.accelerator.reduce(sums, "sum").tolist()
        figures = {name: total / n_prompts for name, total in zip(measures, totals, strict=True)}
        figures |= {"n_tokens": n_response, "n_prompts": int(n_prompts)}
        return figures | self._throughput_figures(n_response)

    def _throughput_figures(self, n_response: int) -> dict[str, float]:
        computed = self._throughput.take()
        counts = torch.tensor(
            [computed.n_computed, computed.n_prompt_each], device=self.args.device
        )
        n_computed, n_prompt_each = self.accelerator.reduce(counts, "sum").tolist()
        return throughput_figures(n_computed, n_prompt_each, n_response, computed.elapsed_s)

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        with self._throughput.apart():
            super()._save_checkpoint(*arguments, **named)

    @property
    def wrapper(self) -> str:
        """The model's wrapper: ``FSDP``, ``DeepSpeed``, or ``DDP``, which also means one device."""
        if self.is_fsdp_enabled:
            return "FSDP"
        return "DeepSpeed" if self.is_deepspeed_enabled else "DDP"

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return the model's weights gathered from all processes, on the first of them.

        None if each process has them whole.

        All processes must call it: gathering waits for each of them.
        """
        if self.is_fsdp_enabled:
            return self._untied(self.accelerator.get_state_dict(self.model))
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            return self._untied(self.accelerator.get_state_dict(self.deepspeed))
        return None

    def _untied(self, weights: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        """Return gathered weights without tied copies.

        Both copies are whole once gathered, and one is enough.
        """
        if weights is None:
            return None
        tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
        return {name: weight for name, weight in weights.items() if name not in tied}

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The trainer's state, which says that a checkpoint is whole, is written next, by the first
        # process.
        self.accelerator.wait_for_everyone()

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        super()._save(output_dir, self._untied(state_dict))
        if self.args.should_save:
            # A checkpoint is a whole model, with tokenizer and chat template.
            self.tokenizer.save_pretrained(output_dir or self.args.output_dir)
