"""The k-medoids optimum: against brute force, against HiGHS, on random and on real pools."""

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from support.compiled_solvers import solve_k_medoids
from support.highs import p_median_by_highs

from prefpipe.maths.selection.opt_select.k_medoids import (
    ROOT_STEPS,
    branch_and_bound,
    choose_greedily,
    coverage_cost,
    improve_by_swaps,
)
from prefpipe.maths.selection.opt_select.lagrangian_bound import EQUAL, climb, new_workspace

DATA = Path(os.environ.get("PREFPIPE_TEST_DATA", Path(__file__).parents[5] / "shared" / "data"))


def brute_force(cost_CJ, k):
    subsets = list(combinations(range(cost_CJ.shape[1]), k))
    costs = [coverage_cost(cost_CJ, np.array(subset)) for subset in subsets]
    return subsets[int(np.argmin(costs))], min(costs)


def find_local_optimum(cost_CJ, k):
    chosen = choose_greedily(cost_CJ, k)
    assert improve_by_swaps(cost_CJ, chosen) == pytest.approx(
        coverage_cost(cost_CJ, chosen), rel=1e-12
    )
    return chosen


def weighted_distances(rng, n, dim, spread=1.0):
    points = rng.normal(size=(n, dim))
    return np.exp(-spread * rng.random(n))[:, None] * cdist(points, points)


def in_units_of(cost_CJ, chosen):
    return np.minimum(cost_CJ / coverage_cost(cost_CJ, chosen), 2.0)


@pytest.mark.slow
def test_points_on_a_line_have_the_medoids_by_hand():
    """Points 0, 1, 10, 11, 12 with unit weights: medoids 1 or 0 for the left (cost 1), 11 for the
    right (1 + 1)."""
    points = np.array([[0.0], [1.0], [10.0], [11.0], [12.0]])
    solution = solve_k_medoids(cdist(points, points), 2)
    assert solution.chosen.tolist() == [0, 3]  # 0 and 1 tie: the lower column
    assert solution.cost == 1 + 1 + 1
    assert solution.lower_bound == solution.cost
    assert solution.is_optimal


def test_a_heavy_client_pulls_the_medoid_to_itself():
    """On 0, 1, 2 with weights 1, 1, 5: medoid 2 costs 2 + 1, medoid 1 costs 1 + 5, medoid 0 costs 1
    + 10."""
    points = np.array([[0.0], [1.0], [2.0]])
    solution = solve_k_medoids(np.array([[1.0], [1.0], [5.0]]) * cdist(points, points), 1)
    assert (solution.chosen.tolist(), solution.cost) == ([2], 3.0)


@pytest.mark.parametrize("dim", [1, 2, 16])
@pytest.mark.parametrize("k", range(1, 10))
def test_the_solution_is_the_brute_force_optimum(dim, k):
    rng = np.random.default_rng(100 * dim + k)
    for _ in range(3):
        cost_CJ = weighted_distances(rng, 9, dim, spread=4.0)
        subset, optimum = brute_force(cost_CJ, k)
        solution = solve_k_medoids(cost_CJ, k)
        assert solution.is_optimal
        assert solution.cost == pytest.approx(optimum, rel=1e-12)
        assert solution.lower_bound == pytest.approx(optimum, rel=1e-6)
        assert solution.chosen.tolist() == list(subset)


