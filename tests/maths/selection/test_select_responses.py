"""Selection of one prompt's responses: each rule by hand, by brute force, and by properties over
all rules."""

import warnings
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.compiled_solvers import response_weights
from support.selection_evidence import evidence_for, permuted

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.registry import STRATEGIES
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.maths.selection.strategies import RULES
from prefpipe.maths.selection.validation import checked_geometry
from prefpipe.maths.selection.weights import resolve_temperature

NAMES = list(STRATEGIES)
GROUPS = [name for name, rule in STRATEGIES.items() if rule.n_positives is None]
RANKED = [name for name, rule in STRATEGIES.items() if rule.needs != "samplers"]
"""Strategies that go by rewards; ``delta`` goes by index, and may find no negative."""


def test_the_table_has_a_rule_for_every_strategy():
    assert set(RULES) == set(STRATEGIES)


def paper_cost(rewards, embeddings, chosen, clients, temperature=1.0):
    """AMPO's Cost(S), written from the paper with plain loops."""
    total = 0.0
    for i in clients:
        distance = min(np.linalg.norm(embeddings[i] - embeddings[j]) for j in chosen)
        total += np.exp((np.mean(rewards) - rewards[i]) / temperature) * distance
    return total


def random_pool(seed, n=9, dim=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.normal(size=(n, dim))


REWARDS = np.array([0.2, 0.9, 0.1, 0.9, 0.5])


@pytest.mark.parametrize(
    ("strategy", "k", "positives", "expected_positives", "expected_negatives"),
    [
        ("bottom-k", 2, 1, [1], [0, 2]),
        ("top-bottom", 2, 2, [1, 3], [0, 2]),
        ("best-worst", 7, 1, [1], [2]),
        ("all", 1, 1, [1], [0, 2, 3, 4]),
        ("bottom-k", 4, 1, [1], [0, 2, 3, 4]),
        ("bottom-k", 7, 3, [1, 3, 4], [0, 2]),
    ],
)
def test_reward_rules_choose_as_by_hand(
    strategy, k, positives, expected_positives, expected_negatives
):
    """Rewards 0.2, 0.9, 0.1, 0.9, 0.5: the best is index 1, because index 3 only ties with it."""
    selection = select_responses(REWARDS, k=k, strategy=strategy, positives=positives)
    assert selection.positives.tolist() == expected_positives
    assert selection.negatives.tolist() == expected_negatives


def test_equal_rewards_are_chosen_by_index():
    selection = select_responses(np.zeros(5), k=2, strategy="bottom-k")
    assert (selection.positives.tolist(), selection.negatives.tolist()) == ([0], [1, 2])
    assert select_responses(np.zeros(3), k=1, strategy="best-worst").negatives.tolist() == [1]


@pytest.mark.slow
def test_opt_select_chooses_as_by_hand():
    """Positive 0 (reward 9). Others lie at 0, 1, 10, 11 with weights e^-1, e^-1, e^-1, 1.

    k = 2 takes one of each side: on the right 11, the heavy one, costing e^-1; on the left 0 or 1
    at e^-1 each: the lower index.
    """
    embeddings = np.array([[50.0], [0.0], [1.0], [10.0], [11.0]])
    selection = select_responses(np.array([9.0, 1.0, 1.0, 1.0, 0.0]), embeddings, k=2)
    assert selection.negatives.tolist() == [1, 4]
    assert selection.cost == pytest.approx(2 * np.exp(-1))
    assert selection.represents.tolist() == [-1, 1, 1, 4, 4]
    assert selection.is_optimal
    assert selection.lower_bound == selection.cost


@pytest.mark.slow
def test_coreset_chooses_as_by_hand():
    """Two far groups of candidate negatives: {1, 2} and {3, 4}; the lowest rewards of each are 2
    and 3."""
    embeddings = np.array([[0.0], [0.0], [0.1], [9.0], [9.1]])
    selection = select_responses(
        np.array([9.0, 2.0, 1.0, 0.5, 3.0]), embeddings, k=2, strategy="coreset"
    )
    assert selection.negatives.tolist() == [2, 3]
    # Clusters are numbered by their lowest-reward member: candidate 3 (0.5) comes before candidate
    # 2 (1.0).
    assert selection.clusters.tolist() == [-1, 1, 1, 0, 0]
    assert np.isnan(selection.lower_bound)
    assert not selection.is_optimal


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cover", ["negatives", "all"])
@pytest.mark.parametrize("temperature", ["paper", "auto", 0.3])
def test_opt_select_is_the_brute_force_optimum(seed, cover, temperature):
    rewards, embeddings = random_pool(seed)
    k = 2 + seed % 4
    best = int(np.argmax(rewards))
    others = [i for i in range(9) if i != best]
    clients = others if cover == "negatives" else range(9)
    scale = {"paper": 1.0, "auto": np.std(rewards)}.get(temperature, temperature)
    costs = {
        chosen: paper_cost(rewards, embeddings, chosen, clients, scale)
        for chosen in combinations(others, k)
    }
    expected = min(costs, key=costs.get)
    selection = select_responses(
        rewards, embeddings, k=k, cover=cover, weight_temperature=temperature
    )
    assert tuple(selection.negatives) == expected
    assert selection.is_optimal
    to_paper_units = np.exp((rewards.mean() - np.delete(rewards, best).min()) / scale)
    assert selection.cost * to_paper_units == pytest.approx(costs[expected], rel=1e-9)


def test_covering_the_positive_can_change_the_choice():
    """The positive at 2 pulls the one medoid of points 0 and 1 (weights 1 + tiny, 1) from 0 to
    1."""
    embeddings = np.array([[2.0], [0.0], [1.0]])
    rewards = np.array([0.2, 0.0, 0.1])
    assert select_responses(rewards, embeddings, k=1).negatives.tolist() == [1]
    covering = select_responses(rewards, embeddings, k=1, cover="all")
    assert covering.negatives.tolist() == [2]
    assert covering.represents.tolist() == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", RANKED)
@pytest.mark.parametrize("seed", range(4))
def test_permuting_candidates_permutes_the_answer(strategy, seed):
    rewards, embeddings = random_pool(seed, n=12)
    order = np.random.default_rng(seed + 100).permutation(12)
    evidence = evidence_for(strategy, 12)
    straight = select_responses(rewards, embeddings, k=4, strategy=strategy, seed=5, **evidence)
    turned = select_responses(
        rewards[order],
        embeddings[order],
        k=4,
        strategy=strategy,
        seed=5,
        **permuted(evidence, order),
    )
    assert order[turned.positives].tolist() == straight.positives.tolist()
    assert sorted(order[turned.negatives].tolist()) == straight.negatives.tolist()
    assert turned.clusters.tolist() == straight.clusters[order].tolist()
    is_client = straight.represents[order] >= 0
    assert (
        order[turned.represents[is_client]].tolist()
        == straight.represents[order][is_client].tolist()
    )


@pytest.mark.parametrize("strategy", NAMES)
def test_a_constant_added_to_all_rewards_changes_no_choice(strategy):
    rewards = np.random.default_rng(3).integers(-20, 20, size=12) / 4  # sums stay exact
    embeddings = random_pool(3, n=12)[1]
    evidence = evidence_for(strategy, 12)
    for shift in (-1024.0, 4096.0):
        one = select_responses(rewards, embeddings, k=4, strategy=strategy, **evidence)
        two = select_responses(rewards + shift, embeddings, k=4, strategy=strategy, **evidence)
        assert one.positives.tolist() == two.positives.tolist()
        assert one.negatives.tolist() == two.negatives.tolist()
        assert one.cost == two.cost or np.isnan(one.cost)


def test_auto_temperature_makes_opt_select_independent_of_the_reward_scale():
    rewards, embeddings = random_pool(8, n=14)
    one = select_responses(rewards, embeddings, k=5, weight_temperature="auto")
    two = select_responses(64.0 * rewards, embeddings, k=5, weight_temperature="auto")
    assert one.negatives.tolist() == two.negatives.tolist()
    assert one.cost == pytest.approx(two.cost)


def test_rewards_that_span_hundreds_give_finite_costs():
    rewards, embeddings = random_pool(6, n=20)
    selection = select_responses(1000.0 * rewards, embeddings, k=5)
    assert np.isfinite(selection.cost)
    assert selection.is_optimal
    assert np.argmin(rewards) in selection.negatives


def test_float32_embeddings_are_taken_as_they_come():
    rewards, embeddings = random_pool(9, n=10)
    narrow = embeddings.astype(np.float32)
    assert (
        select_responses(rewards, narrow, k=3).negatives.tolist()
        == select_responses(rewards, narrow.astype(np.float64), k=3).negatives.tolist()
    )


def test_twins_that_are_both_chosen_stand_for_themselves():
    embeddings = np.array([[5.0], [1.0], [1.0], [9.0]])
    selection = select_responses(np.array([4.0, 1.0, 2.0, 3.0]), embeddings, k=3)
    assert selection.negatives.tolist() == [1, 2, 3]
    assert selection.represents.tolist() == [-1, 1, 2, 3]


def test_the_seed_decides_random_choices():
    rewards = np.arange(40.0)
    drawn = {
        tuple(select_responses(rewards, k=5, strategy="random", seed=seed).negatives)
        for seed in range(8)
    }
    assert len(drawn) == 8
    again = select_responses(rewards, k=5, strategy="random", seed=2**63)
    assert tuple(again.negatives) == tuple(
        select_responses(rewards, k=5, strategy="random", seed=2**63).negatives
    )


@pytest.mark.parametrize("strategy", NAMES)
def test_the_seed_matters_where_the_table_says_so(strategy):
    rewards, embeddings = random_pool(2, n=30)
    evidence = evidence_for(strategy, 30)
    chosen = set()
    for seed in range(12):
        found = select_responses(rewards, embeddings, 5, strategy, seed=seed, n_init=1, **evidence)
        chosen.add((tuple(found.positives), tuple(found.negatives)))
    assert (len(chosen) > 1) == STRATEGIES[strategy].draws


def test_weights_are_the_papers_up_to_one_factor():
    rewards = np.array([0.3, -1.2, 2.0])
    paper = np.exp((rewards.mean() - rewards) / 0.7)
    ours = response_weights(rewards, 0.7)
    assert ours * np.exp((rewards.mean() - rewards.min()) / 0.7) == pytest.approx(paper)
    assert ours.max() == 1.0


def test_a_temperature_is_one_or_the_spread_of_the_rewards_or_as_given():
    rewards = np.array([1.0, 3.0])
    assert resolve_temperature(rewards, "paper") == 1.0
    assert resolve_temperature(rewards, "auto") == 1.0  # (1 + 1) / 2 under the root
    assert resolve_temperature(3 * rewards, "auto") == 3.0
    assert resolve_temperature(np.zeros(4), "auto") == 1.0
    assert resolve_temperature(rewards, 0.25) == 0.25


reward_lists = st.one_of(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=9),
    st.lists(st.just(0.1), min_size=2, max_size=6),
)


