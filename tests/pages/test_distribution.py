"""A distribution as a plot: a bar a bin, its figures above, and never wider than a narrow terminal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.pages.distribution import BAR_WIDTH, bar, distribution_plot

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_plot_of_no_numbers_says_none() -> None:
    found = Distribution.of("reward", np.array([np.nan, np.nan]))
    assert distribution_plot(found).plain == "reward\n  no numbers (2 missing)"


def test_plot_of_equal_numbers_has_figures_alone() -> None:
    assert distribution_plot(Distribution.of("x", np.full(3, 0.5), "tokens")).plain == (
        "x, tokens\n  min 0.5   median 0.5   mean 0.5   max 0.5   n 3"
    )


def test_plot_of_rounding_errors_has_figures_alone() -> None:
    assert (
        "\n"
        not in distribution_plot(Distribution.of("norm", 1 + np.arange(20) * 1e-9)).plain.partition(
            "\n"
        )[2]
    )


def test_a_plot_shows_a_bar_and_a_count_for_each_bin_without_colour() -> None:
    """The fullest bin fills ``BAR_WIDTH``; half of it fills half."""
    lines = distribution_plot(Distribution.of("x", np.array([0, 0, 1]))).plain.splitlines()
    assert lines[2:] == [
        f"           0 {'█' * BAR_WIDTH} 2",
        f"           1 {'█' * (BAR_WIDTH // 2)}{' ' * (BAR_WIDTH // 2)} 1",
    ]


@given(st.lists(finite, max_size=30))
def test_plots_never_fail_and_fit_a_narrow_terminal(values: list[float]) -> None:
    plot = distribution_plot(Distribution.of("x", np.array(values)))
    assert isinstance(plot, Text)
    assert all(len(line) <= 80 for line in plot.plain.splitlines()[2:])


@pytest.mark.parametrize(
    ("share", "width"), [(0.0, 0), (1e-9, 1), (0.5, BAR_WIDTH // 2), (1.0, BAR_WIDTH)]
)
def test_a_bar_is_as_long_as_its_share(share: float, width: int) -> None:
    assert len(bar(share)) == width
