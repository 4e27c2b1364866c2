"""Win rate: ties half, errors over prompts."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.winrate import preference, win_rate

DATA = Path(os.environ.get("PREFPIPE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
rewards = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.1, 0.2, 1.0, np.inf]) | st.floats(-5, 5), min_size=1, max_size=5)


def test_preference_is_the_mean_over_all_pairs():
    """Policy 1, 3 against baseline 1, 2: a tie, a loss, two wins: (1/2 + 0 + 1 + 1) / 4."""
    assert preference(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == (0.5 + 0 + 1 + 1) / 4


def test_a_tolerance_makes_near_rewards_ties():
    assert preference(np.array([1.0]), np.array([0.75]), tie_tolerance=0.25) == 0.5
    assert preference(np.array([1.0]), np.array([0.75]), tie_tolerance=0.2) == 1.0
    assert preference(np.array([0.5]), np.array([0.75]), tie_tolerance=0.2) == 0.0


@given(rewards, rewards, st.sampled_from([0.0, 0.1, 1.0]))
def test_swapping_the_sides_gives_one_minus_it(ours, theirs, tolerance):
    forth = preference(np.array(ours), np.array(theirs), tie_tolerance=tolerance)
    back = preference(np.array(theirs), np.array(ours), tie_tolerance=tolerance)
    assert forth == pytest.approx(1 - back, abs=1e-12)


@given(rewards)
def test_a_side_against_itself_is_a_draw(ours):
    assert preference(np.array(ours), np.array(ours)) == pytest.approx(0.5)


@pytest.mark.parametrize(("ours", "theirs"), [([], [1.0]), ([1.0], []), ([np.nan, 1.0], [0.0]), ([1.0], [np.nan])])
def test_without_all_rewards_there_is_no_verdict(ours, theirs):
    assert np.isnan(preference(np.array(ours), np.array(theirs)))


@pytest.mark.parametrize("tolerance", [-0.1, np.nan])
def test_a_tolerance_below_zero_is_refused(tolerance):
    with pytest.raises(UsageError, match="tie_tolerance is"):
        preference(np.array([1.0]), np.array([1.0]), tie_tolerance=tolerance)


def test_the_error_is_over_prompts():
    """Preferences 1, 0, 1/2, 1/2: mean 1/2, squares 1/4 + 1/4 over 3, root, over root 4."""
    estimate = win_rate(np.array([1.0, 0.0, 0.5, np.nan, 0.5]))
    assert estimate.mean == 0.5
    assert estimate.se == pytest.approx(np.sqrt((0.25 + 0.25) / 3) / np.sqrt(4))
    assert (estimate.n, estimate.n_missing) == (4, 1)


def test_one_prompt_has_no_known_error():
    estimate = win_rate(np.array([1.0]))
    assert estimate.mean == 1.0
    assert np.isnan(estimate.se)


def test_no_prompt_has_no_win_rate():
    estimate = win_rate(np.array([np.nan]))
    assert np.isnan([estimate.mean, estimate.se]).all()
    assert (estimate.n, estimate.n_missing) == (0, 1)


def test_a_percentage_is_refused():
    with pytest.raises(InputError, match="the preference of prompt 1 is 55; preferences lie in"):
        win_rate(np.array([0.5, 55.0]))


@pytest.mark.skipif(not (DATA / "alpaca_leaderboard_known.parquet").exists(), reason=f"no test data in {DATA}")
def test_published_win_rates_and_errors_are_met():
    """AlpacaEval 2 publishes percent, ddof 1."""
    pq = pytest.importorskip("pyarrow.parquet")
    known = pq.read_table(DATA / "alpaca_leaderboard_known.parquet").to_pylist()
    table = pq.read_table(DATA / "alpaca_candidates.parquet", columns=["model", "preference"])
    models, values = table["model"].to_numpy(), table["preference"].to_numpy()
    for row in known:
        estimate = win_rate(values[models == row["model"]])
        assert 100 * estimate.mean == pytest.approx(row["win_rate"], rel=1e-9)
        assert 100 * estimate.se == pytest.approx(row["standard_error"], rel=1e-9)
