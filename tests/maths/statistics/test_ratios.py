"""A ratio of means over prompts, its error and its interval."""

import numpy as np
import pytest
from scipy import stats

from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import ratio_of_means


def test_the_ratio_of_means_is_that_by_hand():
    """a 1, 3 over b 2, 2: 4/4; residuals a - b are -1 and 1, sd sqrt 2, over sqrt 2 times the mean
    2: 1/2."""
    found = ratio_of_means(np.array([1.0, np.nan, 3.0]), np.array([2.0, 5.0, 2.0]))
    assert (found.mean, found.se, found.n, found.n_missing) == (1.0, pytest.approx(0.5), 2, 1)


def test_a_token_counts_the_same_in_a_short_and_a_long_response():
    """1 nat in 1 token and 1 nat in 99: 2 nats in 100 tokens, where the mean of both ratios would
    say 0.505."""
    assert ratio_of_means(np.array([1.0, 1.0]), np.array([1.0, 99.0])).mean == pytest.approx(0.02)


def test_a_constant_denominator_is_a_mean():
    values = np.random.default_rng(0).normal(size=30)
    found = ratio_of_means(values, np.full(30, 4.0))
    assert found.mean == pytest.approx(values.mean() / 4)
    assert found.se == pytest.approx(values.std(ddof=1) / np.sqrt(30) / 4)


def test_the_error_of_a_ratio_is_the_spread_of_repetitions():
    rng = np.random.default_rng(1)
    b = rng.integers(1, 60, size=(4000, 80)).astype(float)
    a = 0.3 * b + rng.normal(size=b.shape) * np.sqrt(b)
    ratios = a.mean(axis=1) / b.mean(axis=1)
    errors = [ratio_of_means(a[k], b[k], Bootstrap(n_draws=1)).se for k in range(200)]
    assert np.mean(errors) == pytest.approx(ratios.std(), rel=0.05)


def test_scipy_finds_the_same_interval_of_a_ratio():
    rng = np.random.default_rng(2)
    b = rng.integers(1, 60, size=40).astype(float)
    a = 0.3 * b + rng.normal(size=40) * 3
    ours = ratio_of_means(a, b, Bootstrap(n_draws=20_000))
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) / y.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=rng,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(
        tuple(theirs), abs=0.03 * (theirs.high - theirs.low)
    )
    assert ours == ratio_of_means(a, b, Bootstrap(n_draws=20_000))


@pytest.mark.parametrize(("a", "b"), [([], []), ([np.nan], [1.0]), ([0.0, 0.0], [0.0, 0.0])])
def test_a_ratio_of_nothing_known_is_nan(a, b):
    found = ratio_of_means(np.array(a), np.array(b))
    assert np.isnan([found.mean, found.se, found.low, found.high]).all()


def test_a_ratio_of_one_prompt_has_no_error():
    found = ratio_of_means(np.array([1.0]), np.array([4.0]))
    assert found.mean == 0.25
    assert np.isnan([found.se, found.low, found.high]).all()


def test_prompts_without_a_token_spoil_no_interval():
    """A resample of nothing but the first prompt has 0 tokens and no ratio."""
    found = ratio_of_means(np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("a", "b"),
    [(np.ones(3), np.ones(2)), (np.ones((2, 2)), np.ones((2, 2))), (np.ones(2), -np.ones(2))],
)
def test_what_is_no_ratio_is_refused(a, b):
    with pytest.raises(InputError, match="a ratio"):
        ratio_of_means(a, b)
