"""What is foreseen from measured steps, evaluations and savings; the clock is the test's."""

from types import SimpleNamespace

import torch
from transformers import TrainerControl

from prefpipe.training.time_budget import SAVE_BYTES_PER_S, TimeBudget

ARGUMENTS = SimpleNamespace(eval_on_start=False)


class Clock:
    def __init__(self):
        self.now = 1000.0
        self.n_steps = 0

    def __call__(self):
        return self.now


def step(budget, clock, seconds, evaluation_s=None, save_s=None):
    """One step, and what follows it.

    Return whether the budget was up at its end, when it is asked.
    """
    control = TrainerControl(should_evaluate=evaluation_s is not None)
    budget.on_step_begin(None, None, control)
    clock.now += seconds
    clock.n_steps += 1
    budget.on_step_end(None, SimpleNamespace(global_step=clock.n_steps), control)
    is_up = budget.is_up()
    if evaluation_s is not None:
        clock.now += evaluation_s
        budget.on_log(None, None, control)
        budget.on_evaluate(None, None, control)
    if save_s is not None:
        clock.now += save_s
        budget.on_save(None, None, control)
    return is_up


def begin(hours, n_weights=0, keep_steps=()):
    clock = Clock()
    budget = TimeBudget(hours, started=clock.now, clock=clock, keep_steps=keep_steps)
    budget.on_train_begin(
        ARGUMENTS, None, None, model=torch.nn.Linear(max(n_weights, 1), 1, bias=False)
    )
    return budget, clock


def test_it_is_up_when_another_step_would_not_fit():
    """100 seconds, steps of 30: after three, 90 are gone, and a fourth would end at 120. After two, one fits."""
    budget, clock = begin(100 / 3600)
    assert [step(budget, clock, 30) for _ in range(3)] == [False, False, True]


def test_the_longest_step_is_what_has_to_fit():
    budget, clock = begin(100 / 3600)
    assert [step(budget, clock, seconds) for seconds in (40, 10, 15)] == [False, False, True]


def test_evaluation_and_saving_have_to_fit_too():
    """Measured after step 1: evaluation 20, saving 10. At 50 a step, an evaluation and the saving end at 100 at the latest."""
    budget, clock = begin(100 / 3600)
    assert not step(budget, clock, 10, evaluation_s=20, save_s=10)  # ends at 40
    assert not step(budget, clock, 10)  # at 50: 50 + 10 + 20 + 10 = 90
    assert step(budget, clock, 20)  # at 70: 70 + 20 + 20 + 10 = 120
    budget, clock = begin(100 / 3600)
    step(budget, clock, 10, evaluation_s=20, save_s=10)
    step(budget, clock, 5)  # at 45
    assert step(
        budget, clock, 5, evaluation_s=20
    )  # at 50, with one due now: 50 + 20 + 10 + 20 + 10 = 110


def test_the_first_saving_is_reckoned_from_bytes_and_then_measured():
    """4 bytes of weight and 8 of moments a trained weight."""
    n_weights = int(SAVE_BYTES_PER_S / 12 * 50)
    budget, clock = begin(100 / 3600)
    budget.on_train_begin(
        ARGUMENTS, None, None, model=torch.nn.Linear(n_weights, 1, bias=False, device="meta")
    )
    assert round(budget.save_s) == 50
    assert not step(budget, clock, 20)  # at 20: 20 + 20 + 50 = 90
    assert step(budget, clock, 15, save_s=2)  # at 35: 35 + 20 + 50 = 105
    assert budget.save_s == 2


def test_a_model_that_is_kept_counts_as_a_saving():
    """Measured after step 1: saving 20. Step 4 is kept: it counts when it comes next, and when it is about to be written."""
    budget, clock = begin(120 / 3600, keep_steps=[4])
    step(budget, clock, 5, save_s=20)  # ends at 25
    assert not step(budget, clock, 30)  # at 55: 55 + 30 + 20 = 105
    assert step(budget, clock, 5)  # at 60: 60 + 30 + 2 x 20 = 130
    budget, clock = begin(120 / 3600, keep_steps=[3])
    step(budget, clock, 5, save_s=20)
    step(budget, clock, 30)
    assert step(budget, clock, 5)
    assert not step(budget, clock, 5)  # at 65, and none is due any more: 65 + 30 + 20 = 115


def test_it_is_never_up_before_the_first_step():
    budget, clock = begin(1 / 3600)
    clock.now += 50
    assert not budget.is_up()
    assert step(budget, clock, 1)


def test_the_baseline_is_the_first_measured_evaluation():
    budget, clock = begin(100 / 3600)
    budget.on_train_begin(
        SimpleNamespace(eval_on_start=True), None, None, model=torch.nn.Linear(1, 1)
    )
    clock.now += 30
    budget.on_log(None, None, None)
    budget.on_evaluate(None, None, None)
    assert budget.evaluation_s == 30


def test_work_before_the_training_stops_when_a_part_like_the_longest_would_not_fit():
    clock = Clock()
    would_not_fit = TimeBudget(100 / 3600, started=clock.now, clock=clock).stops_between_parts()
    clock.now += 70
    asked = [would_not_fit()]  # the first part is made in any case
    clock.now += 20
    asked.append(would_not_fit())  # at 90: another 20 would end at 110
    assert asked == [False, True]
