"""Spearman's correlation against SciPy, and within groups against its definition."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from prefpipe.maths.statistics.rank_correlation import spearman, spearman_within


@pytest.mark.parametrize("seed", range(4))
def test_the_correlation_is_scipys(seed):
    randomness = np.random.default_rng(seed)
    x, y = randomness.integers(0, 9, 40).astype(float), randomness.normal(size=40)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(x, -x) == pytest.approx(-1)


def test_within_groups_the_level_of_a_group_does_not_count():
    groups = np.repeat(np.arange(5), 4)
    x = np.tile(np.arange(4.0), 5)
    y = 100.0 * groups - x
    assert spearman(x, y) > -0.5
    assert spearman_within(x, y, groups) == pytest.approx(-1)
    order = np.random.default_rng(0).permutation(20)
    assert spearman_within(x[order], y[order], groups[order]) == pytest.approx(-1)


def test_columns_without_spread_have_no_correlation():
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))
    assert np.isnan(spearman(np.array([]), np.array([])))
    assert np.isnan(spearman_within(np.arange(3.0), np.arange(3.0), np.arange(3)))
    constant_in_one = spearman_within(
        np.array([1, 2, 5, 5.0]), np.array([1, 2, 1, 2.0]), np.array([0, 0, 1, 1])
    )
    assert constant_in_one == pytest.approx(1)
