"""Opt-Select for rewards of any span, against brute force in exact and in 60-digit arithmetic."""

from decimal import Context, Decimal, localcontext
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefpipe.maths.selection.opt_select.wide_spans import compare
from prefpipe.maths.selection.select_responses import select_responses

ROOMY = Context(prec=60, Emin=-(10**9), Emax=10**9)


def tier_costs(rewards, distances, clients, chosen):
    """Return for each distinct reward of the clients, ascending, the exact sum of their distances
    to the chosen."""
    return [
        (
            Decimal(reward),
            sum(
                Decimal(min(distances[i][j] for j in chosen))
                for i in clients
                if rewards[i] == reward
            ),
        )
        for reward in sorted({rewards[i] for i in clients})
    ]


def difference(one, other):
    """Return a positive multiple of cost(one) - cost(other): summed from the heaviest tier down,
    ties exactly 0."""
    total, previous = Decimal(0), one[0][0]
    for (reward, ours), (_, theirs) in zip(one, other, strict=True):
        total = total * (reward - previous).exp() + ours - theirs
        previous = reward
    return total


def exact_cost(tiers):
    """Return the cost in units of the largest weight."""
    return sum((total * (tiers[0][0] - reward).exp() for reward, total in tiers), Decimal(0))


def check_against_brute_force(rewards, points, k, cover):
    """Assert that no subset costs less than the chosen one, and that the certificate and the cost
    are true."""
    distances = [[float(np.sqrt(((a - b) ** 2).sum())) for b in points] for a in points]
    found = select_responses(rewards, None, k, distances=distances, cover=cover)
    best = max(range(len(rewards)), key=lambda i: (rewards[i], -i))
    negatives = [i for i in range(len(rewards)) if i != best]
    clients = negatives if cover == "negatives" else range(len(rewards))
    with localcontext(ROOMY):
        ours = tier_costs(rewards, distances, clients, found.negatives.tolist())
        optimum = ours
        for chosen in combinations(negatives, k):
            costs = tier_costs(rewards, distances, clients, chosen)
            if difference(costs, optimum) < 0:
                optimum = costs
        # rounding of the distances themselves: twins that differ in the last bit are twins
        gap = [abs(a - b) / (a + b) for (_, a), (_, b) in zip(ours, optimum, strict=True) if a != b]
        assert max(gap, default=0) <= Decimal("1e-12"), (found, optimum)
        exact = exact_cost(optimum)
        cost = Decimal(found.cost) * Decimal(found.log_unit).exp()
        bound = Decimal(found.lower_bound) * Decimal(found.log_unit).exp()
        assert found.is_optimal
        assert (cost == 0) == (exact == 0)
        assert abs(cost - exact) <= Decimal("1e-9") * exact
        assert bound <= exact * (1 + Decimal("1e-9"))
    return found


@pytest.mark.slow
def test_what_underflows_decides_after_what_is_free():
    """With reward 0 chosen at no cost, of 800, 800.1, 800.2 at 0, 1, 10 on a line 800.1 is second.

    It leaves 1 e^-800 + 9 e^-800.2, in units of e^-800.2 that is 9 + e^0.2. The chosen 800 would
    leave e^-800.1 + 10 e^-800.2.
    """
    rewards, points = [0, 800, 800.1, 800.2, 1800], [[50.0], [0.0], [1.0], [10.0], [100.0]]
    found = select_responses(rewards, points, k=2)
    assert found.negatives.tolist() == [0, 2]
    assert found.cost == pytest.approx(9 + np.exp(0.2), rel=1e-12)
    assert found.log_unit == pytest.approx(-800.2)
    assert found.cost == found.lower_bound
    assert found.cost_bottom_k == pytest.approx(10 + np.exp(0.1), rel=1e-12)
    assert found.is_optimal
    assert found.largest_share == 1.0


@pytest.mark.parametrize("cover", ["negatives", "all"])
@pytest.mark.parametrize("seed", range(60))
def test_random_spans_to_a_million_are_the_exact_optimum(seed, cover):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 9))
    span = 10 ** rng.uniform(0, 6)
    rewards = {
        0: rng.uniform(0, span, n),
        1: np.round(rng.integers(0, 5, n) * span / 4),
        2: np.where(rng.random(n) < 0.6, rng.integers(0, 3, n), span * rng.random(n)),
        3: np.cumsum(rng.exponential(span / n, n)),
    }[seed % 4]
    points = rng.normal(size=(n, 2)) if seed % 3 else rng.integers(0, 5, (n, 1)).astype(float)
    check_against_brute_force(rewards.tolist(), points, int(rng.integers(1, n - 1)), cover)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_span_and_no_ties_give_a_wrong_choice(data):
    n = data.draw(st.integers(3, 7))
    levels = st.sampled_from([0.0, 1.0, 20.0, 21.0, 100.0, 744.0, 746.0, 1e4, 1e4 + 0.5, 1e6, -1e6])
    rewards = data.draw(st.lists(levels, min_size=n, max_size=n))
    places = data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    points = np.array(places, dtype=float)[:, None]
    check_against_brute_force(
        rewards,
        points,
        data.draw(st.integers(1, n - 1)),
        data.draw(st.sampled_from(["negatives", "all"])),
    )


