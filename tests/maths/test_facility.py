"""The k-medoids optimum: against brute force, against HiGHS, on random and on real pools."""

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from prefpipe.maths.facility import (
    EQUAL,
    Relaxation,
    coverage_cost,
    find_local_optimum,
    relax,
    solve_k_medoids,
    solve_p_median,
)

DATA = Path(os.environ.get("PREFPIPE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def brute_force(cost_CJ, k):
    subsets = list(combinations(range(cost_CJ.shape[1]), k))
    costs = [coverage_cost(cost_CJ, np.array(subset)) for subset in subsets]
    return subsets[int(np.argmin(costs))], min(costs)


def weighted_distances(rng, n, dim, spread=1.0):
    points = rng.normal(size=(n, dim))
    return np.exp(-spread * rng.random(n))[:, None] * cdist(points, points)


def in_units_of(cost_CJ, chosen):
    return np.minimum(cost_CJ / coverage_cost(cost_CJ, chosen), 2.0)


def test_the_worked_example_of_points_on_a_line():
    """Points 0, 1, 10, 11, 12 with unit weights: medoids 1 or 0 for the left (cost 1), 11 for the right (1 + 1)."""
    points = np.array([[0.0], [1.0], [10.0], [11.0], [12.0]])
    solution = solve_k_medoids(cdist(points, points), 2)
    assert solution.chosen.tolist() == [0, 3]  # 0 and 1 tie: the lower column
    assert solution.cost == 1 + 1 + 1
    assert solution.lower_bound == solution.cost
    assert solution.is_optimal


def test_a_heavy_client_pulls_the_medoid_to_itself():
    """On 0, 1, 2 with weights 1, 1, 5: medoid 2 costs 2 + 1, medoid 1 costs 1 + 5, medoid 0 costs 1 + 10."""
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
    """Integer costs tie everywhere, which is where reduced costs decide nothing and the program must."""
    n_clients, n_facilities = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    k = data.draw(st.integers(1, n_facilities))
    entries = data.draw(st.lists(st.integers(0, 3), min_size=n_clients * n_facilities, max_size=n_clients * n_facilities))
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
    """Relax around a subset that is not the optimum: the bound is below it, the masks do not cut it off."""
    rng = np.random.default_rng(13)
    for trial in range(40):
        cost_CJ = weighted_distances(rng, 9, 2, spread=2.0)
        optimum_set, optimum = brute_force(cost_CJ, 3)
        chosen = np.sort(rng.choice(9, 3, replace=False)) if trial % 2 else find_local_optimum(cost_CJ, 3)
        upper = coverage_cost(cost_CJ, chosen)
        relaxation = relax(in_units_of(cost_CJ, chosen), chosen)
        assert relaxation.lower_bound <= 1 + 1e-12
        if optimum < upper * (1 - EQUAL):
            assert relaxation.lower_bound <= optimum / upper + 1e-12
            assert not relaxation.excluded[list(optimum_set)].any()
            assert set(np.flatnonzero(relaxation.required)) <= set(optimum_set)


def test_the_program_mends_a_local_optimum_that_is_not_the_optimum():
    """Points on a line defeat single swaps now and then; the solution there must still be the optimum."""
    n_short = 0
    for seed in range(16):
        cost_CJ = weighted_distances(np.random.default_rng(seed), 14, 1)
        optimum = brute_force(cost_CJ, 4)[1]
        n_short += coverage_cost(cost_CJ, find_local_optimum(cost_CJ, 4)) > optimum * (1 + EQUAL)
        solution = solve_k_medoids(cost_CJ, 4)
        assert solution.is_optimal
        assert solution.cost == pytest.approx(optimum, rel=1e-12)
    assert n_short > 0


def test_the_program_alone_and_reduced_by_the_relaxation_agree():
    rng = np.random.default_rng(17)
    cost_CJ = weighted_distances(rng, 12, 2)
    chosen = find_local_optimum(cost_CJ, 4)
    unit_CJ = in_units_of(cost_CJ, chosen)
    whole = solve_p_median(unit_CJ, 4)
    reduced = solve_p_median(unit_CJ, 4, Relaxation(-np.inf, np.isin(np.arange(12), whole.chosen[:1]), np.zeros(12, bool)))
    assert whole.is_solved
    assert reduced.is_solved
    assert whole.chosen.tolist() == reduced.chosen.tolist()
    assert whole.lower_bound == pytest.approx(coverage_cost(unit_CJ, whole.chosen), rel=1e-6)


def test_a_time_limit_too_short_gives_an_honest_gap():
    """Costs that are no metric leave the relaxation a gap, and no program is solved in a nanosecond."""
    cost_CJ = np.random.default_rng(3).random((40, 40))
    solution = solve_k_medoids(cost_CJ, 8, time_limit_s=1e-9)
    assert not solution.is_optimal
    assert 0 < solution.lower_bound < solution.cost
    assert solution.cost == coverage_cost(cost_CJ, solution.chosen)


def test_identical_points_cost_nothing():
    solution = solve_k_medoids(np.zeros((5, 5)), 3)
    assert (solution.cost, solution.lower_bound, solution.is_optimal) == (0.0, 0.0, True)
    assert len(solution.chosen) == 3


def test_a_free_subset_that_local_search_misses_is_found():
    """Columns 2 and 3 serve every client for nothing; the greedy start takes column 0 and no one swap gains."""
    cost_CJ = np.array([[1.0, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
    assert coverage_cost(cost_CJ, find_local_optimum(cost_CJ, 2)) == 1.0
    solution = solve_k_medoids(cost_CJ, 2)
    assert (solution.chosen.tolist(), solution.cost, solution.lower_bound, solution.is_optimal) == ([2, 3], 0.0, 0.0, True)


def test_entries_that_span_hundreds_of_orders_keep_their_optimum():
    """Three clients of weight 1, the rest of 1e-200: k = 3 puts a medoid on each heavy one, at a cost near 1e-200."""
    rng = np.random.default_rng(23)
    points = rng.normal(size=(10, 3))
    weights = np.where(np.arange(10) < 3, 1.0, 1e-200)
    solution = solve_k_medoids(weights[:, None] * cdist(points, points), 3)
    assert solution.chosen.tolist() == [0, 1, 2]
    assert 0 < solution.cost < 1e-198
    assert solution.is_optimal


@pytest.mark.skipif(not (DATA / "alpaca_candidates.parquet").exists(), reason=f"no test data in {DATA}")
def test_local_search_and_highs_agree_on_alpaca_eval_pools():
    """Real responses, real grades: TF-IDF vectors, the logit of the preference as reward, k = 7 of 31 negatives."""
    pq = pytest.importorskip("pyarrow.parquet")
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = pq.read_table(
        DATA / "alpaca_candidates.parquet", columns=["prompt_id", "response", "preference"], filters=[("prompt_id", "<", 6)]
    )
    prompt_ids = table["prompt_id"].to_numpy()
    for prompt_id in np.unique(prompt_ids):
        rows = table.filter(prompt_ids == prompt_id)
        share = np.clip(rows["preference"].to_numpy(), 1e-6, 1 - 1e-6)
        rewards = np.log(share) - np.log1p(-share)
        vectors = TfidfVectorizer().fit_transform(rows["response"].to_pylist()).toarray()
        kept = np.delete(np.arange(len(rewards)), np.argmax(rewards))
        cost_CJ = np.exp(rewards.min() - rewards[kept])[:, None] * cdist(vectors[kept], vectors[kept])
        solution = solve_k_medoids(cost_CJ, 7)
        program = solve_p_median(in_units_of(cost_CJ, find_local_optimum(cost_CJ, 7)), 7)
        assert program.is_solved
        assert solution.is_optimal
        assert solution.cost == pytest.approx(coverage_cost(cost_CJ, program.chosen), rel=1e-6)
