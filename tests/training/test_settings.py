"""The global batch decides; the trainer gets what the settings say."""

import math

import pytest
import torch
from transformers import get_scheduler

from prefpipe.errors import UsageError
from prefpipe.maths.objectives.registry import ALL_OBJECTIVES
from prefpipe.training.settings import (
    TrainSettings,
    derive_accumulation,
    learns_nothing,
    training_arguments,
)
from prefpipe.training.start_values import START_VALUES


@pytest.mark.parametrize(
    ("batch", "per_device", "world", "steps"),
    [(128, 1, 1, 128), (128, 4, 8, 4), (8, 8, 1, 1), (6, 1, 3, 2)],
)
def test_accumulation_is_the_global_batch_over_what_runs_at_once(batch, per_device, world, steps):
    assert derive_accumulation(batch, per_device, world) == steps
    assert steps * per_device * world == batch


@pytest.mark.parametrize(
    ("batch", "per_device", "world"), [(128, 3, 1), (4, 8, 1), (8, 2, 3), (0, 1, 1), (4, 0, 1)]
)
def test_batches_that_do_not_divide_are_errors_that_name_the_numbers(batch, per_device, world):
    message = f"--global-batch-size {batch} prompts is not a multiple of {per_device * world} \\({per_device} per device x {world} dev"
    with pytest.raises(UsageError, match=message):
        derive_accumulation(batch, max(per_device, 0), world)


def settings(**changes):
    return TrainSettings(
        **({"objective": "dpo", "knobs": {"beta": 0.1}, "learning_rate": 1e-3} | changes)
    )


def test_the_arguments_follow_the_settings(tmp_path):
    arguments = training_arguments(
        settings(
            global_batch_size=8, per_device_train_batch_size=2, warmup_ratio=0.25, max_steps=40
        ),
        tmp_path,
    )
    assert arguments.gradient_accumulation_steps == 8 / 2
    assert arguments.get_warmup_steps(40) == 0.25 * 40
    assert arguments.output_dir == str(tmp_path)
    assert arguments.remove_unused_columns is False
    assert arguments.report_to == []


@pytest.mark.parametrize(
    ("changes", "n_groups", "expected"),
    [
        ({}, 128, True),
        ({}, 129, False),
        ({"num_train_epochs": 2.0}, 4, False),
        ({"num_train_epochs": 0.5}, 256, True),
        ({"max_steps": 1}, 1000, True),
        ({"warmup_ratio": 0.0}, 4, False),
        ({"lr_scheduler_type": "constant"}, 4, False),
        ({"lr_scheduler_type": "constant_with_warmup"}, 4, True),
        ({"warmup_steps": 0}, 4, False),
        ({"warmup_steps": 1, "warmup_ratio": 0.0}, 4, True),
        ({"warmup_steps": 3}, 4, True),
        ({"warmup_steps": 1}, 129, False),
    ],
)
def test_one_step_of_a_warm_up_learns_nothing(changes, n_groups, expected, tmp_path):
    run = settings(**changes)
    assert learns_nothing(run, n_groups) is expected
    # what the trainer makes of it: the rate of the steps, one after another
    n_steps = run.max_steps
    if n_steps < 1:
        n_steps = math.ceil(run.num_train_epochs * math.ceil(n_groups / run.global_batch_size))
    arguments = training_arguments(run, tmp_path)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(
        run.lr_scheduler_type, optimizer, arguments.get_warmup_steps(n_steps), n_steps
    )
    rates = []
    for _ in range(n_steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert (max(rates) == 0) is expected


@pytest.mark.parametrize("n_steps", [3, 10, 1000])
@pytest.mark.parametrize("warmup_steps", [0, 1, 2, 7])
def test_a_warm_up_in_steps_is_as_long_whatever_the_run(warmup_steps, n_steps, tmp_path):
    run = settings(global_batch_size=1, warmup_steps=warmup_steps, max_steps=n_steps)
    assert training_arguments(run, tmp_path).get_warmup_steps(n_steps) == warmup_steps


def test_a_value_the_trainer_refuses_is_an_error_for_people(tmp_path):
    with pytest.raises(UsageError, match=r"the trainer refuses its settings: .*nosuch"):
        training_arguments(settings(global_batch_size=1, lr_scheduler_type="nosuch"), tmp_path)


def test_every_objective_has_start_values():
    assert set(START_VALUES) == set(ALL_OBJECTIVES)


def test_start_values_of_the_first_six_objectives_are_what_they_were():
    assert {
        name: START_VALUES[name] for name in ("ampo", "mmpo", "dpo", "simpo", "swepo", "infonca")
    } == {
        "ampo": (4e-7, 128, 1.0, 0.1),
        "mmpo": (5e-7, 64, 3.0, 0.3),
        "dpo": (5e-7, 128, 1.0, 0.1),
        "simpo": (1e-6, 128, 1.0, 0.1),
        "swepo": (5e-7, 128, 1.0, 0.1),
        "infonca": (5e-7, 128, 1.0, 0.1),
    }


@pytest.mark.parametrize("name", ALL_OBJECTIVES)
def test_start_values_are_documented(name, repository):
    rate, batch, passes, warmup = START_VALUES[name]
    text = (repository / "docs" / "explanation" / "objectives.md").read_text(encoding="utf-8")
    assert f"| `{name}` | {rate:.0e} | {batch} | {passes:g} | {warmup} | " in text
