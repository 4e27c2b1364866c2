"""Filters of prompts: each by hand, by a plain loop, and what they refuse."""

import numpy as np
import pytest

import prefpipe
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.prompt_filters import filter_prompts

REWARDS = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.2, 0.9, 0.5], [0.4, 0.4, 0.6]])


def test_the_public_name_is_the_function():
    assert prefpipe.filter_prompts is filter_prompts


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [None] * 4),
        # Lowest rewards 0, 0, 0.2, 0.4: the median is 0.1, the 3/4 quantile 0.25.
        ({"min_rejected_reward": 0.5}, ["low_rejected_reward"] * 2 + [None] * 2),
        ({"min_rejected_reward": 0.75}, ["low_rejected_reward"] * 3 + [None]),
        # Gaps 1, 1, 0.7, 0.2: the median is 0.85.
        ({"max_gap": 0.5}, ["large_gap", "large_gap", None, None]),
        ({"min_spread": 0.7}, [None, None, None, "small_spread"]),
        # Shares of 1 or more: 2/3, 1/3, 0, 0.
        ({"min_pass_rate": 0.5}, [None] + ["low_pass_rate"] * 3),
        ({"max_pass_rate": 0.5}, ["high_pass_rate"] + [None] * 3),
        ({"min_pass_rate": 0.3, "max_pass_rate": 0.4, "pass_reward": 0.6},
         ["high_pass_rate", None, None, None]),
        # The first reason in the order of the docs stands.
        ({"min_pass_rate": 0.5, "max_gap": 0.5},
         ["large_gap", "low_pass_rate", "low_pass_rate", "low_pass_rate"]),
    ],
)  # fmt: skip
def test_filters_take_prompts_as_by_hand(filters, expected):
    if expected.count(None) == 0:
        with pytest.raises(UsageError, match="the filters drop all 4 prompts"):
            filter_prompts(REWARDS, **filters)
    else:
        assert filter_prompts(REWARDS, **filters).tolist() == expected


def test_tokens_are_those_of_the_lowest_reward_the_first_of_equals():
    """The lowest are 0, 0 (of two), 0, 0: of 5, 9, 2 and 7 tokens; the median is 6."""
    n_tokens = [[5, 1, 1], [9, 1, 1], [2, 1, 1], [7, 1, 1]]
    found = filter_prompts(REWARDS, n_tokens, min_rejected_tokens=0.5)
    assert found.tolist() == ["short_rejected", None, "short_rejected", None]


@pytest.mark.parametrize("seed", range(10))
def test_filters_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(40, 6))
    n_tokens = rng.integers(1, 100, size=(40, 6))
    mask = rng.random((40, 6)) < 0.7
    mask[:, 0] = True
    found = filter_prompts(
        rewards,
        n_tokens,
        mask,
        min_rejected_reward=0.2,
        min_rejected_tokens=0.1,
        max_gap=0.8,
        min_spread=0.3,
    )

    pools = [[i for i in range(6) if mask[p, i]] for p in range(40)]
    worst = [min(pool, key=lambda i: rewards[p, i]) for p, pool in enumerate(pools)]
    low = [rewards[p, worst[p]] for p in range(40)]
    tokens = [n_tokens[p, worst[p]] for p in range(40)]
    gaps = [max(rewards[p, i] for i in pools[p]) - low[p] for p in range(40)]
    for p in range(40):
        reason = None
        if gaps[p] > np.quantile(gaps, 0.8):
            reason = "large_gap"
        if tokens[p] < np.quantile(tokens, 0.1):
            reason = "short_rejected"
        if low[p] < np.quantile(low, 0.2):
            reason = "low_rejected_reward"
        if gaps[p] < 0.3:
            reason = "small_spread"
        assert found[p] == reason


