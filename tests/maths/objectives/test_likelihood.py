"""The term of likelihood beside an objective: its formula, its gradient, and what it does not see."""

import pytest
import torch
from support.loss_groups import make_groups

from prefpipe.maths.objectives.likelihood import sft_loss
from prefpipe.maths.objectives.logps import ResponseLogps


def responses_of(groups):
    """Sums whose means a token are the scores."""
    return ResponseLogps(groups.scores * groups.n_tokens, groups.n_tokens)


@pytest.mark.parametrize("seed", range(3))
def test_the_value_is_the_mean_over_positives_of_the_loss_a_token(seed):
    groups = make_groups(seed=seed)
    expected = []
    for p in range(6):
        places = [r for r in range(5) if groups.positives[p, r] and groups.mask[p, r]]
        means = [groups.scores[p, r].item() for r in places]
        expected.append(-sum(means) / len(means))
    assert sft_loss(responses_of(groups), groups.targets).tolist() == pytest.approx(expected)


def test_each_positive_counts_alike_whatever_its_length():
    groups = make_groups(n_prompts=1)
    logps = (groups.scores * groups.n_tokens).requires_grad_()
    sft_loss(ResponseLogps(logps, groups.n_tokens), groups.targets).sum().backward()
    assert groups.positives.sum() == 2
    expected = torch.where(groups.positives, -0.5 / groups.n_tokens, 0.0).double()
    torch.testing.assert_close(logps.grad, expected)


def test_the_gradient_is_that_of_finite_differences():
    groups = make_groups(n_prompts=3)
    assert torch.autograd.gradcheck(
        lambda logps: sft_loss(ResponseLogps(logps, groups.n_tokens), groups.targets),
        (groups.scores.requires_grad_(),),
    )


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -1e30])
def test_what_is_no_positive_is_not_seen(rubbish):
    groups = make_groups()
    filled = groups._replace(scores=torch.where(groups.positives, groups.scores, rubbish))
    torch.testing.assert_close(
        sft_loss(responses_of(filled), groups.targets),
        sft_loss(responses_of(groups), groups.targets),
    )


def test_a_prompt_without_a_positive_has_loss_and_gradient_zero():
    groups = make_groups()
    logps = groups.scores.clone().requires_grad_()
    targets = groups.targets._replace(positives=torch.zeros_like(groups.positives))
    losses = sft_loss(ResponseLogps(logps, groups.n_tokens), targets)
    losses.sum().backward()
    assert losses.tolist() == [0] * 6
    assert not logps.grad.any()
