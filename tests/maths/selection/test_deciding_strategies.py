"""Strategies that choose by position, by several scorers or by sampler, and best-of-n: each by hand,
by brute force over all pairs, and against the theorems that tie them to ``best-worst``."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prefpipe
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.samplers import Samplers, mask_inversions
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.maths.selection.uncertainty import scorer_spread

BY_UNCERTAINTY = ["delta-ucb", "drts", "delta-quantile"]


def pair(rewards, strategy, **options):
    found = select_responses(rewards, strategy=strategy, **options)
    [positive], [negative] = found.positives.tolist(), found.negatives.tolist()
    return positive, negative


def random_pool(seed, n=9):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.exponential(size=n)


# reward-position


def test_reward_position_chooses_as_by_hand():
    """Mean 2, std sqrt(2): -2 std is -0.83, nearest to 0 and then 1; 0 std is 2 itself; and at +1
    std, 3.41, 3 is nearer than the positive's 4, which is no negative."""
    rewards = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert pair(rewards, "reward-position", k=1) == (4, 0)
    assert select_responses(rewards, k=2, strategy="reward-position").negatives.tolist() == [0, 1]
    assert pair(rewards, "reward-position", k=1, position=0.0) == (4, 2)
    assert pair(rewards, "reward-position", k=1, position=1.0) == (4, 3)


def test_reward_position_passes_by_an_outlier_that_best_worst_takes():
    """Thirty rewards around 0 and one of -40: mean -1.3, std 7.1, so -2 std is -15.4."""
    rewards = [*np.linspace(-1.0, 1.0, 30), -40.0]
    assert pair(rewards, "best-worst") == (29, 30)
    assert pair(rewards, "reward-position", k=1) == (29, 0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("position", [-3.0, -2.0, -0.5, 0.0, 1.7])
def test_reward_position_is_the_nearest_of_all(seed, position):
    rewards, _ = random_pool(seed, n=12)
    k, positives = 1 + seed % 4, 1 + seed % 3
    target = np.mean(rewards) + position * np.std(rewards)
    best = np.argsort(-rewards)[:positives]
    others = [i for i in range(12) if i not in best]
    expected = sorted(others, key=lambda i: abs(rewards[i] - target))[:k]
    found = select_responses(
        rewards, k=k, strategy="reward-position", positives=positives, position=position
    )
    assert found.positives.tolist() == best.tolist()
    assert found.negatives.tolist() == sorted(expected)


def test_reward_position_goes_to_the_lower_of_two_as_near():
    """Mean 2 of 1, 3, 0, 4: 1 and 3 are as near."""
    assert pair([3.0, 1.0, 0.0, 4.0], "reward-position", k=1, position=0.0) == (3, 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3])
def test_far_below_the_mean_is_bottom_k_and_far_above_the_best_of_the_rest(seed, k):
    """As the paper's checkpoints write argmax and argmin: mu + 1000 sigma, mu - 1000 sigma."""
    rewards, _ = random_pool(seed, n=10)
    low = select_responses(rewards, k=k, strategy="reward-position", position=-1000.0)
    high = select_responses(rewards, k=k, strategy="reward-position", position=1000.0)
    assert (
        low.negatives.tolist()
        == select_responses(rewards, k=k, strategy="bottom-k").negatives.tolist()
    )
    assert high.negatives.tolist() == sorted(np.argsort(-rewards)[1 : k + 1].tolist())


# delta-ucb, drts, delta-quantile


def all_pairs(rewards, spreads, weight):
    """Ordered pairs by descending gap u_i - l_j, written from the paper with plain loops."""
    upper = [r + weight * s for r, s in zip(rewards, spreads, strict=True)]
    lower = [r - weight * s for r, s in zip(rewards, spreads, strict=True)]
    pairs = itertools.permutations(range(len(rewards)), 2)
    return sorted(pairs, key=lambda ij: lower[ij[1]] - upper[ij[0]])


