"""From log-probabilities to scores by their kind, and on to the losses."""

import pytest
import torch

from prefpipe.errors import UsageError
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.losses import Targets, refa_loss
from prefpipe.maths.objectives.registry import OBJECTIVES, REWARD_OBJECTIVES, resolve_knobs
from prefpipe.maths.objectives.scores import group_losses, score_responses

MASK = torch.tensor([[True, True, False]])
POLICY = ResponseLogps(
    torch.tensor([[-6.0, -20.0, 0.0]]), torch.tensor([[3, 10, 0]]), torch.tensor([[0.5, 0.9, 0.0]])
)
REFERENCE = torch.tensor([[-5.0, -22.0, 0.0]])
TARGETS = Targets(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[True, False, False]]), MASK)


def test_log_ratio_scores_are_beta_times_policy_minus_reference():
    scores = score_responses("dpo", POLICY, REFERENCE, MASK, {"beta": 0.5})
    assert scores.tolist() == [[0.5 * (-6 + 5), 0.5 * (-20 + 22), 0]]


def test_mean_scores_are_beta_times_the_mean_a_token():
    scores = score_responses("simpo", POLICY, None, MASK, {"beta": 2.0, "gamma": 0.0})
    assert scores.tolist() == [[2 * -6 / 3, 2 * -20 / 10, 0]]


def test_ampo_can_sum_instead_of_averaging():
    knobs = resolve_knobs("ampo", {"length_normalise": False, "beta": 1.0})
    assert score_responses("ampo", POLICY, None, MASK, knobs).tolist() == [[-6, -20, 0]]


@pytest.mark.parametrize(("by_token", "expected"), [(False, [-1, 2]), (True, [-1 / 3, 2 / 10])])
def test_ipo_sums_log_ratios_as_the_paper_does_or_averages_them_as_trl(by_token, expected):
    knobs = resolve_knobs("ipo", {"length_normalise": by_token} if by_token else {})
    assert score_responses("ipo", POLICY, REFERENCE, MASK, knobs).tolist() == [
        [*map(pytest.approx, expected), 0]
    ]


def test_orpo_scores_are_mean_log_probabilities_themselves():
    assert score_responses("orpo", POLICY, None, MASK, resolve_knobs("orpo", {})).tolist() == [
        [-2, -2, 0]
    ]


@pytest.mark.parametrize(
    "name", [name for name, objective in OBJECTIVES.items() if objective.needs_reference]
)
def test_a_missing_reference_is_an_error(name):
    with pytest.raises(UsageError, match=f"objective {name} compares the policy with a reference"):
        score_responses(name, POLICY, None, MASK, resolve_knobs(name, {}))


@pytest.mark.parametrize("name", REWARD_OBJECTIVES)
def test_a_reward_head_has_no_log_probabilities(name):
    with pytest.raises(UsageError, match=f"objective {name} compares the scores of a reward head"):
        score_responses(name, POLICY, None, MASK, resolve_knobs(name, {}))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_policy_at_its_reference_has_a_finite_loss_whatever_the_objective(name):
    knobs = resolve_knobs(name, {})
    scores = score_responses(name, POLICY, POLICY.logps, MASK, knobs)
    assert torch.isfinite(group_losses(name, scores, TARGETS, knobs, POLICY)).all()


def test_refa_gets_how_responses_ended():
    knobs = resolve_knobs("refa", {"eos_weight": 0.1})
    scores = score_responses("refa", POLICY, None, MASK, knobs)
    own = {key: value for key, value in knobs.items() if key != "beta"}
    assert group_losses("refa", scores, TARGETS, knobs, POLICY).equal(
        refa_loss(scores, TARGETS, POLICY, **own)
    )
    with pytest.raises(UsageError, match="refa reads how responses end"):
        group_losses("refa", scores, TARGETS, knobs)
