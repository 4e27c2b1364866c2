"""Metrics on disk follow the trainer's log.

Warnings and stops happen once and at the right step.
"""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pyarrow.parquet as pq
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerControl

from prefpipe.errors import PrefpipeWarning
from prefpipe.training.callbacks import (
    CollapseWarning,
    MetricsFile,
    ShownSteps,
    StopWhenAsked,
    TensorBoard,
    metric_rows,
)
from prefpipe.training.tables import METRICS


def state(step, *entries, max_steps=10):
    return SimpleNamespace(
        is_world_process_zero=True, global_step=step, max_steps=max_steps, log_history=list(entries)
    )


def train_entry(step, **values):
    return {"loss": 1.0 / step, "step": step, "epoch": step / 10, "logps/chosen": -1.0} | values


def test_the_file_has_the_rows_of_the_log_with_all_columns(tmp_path):
    MetricsFile(tmp_path).on_train_end(
        None, state(2, train_entry(1), train_entry(2), {"train_runtime": 3.0, "step": 2}), None
    )
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == METRICS.column_names
    assert table["step"].to_pylist() == [1, 2]
    assert table["loss"].to_pylist() == [1, 1 / 2]
    assert table.schema.metadata[b"prefpipe.schema"] == b"metrics/2"


def test_after_a_kill_the_rows_beyond_the_checkpoint_are_dropped_and_none_is_doubled(tmp_path):
    killed = MetricsFile(tmp_path)
    killed.on_train_end(None, state(5, *(train_entry(step) for step in range(1, 6))), None)
    resumed = MetricsFile(tmp_path)
    resumed.on_train_begin(None, state(3, *(train_entry(step) for step in range(1, 4))), None)
    assert pq.read_table(tmp_path / "metrics.parquet")["step"].to_pylist() == [1, 2, 3]
    resumed.on_train_end(None, state(5, *(train_entry(step) for step in range(1, 6))), None)
    assert pq.read_table(tmp_path / "metrics.parquet")["step"].to_pylist() == [1, 2, 3, 4, 5]


def test_evaluation_rows_are_marked_and_lose_their_prefix():
    (row,) = metric_rows(
        [{"eval_loss": 0.5, "eval_rewards/accuracy": 0.75, "step": 4, "epoch": 1.0}]
    )
    assert (row["split"], row["loss"], row["rewards/accuracy"], row["grad_norm"]) == (
        "eval",
        0.5,
        0.75,
        None,
    )


def test_the_file_is_not_rewritten_at_every_step(tmp_path):
    callback = MetricsFile(tmp_path)
    callback.on_train_begin(None, state(0), None)
    before = (tmp_path / "metrics.parquet").stat().st_mtime_ns
    callback.on_log(None, state(1, train_entry(1)), None)
    assert (tmp_path / "metrics.parquet").stat().st_mtime_ns == before


def history(*values):
    return [train_entry(step + 1, **{"logps/chosen": value}) for step, value in enumerate(values)]


def warnings_of(entries):
    callback = CollapseWarning()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, len(entries) + 1):
            callback.on_log(None, state(step, *entries[:step]), None)
    return caught


def test_a_fall_of_the_positives_is_warned_of_once():
    """Ten rows at -1, then -2.5: the mean of the last ten is 1 nat lower when 7 of them are at -2.5."""
    (warning,) = warnings_of(history(*[-1.0] * 10, *[-2.5] * 20))
    assert warning.category is PrefpipeWarning
    assert "fell from -1.00 to -2.50 nats per token by step 20" in str(warning.message)


def test_an_ordinary_fall_is_not_warned_of():
    assert not warnings_of(history(*[-1.0] * 10, *[-1.4] * 30))


def test_rows_of_harder_prompts_are_not_a_fall():
    """Each row is of other prompts: single rows differ by nats without anything being wrong."""
    assert not warnings_of(history(*[-0.5, -3.5] * 20))
    assert not warnings_of(history(-1.8, -3.9))


def test_stopping_saves_and_ends_after_the_step():
    callback, control, arguments = (
        StopWhenAsked(lambda: True),
        TrainerControl(),
        SimpleNamespace(load_best_model_at_end=True),
    )
    callback.on_step_end(arguments, state(3), control)
    assert not arguments.load_best_model_at_end
    assert control.should_save
    assert control.should_training_stop
    assert callback.stopped


def test_a_stop_at_the_very_last_step_is_not_a_stop():
    callback, control = StopWhenAsked(lambda: True), TrainerControl()
    callback.on_step_end(None, state(10), control)
    assert not callback.stopped


def test_not_asked_is_not_stopped():
    callback, control = StopWhenAsked(lambda: False), TrainerControl()
    callback.on_step_end(None, state(3), control)
    assert not control.should_training_stop


def test_steps_that_are_left_are_counted_and_train_rows_shown():
    events = []

    def advance(n, figures=None):
        events.append((n, figures))

    @contextmanager
    def progress(n_left, n_taken):
        events.append((n_left, n_taken))
        yield advance
        events.append("closed")

    shown = ShownSteps(progress)
    shown.on_train_begin(None, state(4), None)
    shown.on_step_end(None, state(5), None)
    shown.on_log(None, state(5, train_entry(5)), None)
    shown.on_log(None, state(5, {"eval_loss": 0.1, "step": 5}), None)
    shown.close()
    assert events == [(10 - 4, 4), (1, None), (0, {"loss": "0.200"}), "closed"]


def test_tensorboard_gets_the_numbers_of_each_row(tmp_path):
    board = TensorBoard(tmp_path)
    board.on_train_begin(None, state(0), None)
    for step in (1, 2):
        board.on_log(None, state(step, train_entry(step)), None)
    board.on_train_end(None, state(2), None)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1), (2, 0.5)]
    assert "train/split" not in events.Tags()["scalars"]
