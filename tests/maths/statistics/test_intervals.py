"""Means over prompts, their errors and bootstrap intervals."""

import numpy as np
import pytest
from scipy import stats

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import (
    bootstrap_interval,
    estimate_mean,
    paired_difference,
)

METHODS = ["percentile", "bca"]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_mean_and_its_error():
    """1, 2, 6: mean 3, squares 4 + 1 + 9 over 2, root, over root 3."""
    estimate = estimate_mean(np.array([1.0, np.nan, 2.0, 6.0]))
    assert estimate == (3.0, pytest.approx(np.sqrt(14 / 2) / np.sqrt(3)), 3, 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_interval_repeats_with_its_generator(method):
    values = rng(1).normal(size=50)
    one = bootstrap_interval(values, Bootstrap(seed=7), method=method)
    assert one == bootstrap_interval(values, Bootstrap(seed=7), method=method)
    assert one != bootstrap_interval(values, Bootstrap(seed=8), method=method)


@pytest.mark.parametrize("method", METHODS)
def test_scipy_finds_the_same_interval(method):
    """Another program's draws: the ends agree within the noise of 20,000 of them, skewed data
    included."""
    values = rng(2).exponential(size=40)
    ours = bootstrap_interval(values, Bootstrap(n_draws=20_000, seed=3), method=method)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=rng(4)
    ).confidence_interval
    noise = 0.02 * (theirs.high - theirs.low)
    assert ours.low == pytest.approx(theirs.low, abs=noise)
    assert ours.high == pytest.approx(theirs.high, abs=noise)


@pytest.mark.parametrize("method", METHODS)
def test_the_interval_of_many_normal_values_is_the_normal_one(method):
    values = rng(5).normal(size=2000)
    estimate = estimate_mean(values)
    interval = bootstrap_interval(values, Bootstrap(level=0.9, seed=6), method=method)
    assert interval.low == pytest.approx(estimate.mean - 1.645 * estimate.se, abs=0.1 * estimate.se)
    assert interval.high == pytest.approx(
        estimate.mean + 1.645 * estimate.se, abs=0.1 * estimate.se
    )
    assert interval.level == 0.9


@pytest.mark.parametrize("method", METHODS)
def test_nineteen_of_twenty_intervals_hold_the_truth(method):
    """300 samples of 30: 95 % of intervals cover, less some for the small sample; 5 standard errors
    are 6 %."""
    n_held = 0
    for seed in range(300):
        interval = bootstrap_interval(
            rng(seed).normal(size=30),
            Bootstrap(n_draws=400, seed=seed + 1000),
            method=method,
        )
        n_held += interval.low <= 0.0 <= interval.high
    assert 0.87 < n_held / 300 <= 1.0


@pytest.mark.parametrize("method", METHODS)
def test_values_without_spread_have_an_interval_without_width(method):
    interval = bootstrap_interval(np.full(5, 0.5), Bootstrap(n_draws=100), method=method)
    assert (interval.low, interval.high) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan]])
def test_fewer_than_two_prompts_have_no_interval(values):
    interval = bootstrap_interval(np.array(values))
    assert np.isnan([interval.low, interval.high]).all()


def test_the_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    values = rng(1).normal(size=30)
    whole = bootstrap_interval(values, Bootstrap(n_draws=500, seed=2))
    monkeypatch.setattr("prefpipe.maths.statistics.bootstrap.UNITS_AT_ONCE", 64)
    assert bootstrap_interval(values, Bootstrap(n_draws=500, seed=2)) == whole


def test_a_paired_difference_is_the_mean_of_differences():
    """Differences 1, 3 and one prompt without b: mean 2, error root 2 over root 2."""
    difference = paired_difference(np.array([2.0, 5.0, 9.0]), np.array([1.0, 2.0, np.nan]))
    assert (difference.mean, difference.n, difference.n_missing) == (2.0, 2, 1)
    assert difference.se == pytest.approx(np.sqrt(2) / np.sqrt(2))
    assert (difference.low, difference.high) == (1.0, 3.0)


def test_pairing_removes_what_prompts_share():
    hardness = rng(1).normal(scale=10, size=200)
    a, b = hardness + rng(2).normal(size=200) + 1, hardness + rng(3).normal(size=200)
    difference = paired_difference(a, b, Bootstrap(seed=4))
    assert difference.se < estimate_mean(a).se / 3
    assert difference.low < 1 < difference.high


def test_unpaired_values_are_refused():
    with pytest.raises(InputError, match=r"a paired difference of \(2,\) and \(3,\) values"):
        paired_difference(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"level": 95}, "the interval's level is 95"),
        ({"n_draws": 0}, "n_draws is 0"),
    ],
)
def test_wrong_options_of_the_bootstrap_are_refused(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        bootstrap_interval(np.arange(4.0), Bootstrap(**arguments))


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match="the interval's method is 'normal'"):
        bootstrap_interval(np.arange(4.0), method="normal")
