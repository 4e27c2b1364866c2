"""Pairs of kept responses, rule by rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.pairs import PAIR_RULES, build_pairs

REWARDS = [4.0, 1.0, 3.0, 1.0]
POSITIVE = [True, False, False, False]


def pairs(rule, rewards=REWARDS, positive=POSITIVE, **settings):
    return [
        (pair.chosen, pair.rejected, pair.margin)
        for pair in build_pairs(rewards, positive, rule, **settings)
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("positive-negative", [(0, 1, 3.0), (0, 3, 3.0), (0, 2, 1.0)]),
        ("best-worst", [(0, 3, 3.0)]),
        ("all-ordered", [(0, 1, 3.0), (0, 3, 3.0), (2, 1, 2.0), (2, 3, 2.0), (0, 2, 1.0)]),
        ("adjacent", [(2, 1, 2.0), (0, 2, 1.0)]),
    ],
)
def test_each_pair_rule_makes_the_pairs_by_hand(rule, expected):
    """Rewards 4 (the positive), 1, 3, 1: the two ones make no pair with each other."""
    assert pairs(rule) == expected


def test_adjacent_skips_to_the_next_that_is_far_enough():
    """4 > 3 by 1 is too little with a least margin of 1.5; both then beat the first 1."""
    assert pairs("adjacent", min_margin=1.5) == [(0, 1, 3.0), (2, 1, 2.0)]


def test_best_random_draws_every_other_response_and_repeats_for_a_seed():
    drawn = {pairs("best-random", seed=seed)[0][1] for seed in range(40)}
    assert drawn == {1, 2, 3}
    assert pairs("best-random", seed=7) == pairs("best-random", seed=7)
    assert {pairs("best-random", seed=seed, min_margin=2.0)[0][1] for seed in range(20)} == {1, 3}


def test_max_pairs_are_spread_over_the_margins():
    """Eleven negatives with margins 10, 9, ..., 0: five of them are the margins 10, 8, 5, 2, 0
    (even places 0, 2.5, 5, 7.5, 10)."""
    rewards = [10.0, *range(11)]
    found = pairs("positive-negative", rewards, [True] + [False] * 11, max_pairs=5)
    assert [margin for _, _, margin in found] == [10.0, 8.0, 5.0, 2.0, 0.0]
    assert [
        margin
        for _, _, margin in pairs("positive-negative", rewards, [True] + [False] * 11, max_pairs=1)
    ] == [10.0]
    assert [
        margin
        for _, _, margin in pairs("positive-negative", rewards, [True] + [False] * 11, max_pairs=2)
    ] == [10.0, 0.0]


def test_ties_between_a_positive_and_a_negative_stay_unless_a_margin_is_asked_for():
    assert pairs("positive-negative", [1.0, 1.0], [True, False]) == [(0, 1, 0.0)]
    assert pairs("positive-negative", [1.0, 1.0], [True, False], min_margin=1e-9) == []
    for rule in ("best-worst", "best-random", "all-ordered", "adjacent"):
        assert pairs(rule, [1.0, 1.0], [True, False]) == []


@given(
    st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=8),
    st.sampled_from(PAIR_RULES),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_every_pair_is_ordered_unique_and_far_enough(rewards, rule, max_pairs, min_margin):
    is_positive = np.arange(len(rewards)) == int(np.argmax(rewards))
    found = build_pairs(
        rewards, is_positive, rule, max_pairs=max_pairs, min_margin=float(min_margin), seed=3
    )
    assert len(found) <= max_pairs
    assert len({(pair.chosen, pair.rejected) for pair in found}) == len(found)
    assert [pair.margin for pair in found] == sorted((pair.margin for pair in found), reverse=True)
    for pair in found:
        assert pair.margin == rewards[pair.chosen] - rewards[pair.rejected] >= min_margin
        assert pair.margin > 0 or rule == "positive-negative"


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"rule": "best"}, UsageError, "unknown pair rule 'best'"),
        ({"max_pairs": 0}, UsageError, "max_pairs is 0"),
        ({"min_margin": -1.0}, UsageError, "min_margin -1.0"),
        ({"is_positive": [True]}, InputError, "4 rewards and 1 roles"),
    ],
)
def test_what_cannot_be_paired_is_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        build_pairs(**{"rewards": REWARDS, "is_positive": POSITIVE} | arguments)
