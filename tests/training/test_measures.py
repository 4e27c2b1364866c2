"""What is logged equals what its name says."""

from math import isnan

import pytest
import torch

from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets
from prefpipe.training.measures import (
    FALLS,
    MEASURES,
    N_FIRST_ROWS,
    complete_entry,
    describe_progress,
    measure_groups,
)
from prefpipe.training.tables import MEASURE_MEANINGS


def test_measures_of_two_groups_worked_out_by_hand():
    scores = torch.tensor([[3.0, 1.0, 4.0], [0.5, -0.5, 99.0]])
    policy = ResponseLogps(
        torch.tensor([[-2.0, -9.0, -8.0], [-6.0, -4.0, 0.0]]),
        torch.tensor([[2, 3, 4], [3, 4, 0]]),
        None,
        torch.tensor([[1.0, 2.0, 4.5], [0.5, 0.25, 0.0]]),
    )
    targets = Targets(
        torch.zeros(2, 3),
        torch.tensor([[True, False, False], [True, False, False]]),
        torch.tensor([[True, True, True], [True, True, False]]),
    )
    rows = measure_groups(torch.tensor([0.7, 0.2]), scores, policy, targets)
    first, second = (dict(zip(MEASURES, row.tolist(), strict=True)) for row in rows)
    assert all(isnan(first.pop(name)) for name in ("kl", *FALLS))  # there is no reference
    assert first == {
        "loss": torch.tensor(0.7).item(),
        "rewards/chosen": 3.0,
        "rewards/rejected": (1 + 4) / 2,
        "rewards/margins": 3 - (1 + 4) / 2,
        "rewards/accuracy": 1 / 2,
        "rewards/best": 0.0,
        "logps/chosen": -2 / 2,
        "logps/rejected": (-9 / 3 - 8 / 4) / 2,
        "entropy": (1 + 2 + 4.5) / 3,
    }
    assert second["rewards/accuracy"] == second["rewards/best"] == 1
    assert second["rewards/rejected"] == -0.5
    assert second["entropy"] == (0.5 + 0.25) / 2


def test_named_pairs_are_what_accuracy_and_margin_are_of():
    """All ordered pairs of rewards 4, 3, 2, 1 with the worst scored highest.

    3 of 6 right, where roles would say 2 of 3.
    """
    scores = torch.tensor([[-1.0, -2.0, -3.0, -0.5]])
    pairs = torch.ones(4, 4, dtype=torch.bool).triu(1)[None]
    targets = Targets(
        torch.tensor([[4.0, 3.0, 2.0, 1.0]]),
        torch.tensor([[True, False, False, False]]),
        torch.ones(1, 4).bool(),
        pairs,
    )
    row = measure_groups(torch.zeros(1), scores, ResponseLogps(scores, torch.ones(1, 4)), targets)[
        0
    ]
    found = dict(zip(MEASURES, row.tolist(), strict=True))
    differences = [(scores[0, w] - scores[0, v]).item() for w in range(4) for v in range(w + 1, 4)]
    assert found["rewards/accuracy"] == sum(d > 0 for d in differences) / 6
    assert abs(found["rewards/margins"] - sum(differences) / 6) < 1e-6


def test_equal_scores_are_not_a_win():
    targets = Targets(
        torch.zeros(1, 2), torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool)
    )
    row = measure_groups(
        torch.zeros(1),
        torch.zeros(1, 2),
        ResponseLogps(torch.zeros(1, 2), torch.ones(1, 2)),
        targets,
    )
    assert row[0, MEASURES.index("rewards/accuracy")] == 0


def test_every_measure_says_what_it_means():
    assert tuple(MEASURE_MEANINGS) == MEASURES


def test_distances_from_the_reference_are_means_over_responses_of_each_token():
    """Positive: (-1 + 2) / 2; negatives.

    (-3 + 9) / 3 = 2 and (-12 + 8) / 4 = -1. The empty place does not count.
    """
    policy = ResponseLogps(torch.tensor([[-2.0, -9.0, -8.0, 0.0]]), torch.tensor([[2, 3, 4, 0]]))
    mask = torch.tensor([[True, True, True, False]])
    targets = Targets(torch.zeros(1, 4), torch.tensor([[True, False, False, False]]), mask)
    row = measure_groups(
        torch.zeros(1), torch.zeros(1, 4), policy, targets, torch.tensor([[-1.0, -3.0, -12.0, 0.0]])
    )[0]
    found = {name: row[MEASURES.index(name)].item() for name in ("kl", *FALLS)}
    assert found == pytest.approx(
        {"kl": (0.5 + 2 - 1) / 3, "logps/chosen_fall": 0.5, "logps/rejected_fall": (2 - 1) / 2}
    )


def entry(chosen, rejected=-4.0, prefix="", **more):
    return {
        f"{prefix}loss": 1.0,
        f"{prefix}logps/chosen": chosen,
        f"{prefix}logps/rejected": rejected,
    } | more


def test_without_a_reference_falls_are_from_the_first_rows():
    history = []
    for number in range(N_FIRST_ROWS + 5):
        row = entry(
            -1.0 if number < N_FIRST_ROWS else -1.75,
            kl=float("nan"),
            **dict.fromkeys(FALLS, float("nan")),
        )
        complete_entry(row, history)
        history.append(row)
    assert [row["logps/chosen_fall"] for row in history] == [0.0] * N_FIRST_ROWS + [0.75] * 5
    assert history[-1]["logps/rejected_fall"] == 0
    assert not any("kl" in row for row in history)


def test_a_fall_from_the_reference_stays_as_it_is():
    row = entry(-5.0, kl=0.25, **{"logps/chosen_fall": 0.5, "logps/rejected_fall": 1.5})
    complete_entry(row, [entry(-1.0)])
    assert (row["kl"], row["logps/chosen_fall"], row["logps/rejected_fall"]) == (0.25, 0.5, 1.5)


def test_evaluations_are_compared_with_the_first_of_them_and_not_with_training():
    baseline = entry(-2.0, prefix="eval_")
    complete_entry(baseline, [])
    later = entry(-2.5, prefix="eval_")
    complete_entry(later, [entry(-9.0), baseline, entry(-8.0), entry(-2.2, prefix="eval_")])
    assert (baseline["eval_logps/chosen_fall"], later["eval_logps/chosen_fall"]) == (0.0, 0.5)
    assert "logps/chosen_fall" not in later


def test_the_closing_line_of_a_run_gets_nothing():
    closing = {"train_runtime": 3.0}
    complete_entry(closing, [entry(-1.0)])
    assert closing == {"train_runtime": 3.0}


@pytest.mark.parametrize(
    ("margin", "accuracy", "words"),
    [
        (0.0, 0.0, "undecided (ties)"),
        (-3e-7, 0.25, "undecided (ties)"),
        (0.4, 0.83, "83%"),
        (-0.2, 0.0, "0%"),
    ],
)
def test_an_accuracy_of_rounding_noise_is_undecided(margin, accuracy, words):
    """A policy that equals its reference has margins of rounding.

    Neither 0 % nor 25 % is an accuracy.
    """
    figures = {"loss": 0.69, "rewards/margins": margin, "rewards/accuracy": accuracy}
    told = describe_progress(
        {"n_steps": 5, "n_groups": 4, "n_steps_averaged": 1, "first": figures, "last": figures}
    )
    assert told.endswith(f"accuracy {words} to {words}")
