"""Win rate: ties half, errors over prompts."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import bootstrap_interval
from prefpipe.maths.statistics.winrate import preference, win_rate, win_rate_difference

DATA = Path(os.environ.get("PREFPIPE_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
rewards = st.lists(
    st.sampled_from([-np.inf, -1.0, 0.0, 0.1, 0.2, 1.0, np.inf]) | st.floats(-5, 5),
    min_size=1,
    max_size=5,
)


def test_preference_is_the_mean_over_all_pairs():
    """Policy 1, 3 against baseline 1, 2: a tie, a loss, two wins: (1/2 + 0 + 1 + 1) / 4."""
    assert preference(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == (0.5 + 0 + 1 + 1) / 4


def test_a_tolerance_makes_near_rewards_ties():
    assert preference(np.array([1.0]), np.array([0.75]), tie_tolerance=0.25) == 0.5
    assert preference(np.array([1.0]), np.array([0.75]), tie_tolerance=0.2) == 1.0
    assert preference(np.array([0.5]), np.array([0.75]), tie_tolerance=0.2) == 0.0


@pytest.mark.slow
@given(rewards, rewards, st.sampled_from([0.0, 0.1, 1.0]))
def test_swapping_the_sides_gives_one_minus_it(ours, theirs, tolerance):
    forth = preference(np.array(ours), np.array(theirs), tie_tolerance=tolerance)
    back = preference(np.array(theirs), np.array(ours), tie_tolerance=tolerance)
    assert forth == pytest.approx(1 - back, abs=1e-12)


@given(rewards)
def test_a_side_against_itself_is_a_draw(ours):
    assert preference(np.array(ours), np.array(ours)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("ours", "theirs"), [([], [1.0]), ([1.0], []), ([np.nan, 1.0], [0.0]), ([1.0], [np.nan])]
)
def test_without_all_rewards_there_is_no_verdict(ours, theirs):
    assert np.isnan(preference(np.array(ours), np.array(theirs)))


@pytest.mark.parametrize("tolerance", [-0.1, np.nan])
def test_a_tolerance_below_zero_is_refused(tolerance):
    with pytest.raises(UsageError, match="tie_tolerance is"):
        preference(np.array([1.0]), np.array([1.0]), tie_tolerance=tolerance)


def test_the_error_is_over_prompts():
    """Preferences 1, 0, 1/2, 1/2: mean 1/2, squares 1/4 + 1/4 over 3, root, over root 4."""
    estimate = win_rate(np.array([1.0, 0.0, 0.5, np.nan, 0.5]), allow_missing=True)
    assert estimate.mean == 0.5
    assert estimate.se == pytest.approx(np.sqrt((0.25 + 0.25) / 3) / np.sqrt(4))
    assert (estimate.n, estimate.n_missing) == (4, 1)


def test_one_prompt_has_no_known_error():
    estimate = win_rate(np.array([1.0]))
    assert estimate.mean == 1.0
    assert np.isnan(estimate.se)


def test_no_prompt_has_no_win_rate():
    estimate = win_rate(np.array([np.nan]), allow_missing=True)
    assert np.isnan([estimate.mean, estimate.se]).all()
    assert (estimate.n, estimate.n_missing) == (0, 1)


def test_a_percentage_is_refused():
    with pytest.raises(InputError, match="the preference in row 1 is 55; preferences must be in"):
        win_rate(np.array([0.5, 55.0]))


def test_a_missing_preference_is_refused_where_it_is_not_expected():
    """A mean that silently left out what a judge failed on would flatter whoever made it fail."""
    with pytest.raises(InputError, match="the preference in row 1 is NaN, one of 1"):
        win_rate([0.5, np.nan])


def test_a_table_of_preferences_is_refused():
    with pytest.raises(InputError, match="preferences of shape"):
        win_rate([[0.5, 0.5]])


def test_wins_draws_and_losses_are_above_at_and_below_one_half():
    """2 wins, 1 draw, 1 loss: discrete rate (2 + 1/2) / 4; the graded one is the mean."""
    found = win_rate([0.51, 1.0, 0.5, 0.4999])
    assert (found.n_wins, found.n_draws, found.n_losses) == (2, 1, 1)
    assert found.discrete == (2 + 0.5) / 4
    assert found.mean == pytest.approx((0.51 + 1.0 + 0.5 + 0.4999) / 4)


def test_rows_of_one_prompt_count_once():
    """Prompt a has preferences 1, 1, 1, 0, prompt b has 0: (3/4 + 0) / 2, and the error is that of
    two values."""
    found = win_rate([1, 1, 0, 1, 0], ["a", "a", "b", "a", "a"])
    assert found.mean == (0.75 + 0.0) / 2
    assert found.se == pytest.approx(np.std([0.75, 0.0], ddof=1) / np.sqrt(2))
    assert (found.n, found.n_wins + found.n_losses) == (2, 5)


def test_repeating_every_row_changes_neither_figure_nor_error():
    """Judging both orders with the same verdict is no more evidence than judging once."""
    once = np.random.default_rng(0).uniform(size=20)
    twice = win_rate(np.repeat(once, 2), np.repeat(np.arange(20), 2))
    single = win_rate(once)
    assert twice[:4] == pytest.approx(single[:4])


def test_the_interval_is_the_seeded_bootstrap_over_prompts():
    values = np.random.default_rng(1).uniform(size=30)
    found = win_rate(values, bootstrap=Bootstrap(0.9, 500, 7))
    low, high, _ = bootstrap_interval(values, Bootstrap(0.9, 500, 7))
    assert (found.low, found.high, found.level) == (low, high, 0.9)
    assert found != win_rate(values, bootstrap=Bootstrap(0.9, 500, 8))


def test_other_numbers_of_ids_and_of_rows_are_refused():
    with pytest.raises(InputError, match="3 prompt ids for 2 preferences"):
        win_rate([0.5, 0.5], ["a", "b", "c"])
    with pytest.raises(
        InputError, match="2 and 1 preferences; a paired difference needs one of each per row"
    ):
        win_rate_difference([0.5, 0.5], [0.5])


def test_a_paired_difference_is_over_prompts_and_second_minus_first():
    """Differences 1/2, 0, 1/4: their mean, and their own spread, not that of two independent
    means."""
    found = win_rate_difference([0.0, 0.5, 0.5], [0.5, 0.5, 0.75])
    assert found.mean == 0.25
    assert found.se == pytest.approx(np.std([0.5, 0.0, 0.25], ddof=1) / np.sqrt(3))
    assert found.low <= 0.25 <= found.high


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "alpaca_leaderboard_known.parquet").exists(), reason=f"no test data in {DATA}"
)
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
        assert (estimate.n_wins, estimate.n_draws, estimate.n) == (
            row["n_wins"],
            row["n_draws"],
            row["n_total"],
        )
