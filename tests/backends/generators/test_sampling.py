"""The sampler draws from the distribution it says, truncated as it says.

It takes one uniform number a row.
"""

import pytest
import torch
from transformers import MinPLogitsWarper

from prefpipe.backends.generators.sampling import BLOCK, penalise, sample_tokens
from prefpipe.backends.protocol import SamplingParams


def draw(logits, uniforms, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    temperatures = torch.full((len(logits),), float(temperature))
    return sample_tokens(logits, uniforms, temperatures, top_k=top_k, top_p=top_p, min_p=min_p)


def grid(n):
    """The midpoints of n equal steps of [0, 1).

    Inverting a distribution at them gives its counts, n p, within one.
    """
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("n_vocabulary", [7, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_evenly_spread_numbers_reproduce_the_distribution(n_vocabulary, temperature):
    logits = torch.randn(1, n_vocabulary, generator=torch.Generator().manual_seed(0)) * 2
    n = 4000
    counts = draw(logits.expand(n, -1), grid(n), temperature).bincount(minlength=n_vocabulary)
    expected = n * (logits[0].double() / temperature).softmax(dim=0)
    assert (counts - expected).abs().max() < 1.01


@pytest.mark.slow
def test_random_numbers_reproduce_the_distribution():
    """Pearson's statistic over 7 outcomes has mean 6 and variance 12.

    6 + 6 sqrt(12) is passed once in 10^4 runs.
    """
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 0.2]])
    n = 20_000
    uniforms = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counts = draw(logits.expand(n, -1), uniforms).bincount(minlength=7)
    expected = n * logits[0].double().softmax(dim=0)
    assert float(((counts - expected) ** 2 / expected).sum()) < 6 + 6 * 12**0.5


def test_temperature_zero_takes_the_largest_and_rows_may_differ():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    uniforms = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mixed = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0, 0.5])
    together = sample_tokens(logits, uniforms, mixed, top_k=0, top_p=1.0)
    alone = [
        sample_tokens(logits[i : i + 1], uniforms[i : i + 1], mixed[i : i + 1], top_k=0, top_p=1.0)
        for i in range(6)
    ]
    assert together.tolist() == [int(token) for token in alone]
    assert together[mixed == 0].tolist() == logits.argmax(dim=1)[mixed == 0].tolist()


def test_top_k_keeps_the_k_largest_with_their_shares():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0]])
    counts = draw(logits.expand(1000, -1), grid(1000), top_k=2).bincount(minlength=5)
    share = 1 / (1 + torch.tensor(-1.0).exp())  # exp(3) / (exp(3) + exp(2))
    assert counts[[1, 3, 4]].sum() == 0
    assert abs(counts[0] - 1000 * share) < 1.01


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.49, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.999, 4)]
)
def test_top_p_keeps_the_smallest_set_that_holds_the_mass(top_p, kept):
    """Shares 1/2, 3/10, 3/20, 1/20: the cumulative mass is 0.5, 0.8, 0.95, 1."""
    logits = torch.tensor([[0.3, 0.05, 0.5, 0.15]]).log()
    if top_p in {0.5, 0.8}:
        top_p -= 1e-6  # float32 shares reach a boundary only nearly
    found = draw(logits.expand(1000, -1), grid(1000), top_p=top_p).unique()
    assert set(found.tolist()) == {2, 0, 3, 1} - {0, 3, 1} | set([2, 0, 3, 1][:kept])


@pytest.mark.parametrize(
    ("min_p", "temperature"), [(0.05, 1.0), (0.3, 1.0), (0.3, 2.0), (0.99, 1.0), (1.0, 1.0)]
)
def test_min_p_keeps_what_transformers_keeps_with_its_shares(min_p, temperature):
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(4)) * 2
    kept = MinPLogitsWarper(min_p)(None, logits / temperature)[0].softmax(dim=0).double()
    n = 4000
    counts = draw(logits.expand(n, -1), grid(n), temperature, min_p=min_p).bincount(minlength=40)
    assert (counts - n * kept).abs().max() < 1.01
    assert (counts[kept == 0] == 0).all()


def test_min_p_comes_before_top_p():
    """Shares 0.5, 0.3, 0.15, 0.05: of the two that min_p keeps 0.62 is one, of all four it is two."""
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    numbers = logits.expand(1000, -1), grid(1000)
    assert set(draw(*numbers, top_p=0.62).unique().tolist()) == {0, 1}
    assert set(draw(*numbers, top_p=0.62, min_p=0.5).unique().tolist()) == {0}


@pytest.mark.parametrize(
    "penalties",
    [
        {},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
        {"presence_penalty": 1.1},
        {"frequency_penalty": -0.4},
        {"repetition_penalty": 1.2, "presence_penalty": -0.3, "frequency_penalty": 0.8},
    ],
)
def test_penalties_written_out(penalties):
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(5))
    prompts = [[1, 2, 2, 3], [0], [4, 5, 6, 7, 8, 9]]
    responses = [[3, 3, 3, 5], [], [0, 1, 0]]
    in_prompt, n_in_response = torch.zeros(3, 12, dtype=torch.bool), torch.zeros(3, 12).int()
    for row in range(3):
        in_prompt[row, prompts[row]] = True
        for token in responses[row]:
            n_in_response[row, token] += 1

    params = SamplingParams(1, **penalties)
    found = penalise(logits, n_in_response, in_prompt, params)
    for row in range(3):
        for token in range(12):
            value = float(logits[row, token])
            if token in prompts[row] + responses[row]:
                factor = params.repetition_penalty
                value = value / factor if value > 0 else value * factor
            value -= params.frequency_penalty * responses[row].count(token)
            if token in responses[row]:
                value -= params.presence_penalty
            assert float(found[row, token]) == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_top_p_sorts_as_much_as_a_flat_distribution_needs():
    logits = torch.zeros(2, 5000)
    logits[0, 17] = 20.0
    logits[1] += torch.linspace(0, 0.1, 5000)
    found = draw(logits.repeat_interleave(400, dim=0), grid(400).repeat(2), top_p=0.5)
    assert set(found[:400].tolist()) == {17}
    kept = logits[1].double().softmax(0).sort(descending=True).values.cumsum(0)
    n_kept = int((kept < 0.5).sum()) + 1
    assert 0 <= found[400:].min() - (5000 - n_kept) < 5000 / 400


def test_the_ends_of_the_unit_interval_find_tokens_with_weight():
    logits = torch.full((2, 3 * BLOCK), float("-inf"))
    logits[:, [5, BLOCK + 3]] = torch.tensor([1.0, 2.0])
    uniforms = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits, uniforms).tolist() == [5, BLOCK + 3]
    assert draw(logits, torch.ones(2, dtype=torch.float64)).tolist() == [BLOCK + 3] * 2
