"""The Hugging Face trainer over groups.

The trainer brings accelerate, FSDP, DeepSpeed, checkpoints and trackers; this subclass says what the loss of a batch of
groups is, in which order groups are visited, how a step's loss is averaged and what is logged.

Averaging. The loss of a step is the mean over the prompts of the global batch, whatever the split into micro-batches and
devices: each micro-batch contributes its sum divided by the prompts of the whole step. (The trainer's default, a mean of
means, overweights prompts in a short last micro-batch.)
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
from prefpipe.training.groups import Group, GroupDataset
from prefpipe.training.measures import complete_entry
from prefpipe.training.policy import end_token_ids
from prefpipe.training.settings import TrainSettings
from prefpipe.training.targets import PolicyTarget, Target, figures_of
from prefpipe.training.throughput import Throughput, throughput_figures


class GroupTrainer(Trainer):  # type: ignore[misc]
    """Train a policy on groups with any objective of ``prefpipe.maths.objectives.registry``, or what else ``target`` says."""

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
        target: Target | None = None,
    ) -> None:
        self.settings = settings
        self.target: Target = (
            target if target is not None else PolicyTarget(settings.objective, settings.knobs)
        )
        self.tokenizer = tokenizer
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        super().__init__(
            model=model,
            args=arguments,
            data_collator=BudgetCollator(
                GroupCollator(
                    pad_token_id, end_token_ids(model, tokenizer), packed=shares_prompts(model)
                ),
                settings.max_batch_tokens,
            ),
            train_dataset=GroupDataset(train_groups),
            eval_dataset=GroupDataset(eval_groups) if eval_groups else None,
            compute_metrics=lambda prediction: self.target.summarise(
                np.asarray(prediction.predictions)
            ),
            callbacks=list(callbacks),
        )
        # Releases without loss_is_scaled_for_ga decide by this flag; the model itself gets no loss arguments from us.
        self.model_accepts_loss_kwargs = True
        self.args.load_best_model_at_end = self._early_stopping() is not None
        self._measured: list[Tensor] = []
        self._n_tokens: list[Tensor] = []
        self._throughput = Throughput()
        for callback in (
            PrinterCallback,
            ProgressCallback,
        ):  # stdout belongs to the command's result
            self.remove_callback(callback)

    def create_accelerator_and_postprocess(self) -> None:
        """Let FSDP2 compute what one device computes under autocast: weights travel in bfloat16, all else stays as it is.

        accelerate would have it keep hidden states and log-probabilities in bfloat16 too, and sum gradients in it; the policy
        would not begin at its reference, which is measured under autocast.
        """
        super().create_accelerator_and_postprocess()
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and plugin.fsdp_version == 2 and self.args.bf16:
            # embeddings that are float32 on one device give float32 hidden states; a frozen bfloat16 base does not
            is_float32 = self.model.get_input_embeddings().weight.dtype == torch.float32
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16,
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,
                output_dtype=torch.float32 if is_float32 else None,
            )

    def compute_loss_context_manager(self) -> ExitStack:
        """Enter autocast where FSDP2 has the model: accelerate puts it around the models of the other wrappers only."""
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
        """Return what the device computes in one step and the number of prompts in it, over all processes."""
        self._throughput.begin()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        n_prompts = torch.tensor(sum(batch["n_prompts"] for batch in batches), device=device)
        return batches, self.accelerator.reduce(n_prompts, "sum")

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add a device's prompts to the gradients, micro-batch by micro-batch; return their share of the step's mean loss.

        A group in several rows takes two passes (Gao et al. 2021, arXiv 2101.06983): the log-probabilities of all its responses
        without gradients, then the loss's derivative to each of them, and the rows again, each weighted with its own.
        The gradients are those of one pass. Every process makes as many passes as the one that needs most, because wrappers
        for several devices wait for each other in each; a process that has no prompt left makes idle ones.

        Raises:
            PrefpipeError: the loss is not finite; training on would only spoil the weights.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        batches, idle_row = inputs["batches"], inputs["idle"]
        rows = [row for batch in batches for row in batch.get("rows", ())]
        whole = [batch for batch in batches if "rows" not in batch]
        looks = iter(self._look(model, rows, spare=idle_row))
        shares: list[Tensor] = []
        passes: list[Callable[[], Tensor]] = [
            partial(self._share, model, batch, num_items_in_batch, shares) for batch in whole
        ]
        for batch in batches:
            if "rows" in batch:
                looked = list(islice(looks, len(batch["rows"])))
                weights = self._weights(batch, looked, num_items_in_batch, shares)
                passes += [
                    partial(self._weighted, model, row, own)
                    for row, own in zip(batch["rows"], weights, strict=True)
                ]
        passes += [partial(self._weighted, model, idle_row, None)] * (
            self._most(len(passes)) - len(passes)
        )
        ends_step = self.accelerator.sync_gradients
        for number, compute in enumerate(passes, start=1):
            last = number == len(passes)
            # DeepSpeed takes the optimizer's step inside a backward pass that ends one: only the very last may.
            self.accelerator.gradient_state._set_sync_gradients(ends_step and last)  # noqa: SLF001 - as the trainer does
            with nullcontext() if last or self.is_fsdp_enabled else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = compute()
                self._backward(loss)
        return torch.stack(shares).sum() if shares else torch.zeros((), device=self.args.device)

    def _look(self, model: nn.Module, rows: Sequence[Batch], *, spare: Batch) -> list[Any]:
        """Return what the model says of rows without gradients; ``spare`` is computed where other processes have more."""
        n_looks = self._most(len(rows))
        with torch.no_grad(), self.compute_loss_context_manager():
            return [
                self.target.read(model, row) for row in [*rows, *[spare] * (n_looks - len(rows))]
            ][: len(rows)]

    def _most(self, count: int) -> int:
        """Return the largest count over all processes."""
        if self.accelerator.num_processes == 1:
            return count
        return int(self.accelerator.gather(torch.tensor([count], device=self.args.device)).max())

    def _backward(self, loss: Tensor) -> None:
        # DeepSpeed would divide by the accumulated micro-batches, which the loss has been divided by already.
        is_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if is_deepspeed else {}))

    def _share(
        self, model: nn.Module, batch: Batch, n_prompts: Any, shares: list[Tensor]
    ) -> Tensor:
        """Return a micro-batch's share of the step's mean loss."""
        return self._count(
            batch, by_group([self.target.read(model, batch)], batch["slots"]), n_prompts, shares
        )

    def _weights(
        self, batch: Batch, looked: Sequence[Any], n_prompts: Any, shares: list[Tensor]
    ) -> list[tuple[Tensor, ...]]:
        """Return for each row the loss's derivatives to what the model says of its responses, figure by figure."""
        found = by_group(looked, batch["slots"])
        leaves: dict[str, Any] = {
            name: figure.detach().requires_grad_() for name, figure in figures_of(found).items()
        }
        loss: Any = self._count(batch, found._replace(**leaves), n_prompts, shares)
        loss.backward()
        exists, sizes = batch["slots"] >= 0, [len(row.n_tokens) for row in looked]
        grads = [
            torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves.values()
        ]
        return list(zip(*(grad[exists].split(sizes) for grad in grads), strict=True))

    def _weighted(self, model: nn.Module, row: Batch, weights: Sequence[Tensor] | None) -> Tensor:
        """Return what the model says of a row, each figure times its weight, summed; with None, a pass that adds nothing."""
        figures = list(figures_of(self.target.read(model, row, measured=False)).values())
        if weights is None:
            return figures[0].sum() * 0.0
        return torch.stack(
            [(figure * weight).sum() for figure, weight in zip(figures, weights, strict=True)]
        ).sum()

    def _count(self, batch: Batch, found: Any, n_prompts: Any, shares: list[Tensor]) -> Tensor:
        """Return the share of the step's mean loss, and keep it and the measures for the log."""
        measured, losses = self.target.measure(batch, found)
        loss_sum = losses.sum()
        if not bool(torch.isfinite(loss_sum)):
            raise PrefpipeError(
                f"the loss is {loss_sum.item()} at step {self.state.global_step + 1}",
                hint="lower --learning-rate or --beta and run again; the last checkpoint is still good",
            )
        self._measured.append(measured)
        self._n_tokens.append(found.n_tokens.sum())
        self._throughput.count(batch)
        # Gradients are averaged over processes, and the divisor counts the prompts of all of them.
        share: Tensor = (
            loss_sum
            * self.accelerator.num_processes
            / (len(losses) if n_prompts is None else n_prompts)
        )
        shares.append(share.detach())
        return share

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Return the measures of each prompt; their means, the loss among them, are the evaluation."""
        del prediction_loss_only, ignore_keys
        batches = self._prepare_inputs(inputs)["batches"]
        rows = [batch.get("rows", [batch]) for batch in batches]
        looks = iter(self._look(model, [row for own in rows for row in own], spare=rows[0][0]))
        found = [
            by_group(list(islice(looks, len(own))), batch["slots"])
            for own, batch in zip(rows, batches, strict=True)
        ]
        with torch.no_grad():
            measured = torch.cat(
                [self.target.examine(batch, own) for batch, own in zip(batches, found, strict=True)]
            )
        return (
            None,
            measured,
            measured[:, 0],
        )  # the loop computes metrics only where there are labels; nobody reads them

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Return the means over the evaluation groups; training goes on as if there had been no evaluation.

        A data loader takes a random number when it is opened: without the fork, LoRA's dropout would depend on ``eval_steps``.
        """
        device = self.args.device
        own_randomness = torch.random.fork_rng(
            [device] if device.type == "cuda" else [], device_type="cuda"
        )
        with own_randomness, self._throughput.apart():
            metrics: dict[str, float] = super().evaluate(*arguments, **named)
        return metrics

    def _early_stopping(self) -> EarlyStopping | None:
        return next(
            (each for each in self.callback_handler.callbacks if isinstance(each, EarlyStopping)),
            None,
        )

    def _init_training_state(
        self,
        max_steps: int,
        n_steps_per_epoch: int,
        n_epochs: int,
        checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Return where to go on; a run that early stopping has ended goes on at its end."""
        where: tuple[int, int] = super()._init_training_state(
            max_steps, n_steps_per_epoch, n_epochs, checkpoint, trial
        )
        # A checkpoint brings its own steps between logs, evaluations and saves; those asked for now count.
        self.state.compute_steps(self.args, max_steps)
        early = self._early_stopping()
        if early is not None and checkpoint is not None:
            early.restore(self.state, Path(self.args.output_dir), Path(checkpoint))
        return (n_epochs, 0) if early is not None and early.is_over else where

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the measures of the steps since the last log line to it."""
        if "loss" in logs:  # on all processes, also on those that had no prompt
            rows = torch.cat(
                [
                    torch.zeros(0, len(self.target.measures), device=self.args.device),
                    *self._measured,
                ]
            )
            sums = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
            n_tokens = self.accelerator.reduce(
                torch.stack([rows.new_zeros(()).long(), *self._n_tokens]).sum(), "sum"
            )
            *totals, n_prompts = self.accelerator.reduce(sums, "sum").tolist()
            means = {
                name: total / n_prompts
                for name, total in zip(self.target.measures, totals, strict=True)
            }
            # The trainer's own loss is a mean over steps; in a short last step prompts would count more than elsewhere.
            logs |= means | {"n_tokens": int(n_tokens), "n_prompts": int(n_prompts)}
            logs |= self._throughput_figures(int(n_tokens))
            self._measured, self._n_tokens = [], []
        complete_entry(logs, self.state.log_history)
        super().log(logs, start_time)

    def _throughput_figures(self, n_response: int) -> dict[str, float]:
        work = self._throughput.take()
        counts = torch.tensor([work.n_computed, work.n_prompt_each], device=self.args.device)
        n_computed, n_prompt_each = self.accelerator.reduce(counts, "sum").tolist()
        return throughput_figures(n_computed, n_prompt_each, n_response, work.elapsed_s)

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        with self._throughput.apart():
            super()._save_checkpoint(*arguments, **named)

    @property
    def wrapper(self) -> str:
        """What holds the model: ``FSDP``, ``DeepSpeed``, or ``DDP``, which leaves it as it is on one device."""
        return (
            "FSDP" if self.is_fsdp_enabled else "DeepSpeed" if self.is_deepspeed_enabled else "DDP"
        )

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return the model's weights gathered from all processes, on the first of them; None where each has them whole.

        All processes must ask: gathering waits for each of them.
        """
        if self.is_fsdp_enabled:
            return self._untied(self.accelerator.get_state_dict(self.model))
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            return self._untied(self.accelerator.get_state_dict(self.deepspeed))
        return None

    def _untied(self, weights: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        """Return gathered weights without those that the model takes from others: gathered, both are whole."""
        tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", {})
        return (
            None
            if weights is None
            else {name: weight for name, weight in weights.items() if name not in tied}
        )

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The trainer's state, which says that a checkpoint is whole, is written next, by the first process.
        self.accelerator.wait_for_everyone()

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        super()._save(output_dir, self._untied(state_dict))
        if (
            self.args.should_save
        ):  # a checkpoint is a whole model: tokenizer and chat template with it
            self.tokenizer.save_pretrained(output_dir or self.args.output_dir)
