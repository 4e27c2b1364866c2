"""A histogram counts every number once, in bins with round ends, and its figures are the
column's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.maths.statistics.distribution import N_BINS, Distribution

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.slow
@given(st.lists(finite, min_size=1, max_size=60))
def test_every_number_is_in_one_bin(values: list[float]) -> None:
    found = Distribution.of("x", np.array(values))
    assert sum(found.counts) == found.n == len(values)
    assert len(found.edges) == len(found.counts) + 1
    assert found.edges[0] <= min(values)
    assert found.edges[-1] >= max(values)
    assert len(found.counts) <= N_BINS + 2


def test_figures_are_those_of_the_finite_numbers() -> None:
    """1, 2, 3, 10: median (2 + 3) / 2, mean 16 / 4; NaN is missing and an infinity is counted
    apart."""
    found = Distribution.of("x", np.array([1.0, 2.0, 3.0, 10.0, np.nan, np.inf]))
    assert (found.n, found.n_missing, found.n_infinite) == (4, 1, 1)
    assert (found.min, found.median, found.mean, found.max) == (1.0, 2.5, 4.0, 10.0)


def test_few_whole_numbers_have_a_bin_each() -> None:
    """1, 1, 2, 4 lie in [0.5, 1.5), [1.5, 2.5), [2.5, 3.5), [3.5, 4.5]."""
    found = Distribution.of("x", np.array([1, 1, 2, 4]))
    assert found.edges == (0.5, 1.5, 2.5, 3.5, 4.5)
    assert found.counts == (2, 1, 0, 1)


def test_bins_begin_at_round_numbers() -> None:
    """0..99 in at most ten bins: steps of 10 from 0 to 100, ten numbers in each."""
    found = Distribution.of("x", np.arange(100))
    assert found.edges == tuple(float(edge) for edge in range(0, 101, 10))
    assert found.counts == (10,) * 10


def test_json_has_the_same_figures() -> None:
    found = Distribution.of("x", np.array([1.0, 2.0]), "tokens")
    assert Distribution(**found.to_json()) == found


def test_no_numbers_at_all_have_no_figures() -> None:
    found = Distribution.of("reward", np.array([np.nan, np.nan]))
    assert (found.n, found.mean, found.counts) == (0, None, ())
