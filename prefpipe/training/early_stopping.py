"""Stop when evaluations no longer improve, and keep the model of the best one.

Better means a higher ``rewards/accuracy``, or an equal one with a lower loss. The accuracy is a
mean of shares of few pairs, so it jumps and evaluations often tie; then the loss shows which model
is more certain of the same order. An objective without comparisons has no accuracy, so only the
loss decides. The evaluation before the first step does not count: its model is the run's start, and
with a reference its scores are all ties.

The trainer's own early stopping supports one figure and no ties, and restores its state only
together with every other callback; this one stores its state in each checkpoint and reads it from
there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from prefpipe.errors import UsageError
from prefpipe.training.checkpoints import checkpoint_problem
from prefpipe.training.measures import MEASURES, describe_accuracy

Evaluation = dict[str, float]
"""The measures of one evaluation, and its ``step``."""


class EarlyStopping(TrainerCallback, ExportableState):  # type: ignore[misc]
    """End training after ``patience`` evaluations in a row without a new best.

    The model of a new best is saved with a checkpoint, which is kept whatever ``save_total_limit``
    says. The trainer loads it at the end.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.n_waited = 0
        self.best: Evaluation | None = None

    @property
    def is_over(self) -> bool:
        """Whether the patience is used up."""
        return self.n_waited >= self.patience

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation; None before the first."""
        return None if self.best is None else int(self.best["step"])

    def on_evaluate(
        self,
        _args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **_kwargs: Any,
    ) -> None:
        """Save a new best, and stop when patience ends, with a checkpoint that records it."""
        if state.global_step == 0:
            return

        evaluation = evaluation_of({**metrics, "step": state.global_step})
        if self.best is None or is_better(evaluation, self.best):
            self.best = evaluation
            self.n_waited = 0
            # The trainer protects the checkpoint of this step.
            state.best_global_step = state.global_step
            state.best_metric = evaluation.get("rewards/accuracy", -evaluation["loss"])
            control.should_save = True
        else:
            self.n_waited += 1

        if self.is_over:
            control.should_save = True
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "args": {"patience": self.patience},
            "attributes": {"n_waited": self.n_waited, "best": self.best},
        }

    def restore(self, state: TrainerState, output: Path, checkpoint: Path) -> None:
        """Restore the state from a checkpoint, and find the checkpoint of the best model.

        It is in the output, or beside the resumed checkpoint.

        Raises:
            UsageError: it is gone, so the run's best model could not be saved any more.
        """
        # A checkpoint of a run without early stopping has no entry, and the trainer fills existing
        # entries only.
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.n_waited = saved["attributes"]["n_waited"]
        best = saved["attributes"]["best"]
        if best is None:
            return
        # JSON sorted the keys.
        self.best = {name: best[name] for name in ("step", *MEASURES) if name in best}

        step = int(self.best["step"])
        for folder in (output, checkpoint.parent):
            place = folder / f"checkpoint-{step}"
            if checkpoint_problem(place) is None:
                state.best_model_checkpoint = str(place)
                return
        raise UsageError(
            f"{checkpoint} continues a run whose best evaluation was at step {step}, but its "
            f"model, {checkpoint.parent / f'checkpoint-{step}'}, is gone or incomplete",
            hint="restore it, or start again with --overwrite",
        )


def is_better(evaluation: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Return whether the accuracy is higher, or equal or missing with a lower loss."""
    rank = evaluation.get("rewards/accuracy", 0.0), -evaluation["loss"]
    return rank > (best.get("rewards/accuracy", 0.0), -best["loss"])


def evaluation_of(entry: Mapping[str, float]) -> Evaluation:
    """Return the measures and the step of a log entry of the trainer."""
    measures = {name: entry[f"eval_{name}"] for name in MEASURES if f"eval_{name}" in entry}
    return {"step": int(entry["step"]), **measures}


def evaluation_figures(
    log_history: Sequence[Mapping[str, float]], early: EarlyStopping | None
) -> dict[str, Any]:
    """Return the evaluations of a run to record.

    ``baseline``: before the first step; ``last``; with early stopping ``best``, whose model is
    saved, and ``stopped_early``: whether the patience ended the run; {} for a run without
    evaluations.
    """
    evaluations = [evaluation_of(entry) for entry in log_history if "eval_loss" in entry]
    if not evaluations:
        return {}

    first = evaluations[0]
    figures: dict[str, Any] = {
        "baseline": first if first["step"] == 0 else None,
        "last": evaluations[-1],
    }
    if early is not None:
        figures["best"] = early.best
        figures["stopped_early"] = early.is_over
    return figures


def describe_evaluation(figures: Mapping[str, Any]) -> list[str]:
    """Return in words the evaluations of a run, and which model was saved."""
    if not figures:
        return []

    baseline, last, best = figures["baseline"], figures["last"], figures.get("best")
    before = "" if baseline is None else f"{_in_words(baseline)} before the first step; "
    lines = [f"held-out prompts: {before}{_in_words(last)} at step {last['step']}"]
    if best is None:
        return lines

    end = "patience ended the run" if figures["stopped_early"] else "the run ended"
    lines.append(
        f"the saved model is that of step {best['step']}, the best evaluation: {_in_words(best)}; "
        f"{end} at step {last['step']}"
    )
    if baseline is not None and not is_better(best, baseline):
        lines.append(
            "no evaluation is better than the one before the first step: training did not "
            "help on held-out prompts"
        )
    return lines


def _in_words(evaluation: Mapping[str, float]) -> str:
    loss = f"loss {evaluation['loss']:.3f}"
    if "rewards/accuracy" not in evaluation:
        return loss
    return f"accuracy {describe_accuracy(evaluation, digits=1)}, {loss}"
