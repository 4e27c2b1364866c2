"""Settings of the optimizer loop, and their ``transformers.TrainingArguments``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from prefpipe.errors import UsageError
from prefpipe.maths.objectives.knobs import KnobValue

EVAL_SHARE = 0.1
"""Share of the run between two evaluations if ``eval_steps`` is not given; the trainer rounds up to
whole steps.
"""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One training run.

    ``sft_weight``: weight of the positives' likelihood beside the objective, 0: none.
        ``warmup_steps``: overrides the share ``warmup_ratio``; None: the share applies.
    ``max_steps`` above 0 beats ``num_train_epochs``; batch sizes count prompts,
    ``max_batch_tokens`` tokens. ``shared_prompt``: each prompt is computed once for all its
    responses, if the model allows it. ``evaluates``: there are evaluation groups; every
    ``eval_steps`` steps, None: ten times a run. ``early_stopping_patience``: evaluations without
    improvement that end the run; None: off. ``max_hours``: wall-clock budget, None for no limit.
    ``keep_steps``: after which the model is written, in ascending order.
    """

    objective: str
    knobs: Mapping[str, KnobValue]
    learning_rate: float
    sft_weight: float = 0.0
    num_train_epochs: float = 1.0
    max_steps: int = -1
    global_batch_size: int = 128
    per_device_train_batch_size: int = 1
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.1
    warmup_steps: int | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    max_batch_tokens: int = 16_384
    shared_prompt: bool = True
    evaluates: bool = False
    eval_steps: int | None = None
    early_stopping_patience: int | None = None
    max_hours: float | None = None
    save_steps: int = 100
    save_total_limit: int = 2
    keep_steps: tuple[int, ...] = ()
    logging_steps: int = 1
    report_to: tuple[str, ...] = ("tensorboard",)


def n_steps_of(settings: TrainSettings, n_groups: int) -> int:
    """Return the optimizer steps of a run that does not end early."""
    if settings.max_steps > 0:
        return settings.max_steps
    return ceil(settings.num_train_epochs * ceil(n_groups / settings.global_batch_size))


def warmup_of(settings: TrainSettings) -> float:
    """Return the trainer's warm-up setting: below 1 a share, else steps."""
    return settings.warmup_ratio if settings.warmup_steps is None else settings.warmup_steps


def learns_nothing(settings: TrainSettings, n_groups: int) -> bool:
    """Return whether the run is one step at rate 0, the first of a warm-up."""
    warms_up = warmup_of(settings) > 0 and settings.lr_scheduler_type != "constant"
    return n_steps_of(settings, n_groups) == 1 and warms_up


def require_kept_steps(settings: TrainSettings, n_groups: int) -> None:
    """Refuse a ``--keep-step`` that is never reached.

    Raises:
        UsageError: names the first such step and the run's last one.
    """
    n_steps = n_steps_of(settings, n_groups)
    never = [step for step in settings.keep_steps if step > n_steps]
    if never:
        raise UsageError(
            f"--keep-step {never[0]} is never reached: the run ends at step {n_steps}, with "
            f"{n_groups} groups and {settings.global_batch_size} of them per step",
            hint="keep an earlier step, or train longer with --num-train-epochs or --max-steps",
        )


def check_settings(settings: TrainSettings, n_processes: int) -> None:
    """Refuse settings that would fail only after loading the model and measuring the reference.

    Raises:
        UsageError: a tracker whose package is not installed, or batch sizes that do not divide.
    """
    require_trackers(settings.report_to)
    derive_accumulation(
        settings.global_batch_size, settings.per_device_train_batch_size, n_processes
    )


def require_trackers(names: Iterable[str]) -> None:
    """Refuse a tracker whose package is not installed.

    The trainer would fail only after the model is loaded.

    Raises:
        UsageError: names the package.
    """
    for name in names:
        if name in ("none", "tensorboard") or find_spec(name) is not None:
            continue
        package = name.replace("_", "-")
        raise UsageError(
            f"--report-to {name}: the package {name} is not installed",
            hint=f"pip install {package}, or leave --report-to out: TensorBoard gets every measure",
        )


def derive_accumulation(global_batch_size: int, per_device: int, world_size: int) -> int:
    """Return the micro-batches per step, ``global_batch_size / (per_device * world_size)``.

    The batch that decides the result is the global one, in prompts; this keeps it the same on any
    number of devices.

    Raises:
        UsageError: the sizes do not divide.
    """
    at_once = per_device * world_size
    if global_batch_size < 1 or per_device < 1 or global_batch_size % at_once:
        raise UsageError(
            f"--global-batch-size {global_batch_size} prompts is not a multiple of {at_once} "
            f"({per_device} per device x {world_size} devices)",
            hint="change --global-batch-size or --per-device-train-batch-size so that one divides "
            "the other",
        )
    return global_batch_size // at_once


def training_arguments(settings: TrainSettings, folder: Path) -> TrainingArguments:
    """Return the arguments of the Hugging Face trainer; checkpoints go to ``folder/checkpoint-N``.

    Raises:
        UsageError: batch sizes that do not divide, or a value the trainer refuses.
    """
    try:
        arguments = TrainingArguments(**_translate(settings, folder))
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"the trainer refuses its settings: {error}",
            hint="see the flags in `prefpipe train --help`",
        ) from error

    # A launcher may set its own precision, which the run's identity would miss.
    if arguments.mixed_precision != ("bf16" if settings.bf16 else "no"):
        raise UsageError(
            f"the launcher sets mixed precision {arguments.mixed_precision}, but this run "
            "uses float32",
            hint="pass --bf16 to `prefpipe train`, or `--mixed_precision no` to `accelerate "
            "launch`",
        )

    # Without a launcher and with several visible GPUs, the trainer would split batches over them
    # (DataParallel), which cannot split groups. One process trains on one device; `accelerate
    # launch` starts more.
    arguments._n_gpu = min(arguments.n_gpu, 1)  # noqa: SLF001 - as the trainer itself does

    arguments.gradient_accumulation_steps = derive_accumulation(
        settings.global_batch_size, settings.per_device_train_batch_size, arguments.world_size
    )
    return arguments


def _translate(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    # Newer transformers renamed gradient checkpointing: the old name warns there, but older
    # releases know only that.
    known = {field.name for field in fields(TrainingArguments)}
    checkpointing = "gradient_checkpointing"
    if "activation_checkpointing" in known:
        checkpointing = "activation_checkpointing"

    # TensorBoard is prefpipe's own callback: see `prefpipe.training.callbacks.TensorBoard`.
    trackers = [name for name in settings.report_to if name != "tensorboard"]

    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "per_device_eval_batch_size": settings.per_device_train_batch_size,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": warmup_of(settings),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "bf16": settings.bf16,
        checkpointing: settings.gradient_checkpointing,
        "eval_strategy": "steps" if settings.evaluates else "no",
        "eval_steps": EVAL_SHARE if settings.eval_steps is None else settings.eval_steps,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": settings.save_total_limit,
        "logging_strategy": "steps",
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,  # a NaN loss is an error here and must not be hidden
        "disable_tqdm": True,
        "log_level": "error",
        "report_to": trackers or "none",
        # Groups are tuples and have no columns.
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
    }
    if settings.gradient_checkpointing:
        arguments[f"{checkpointing}_kwargs"] = {"use_reentrant": False}
    return arguments
