"""What is logged equals what its name says."""

import torch

from prefpipe.maths.logps import ResponseLogps
from prefpipe.maths.losses import Targets
from prefpipe.training.measures import MEASURE_MEANINGS, MEASURES, measure_groups


def test_measures_of_two_groups_worked_out_by_hand():
    scores = torch.tensor([[3.0, 1.0, 4.0], [0.5, -0.5, 99.0]])
    policy = ResponseLogps(torch.tensor([[-2.0, -9.0, -8.0], [-6.0, -4.0, 0.0]]), torch.tensor([[2, 3, 4], [3, 4, 0]]), None,
                           torch.tensor([[1.0, 2.0, 4.5], [0.5, 0.25, 0.0]]))  # fmt: skip
    targets = Targets(
        torch.zeros(2, 3),
        torch.tensor([[True, False, False], [True, False, False]]),
        torch.tensor([[True, True, True], [True, True, False]]),
    )
    rows = measure_groups(torch.tensor([0.7, 0.2]), scores, policy, targets)
    first, second = (dict(zip(MEASURES, row.tolist(), strict=True)) for row in rows)
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


def test_equal_scores_are_not_a_win():
    targets = Targets(torch.zeros(1, 2), torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool))
    row = measure_groups(torch.zeros(1), torch.zeros(1, 2), ResponseLogps(torch.zeros(1, 2), torch.ones(1, 2)), targets)
    assert row[0, MEASURES.index("rewards/accuracy")] == 0


def test_every_measure_says_what_it_means():
    assert tuple(MEASURE_MEANINGS) == MEASURES
