"""A histogram counts every number once, in bins with round ends, and its figures are the column's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from prefpipe.maths.statistics.distribution import (
    BAR_WIDTH,
    N_BINS,
    Distribution,
    bar,
    concatenate,
    figure,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=60))
def test_every_number_is_in_one_bin(values: list[float]) -> None:
    found = Distribution.of("x", np.array(values))
    assert sum(found.counts) == found.n == len(values)
    assert len(found.edges) == len(found.counts) + 1
    assert found.edges[0] <= min(values)
    assert found.edges[-1] >= max(values)
    assert len(found.counts) <= N_BINS + 2


def test_figures_are_those_of_the_finite_numbers() -> None:
    """1, 2, 3, 10: median (2 + 3) / 2, mean 16 / 4; NaN is missing and an infinity is counted apart."""
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


def test_no_numbers_at_all_are_said_to_be_none() -> None:
    found = Distribution.of("reward", np.array([np.nan, np.nan]))
    assert (found.n, found.mean, found.counts) == (0, None, ())
    assert found.plot().plain == "reward\n  no numbers (2 missing)"


def test_equal_numbers_have_figures_and_no_plot() -> None:
    assert Distribution.of("x", np.full(3, 0.5), "tokens").plot().plain == (
        "x, tokens\n  min 0.5   median 0.5   mean 0.5   max 0.5   n 3"
    )


def test_a_spread_of_rounding_errors_is_no_picture() -> None:
    assert (
        "\n"
        not in Distribution.of("norm", 1 + np.arange(20) * 1e-9).plot().plain.partition("\n")[2]
    )


def test_a_plot_shows_a_bar_and_a_count_for_each_bin_without_colour() -> None:
    """The fullest bin fills ``BAR_WIDTH``; half of it fills half."""
    lines = Distribution.of("x", np.array([0, 0, 1])).plot().plain.splitlines()
    assert lines[2:] == [
        f"           0 {'█' * BAR_WIDTH} 2",
        f"           1 {'█' * (BAR_WIDTH // 2)}{' ' * (BAR_WIDTH // 2)} 1",
    ]


@given(st.lists(finite, max_size=30))
def test_plots_never_fail_and_fit_a_narrow_terminal(values: list[float]) -> None:
    plot = Distribution.of("x", np.array(values)).plot()
    assert isinstance(plot, Text)
    assert all(len(line) <= 80 for line in plot.plain.splitlines()[2:])


@pytest.mark.parametrize(
    ("share", "width"), [(0.0, 0), (1e-9, 1), (0.5, BAR_WIDTH // 2), (1.0, BAR_WIDTH)]
)
def test_a_bar_is_as_long_as_its_share(share: float, width: int) -> None:
    assert len(bar(share)) == width


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.0, "3"),
        (12345.0, "12,345"),
        (0.12345, "0.1235"),
        (1234.5, "1,234"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert figure(value) == text


def test_json_has_the_same_figures() -> None:
    found = Distribution.of("x", np.array([1.0, 2.0]), "tokens")
    assert Distribution(**found.to_json()) == found


def test_pieces_of_a_column_are_joined() -> None:
    assert concatenate([np.array([1]), np.array([2.5])]).tolist() == [1.0, 2.5]
    assert concatenate([]).shape == (0,)
