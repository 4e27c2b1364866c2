"""Holm's correction: by hand, and by its definition as a closed test over all subsets."""

from itertools import combinations

import numpy as np
import pytest

from prefpipe.errors import InputError
from prefpipe.maths.statistics.holm import holm


def test_by_hand() -> None:
    """0.01 times 4, 0.02 times 3, 0.03 times 2 is no less than 0.06, and 0.5 alone."""
    found = holm(np.array([0.02, 0.5, 0.01, 0.03]))
    assert found == pytest.approx([0.06, 0.5, 0.04, 0.06])


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_closed_test_of_bonferroni(seed: int) -> None:
    """A hypothesis is rejected where every intersection that it is in is rejected by Bonferroni."""
    rng = np.random.default_rng(seed)
    p_values = np.round(rng.uniform(0, 0.3, 5) ** 2, 3)
    expected = np.zeros(5)
    for size in range(1, 6):
        for members in combinations(range(5), size):
            bonferroni = min(1.0, size * min(p_values[list(members)]))
            for member in members:
                expected[member] = max(expected[member], bonferroni)
    assert holm(p_values) == pytest.approx(expected, abs=1e-15)


def test_a_test_that_is_not_in_yet_counts_among_the_declared() -> None:
    found = holm(np.array([0.01, np.nan, 0.02]))
    assert found[[0, 2]] == pytest.approx([0.03, 0.04])
    assert np.isnan(found[1])
    assert holm(np.array([])).shape == (0,)


@pytest.mark.parametrize("p_values", [[0.1, 1.2], [-0.1], [[0.1]]], ids=str)
def test_what_is_no_p_value_is_refused(p_values: list) -> None:
    with pytest.raises(InputError, match="p value"):
        holm(np.array(p_values))
