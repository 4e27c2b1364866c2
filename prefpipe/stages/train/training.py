"""The training itself: from opened inputs to a trained model and the figures of the run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prefpipe.artifacts.rounds import ROUND, context_of_round
from prefpipe.errors import StoppedEarly
from prefpipe.execution.runtime import Advance, Runtime, Task
from prefpipe.stages.train.inputs import TrainInputs
from prefpipe.stages.train.kept_steps import refuse_steps_gone_by
from prefpipe.stages.train.trainable import Trainable, open_trainable
from prefpipe.stages.train.training_data import TrainingData, read_training_data
from prefpipe.text.numbers import counted
from prefpipe.training.callbacks import (
    TENSORBOARD_FOLDER,
    CollapseWarning,
    FirstStep,
    KeepSteps,
    LogWithCheckpoints,
    MetricsFile,
    ShownSteps,
    StopWhenAsked,
    TensorBoard,
)
from prefpipe.training.checkpoints import (
    find_last_checkpoint,
    require_checkpoint,
    require_wrapper,
    step_of_checkpoint,
)
from prefpipe.training.early_stopping import EarlyStopping, evaluation_figures
from prefpipe.training.forward import share_as_first
from prefpipe.training.groups import require_known_tokens
from prefpipe.training.measures import FALLS, mean_measures
from prefpipe.training.policy import Policy
from prefpipe.training.ranks import any_process, cuts_weights, from_first
from prefpipe.training.settings import (
    TrainSettings,
    learns_nothing,
    n_steps_of,
    training_arguments,
    warmup_of,
)
from prefpipe.training.shared_prompt import pieces_of
from prefpipe.training.time_budget import TimeBudget
from prefpipe.training.trainer import GroupTrainer

NOTHING_LEARNT = (
    "the run has one step, and a warm-up begins at learning rate 0, so the policy does not "
    "change: pass a smaller --global-batch-size, more --num-train-epochs, or --warmup-ratio 0"
)
COMPARED_MEASURES = (
    "loss",
    "rewards/margins",
    "rewards/accuracy",
    "logps/chosen",
    "logps/rejected",
    *FALLS,
    "kl",
)
"""What the summary compares between the first and the last steps of a run."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained model that is not saved yet, and what to record about the run.

    ``weights``: all of the model's, on the first process, if its own are sharded over several
    devices. ``best_step``: of the evaluation whose model this is, None if the last one is taken.
    """

    trainable: Trainable
    policy: Policy
    weights: dict[str, Any] | None
    best_step: int | None
    data: TrainingData
    figures: dict[str, Any]


def train(
    inputs: TrainInputs,
    runtime: Runtime,
    finishing: ExitStack,
    keep: Callable[[TrainResult], None],
) -> TrainResult:
    """Train on the groups, from the start or from the last checkpoint.

    Args:
        inputs: what `prefpipe.stages.train.inputs.open_training` returned.
        runtime: the surroundings.
        finishing: from the first step on, a stop waits until this is closed.
        keep: writes the model of an intermediate step, and leaves it as it is; every process calls
        it.

    Raises:
        InputError: no group is left to train on, or what the model cannot read.
        StoppedEarly: a stop was requested; what was measured is kept, and a checkpoint is on disk
            if there was a step.
        UsageError: a step to keep has already passed, or never comes.
    """
    settings = inputs.settings
    checkpoint = _checkpoint_to_go_on_from(inputs, runtime)
    trainable = open_trainable(inputs.start, inputs.objective, runtime.log)
    budget = None
    if settings.max_hours is not None:
        budget = TimeBudget(settings.max_hours, runtime.started, keep_steps=settings.keep_steps)
    arguments = training_arguments(settings, inputs.output.folder)
    data = read_training_data(inputs, trainable, runtime, budget)

    # Only now: the reference was measured and released, and is not in memory beside the policy.
    runtime.log(f"loading {inputs.start.model.requested}")
    policy = trainable.load()
    # Weights that are cut over devices go there piece by piece, when the trainer wraps the model.
    if not cuts_weights():
        policy.model.to(arguments.device)
    n_vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    require_known_tokens([*data.groups, *data.eval_groups], n_vocabulary)
    runtime.log(_prepare_prompts(policy, trainable, settings, data))
    evaluated = f" and {len(data.eval_groups)} to evaluate on" if data.eval_groups else ""
    runtime.log(
        f"{counted(len(data.groups), 'group')}{evaluated}, "
        f"{counted(settings.global_batch_size, 'prompt')} per step = "
        f"{counted(arguments.world_size, 'device')} x {settings.per_device_train_batch_size} x "
        f"{arguments.gradient_accumulation_steps} accumulated; "
        f"learning rate {settings.learning_rate:g}"
    )
    if learns_nothing(settings, len(data.groups)):
        runtime.log(f"warning: {NOTHING_LEARNT}")
    n_steps, warmup = n_steps_of(settings, len(data.groups)), warmup_of(settings)
    if 1 < n_steps <= warmup:
        runtime.log(
            f"warning: the run has {n_steps} steps, and with --warmup-steps {warmup} it never "
            "reaches its learning rate"
        )

    if checkpoint is not None:
        runtime.log(f"resuming from {checkpoint}")
    # The baseline; a checkpoint has it in its log.
    arguments.eval_on_start = bool(data.eval_groups) and checkpoint is None

    # All processes stop after the same step: one alone would leave the others waiting for it.
    stop = StopWhenAsked(
        lambda: any_process(runtime.should_stop() or (budget is not None and budget.is_up()))
    )
    early = None
    if settings.early_stopping_patience is not None:
        early = EarlyStopping(settings.early_stopping_patience)
    shown_steps = _shown_steps(inputs, runtime)
    trainer = GroupTrainer(
        policy.model,
        arguments,
        settings,
        data.groups,
        tokenizer=policy.tokenizer,
        eval_groups=data.eval_groups,
        callbacks=[
            shown_steps,
            *_callbacks(inputs, runtime, finishing, budget=budget, stop=stop, early=early),
        ],
        scoring=trainable.scoring(settings, data.eval_groups),
    )
    if checkpoint is not None:
        require_wrapper(checkpoint, trainer.wrapper)
    if settings.keep_steps:
        trainer.add_callback(
            KeepSteps(
                settings.keep_steps,
                lambda: keep(_result_so_far(inputs, trainable, policy, data, trainer, early)),
            )
        )
    with closing(shown_steps):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # The trainer returns normally, but what is on disk is a checkpoint, not a result.
    if stop.stopped:
        is_budget = budget is not None and not runtime.should_stop()
        why = f"before --max-hours {settings.max_hours:g} are over" if is_budget else "on request"
        raise StoppedEarly(
            f"train stopped {why} at step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}, with a checkpoint",
            hint=inputs.how_to_go_on,
        )

    for step in settings.keep_steps:
        if step > trainer.state.global_step:
            runtime.log(f"step {step} was not kept: early stopping ended the run before it")

    calibration = trainable.calibration(trainer)
    result = _result_so_far(inputs, trainable, policy, data, trainer, early)
    if calibration is not None:
        result.figures["calibration"] = calibration
    return replace(result, best_step=early.best_step if early is not None else None)


def _checkpoint_to_go_on_from(inputs: TrainInputs, runtime: Runtime) -> Path | None:
    """Return the checkpoint that was requested, or the last one; the same on every process.

    Raises:
        UsageError: the one that was requested is none, or a step to keep has already passed.
    """
    output = inputs.output.folder
    checkpoint: Path | None
    if inputs.resume_from is not None:
        checkpoint = require_checkpoint(inputs.resume_from)
    else:
        checkpoint = from_first(find_last_checkpoint(output, runtime.log))
    if checkpoint is not None:
        refuse_steps_gone_by(output, inputs.settings, step_of_checkpoint(checkpoint))
    return checkpoint


def _result_so_far(
    inputs: TrainInputs,
    trainable: Trainable,
    policy: Policy,
    data: TrainingData,
    trainer: GroupTrainer,
    early: EarlyStopping | None,
) -> TrainResult:
    """Return the current model; all processes must call this because its weights are gathered."""
    return TrainResult(
        trainable=trainable,
        policy=policy,
        weights=trainer.whole_weights(),
        best_step=None,
        data=data,
        figures=_figures(inputs, data, trainer, early),
    )


def _prepare_prompts(
    policy: Policy, trainable: Trainable, settings: TrainSettings, data: TrainingData
) -> str:
    """Compute each prompt once per group if possible, and return a line for the log."""
    problem: str | None = "--no-shared-prompt"
    if settings.shared_prompt:
        problem = share_as_first(policy.model, trainable.share)

    n_each = sum(len(group.prompt_token_ids) * len(group.responses) for group in data.groups)
    if problem is not None:
        return f"each prompt is computed once per response, {n_each:,} prompt tokens: {problem}"

    pieces = pieces_of(data.groups, settings.max_batch_tokens)
    n_once = sum(len(group.prompt_token_ids) for group in pieces)
    n_cut = len(pieces) - len(data.groups)
    more = f", once for each of {n_cut:,} more rows that --max-batch-tokens cuts" if n_cut else ""
    return f"each prompt is computed once{more}: {n_once:,} prompt tokens instead of {n_each:,}"


def _shown_steps(inputs: TrainInputs, runtime: Runtime) -> ShownSteps:
    """Return what shows how many steps are taken."""
    folder = str(inputs.output.folder)

    def progress(n_left: int, n_taken: int) -> AbstractContextManager[Advance]:
        # before its first step a run may evaluate
        task = Task("train", "step", n_left, output=folder, n_kept=n_taken, first_is_slow=True)
        return runtime.progress(task)

    return ShownSteps(progress)


def _callbacks(
    inputs: TrainInputs,
    runtime: Runtime,
    finishing: ExitStack,
    *,
    budget: TimeBudget | None,
    stop: StopWhenAsked,
    early: EarlyStopping | None,
) -> list[TrainerCallback]:
    """Return the callbacks of the steps, in the order in which they must run."""
    folder = inputs.output.folder
    callbacks = [MetricsFile(folder), CollapseWarning()]
    if budget is not None:
        callbacks.append(budget)  # before `stop`: it measures a step before it is asked
    callbacks.append(stop)
    callbacks.append(LogWithCheckpoints())  # behind what asks for checkpoints
    # From the first step until the model is saved, steps are kept however long that takes.
    callbacks.append(
        FirstStep(lambda: finishing.enter_context(runtime.finishing(however_long=True)))
    )
    if early is not None:
        callbacks.append(early)
    if "tensorboard" in inputs.settings.report_to:
        callbacks.append(TensorBoard(folder / TENSORBOARD_FOLDER))
    return callbacks


def _figures(
    inputs: TrainInputs, data: TrainingData, trainer: GroupTrainer, early: EarlyStopping | None
) -> dict[str, Any]:
    """Return the figures of the run for ``summary.json``."""
    settings, log_history = inputs.settings, trainer.state.log_history
    figures: dict[str, Any] = {
        **context_of_round(ROUND, inputs.round),
        "objective": settings.objective,
        "knobs": dict(settings.knobs),
        "learning_rate": settings.learning_rate,
        "n_groups": len(data.groups),
        "n_responses": sum(len(group.responses) for group in data.groups),
        "n_eval_groups": len(data.eval_groups),
        "n_eval_responses": sum(len(group.responses) for group in data.eval_groups),
    }
    if settings.sft_weight:
        figures["sft_weight"] = settings.sft_weight
    if data.weights:
        figures["weights"] = data.weights
    if data.eval_counts:
        figures["eval_counts"] = data.eval_counts

    # Single steps see other prompts, so their losses do not compare: means of a third of the run.
    rows = [entry for entry in log_history if "loss" in entry]
    n_averaged = max(1, len(rows) // 3)
    return figures | {
        "n_steps": trainer.state.global_step,
        "first": mean_measures(rows[:n_averaged], COMPARED_MEASURES),
        "last": mean_measures(rows[-n_averaged:], COMPARED_MEASURES),
        "n_steps_averaged": n_averaged,
        "evaluation": evaluation_figures(log_history, early),
        "kind": inputs.start.kind,
    }