@pytest.mark.parametrize("strategy", RANKED)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_the_pool_a_selection_keeps_its_promises(strategy, data):
    """Sizes, disjointness, range, order, the positive is the first maximum, k >= n, ties, identical
    embeddings."""
    rewards = np.array(data.draw(reward_lists))
    n = len(rewards)
    embeddings = data.draw(
        arrays(np.float64, (n, 2), elements=st.sampled_from([0.0, 0.25, 1.0, -3.0]))
    )
    k = data.draw(st.integers(1, 12))
    positives = data.draw(st.integers(1, 4)) if strategy in GROUPS else 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selection = select_responses(
            rewards,
            embeddings,
            k=k,
            strategy=strategy,
            positives=positives,
            seed=data.draw(st.integers(0, 2**64 - 1)),
            **evidence_for(strategy, n),
        )
    rule = STRATEGIES[strategy]
    n_positives = min(positives, n - rule.n_spared)
    wanted = {"all": n, None: k}.get(rule.n_negatives, rule.n_negatives)
    assert len(selection.positives) == n_positives
    assert len(selection.negatives) == min(wanted, n - n_positives)
    kept = [*selection.positives.tolist(), *selection.negatives.tolist()]
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(range(n))
    assert selection.negatives.tolist() == sorted(selection.negatives.tolist())
    if rule.decides_positives:
        assert rewards[selection.positives[0]] >= rewards[selection.negatives[0]]
    else:
        others = np.delete(rewards, selection.positives)
        assert selection.positives[0] == np.argmax(rewards)
        assert rewards[selection.positives].min() >= others.max(initial=-np.inf)
    assert selection.clusters.shape == selection.represents.shape == (n,)
    assert (selection.clusters[selection.positives] == -1).all()
    if strategy == "opt-select":
        assert 0 <= selection.lower_bound <= selection.cost
        assert selection.is_optimal
        assert set(np.delete(selection.represents, selection.positives)) == set(selection.negatives)
    else:
        assert np.isnan(selection.lower_bound)
        assert not selection.is_optimal
    if rule.n_negatives == 0:
        assert np.isnan(selection.cost)
        assert (selection.represents == -1).all()
        return
    assert selection.cost >= 0.0
    assert selection.cost <= selection.cost_random * (1 + 1e-9) or strategy != "opt-select"
    assert set(np.delete(selection.represents, selection.positives)) == set(selection.negatives)
    assert (selection.represents[selection.negatives] == selection.negatives).all()
    assert len(selection.gains) == len(selection.negatives)
    assert (
        np.isnan(selection.gains).all()
        if len(selection.negatives) == 1
        else (selection.gains >= 0.0).all()
    )
    assert (strategy == "coreset") == bool((selection.clusters >= 0).any())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_opt_select_is_never_beaten_by_another_rule(data):
    """At equal k no rule has a lower Cost(S) than the certified optimum, in the paper's own
    formula."""
    seed = data.draw(st.integers(0, 10**6))
    rewards, embeddings = random_pool(seed, n=data.draw(st.integers(3, 16)))
    k = data.draw(st.integers(1, len(rewards) - 1))
    others = np.delete(np.arange(len(rewards)), np.argmax(rewards))
    cost = {
        name: paper_cost(
            rewards,
            embeddings,
            select_responses(rewards, embeddings, k=k, strategy=name).negatives,
            others,
        )
        for name in ("opt-select", "bottom-k", "coreset", "random")
    }
    assert cost["opt-select"] <= min(cost.values()) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"rewards": [1.0]}, InputError, "1 usable candidates; selection needs at least 2"),
        ({"mask": [True, False, False]}, InputError, "1 usable candidates"),
        ({"mask": [1, 1, 0]}, InputError, r"mask is int64 of shape \(3,\), expected bool"),
        (
            {"mask": [True]},
            InputError,
            r"mask is bool of shape \(1,\), expected bool of shape \(3,\)",
        ),
        ({"rewards": []}, InputError, "0 usable candidates"),
        ({"rewards": [[[1.0, 2.0]]]}, InputError, r"rewards have shape \(1, 1, 2\)"),
        ({"rewards": [1.0, np.nan, 2.0]}, InputError, "the reward of candidate 1 is nan"),
        ({"rewards": [1.0, 2.0, np.inf]}, InputError, "the reward of candidate 2 is inf"),
        ({"k": 0}, UsageError, "k is 0"),
        ({"positives": 0}, UsageError, "positives is 0"),
        ({"seed": -1}, UsageError, "seed is -1"),
        ({"strategy": "opt_select"}, UsageError, "unknown selection strategy 'opt_select'"),
        (
            {"strategy": "best-worst", "positives": 2},
            UsageError,
            "best-worst keeps 1 positive, but positives is 2",
        ),
        ({"embeddings": None}, UsageError, "opt-select needs embeddings or distances"),
        (
            {"embeddings": None, "strategy": "coreset"},
            UsageError,
            "coreset needs embeddings or distances",
        ),
        (
            {"embeddings": None, "distances": 1 - np.eye(3), "near_duplicates": 0.9},
            UsageError,
            "a cosine similarity and needs",
        ),
        ({"near_duplicates": 1.5}, UsageError, "near_duplicates is 1.5; it must be a cosine in"),
        ({"min_margin": -1.0}, UsageError, "min_margin is -1.0"),
        ({"n_init": 0}, UsageError, "n_init is 0"),
        (
            {"n_init": 2**70},
            UsageError,
            "n_init is 1180591620717411303424; at most 1,000,000 starts",
        ),
        ({"position": 10**400}, UsageError, "position is larger than any floating-point number"),
        ({"k": 1.0}, UsageError, "k is 1.0; it must be a whole number"),
        ({"k": True}, UsageError, "k is True; it must be a whole number"),
        ({"positives": 1.5}, UsageError, "positives is 1.5; it must be a whole number"),
        ({"weight_temperature": True}, UsageError, "weight_temperature is True"),
        ({"strategy": None}, UsageError, "unknown selection strategy None"),
        ({"rewards": ["a", "b", "c"]}, InputError, "rewards hold <U1 values, not real numbers"),
        ({"rewards": [[1.0], [1.0, 2.0]]}, InputError, "rewards cannot be read as an array"),
        (
            {"embeddings": np.eye(3) * 1j},
            InputError,
            "embeddings hold complex128 values, not real numbers",
        ),
        (
            {"embeddings": np.eye(3) * 1e200},
            InputError,
            "the embedding of candidate 0 is beyond 1e\\+100",
        ),
        (
            {"embeddings": np.eye(3) * 1e-200},
            InputError,
            "the embedding of candidate 0 is below 1e-100",
        ),
        (
            {"embeddings": None, "distances": np.triu(np.ones((3, 3)), 1)},
            InputError,
            "is not the same in both directions",
        ),
        (
            {"embeddings": None, "distances": 1 - np.eye(3) / 2},
            InputError,
            "a distance of candidate 0 is not zero to itself",
        ),
        ({"min_margin": 9.0}, InputError, "leave no candidate for a negative"),
        ({"distances": 1 - np.eye(3)}, UsageError, "embeddings and distances were both given"),
        (
            {"embeddings": np.ones((2, 4))},
            InputError,
            r"embeddings have shape \(2, 4\) for 3 candidates",
        ),
        (
            {"embeddings": np.array([[1.0], [np.nan], [1.0]])},
            InputError,
            "the embedding of candidate 1 is not finite",
        ),
        (
            {"embeddings": None, "distances": np.ones((3, 2))},
            InputError,
            r"distances have shape \(3, 2\)",
        ),
        (
            {"embeddings": None, "distances": -np.ones((3, 3))},
            InputError,
            "a distance of candidate 0 is negative",
        ),
        ({"weight_temperature": 0.0}, UsageError, "weight_temperature is 0.0"),
        ({"weight_temperature": "hot"}, UsageError, "weight_temperature is 'hot'"),
        ({"cover": "positives"}, UsageError, "cover is 'positives'"),
        ({"time_limit_s": 0.0}, UsageError, "time_limit_s is 0.0"),
        ({"colour": "red"}, UsageError, "unknown selection option 'colour'"),
    ],
)
def test_what_cannot_be_selected_from_is_refused_by_name(arguments, error, sentence):
    given_arguments = {
        "rewards": np.array([1.0, 2.0, 3.0]),
        "embeddings": np.eye(3),
        "k": 1,
    } | arguments
    with pytest.raises(error, match=sentence):
        select_responses(**given_arguments)