def test_clients_need_not_be_the_facilities():
    rng = np.random.default_rng(5)
    for k in (2, 3, 5):
        cost_CJ = rng.random((11, 8)) ** 3  # no metric at all
        solution = solve_k_medoids(cost_CJ, k)
        assert solution.is_optimal
        assert solution.cost == pytest.approx(brute_force(cost_CJ, k)[1], rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_small_integer_costs_full_of_ties_are_solved_and_bounded(data):
    """Integer costs tie everywhere, which is where reduced costs decide nothing and the program
    must."""
    n_clients, n_facilities = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    k = data.draw(st.integers(1, n_facilities))
    entries = data.draw(
        st.lists(
            st.integers(0, 3), min_size=n_clients * n_facilities, max_size=n_clients * n_facilities
        )
    )
    cost_CJ = np.array(entries, dtype=float).reshape(n_clients, n_facilities)
    solution = solve_k_medoids(cost_CJ, k)
    assert len(set(solution.chosen.tolist())) == k
    assert solution.cost == brute_force(cost_CJ, k)[1]
    assert solution.lower_bound <= solution.cost
    assert solution.is_optimal


def test_no_swap_improves_the_local_optimum():
    rng = np.random.default_rng(11)
    cost_CJ = weighted_distances(rng, 14, 2)
    chosen = find_local_optimum(cost_CJ, 4)
    cost = coverage_cost(cost_CJ, chosen)
    for out in chosen:
        for into in set(range(14)) - set(chosen.tolist()):
            swapped = np.array([*(set(chosen.tolist()) - {out}), into])
            assert coverage_cost(cost_CJ, swapped) >= cost * (1 - 1e-12)


def test_what_the_relaxation_says_holds_for_every_better_subset():
    """Climb from a subset that is not the optimum: the bound is below it, and the fixed columns do
    not cut it off."""
    rng = np.random.default_rng(13)
    for trial in range(40):
        cost_CJ = weighted_distances(rng, 9, 2, spread=2.0)
        optimum_set, optimum = brute_force(cost_CJ, 3)
        chosen = (
            np.sort(rng.choice(9, 3, replace=False))
            if trial % 2
            else find_local_optimum(cost_CJ, 3)
        )
        upper = coverage_cost(cost_CJ, chosen)
        fixed, multipliers = (
            np.zeros(9, dtype=np.int8),
            np.sort(in_units_of(cost_CJ, chosen)[:, chosen], axis=1)[:, 1],
        )
        unit_CJ = in_units_of(cost_CJ, chosen)
        bound, split, _ = climb(
            unit_CJ, 3, 1.0, fixed, multipliers, new_workspace(unit_CJ), ROOT_STEPS
        )
        assert bound <= 1 + 1e-12
        if optimum < upper * (1 - EQUAL):
            assert bound <= optimum / upper + 1e-12
            assert not (fixed[list(optimum_set)] == -1).any()
            assert set(np.flatnonzero(fixed == 1)) <= set(optimum_set)
            assert split == -1 or fixed[split] == 0


def test_the_search_finds_the_optimum_from_any_start():
    """Branch and bound started at the dearest subset of three still ends at the optimum, with the
    same bound."""
    rng = np.random.default_rng(29)
    for _ in range(20):
        cost_CJ = weighted_distances(rng, 9, 2, spread=3.0)
        subset, optimum = brute_force(cost_CJ, 3)
        worst = max(
            combinations(range(9), 3), key=lambda columns: coverage_cost(cost_CJ, np.array(columns))
        )
        unit_CJ = in_units_of(cost_CJ, np.array(worst))
        best, bound, _ = branch_and_bound(unit_CJ, np.array(worst), 10**9)
        assert best.tolist() == list(subset)
        assert bound == pytest.approx(coverage_cost(unit_CJ, best), rel=1e-9)
        assert coverage_cost(cost_CJ, best) == pytest.approx(optimum, rel=1e-12)


def test_the_search_mends_a_local_optimum_that_is_not_the_optimum():
    """Points on a line defeat single swaps now and then; the solution there must still be the
    optimum."""
    n_short = 0
    for seed in range(16):
        cost_CJ = weighted_distances(np.random.default_rng(seed), 14, 1)
        optimum = brute_force(cost_CJ, 4)[1]
        n_short += coverage_cost(cost_CJ, find_local_optimum(cost_CJ, 4)) > optimum * (1 + EQUAL)
        solution = solve_k_medoids(cost_CJ, 4)
        assert solution.is_optimal
        assert solution.cost == pytest.approx(optimum, rel=1e-12)
    assert n_short > 0


@pytest.mark.parametrize(("n", "k", "dim"), [(31, 7, 384), (31, 7, 2), (31, 20, 8), (20, 5, 3)])
def test_costs_equal_those_of_highs(n, k, dim):
    """HiGHS solves the whole p-median program; equal to 1e-9 relative, with flat and with steep
    weights."""
    rng = np.random.default_rng(17)
    for spread in (0.0, 6.0):
        cost_CJ = weighted_distances(rng, n, dim, spread=spread)
        solution = solve_k_medoids(cost_CJ, k)
        assert solution.is_optimal
        assert solution.cost == pytest.approx(p_median_by_highs(cost_CJ, k)[1], rel=1e-9)


@pytest.mark.parametrize(("n", "k"), [(64, 16), (128, 32), (255, 64)])
def test_large_pools_are_exact(n, k):
    """R up to 256 and k up to 64: proven within the work of a fraction of a second."""
    rng = np.random.default_rng(n)
    solution = solve_k_medoids(weighted_distances(rng, n, 384, spread=4.0), k, time_limit_s=2.0)
    assert solution.is_optimal
    assert solution.lower_bound == solution.cost


def test_copies_of_columns_are_proven_at_once():
    """Thirty points, each four times: exchanging copies gives millions of equal subsets, and none
    has to be looked at."""
    points = np.repeat(np.random.default_rng(5).normal(size=(30, 4)), 4, axis=0)
    solution = solve_k_medoids(cdist(points, points), 6, time_limit_s=0.5)
    assert solution.is_optimal
    assert (solution.chosen % 4 == 0).all()  # the lowest of each four


def test_a_time_limit_too_short_gives_an_honest_gap():
    """Costs that are no metric leave the relaxation a gap, and no search is finished with no work.
    The same on any machine."""
    cost_CJ = np.random.default_rng(3).random((40, 40))
    solution = solve_k_medoids(cost_CJ, 8, time_limit_s=1e-9)
    assert not solution.is_optimal
    assert 0 < solution.lower_bound < solution.cost
    assert solution.cost == coverage_cost(cost_CJ, solution.chosen)
    whole = solve_k_medoids(cost_CJ, 8)
    assert whole.is_optimal
    assert solution.lower_bound <= whole.cost <= solution.cost


def test_identical_points_cost_nothing():
    solution = solve_k_medoids(np.zeros((5, 5)), 3)
    assert (solution.cost, solution.lower_bound, solution.is_optimal) == (0.0, 0.0, True)
    assert len(solution.chosen) == 3


def test_a_free_subset_that_local_search_misses_is_found():
    """Columns 2 and 3 serve every client for nothing; the greedy start takes column 0 and no one
    swap gains."""
    cost_CJ = np.array([[1.0, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
    assert coverage_cost(cost_CJ, find_local_optimum(cost_CJ, 2)) == 1.0
    solution = solve_k_medoids(cost_CJ, 2)
    assert (solution.chosen.tolist(), solution.cost, solution.lower_bound, solution.is_optimal) == (
        [2, 3],
        0.0,
        0.0,
        True,
    )


def test_entries_that_span_hundreds_of_orders_keep_their_optimum():
    """Three clients of weight 1, the rest of 1e-200: k = 3 puts a medoid on each heavy one, at a
    cost near 1e-200."""
    rng = np.random.default_rng(23)
    points = rng.normal(size=(10, 3))
    weights = np.where(np.arange(10) < 3, 1.0, 1e-200)
    solution = solve_k_medoids(weights[:, None] * cdist(points, points), 3)
    assert solution.chosen.tolist() == [0, 1, 2]
    assert 0 < solution.cost < 1e-198
    assert solution.is_optimal


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "alpaca_candidates.parquet").exists(), reason=f"no test data in {DATA}"
)
def test_alpaca_eval_pools_are_certified_for_every_k_and_agree_with_highs():
    """Real responses, real grades: TF-IDF vectors, the logit of the preference as reward; k from 1
    to n - 2, HiGHS at k = 7."""
    pq = pytest.importorskip("pyarrow.parquet")
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = pq.read_table(
        DATA / "alpaca_candidates.parquet",
        columns=["prompt_id", "response", "preference"],
        filters=[("prompt_id", "<", 6)],
    )
    prompt_ids = table["prompt_id"].to_numpy()
    for prompt_id in np.unique(prompt_ids):
        rows = table.filter(prompt_ids == prompt_id)
        share = np.clip(rows["preference"].to_numpy(), 1e-6, 1 - 1e-6)
        rewards = np.log(share) - np.log1p(-share)
        vectors = TfidfVectorizer().fit_transform(rows["response"].to_pylist()).toarray()
        kept = np.delete(np.arange(len(rewards)), np.argmax(rewards))
        cost_CJ = np.exp(rewards.min() - rewards[kept])[:, None] * cdist(
            vectors[kept], vectors[kept]
        )
        solutions = [solve_k_medoids(cost_CJ, k) for k in range(1, len(rewards) - 1)]
        assert all(solution.is_optimal for solution in solutions)
        costs = [solution.cost for solution in solutions]
        assert costs == sorted(costs, reverse=True)
        assert costs[6] == pytest.approx(p_median_by_highs(cost_CJ, 7)[1], rel=1e-9)