def by_reward(rewards, found):
    return tuple(sorted(found, key=lambda i: -rewards[i]))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0])
def test_delta_ucb_has_the_widest_gap_of_all_pairs(seed, weight):
    rewards, spreads = random_pool(seed, n=3 + seed % 9)
    expected = all_pairs(rewards, spreads, weight)[0]
    found = pair(rewards, "delta-ucb", uncertainty=spreads, spread_weight=weight)
    assert found == expected
    # With bounds that are symmetric the widest gap never puts the lower reward first.
    assert rewards[found[0]] > rewards[found[1]]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("quantile", [0.0, 0.05, 0.3, 0.99, 1.0])
def test_delta_quantile_has_its_rank_among_all_pairs(seed, quantile):
    """Of n (n - 1) pairs the one with rank floor(n (n - 1) q), the last for q = 1."""
    n = 2 + seed % 9
    rewards, spreads = random_pool(seed, n)
    ranked = all_pairs(rewards, spreads, 1.0)
    rank = min(int(n * (n - 1) * quantile), n * (n - 1) - 1)
    found = pair(rewards, "delta-quantile", uncertainty=spreads, quantile=quantile)
    assert found == by_reward(rewards, ranked[rank])


def test_delta_quantile_chooses_as_by_hand():
    """Gaps of 0, 1, 3 without spread: 3 (2 over 0), 2 (2 over 1), 1 (1 over 0), -1, -2, -3."""
    chosen = {
        q: pair([0.0, 1.0, 3.0], "delta-quantile", uncertainty=[0.0] * 3, quantile=q)
        for q in (0.0, 0.17, 0.34, 0.5, 1.0)
    }
    assert chosen == {0.0: (2, 0), 0.17: (2, 1), 0.34: (1, 0), 0.5: (1, 0), 1.0: (2, 0)}


@pytest.mark.parametrize("strategy", ["delta-ucb", "drts"])
@settings(max_examples=60, deadline=None)
@given(
    rewards=st.lists(st.integers(-5, 5), min_size=2, max_size=9).filter(lambda r: len(set(r)) > 1)
)
def test_without_a_spread_it_is_best_worst(strategy, rewards):
    """Ties included: the first of the highest, the first of the lowest."""
    assert pair(rewards, strategy, uncertainty=np.zeros(len(rewards))) == pair(
        rewards, "best-worst"
    )


def drawn(rewards, spreads, n, **options):
    return [pair(rewards, "drts", uncertainty=spreads, seed=seed, **options) for seed in range(n)]


@pytest.mark.slow
def test_drts_has_the_probabilities_of_a_plain_simulation():
    """Four responses, 4,000 seeds: the share of each pair is that of the formula drawn by NumPy, give
    or take five standard errors of both."""
    rewards, spreads = np.array([0.0, 0.4, 1.0, 1.3]), np.array([1.2, 0.1, 0.5, 0.9])
    n = 4000
    found = drawn(rewards, spreads, n)

    rng = np.random.default_rng(1)
    simulated = []
    for _ in range(n):
        first = second = int(np.argmax(rewards + rng.uniform(-1, 1, 4) * spreads))
        while second == first:
            second = int(np.argmax(-rewards + rng.uniform(-1, 1, 4) * spreads))
        simulated.append(by_reward(rewards, (first, second)))
    for each in set(found) | set(simulated):
        share = simulated.count(each) / n
        error = np.sqrt(2 * max(share, 1 / n) * (1 - share) / n)
        assert abs(found.count(each) / n - share) < 5 * error, each


def test_drts_finds_another_where_one_response_wins_every_draw():
    """Equal rewards without a spread: the first wins all 30 draws, and any other is its partner."""
    rewards, spreads = [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]
    partners = {pair(rewards, "drts", uncertainty=spreads, seed=seed)[1] for seed in range(40)}
    assert partners == {1, 2, 3}


