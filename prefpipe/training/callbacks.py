"""Callbacks: metrics, TensorBoard, progress, stopping on request."""

import time
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefpipe.errors import PrefpipeWarning
from prefpipe.training.measures import N_FIRST_ROWS, shown_figures
from prefpipe.training.tables import METRICS, METRICS_FILE, write_table

TENSORBOARD_FOLDER = "tensorboard"

FLUSH_EVERY_S = 5.0
"""``metrics.parquet`` is rewritten at most this often."""

COLLAPSE_NATS = 1.0
"""Fall of the positives' mean log-probability, in nats a token, that is called a collapse
**(ours)**.

Every token of a good answer has become e times less likely then. Falls of a few tenths are ordinary
for contrastive objectives.
"""

Progress = Callable[[int, int], Any]
"""``progress(n_left, n_taken)``: a context manager that gives an ``Advance`` of steps."""


class MetricsFile(TrainerCallback):  # type: ignore[misc]
    """Keep ``metrics.parquet`` equal to the trainer's log.

    Each checkpoint stores the log, so after a kill and a resume the file has the rows up to the
    checkpoint once, without those of repeated steps. The file is replaced as a whole, at most every
    few seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self._flushed_at = 0.0

    def on_train_begin(
        self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any
    ) -> None:
        """Drop the rows after the resumed checkpoint."""
        self._flush(state)

    def on_log(self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any) -> None:
        """Write the rows if the last write was long enough ago."""
        if time.monotonic() - self._flushed_at > FLUSH_EVERY_S:
            self._flush(state)

    def on_train_end(self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any) -> None:
        """Write all rows."""
        self._flush(state)

    def _flush(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        write_table(self.path, METRICS, metric_rows(state.log_history))
        self._flushed_at = time.monotonic()


def metric_rows(log_history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of ``METRICS`` for a trainer's log; the closing summary line is not a row."""
    rows = []
    for entry in log_history:
        if "loss" in entry:
            row = {name: entry.get(name) for name in METRICS.column_names}
            rows.append(row | {"split": "train"})
        elif "eval_loss" in entry:
            # Only the measures have the prefix; step and epoch do not.
            row = {
                name: entry.get(name, entry.get(f"eval_{name}")) for name in METRICS.column_names
            }
            rows.append(row | {"split": "eval"})
    return rows


class CollapseWarning(TrainerCallback):  # type: ignore[misc]
    """Warn once when the positives' log-probability falls far below its start."""

    def __init__(self) -> None:
        self._has_warned = False

    def on_log(self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any) -> None:
        """Compare the last train rows with the first."""
        values = [entry["logps/chosen"] for entry in state.log_history if "logps/chosen" in entry]
        # The first and the last rows must be different rows.
        is_too_early = len(values) < 2 * N_FIRST_ROWS
        if self._has_warned or is_too_early or not state.is_world_process_zero:
            return

        began, now = fmean(values[:N_FIRST_ROWS]), fmean(values[-N_FIRST_ROWS:])
        if began - now < COLLAPSE_NATS:
            return
        self._has_warned = True
        warnings.warn(
            f"the log-probability of the positives fell from {began:.2f} to {now:.2f} nats per "
            f"token by step {state.global_step}: the policy is unlearning good answers, too; lower "
            "--learning-rate or --beta",
            PrefpipeWarning,
            stacklevel=2,
        )


class StopWhenAsked(TrainerCallback):  # type: ignore[misc]
    """End training after the current step, with a checkpoint, when ``should_stop()`` says so."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop
        self.stopped = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Save and stop on request; the last step ends automatically."""
        if state.global_step < state.max_steps and self.should_stop():
            self.stopped = True
            args.load_best_model_at_end = False  # only the checkpoint is saved
            control.should_save = True
            control.should_training_stop = True


class FirstStep(TrainerCallback):  # type: ignore[misc]
    """Call ``begin`` once before the first step: from then on the run can lose steps."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin: Callable[[], None] | None = begin

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Call ``begin`` unless it has been called."""
        if self._begin is not None:
            self._begin()
            self._begin = None


class LogWithCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Write a row of the log before every checkpoint and evaluation.

    It ignores ``logging_steps``. Measures since the last row are not in a checkpoint, so a resumed
    run would miss these prompts in its next row. This callback comes after all that request
    checkpoints.
    """

    def on_step_end(self, _args: Any, _state: Any, control: TrainerControl, **_kwargs: Any) -> None:
        """Request a row."""
        if control.should_save or control.should_evaluate:
            control.should_log = True


class KeepSteps(TrainerCallback):  # type: ignore[misc]
    """Keep the model after some steps, once the step's own row is in the log.

    Every process calls ``keep``: sharded weights are gathered for it.
    """

    def __init__(self, steps: Collection[int], keep: Callable[[], None]) -> None:
        self._steps = frozenset(steps)
        self._keep = keep

    def on_step_end(
        self, _args: Any, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Request the row, whatever ``logging_steps`` says."""
        if state.global_step in self._steps:
            control.should_log = True

    def on_log(self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any) -> None:
        """Keep the model after the step's row, not after those of evaluations."""
        if state.global_step in self._steps and "loss" in state.log_history[-1]:
            self._keep()


class ShownSteps(TrainerCallback):  # type: ignore[misc]
    """Show how many optimizer steps are taken, and the newest row of the log.

    Whoever trains closes it: a trainer that fails or is interrupted calls no callback.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stack = ExitStack()
        self._advance: Any = None

    def on_train_begin(
        self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any
    ) -> None:
        """Begin with the remaining steps."""
        if state.is_world_process_zero:
            n_left = state.max_steps - state.global_step
            self._advance = self._stack.enter_context(self._progress(n_left, state.global_step))

    def on_step_end(self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any) -> None:
        """Advance by one step."""
        if state.is_world_process_zero:
            self._advance(1)

    def on_log(self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any) -> None:
        """Show the row; those of evaluations are of other prompts, and are not shown."""
        row = state.log_history[-1] if state.log_history else {}
        if self._advance is None or "loss" not in row:
            return
        self._advance(0, figures=shown_figures(row))

    def close(self) -> None:
        """Show nothing any more."""
        self._stack.close()


class TensorBoard(TrainerCallback):  # type: ignore[misc]
    """Write the metrics as TensorBoard scalars, one folder a run, without a timestamp in its name.

    It replaces transformers' callback, which gives evaluations no ``eval/epoch``, adds the figures
    of the whole run and the speed of evaluations as tags, and after a resume keeps the old points
    of repeated steps beside the new ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def on_train_begin(
        self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any
    ) -> None:
        """Open the event file; on resume, TensorBoard drops the steps that are repeated."""
        if state.is_world_process_zero:
            self._writer = SummaryWriter(str(self.folder), purge_step=state.global_step + 1)

    def on_log(self, _args: Any, state: TrainerState, _control: Any, **_kwargs: Any) -> None:
        """Write the newest row."""
        if self._writer is None:
            return
        for row in metric_rows(state.log_history[-1:]):
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._writer.add_scalar(f"{row['split']}/{name}", value, row["step"])

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
