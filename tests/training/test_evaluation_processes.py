"""Evaluations are means over prompts, however many processes share them."""

import pytest
from support.evaluation_job import evaluate_in

NAMES = (
    "eval_loss",
    "eval_rewards/accuracy",
    "eval_rewards/margins",
    "eval_logps/chosen",
    "eval_logps/rejected",
)


@pytest.mark.parametrize("n_groups", [1, 7])
def test_two_processes_say_what_one_says(tmp_path, n_groups):
    """7 groups by 2 a process: the last round has 3 for 4 places.

    By 1 token, every response is a row and rounds differ in length.
    """
    one = evaluate_in(tmp_path / "one", 1, n_groups, per_device_train_batch_size=1)
    two = evaluate_in(tmp_path / "two", 2, n_groups, per_device_train_batch_size=2)
    cut = evaluate_in(
        tmp_path / "cut", 2, n_groups, per_device_train_batch_size=2, max_batch_tokens=20
    )
    for name in NAMES:
        assert [two[name], cut[name]] == pytest.approx([one[name]] * 2, rel=1e-4)


def test_two_processes_stop_at_the_same_step_with_the_same_best_model(tmp_path):
    """Each process checks that it holds the weights of the best evaluation at the end."""
    shape = {
        "patience": 2,
        "evaluates": True,
        "eval_steps": 1,
        "max_steps": 30,
        "learning_rate": 3e-2,
        "global_batch_size": 4,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
    }
    one = evaluate_in(tmp_path / "one", 1, 5, **shape)
    two = evaluate_in(tmp_path / "two", 2, 5, **shape)
    assert one["last"] == one["best"]["step"] + 2 < 30
    assert (two["last"], two["best"]["step"]) == (one["last"], one["best"]["step"])
    assert two["best"]["loss"] == pytest.approx(one["best"]["loss"], rel=1e-3)