@pytest.mark.parametrize(
    "filters",
    [
        {"max_gap": 0.5},
        {"min_spread": 1 / 3},
        {"min_spread": 1 - 2 / 3},
        {"min_rejected_reward": 0.5},
    ],
)
def test_rounding_takes_no_prompt(filters):
    """All gaps are a third and all lowest rewards are a fifth, as sums and differences have them."""
    gaps = [[1.0, 2 / 3], [2 / 3, 1 / 3], [1 / 3, 0.0]]
    lowest = [[0.9, 0.3 - 0.1], [0.9, 0.2], [0.9, 0.1 + 0.1]]
    rewards = np.array(lowest if "min_rejected_reward" in filters else gaps)
    assert len(set(rewards[:, 0] - rewards[:, 1])) > 1, "they differ in the last digit"
    assert filter_prompts(rewards, **filters).tolist() == [None] * 3
    # what differs by more than that is taken
    apart = np.concatenate([rewards, [[2.0, 0.1]]])
    if "min_spread" not in filters:
        assert filter_prompts(apart, **filters)[3] is not None


def test_a_reward_at_the_pass_mark_passes():
    rewards = np.array([[0.7 + 0.2, 0.0], [0.9, 0.0]])
    assert rewards[0, 0] < 0.9, "by rounding"
    passed = {"pass_reward": 0.9, "min_pass_rate": 0.5}
    assert filter_prompts(rewards, **passed).tolist() == [None] * 2


def test_what_is_left_goes_to_select_responses():
    reasons = filter_prompts(REWARDS, max_gap=0.5)
    mask = np.ones(REWARDS.shape, dtype=bool) & (reasons == None)[:, None]  # noqa: E711
    found = prefpipe.select_responses(REWARDS, k=1, strategy="best-worst", mask=mask)
    assert found.positives.tolist() == [[-1], [-1], [1], [2]]


def test_a_prompt_without_candidates_counts_for_no_quantile():
    mask = np.ones(REWARDS.shape, dtype=bool)
    mask[3] = False
    found = filter_prompts(REWARDS, mask=mask, min_rejected_reward=0.6)
    assert found.tolist() == ["low_rejected_reward"] * 2 + [None, "too_few_candidates"]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"min_gap": 0.5}, UsageError, "unknown prompt filter 'min_gap'"),
        ({"max_gap": 0.0}, UsageError, "max_gap is 0.0; it must be a quantile"),
        ({"min_rejected_reward": 1.0}, UsageError, "min_rejected_reward is 1.0"),
        ({"min_rejected_tokens": 0.5}, UsageError, "min_rejected_tokens needs n_tokens"),
        ({"min_rejected_tokens": 0.5, "n_tokens": [[1]]}, InputError, r"n_tokens have shape"),
        ({"min_spread": -1.0}, UsageError, "min_spread is -1.0; it must be above 0"),
        ({"min_pass_rate": 1.5}, UsageError, "min_pass_rate is 1.5"),
        ({"min_pass_rate": 0.9, "max_pass_rate": 0.1}, UsageError, "is above max_pass_rate"),
        ({"min_spread": "1"}, UsageError, "min_spread is '1'; it must be a number"),
        (
            {"min_spread": 10**400},
            UsageError,
            "min_spread is larger than any floating-point number",
        ),
        ({"max_gap": True}, UsageError, "max_gap is True"),
        ({"max_pass_rate": 0.5, "pass_reward": None}, UsageError, "pass_reward is None"),
        ({"max_pass_rate": 0.5, "pass_reward": np.nan}, UsageError, "pass_reward is nan"),
        ({"rewards": [["a", "b"]]}, InputError, "rewards hold <U1 values"),
        ({"rewards": [[1.0], [1.0, 2.0]]}, InputError, "rewards cannot be read as an array"),
        ({"rewards": [1.0, 2.0]}, InputError, r"rewards have shape \(2,\)"),
        ({"rewards": [[1.0, np.nan]]}, InputError, "rewards are not finite"),
        ({"min_spread": 5.0}, UsageError, "drop all 4 prompts: 4 small_spread"),
    ],
)
def test_what_cannot_be_filtered_is_refused_by_name(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        filter_prompts(**({"rewards": REWARDS} | arguments))


def test_filters_that_leave_nothing_say_what_the_prompts_are_like():
    with pytest.raises(UsageError) as caught:
        filter_prompts(REWARDS, min_spread=5.0)
    assert "gaps 0.2 to 1" in caught.value.hint
    assert "pass rates 0 to 0.666667" in caught.value.hint