def test_drts_is_the_same_for_a_seed_and_moves_with_it():
    rewards, spreads = random_pool(3, n=12)
    chosen = drawn(rewards, 5 * spreads, 12)
    assert chosen == drawn(rewards, 5 * spreads, 12)
    assert len(set(chosen)) > 3


def test_the_higher_reward_is_the_positive_whoever_was_drawn_first():
    """With spreads far above the gaps drts draws the lower reward first in about half of all."""
    rewards, spreads = [0.0, 0.1, 0.2], [10.0, 10.0, 10.0]
    for positive, negative in drawn(rewards, spreads, 50):
        assert rewards[positive] > rewards[negative]


@pytest.mark.parametrize("strategy", BY_UNCERTAINTY)
def test_a_larger_unit_of_rewards_and_spreads_changes_no_pair(strategy):
    rewards, spreads = random_pool(11, n=12)
    for unit in (64.0, 2.0**-20):
        assert pair(unit * rewards, strategy, uncertainty=unit * spreads) == pair(
            rewards, strategy, uncertainty=spreads
        )


# The spread of several scorers


def test_a_spread_is_that_of_standardised_scores_in_units_of_the_reward():
    """z of 0, 2, 4 is -a, 0, a and of 3, 3, 0 is b, b, -2b, with a = sqrt(3/2) and b = sqrt(1/2); two
    numbers x and y have the standard deviation |x - y| / 2."""
    scores = np.array([[0.0, 2.0, 4.0], [3.0, 3.0, 0.0]])
    a, b = np.sqrt(1.5), np.sqrt(0.5)
    assert scorer_spread(scores) == pytest.approx([(a + b) / 2, b / 2, (a + 2 * b) / 2])
    rewards = np.array([10.0, 10.0, 40.0])
    assert scorer_spread(scores, rewards) == pytest.approx(scorer_spread(scores) * np.std(rewards))


def test_scaling_a_scorer_or_shifting_it_changes_no_spread():
    scores = np.random.default_rng(0).normal(size=(3, 5, 8))
    changed = scores * np.array([2.0, 0.01, 5.0])[:, None, None] + np.arange(3.0)[:, None, None]
    assert scorer_spread(changed) == pytest.approx(scorer_spread(scores))
    assert scorer_spread(scores[:, 0]) == pytest.approx(scorer_spread(scores)[0])


def test_scorers_that_agree_have_no_spread_and_a_missing_score_has_none_to_tell():
    scores = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    assert scorer_spread(scores, [1.0, 2.0, 3.0]) == pytest.approx(np.zeros(3), abs=1e-15)
    scores[1, 2] = np.nan
    assert np.isnan(scorer_spread(scores)).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("scores", "rewards", "sentence"),
    [
        ([[1.0, 2.0]], None, "a single scorer has no spread"),
        ([1.0, 2.0], None, r"scores have shape \(2,\)"),
        ([[1.0], [1.0, 2.0]], None, "scores cannot be read as an array"),
        ([["a"], ["b"]], None, "scores hold <U1 values"),
        ([[1.0, 2.0], [1.0, 3.0]], [1.0], r"rewards have shape \(1,\)"),
    ],
)
def test_what_has_no_spread_is_refused(scores, rewards, sentence):
    with pytest.raises(InputError, match=sentence):
        prefpipe.scorer_spread(scores, rewards)


# delta


def delta(rewards, samplers, **options):
    return select_responses(
        rewards,
        strategy="delta",
        samplers=samplers,
        chosen_from="big",
        rejected_from="small",
        **options,
    )


