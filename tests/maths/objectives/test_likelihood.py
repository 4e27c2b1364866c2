"""The likelihood of the positives: its formula token by token, and as a term beside an objective."""

import pytest
import torch
from support.loss_groups import make_groups

from prefpipe.maths.objectives.likelihood import sft_loss
from prefpipe.maths.objectives.logps import ResponseLogps
from prefpipe.maths.objectives.registry import resolve_knobs
from prefpipe.maths.objectives.scores import score_responses


def loss_of(logps, groups, **knobs):
    """From summed log-probabilities to the loss, as ``train --objective sft`` goes."""
    responses = ResponseLogps(logps, groups.n_tokens)
    scores = score_responses("sft", responses, None, groups.mask, resolve_knobs("sft", knobs))
    return sft_loss(scores, groups.targets)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length_normalise", [True, False])
def test_the_value_is_the_mean_over_positives_a_token_or_in_sum(seed, length_normalise):
    groups = make_groups(seed=seed)
    sums = groups.scores * groups.n_tokens
    expected = []
    for p in range(6):
        losses = []
        for r in range(5):
            if groups.positives[p, r] and groups.mask[p, r]:
                n_tokens = groups.n_tokens[p, r].item() if length_normalise else 1
                losses.append(-sums[p, r].item() / n_tokens)
        expected.append(sum(losses) / len(losses))
    found = loss_of(sums, groups, length_normalise=length_normalise)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("length_normalise", [True, False])
def test_each_positive_counts_alike_or_each_token(length_normalise):
    groups = make_groups(n_prompts=1)
    logps = (groups.scores * groups.n_tokens).requires_grad_()
    loss_of(logps, groups, length_normalise=length_normalise).sum().backward()
    assert groups.positives.sum() == 2
    a_token = -0.5 / groups.n_tokens if length_normalise else torch.full_like(logps, -0.5)
    expected = torch.where(groups.positives, a_token, 0.0).double()
    torch.testing.assert_close(logps.grad, expected)


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -1e30])
def test_what_is_no_positive_is_not_seen(rubbish):
    groups = make_groups()
    filled = torch.where(groups.positives, groups.scores, rubbish)
    torch.testing.assert_close(loss_of(filled, groups), loss_of(groups.scores, groups))