def test_a_misspelt_strategy_gets_the_nearest_name():
    with pytest.raises(UsageError) as caught:
        select_responses(np.arange(3.0), k=1, strategy="opt_select")
    assert caught.value.hint == "did you mean opt-select?"


@pytest.mark.parametrize("strategy", NAMES)
def test_a_row_of_a_batch_is_chosen_as_it_would_be_alone(strategy):
    """Three prompts of 9, 5 and 2 candidates, padded with rubbish and NaN: the mask says what
    exists."""
    sizes, options = (9, 5, 2), {"cover": "all"} if strategy == "opt-select" else {}
    rewards, embeddings, mask = (
        np.full((3, 9), np.nan),
        np.full((3, 9, 3), np.inf),
        np.zeros((3, 9), dtype=bool),
    )
    pools = [random_pool(seed, n) for seed, n in enumerate(sizes)]
    whole = evidence_for(strategy, 9)
    batch_evidence = whole | {
        name: np.array([values] * 3)
        for name, values in whole.items()
        if name in ("uncertainty", "samplers")
    }
    for p, (own_rewards, own_embeddings) in enumerate(pools):
        rewards[p, : sizes[p]], embeddings[p, : sizes[p]], mask[p, : sizes[p]] = (
            own_rewards,
            own_embeddings,
            True,
        )
    batch = select_responses(
        rewards, embeddings, 3, strategy, mask=mask, seed=11, **options, **batch_evidence
    )
    for p, (own_rewards, own_embeddings) in enumerate(pools):
        evidence = evidence_for(strategy, sizes[p])
        if strategy == "delta" and not (batch.positives[p] >= 0).any():
            continue  # inversions alone: refused where it is the only prompt
        alone = select_responses(
            own_rewards, own_embeddings, 3, strategy, seed=11, **options, **evidence
        )
        assert [i for i in batch.positives[p] if i >= 0] == alone.positives.tolist()
        assert [i for i in batch.negatives[p] if i >= 0] == alone.negatives.tolist()
        assert batch.represents[p, : sizes[p]].tolist() == alone.represents.tolist()
        assert batch.clusters[p, : sizes[p]].tolist() == alone.clusters.tolist()
        for name in ("cost", "lower_bound", "cost_bottom_k", "cost_random"):
            assert getattr(batch, name)[p] == pytest.approx(
                getattr(alone, name), nan_ok=True, rel=1e-12
            )
        assert batch.is_optimal[p] == alone.is_optimal