def test_delta_takes_the_first_of_each_sampler_and_drops_inversions():
    """The first of big is 1 (reward 2); of small, 0 is rated above it, 3 ties and 4 is below."""
    samplers = ["small", "big", "big", "small", "small", "other"]
    rewards = [3.0, 2.0, 9.0, 2.0, 1.0, 0.0]
    found = delta(rewards, samplers, k=7)
    assert (found.positives.tolist(), found.negatives.tolist()) == ([1], [3, 4])
    assert delta(rewards, samplers, k=1).negatives.tolist() == [3]
    assert delta(rewards, samplers, k=7, min_margin=0.5).negatives.tolist() == [4]


def test_delta_takes_several_positives_and_measures_inversions_by_the_lowest():
    samplers = ["big", "big", "small", "small"]
    found = delta([1.0, 5.0, 3.0, 0.5], samplers, k=7, positives=2)
    assert (found.positives.tolist(), found.negatives.tolist()) == ([1, 0], [3])


@pytest.mark.parametrize("seed", range(20))
def test_delta_is_what_its_rule_says_of_any_pool(seed):
    rng = np.random.default_rng(seed)
    n, k, positives = int(rng.integers(2, 12)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    rewards = rng.integers(0, 6, size=n).astype(float)
    samplers = np.where(rng.random(n) < 0.5, "big", "small")
    samplers[:2] = ["big", "small"]

    big = [i for i in range(n) if samplers[i] == "big"][:positives]
    floor = min(rewards[i] for i in big)
    small = [i for i in range(n) if samplers[i] == "small" and rewards[i] <= floor][:k]
    batch = delta(rewards[None], samplers[None], k=k, positives=positives)
    assert [i for i in batch.negatives[0] if i >= 0] == small
    expected = sorted(big, key=lambda i: (-rewards[i], i)) if small else []
    assert [i for i in batch.positives[0] if i >= 0] == expected


def test_inversions_are_of_the_negatives_sampler_alone():
    is_big = np.array([[True, False, True, False]])
    mask = np.ones((1, 4), dtype=bool)
    rewards = np.array([[1.0, 2.0, 0.0, 1.0]])
    found = mask_inversions(rewards, mask, Samplers(is_big, ~is_big))
    assert found.tolist() == [[False, True, False, False]]


# best-of-n


@pytest.mark.parametrize("positives", [1, 2, 5, 9])
def test_best_of_n_keeps_the_highest_rewards_and_nothing_else(positives):
    found = select_responses([1.0, 3.0, 2.0, 3.0, 0.0], strategy="best-of-n", positives=positives)
    assert found.positives.tolist() == [1, 3, 2, 0, 4][:positives]
    assert found.negatives.tolist() == []
    assert np.isnan(found.cost)


def test_best_of_n_needs_one_candidate():
    assert select_responses([1.0], strategy="best-of-n").positives.tolist() == [0]
    mask = np.array([[True, False], [False, False]])
    batch = select_responses(np.zeros((2, 2)), strategy="best-of-n", mask=mask)
    assert batch.positives.tolist() == [[0], [-1]]
    assert (batch.negatives == -1).all()
    with pytest.raises(InputError, match="0 usable candidates; selection needs one"):
        select_responses([1.0], strategy="best-of-n", mask=[False])


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"strategy": "drts"}, UsageError, "drts needs uncertainty: the spread of several scorers"),
        ({"strategy": "delta-ucb"}, UsageError, "delta-ucb needs uncertainty"),
        ({"strategy": "drts", "uncertainty": [1.0]}, InputError, r"uncertainty of shape \(1,\)"),
        (
            {"strategy": "drts", "uncertainty": [1.0, -1.0, 0.0]},
            InputError,
            "the uncertainty of candidate 1 is -1.0; it must be finite and >= 0",
        ),
        (
            {"strategy": "drts", "uncertainty": [1.0, 1.0, np.nan]},
            InputError,
            "the uncertainty of candidate 2 is nan",
        ),
        (
            {"strategy": "drts", "uncertainty": [1.0] * 3, "min_margin": 1.0},
            UsageError,
            "min_margin does not apply to drts",
        ),
        ({"strategy": "best-of-n", "min_margin": 1.0}, UsageError, "does not apply to best-of-n"),
        ({"strategy": "drts", "positives": 2}, UsageError, "drts keeps 1 positive"),
        ({"strategy": "delta"}, UsageError, "delta needs samplers"),
        ({"strategy": "delta", "samplers": list("aab")}, UsageError, "delta needs chosen_from"),
        (
            {"strategy": "delta", "samplers": list("aab"), "chosen_from": "a"},
            UsageError,
            "delta needs rejected_from",
        ),
        (
            {
                "strategy": "delta",
                "samplers": list("aab"),
                "chosen_from": "a",
                "rejected_from": "c",
            },
            InputError,
            "rejected_from is 'c', which is not one of the samplers: a, b",
        ),
        (
            {
                "strategy": "delta",
                "samplers": list("aab"),
                "chosen_from": "a",
                "rejected_from": "a",
            },
            UsageError,
            "chosen_from and rejected_from are both 'a'",
        ),
        (
            {"strategy": "delta", "samplers": list("ab"), "chosen_from": "a", "rejected_from": "b"},
            InputError,
            r"samplers of shape \(2,\)",
        ),
        (
            {
                "strategy": "delta",
                "samplers": list("aab"),
                "chosen_from": "a",
                "rejected_from": "b",
            },
            InputError,
            "inversions, near_duplicates and min_margin leave no candidate for a negative",
        ),
        (
            {
                "strategy": "delta",
                "samplers": [["a"], ["a", "b"]],
                "chosen_from": "a",
                "rejected_from": "b",
            },
            InputError,
            "samplers cannot be read as an array",
        ),
        (
            {
                "strategy": "delta",
                "samplers": list("aab"),
                "chosen_from": "a",
                "rejected_from": 1,
            },
            InputError,
            "rejected_from is 1, which is not one of the samplers: a, b",
        ),
        ({"strategy": "drts", "uncertainty": ["a", "b", "c"]}, InputError, "uncertainty hold <U1"),
        ({"strategy": "reward-position", "position": np.inf}, UsageError, "position is inf"),
        ({"strategy": "drts", "spread_weight": -1.0}, UsageError, "spread_weight is -1.0"),
        ({"strategy": "delta-quantile", "quantile": 1.5}, UsageError, "quantile is 1.5"),
        ({"strategy": "delta-quantile", "quantile": "q"}, UsageError, "quantile is 'q'"),
    ],
)
def test_what_a_strategy_lacks_is_said_by_name(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        select_responses([1.0, 2.0, 3.0], k=1, **arguments)


@pytest.mark.parametrize("strategy", ["reward-position", *BY_UNCERTAINTY, "delta", "best-of-n"])
def test_an_empty_batch_has_an_empty_answer(strategy):
    found = select_responses(
        np.zeros((0, 5)), k=2, strategy=strategy, **evidence_of_shape(strategy, (0, 5))
    )
    assert len(found.positives) == len(found.negatives) == 0
    nothing = select_responses(
        np.zeros((3, 0)), k=2, strategy=strategy, **evidence_of_shape(strategy, (3, 0))
    )
    assert (nothing.positives == -1).all()
    assert (nothing.negatives == -1).all()


def evidence_of_shape(strategy, shape):
    if strategy == "delta":
        return {"samplers": np.full(shape, "a"), "chosen_from": "a", "rejected_from": "b"}
    return {"uncertainty": np.zeros(shape)}


@pytest.mark.parametrize("strategy", ["reward-position", *BY_UNCERTAINTY])
def test_rewards_at_the_limit_choose_without_a_warning(strategy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = select_responses(
            [1e150, -1e150, 0.0, 5.0], k=1, strategy=strategy, uncertainty=[1e150] * 4, quantile=0.0
        )
    assert found.positives.tolist() == [0]
    assert found.negatives.tolist() == [1]