def test_twins_are_told_apart_by_responses_too_light_to_show():
    """0 and 1 have reward 0 and stand for each other at cost 1; light ones at -1, -2 are nearer 0.

    In a float 1 + e^-100 is 1: only the order of the weights says that 0 is the better twin.
    """
    points = np.array([[1.0], [0.0], [-1.0], [-2.0], [90.0]])
    rewards = [0.0, 0.0, 100.0, 101.0, 500.0]
    found = check_against_brute_force(rewards, points, 1, "negatives")
    assert found.negatives.tolist() == [1]


def test_a_pool_as_large_as_real_ones_over_a_thousand_t():
    """16 responses 90 apart in reward: of 10 chosen, nine or ten are the lowest, and the rest is as
    brute force has it."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(13, 3))
    check_against_brute_force((np.arange(13) * 90.0).tolist(), points, 9, "negatives")


def test_the_scale_of_rewards_and_their_offset_do_not_matter_where_floats_end():
    rng = np.random.default_rng(5)
    rewards, points = rng.integers(0, 4096, 20) * 1.0, rng.normal(size=(20, 4))
    one = select_responses(rewards, points, 6)
    for offset in (-(2.0**30), 2.0**40):
        two = select_responses(rewards + offset, points, 6)
        assert two.negatives.tolist() == one.negatives.tolist()
        assert (two.cost, two.log_unit) == (one.cost, one.log_unit)


def test_rewards_as_far_apart_as_floats_allow():
    """1e150 T between neighbours: the two lowest are chosen, nothing is infinite or not a
    number."""
    found = select_responses(
        [-1e150, 0.0, 1e140, 1e145, 1e150], [[0.0], [1.0], [2.0], [4.0], [8.0]], k=2
    )
    assert found.negatives.tolist() == [0, 1]
    assert found.is_optimal
    assert all(
        np.isfinite(getattr(found, name))
        for name in ("cost", "lower_bound", "cost_bottom_k", "cost_random")
    )
    assert np.isfinite(found.gains).all()


def test_equal_vectors_cost_nothing_at_any_span():
    found = select_responses([0.0, 1000.0, 2000.0, 9000.0], [[1.0], [1.0], [1.0], [0.0]], k=2)
    assert (found.cost, found.lower_bound, found.is_optimal, found.log_unit) == (
        0.0,
        0.0,
        True,
        0.0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["bottom-k", "coreset", "random", "all"])
def test_the_cost_of_other_strategies_keeps_its_digits_too(strategy):
    """Whatever is chosen: the cost is exact in its unit, and no less than the optimum's."""
    rng = np.random.default_rng(8)
    rewards, points = np.sort(rng.uniform(0, 5e4, 9)), rng.normal(size=(9, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    found = select_responses(rewards, None, 3, strategy, distances=distances)
    tiers = tier_costs(rewards.tolist(), distances.tolist(), range(8), found.negatives.tolist())
    with localcontext(ROOMY):
        exact = exact_cost(tiers)
        assert (
            abs(Decimal(found.cost) * Decimal(found.log_unit).exp() - exact)
            <= Decimal("1e-9") * exact
        )


def test_one_response_owns_the_sum_or_shares_it():
    """Weights 1, e^-1, e^-2: the first has 1 / (1 + e^-1 + e^-2) of the sum; 50 apart it has all
    but e^-50."""
    points = np.arange(4.0)[:, None]
    assert select_responses([0, 1, 2, 9], points, 1).largest_share == pytest.approx(
        1 / (1 + np.exp(-1) + np.exp(-2))
    )
    assert select_responses([0, 50, 60, 90], points, 1).largest_share == pytest.approx(1.0)
    assert select_responses([0, 0, 60, 90], points, 1).largest_share == pytest.approx(0.5)


def test_subsets_are_compared_from_the_heaviest_down():
    """Twins (reward 0) cancel exactly, then e^-1000 decides; a difference of the twins outweighs
    everything lighter."""
    distances = np.array([[0.0, 3.0, 1.0], [3.0, 0.0, 1.0], [5.0, 4.0, 0.0]])
    rewards, order = np.array([0.0, 0.0, 1000.0]), np.arange(3)

    def sign(one, other):
        return compare(distances, rewards, order, 1.0, np.array(one), np.array(other))

    assert sign([0], [1]) == 1
    assert sign([1], [0]) == -1
    assert sign([0], [0]) == 0
    assert sign([2], [1]) == -1
