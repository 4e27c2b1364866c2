"""Which evaluation is the best, when patience ends, and what a checkpoint keeps of it."""

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from prefpipe.errors import UsageError
from prefpipe.training.early_stopping import (
    EarlyStopping,
    describe_evaluation,
    evaluation_figures,
    is_better,
)


def entry(step, accuracy, loss=0.5):
    return {"step": step, "eval_loss": loss, "eval_rewards/accuracy": accuracy}


def stop_after(patience, *entries):
    """Return the callback after the evaluations, and the steps at which it saved and stopped."""
    callback, saved, stopped = EarlyStopping(patience), [], []
    for each in entries:
        control = TrainerControl()
        callback.on_evaluate(None, SimpleNamespace(global_step=each["step"]), control, metrics=each)
        saved += [each["step"]] * control.should_save
        stopped += [each["step"]] * control.should_training_stop
    return callback, saved, stopped


def test_accuracy_comes_first_and_loss_breaks_ties():
    best = {"rewards/accuracy": 0.7, "loss": 0.5}
    assert is_better({"rewards/accuracy": 0.8, "loss": 0.9}, best)
    assert not is_better({"rewards/accuracy": 0.6, "loss": 0.1}, best)
    assert is_better({"rewards/accuracy": 0.7, "loss": 0.4}, best)
    assert not is_better(best, best)
    assert not is_better({"rewards/accuracy": float("nan"), "loss": 0.1}, best)


def test_patience_counts_evaluations_in_a_row_that_are_not_better():
    callback, saved, stopped = stop_after(
        2, entry(1, 0.5), entry(2, 0.4), entry(3, 0.6), entry(4, 0.6), entry(5, 0.5)
    )
    assert stopped == [5]
    assert saved == [1, 3, 5]
    assert callback.best == {"step": 3, "rewards/accuracy": 0.6, "loss": 0.5}


def test_the_evaluation_before_the_first_step_does_not_count():
    callback, saved, stopped = stop_after(1, entry(0, 0.9), entry(1, 0.5))
    assert (saved, stopped, callback.best["step"]) == ([1], [], 1)


def test_a_checkpoint_gives_back_best_and_patience(tmp_path):
    callback, _, _ = stop_after(3, entry(2, 0.5), entry(4, 0.4))
    (tmp_path / "checkpoint-4").mkdir()
    state = TrainerState(stateful_callbacks={"EarlyStopping": callback.state()})
    again = EarlyStopping(3)
    with pytest.raises(
        UsageError, match=r"best evaluation was at step 2, but its model, .*/checkpoint-2, is gone"
    ):
        again.restore(state, tmp_path, tmp_path / "checkpoint-4")
    assert (again.n_waited, again.best) == (1, callback.best)


def test_a_checkpoint_of_a_run_without_early_stopping_starts_the_patience():
    callback, state = EarlyStopping(3), TrainerState(stateful_callbacks={})
    callback.restore(state, None, None)
    assert (callback.n_waited, callback.best) == (0, None)
    assert (
        "EarlyStopping" in state.stateful_callbacks
    )  # the trainer fills it in at the next checkpoint


def test_a_run_that_is_nowhere_better_than_its_start_says_so():
    history = [entry(0, 0.7), {"loss": 1.0, "step": 1}, entry(1, 0.6), entry(2, 0.5)]
    callback, _, _ = stop_after(1, *(each for each in history if "eval_loss" in each))
    figures = evaluation_figures(history, callback)
    assert (figures["baseline"]["step"], figures["best"]["step"], figures["last"]["step"]) == (
        0,
        1,
        2,
    )
    lines = describe_evaluation(figures)
    assert lines[0] == (
        "held-out prompts: accuracy 70.0%, loss 0.500 before the first step; accuracy 50.0%, loss "
        "0.500 at step 2"
    )
    assert "the saved model is that of step 1" in lines[1]
    assert "patience ended the run at step 2" in lines[1]
    assert "training did not help" in lines[2]


def test_a_run_without_evaluations_has_nothing_to_say():
    assert evaluation_figures([{"loss": 1.0, "step": 1}], None) == {}
    assert describe_evaluation({}) == []