def test_a_prompt_of_a_batch_without_two_candidates_gets_nothing():
    found = select_responses(
        [[1.0, 2.0], [1.0, 2.0]],
        k=1,
        strategy="bottom-k",
        mask=np.array([[True, True], [True, False]]),
    )
    assert found.positives.tolist() == [[1], [-1]]
    assert found.negatives.tolist() == [[0], [-1]]
    assert np.isnan(found.cost).all()


def test_a_batch_longer_than_a_slice_names_the_prompt_in_its_error():
    embeddings = np.ones((300, 3, 2))
    embeddings[290, 1, 0] = np.nan
    with pytest.raises(
        InputError, match="the embedding of candidate 1 of prompt 290 is not finite"
    ):
        select_responses(np.tile([1.0, 2.0, 3.0], (300, 1)), embeddings, 1)


SPOILT = [np.nan, np.inf, -np.inf, 1e101, -1e101, 1e99, 1e-101, 1e160, -1e-170, 0.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("value", SPOILT)
@pytest.mark.parametrize("spoils", ["one number", "a candidate", "a prompt", "all"])
def test_what_the_norms_let_pass_is_what_a_look_at_each_number_lets_pass(dtype, value, spoils):
    """Norms are looked at first, and each number only where they leave a doubt: no bad number may
    slip by, none that is masked may be refused, and the words stay the same."""
    rng = np.random.default_rng(4)
    embeddings = rng.normal(size=(4, 5, 3)).astype(dtype)
    place = {"one number": (2, 3, 1), "a candidate": (2, 3), "a prompt": (2,), "all": ()}[spoils]
    with np.errstate(all="ignore"):
        embeddings[place] = dtype(value)
    rewards = rng.normal(size=(4, 5))
    without = np.ones((4, 5), dtype=bool)
    without[2, 3] = False

    for mask in (np.ones((4, 5), dtype=bool), without):
        expected = None
        try:
            checked_geometry(embeddings, mask, is_distance=False, first_prompt=0)
        except InputError as error:
            expected = str(error)
        if expected is None:
            found = select_responses(rewards, embeddings, 2, mask=mask)
            assert np.isfinite(found.cost).all()
            continue
        with pytest.raises(InputError) as caught:
            select_responses(rewards, embeddings, 2, mask=mask)
        assert str(caught.value) == expected


def test_masked_embeddings_that_are_no_numbers_are_not_compared_for_copies_either():
    rewards, embeddings = random_pool(5, n=6)
    mask = np.array([True] * 5 + [False])
    clean = select_responses(rewards, embeddings, 3, mask=mask, near_duplicates=0.8)
    embeddings[5] = np.nan
    spoilt = select_responses(rewards, embeddings, 3, mask=mask, near_duplicates=0.8)
    assert spoilt.negatives.tolist() == clean.negatives.tolist()
    assert spoilt.cost == clean.cost


def test_distances_stand_in_for_embeddings():
    rewards, embeddings = random_pool(5, n=14)
    distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    for strategy in ("opt-select", "coreset"):
        by_distances = select_responses(rewards, k=4, strategy=strategy, distances=distances)
        by_embeddings = select_responses(rewards, embeddings, 4, strategy)
        assert by_distances.negatives.tolist() == by_embeddings.negatives.tolist()
        assert by_distances.cost == pytest.approx(by_embeddings.cost)


def test_options_on_margin_and_copies_take_candidates_out():
    """Rewards 5 (best), 4.9 (too close), 1 and 0.9 (the same vector: the higher stays), 0."""
    embeddings = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    rewards = [5.0, 4.9, 1.0, 0.9, 0.0]
    found = select_responses(
        rewards, embeddings, 4, "bottom-k", min_margin=0.5, near_duplicates=0.999
    )
    assert (found.positives.tolist(), found.negatives.tolist()) == ([0], [2, 4])
    assert found.represents.tolist() == [-1, -1, 2, -1, 4]


@pytest.mark.parametrize("has_ties", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_the_random_cost_is_the_mean_over_all_subsets(k, has_ties):
    rewards, embeddings = random_pool(21, n=8)
    if has_ties:
        # On a grid: equal distances, equal rewards, and candidates that are copies.
        rewards, embeddings = np.round(rewards), np.round(embeddings[:, :1])
    others = np.delete(np.arange(8), np.argmax(rewards))
    scale = np.exp(rewards[others].min() - rewards.mean())
    mean = np.mean(
        [paper_cost(rewards, embeddings, chosen, others) for chosen in combinations(others, k)]
    )
    found = select_responses(rewards, embeddings, k, "bottom-k")
    assert found.cost_random == pytest.approx(mean * scale, rel=1e-9)
    assert (
        found.cost
        == found.cost_bottom_k
        == pytest.approx(paper_cost(rewards, embeddings, found.negatives, others) * scale)
    )


def test_gains_are_what_the_cost_rises_by():
    rewards, embeddings = random_pool(22, n=10)
    others = np.delete(np.arange(10), np.argmax(rewards))
    scale = np.exp(rewards[others].min() - rewards.mean())
    found = select_responses(rewards, embeddings, 4)
    for gain, left_out in zip(found.gains, found.negatives, strict=True):
        rest = [i for i in found.negatives if i != left_out]
        assert gain == pytest.approx(
            paper_cost(rewards, embeddings, rest, others) * scale - found.cost, rel=1e-9
        )


@pytest.mark.slow
def test_random_choices_are_uniform():
    """4,000 seeds, 2 of 5 candidate negatives: each of the 10 pairs is drawn 400 times, give or
    take four standard errors."""
    rewards = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    drawn = [
        tuple(select_responses(rewards, k=2, strategy="random", seed=seed).negatives.tolist())
        for seed in range(4000)
    ]
    counts = [drawn.count(pair) for pair in combinations(range(1, 6), 2)]
    assert sum(counts) == 4000
    assert max(abs(count - 400) for count in counts) < 4 * np.sqrt(4000 * 0.1 * 0.9)


def test_the_public_name_is_the_function_and_costs_nothing_to_import():
    import prefpipe

    assert prefpipe.select_responses is select_responses
    with pytest.raises(AttributeError, match="no attribute 'select_response'"):
        _ = prefpipe.select_response


def test_a_margin_is_kept_with_several_positives():
    """Rewards 3, 2.9, 2.8, 2.7 and three positives: the only candidate left is 0.1 away, so there
    is no selection."""
    with pytest.raises(InputError, match="leave no candidate for a negative"):
        select_responses([3.0, 2.9, 2.8, 2.7], None, 2, "bottom-k", positives=3, min_margin=0.5)
    batch = select_responses(
        [[3.0, 2.9, 2.8, 2.7], [3.0, 2.9, 2.8, 0.0]],
        None,
        2,
        "bottom-k",
        positives=3,
        min_margin=0.5,
    )
    assert batch.negatives[:, 0].tolist() == [-1, 3]
    assert batch.positives.tolist() == [[-1, -1, -1], [0, 1, 2]]


def test_k_beyond_the_pool_costs_no_memory():
    found = select_responses(np.arange(8.0), np.eye(8), 10**9)
    assert found.negatives.tolist() == list(range(7))
    assert select_responses(
        np.tile(np.arange(8.0), (3, 1)), k=10**9, strategy="random"
    ).negatives.shape == (3, 7)


def test_numbers_of_numpy_are_numbers():
    one = select_responses(
        np.arange(4.0), np.eye(4), np.int64(2), weight_temperature=np.float32(2.0), seed=np.int32(3)
    )
    assert (
        one.negatives.tolist()
        == select_responses(np.arange(4.0), np.eye(4), 2, weight_temperature=2.0).negatives.tolist()
    )
    assert select_responses([3, 2, 1], [[1, 0], [0, 1], [1, 1]], 1).negatives.tolist()


def test_prompts_of_a_large_batch_may_differ_in_how_many_positives_they_have() -> None:
    """A batch is worked through in slices: one may have fewer positives than another, by its mask."""
    rewards = np.tile([1.0, 2.0, 3.0, 4.0], (300, 1))
    mask = np.ones(rewards.shape, dtype=bool)
    mask[256:, :2] = False
    found = select_responses(rewards, None, 1, "top-bottom", mask=mask, positives=3)
    assert found.positives[0].tolist() == [3, 2, 1]
    assert found.positives[299].tolist() == [3, -1, -1]
    assert found.negatives[:, 0].tolist() == [0] * 256 + [2] * 44


def test_more_positives_than_any_machine_counts_are_all_but_one() -> None:
    for strategy in ("top-bottom", "delta"):
        more = {"samplers": ["a", "a", "b"], "chosen_from": "a", "rejected_from": "b"}
        found = select_responses(
            [3.0, 2.0, 1.0],
            None,
            1,
            strategy,
            positives=2**70,
            **more if strategy == "delta" else {},
        )
        assert found.positives.tolist() == [0, 1]


def test_a_sampler_is_one_value() -> None:
    """An array compares with each element, which is no answer to whose a response is."""
    with pytest.raises(UsageError, match=r"rejected_from is .*; it must name one sampler"):
        select_responses(
            [3.0, 2.0],
            None,
            1,
            "delta",
            samplers=["a", "b"],
            chosen_from="a",
            rejected_from=["b", "a"],
        )


@pytest.mark.parametrize(
    ("samplers", "chosen_from", "rejected_from"),
    [
        (np.array(["a", "a", "b"]), "a", "a\0"),
        (np.full(3, 2.0**53), 2**53, 2**53 + 1),
    ],
)
def test_samplers_that_an_array_cannot_tell_apart_are_refused(
    samplers: np.ndarray, chosen_from: Any, rejected_from: Any
) -> None:
    """A response on both sides has no place among the candidate negatives of compiled loops."""
    with pytest.raises(UsageError, match="are one sampler among"):
        select_responses(
            [3.0, 2.0, 1.0],
            np.eye(3),
            1,
            "delta",
            samplers=samplers,
            chosen_from=chosen_from,
            rejected_from=rejected_from,
        )
