"""Token and response log-probabilities: equal to the definition, stable, and never a mean over
nothing."""

import math

import pytest
import torch

from prefpipe.errors import InputError
from prefpipe.maths.objectives.logps import (
    ResponseLogps,
    mean_logps,
    sum_response_logps,
    token_entropies,
    token_logps,
)


def test_token_logps_are_the_log_of_the_softmax_at_the_label():
    logits = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 6, 3, 3, 1])
    expected = torch.stack([torch.log(torch.softmax(logits[i], -1)[labels[i]]) for i in range(5)])
    torch.testing.assert_close(token_logps(logits, labels), expected)


def test_token_logps_of_uniform_logits_are_minus_log_of_the_vocabulary():
    assert (
        token_logps(torch.zeros(2, 3, 50), torch.zeros(2, 3, dtype=torch.long)).tolist()
        == [[pytest.approx(-torch.tensor(50.0).log().item())] * 3] * 2
    )


def test_half_precision_logits_are_reduced_in_float32():
    """bfloat16 has 8 bits: reduced in it, the log-partition of 50,000 equal logits would be off in
    the second digit."""
    logps = token_logps(
        torch.zeros(1, 50_000, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.long)
    )
    assert logps.dtype == torch.float32
    assert logps.item() == pytest.approx(-torch.tensor(50_000.0).log().item(), rel=1e-6)


def test_huge_logits_stay_finite_in_value_and_gradient():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    logps = token_logps(logits, torch.tensor([1]))
    logps.sum().backward()
    assert logps.item() == -2e4
    assert torch.isfinite(logits.grad).all()


def test_a_response_is_the_sum_over_its_mask_and_nothing_else():
    mask = torch.tensor(
        [[False, True, True, False], [False, False, True, True], [True, False, False, False]]
    )
    result = sum_response_logps(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), mask)
    assert result.logps.tolist() == [1 + 2, 4 + 8, 16]
    assert result.n_tokens.tolist() == [2, 2, 1]
    assert mean_logps(result).tolist() == [(1 + 2) / 2, (4 + 8) / 2, 16 / 1]


def test_the_end_of_a_response_is_its_last_token_where_it_ended():
    mask = torch.tensor(
        [[False, True, True, False], [False, False, True, True], [True, False, False, False]]
    )
    ended = torch.tensor([True, False, True])
    result = sum_response_logps(torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0]), mask, ended)
    assert result.end_probs.tolist() == [
        pytest.approx(math.exp(-2)),
        0,
        pytest.approx(math.exp(-16)),
    ]
    assert sum_response_logps(torch.zeros(5), mask).end_probs is None


def test_gradients_of_ends_reach_the_last_tokens_alone():
    logps = torch.zeros(3, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, True]])
    sum_response_logps(logps, mask, torch.tensor([True, False])).end_probs.sum().backward()
    assert logps.grad.tolist() == [0, 1, 0]


def test_gradients_reach_every_token_of_the_sum():
    logps = torch.zeros(3, requires_grad=True)
    sum_response_logps(logps, torch.tensor([[True, True, False], [False, False, True]])).logps.dot(
        torch.tensor([2.0, 5.0])
    ).backward()
    assert logps.grad.tolist() == [2, 2, 5]


def test_a_response_of_no_tokens_is_an_error_and_not_a_nan():
    with pytest.raises(InputError, match=r"sequences \[1\] of the batch have no response token"):
        sum_response_logps(torch.tensor([1.0]), torch.tensor([[True], [False]]))


def test_the_mean_does_not_depend_on_length_for_a_constant_token_logp():
    responses = ResponseLogps(torch.tensor([-3.0, -30.0]), torch.tensor([3, 30]))
    assert mean_logps(responses).tolist() == [-1, -1]


def test_the_entropy_of_known_distributions():
    logits = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, -torch.inf, -torch.inf],
            [50.0, 0.0, 0.0, 0.0],
            [1e30, -1e30, 0.0, 1.0],
        ]
    )
    labels = torch.tensor([3, 0, 0, 0])
    entropies = token_entropies(logits, labels, token_logps(logits, labels))
    torch.testing.assert_close(entropies, torch.tensor([math.log(4), math.log(2), 0.0, 0.0]))


def test_a_label_that_was_banned_gives_no_number():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    labels = torch.tensor([2])
    assert token_entropies(logits, labels, token_logps(logits, labels)).isnan().all()
