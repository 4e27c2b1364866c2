"""Means over seeds and prompts: by hand, by the formulas of their variance, and by how often the interval holds the truth."""

import numpy as np
import pytest
from scipy import stats

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import (
    bootstrap_interval,
    estimate_mean,
    ratio_of_means,
)
from prefpipe.maths.statistics.two_level import resampled_means, two_level_mean, two_level_ratio

EFFECTS = {
    "rest": (0.0, 0.0, 1.0),
    "prompts": (0.0, 1.0, 1.0),
    "both": (0.3, 0.3, 1.0),
    "seeds": (1.0, 0.3, 1.0),
}
"""Standard deviations of seeds, of prompts and of the rest."""


def drawn(rng: np.random.Generator, effects: tuple[float, float, float], shape) -> np.ndarray:
    of_seeds, of_prompts, rest = effects
    n_seeds, n_prompts = shape
    return (
        of_seeds * rng.normal(size=(n_seeds, 1))
        + of_prompts * rng.normal(size=n_prompts)
        + rest * rng.normal(size=shape)
    )


def test_mean_error_and_degrees_of_freedom_are_those_by_hand() -> None:
    """Seed means 2 and 4, prompt means 2, 3, 4: 2/2 + 1/3, and (4/3)^2 / (1/1 + (1/9)/2)."""
    found = two_level_mean(np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]))
    assert found.mean == 3.0
    assert found.se == pytest.approx(np.sqrt(4 / 3))
    assert found.df == pytest.approx((16 / 9) / (1 + 1 / 18))
    assert (found.n_seeds, found.n_prompts, found.n_missing) == (2, 3, 0)


def test_one_seed_has_the_interval_of_every_other_figure() -> None:
    values = np.random.default_rng(0).normal(size=40)
    found = two_level_mean(values[None])
    low, high, _ = bootstrap_interval(values)
    assert (found.mean, found.se) == estimate_mean(values)[:2]
    assert (found.low, found.high) == (low, high)


def test_a_prompt_that_one_seed_lacks_is_left_out_of_all() -> None:
    values = drawn(np.random.default_rng(0), EFFECTS["both"], (3, 10))
    with_gap = np.insert(values, 4, [7.0, np.nan, 9.0], axis=1)
    assert two_level_mean(with_gap) == two_level_mean(values)._replace(n_missing=1)


def test_the_bootstrap_s_variance_is_owen_s_formula() -> None:
    """The variance over all resamples of one table, in closed form: of seeds, of prompts, and of the rest about three times."""
    values = drawn(np.random.default_rng(3), EFFECTS["both"], (4, 25))
    n_seeds, n_prompts = values.shape
    mean = values.mean()
    seeds = ((values.mean(axis=1) - mean) ** 2).sum() / n_seeds**2
    prompts = ((values.mean(axis=0) - mean) ** 2).sum() / n_prompts**2
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + mean
    closed = seeds + prompts + (rest**2).sum() / (n_seeds * n_prompts) ** 2
    means = resampled_means(values, Bootstrap(n_draws=200_000))
    assert means.mean() == pytest.approx(mean, abs=3 * np.sqrt(closed / 200_000))
    assert means.var() == pytest.approx(closed, rel=0.02)


@pytest.mark.parametrize("effects", EFFECTS.values(), ids=EFFECTS.keys())
def test_the_error_s_expectation_is_the_formula_s(effects: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(4)
    of_seeds, of_prompts, rest = effects
    n_seeds, n_prompts = 3, 30
    variances = [
        two_level_mean(drawn(rng, effects, (n_seeds, n_prompts)), Bootstrap(n_draws=2)).se ** 2
        for _ in range(3000)
    ]
    expected = (
        of_seeds**2 / n_seeds + of_prompts**2 / n_prompts + 2 * rest**2 / (n_seeds * n_prompts)
    )
    assert np.mean(variances) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("effects", EFFECTS.values(), ids=EFFECTS.keys())
@pytest.mark.parametrize("n_seeds", [3, 5])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    effects: tuple[float, float, float], n_seeds: int
) -> None:
    """95 % of 600 repetitions, two standard errors of that share below at least; above, where the rest is all there is."""
    rng = np.random.default_rng(5)
    n_repetitions = 600
    n_held = 0
    for _ in range(n_repetitions):
        found = two_level_mean(drawn(rng, effects, (n_seeds, 40)), Bootstrap(n_draws=400))
        n_held += found.low <= 0.0 <= found.high
    assert 0.925 <= n_held / n_repetitions <= 0.995


def test_prompts_alone_would_be_sure_of_what_seeds_do_not_agree_on() -> None:
    """What the two levels are for: averaged over seeds, prompts' intervals hold the truth half as often as they say."""
    rng = np.random.default_rng(6)
    bootstrap = Bootstrap(n_draws=400)
    n_held = 0
    for _ in range(200):
        values = drawn(rng, EFFECTS["seeds"], (3, 40))
        low, high, _ = bootstrap_interval(values.mean(axis=0), bootstrap)
        n_held += low <= 0.0 <= high
    assert n_held / 200 < 0.5


def test_normal_means_give_the_t_interval() -> None:
    found = two_level_mean(
        drawn(np.random.default_rng(7), EFFECTS["prompts"], (6, 400)), Bootstrap(n_draws=50_000)
    )
    half = stats.t.ppf(0.975, found.df) * found.se
    assert (found.low, found.high) == pytest.approx(
        (found.mean - half, found.mean + half), abs=0.04 * half
    )


def test_a_ratio_is_that_of_the_sums_and_its_error_the_spread_of_repetitions() -> None:
    rng = np.random.default_rng(8)

    def pair():
        below = rng.integers(1, 60, size=(4, 60)).astype(float)
        rate = 0.3 + 0.05 * rng.normal(size=(4, 1))
        return rate * below + rng.normal(size=below.shape) * np.sqrt(below), below

    above, below = pair()
    assert two_level_ratio(above, below).mean == pytest.approx(above.sum() / below.sum())
    ratios, variances = [], []
    for _ in range(1500):
        above, below = pair()
        found = two_level_ratio(above, below, Bootstrap(n_draws=2))
        ratios.append(found.mean)
        variances.append(found.se**2)
    # above it by what is counted twice, see the formula
    assert 0.95 < np.mean(variances) / np.var(ratios) < 1.4


def test_a_ratio_of_one_seed_is_that_of_prompts() -> None:
    rng = np.random.default_rng(9)
    above, below = rng.normal(size=20), rng.integers(1, 9, size=20).astype(float)
    found = two_level_ratio(above[None], below[None])
    one = ratio_of_means(above, below)
    assert (found.mean, found.se, found.low, found.high) == one[:4]


def test_a_ratio_lacks_what_either_lacks() -> None:
    above = np.array([[1.0, 2.0, np.nan], [1.0, 2.0, 5.0]])
    below = np.array([[2.0, 2.0, 1.0], [2.0, np.nan, 1.0]])
    found = two_level_ratio(above, below)
    assert (found.mean, found.n_prompts, found.n_missing) == (0.5, 1, 2)
    assert np.isnan([found.se, found.low]).all()


def test_what_does_not_vary_has_an_interval_of_no_width() -> None:
    found = two_level_mean(np.full((3, 5), 2.5))
    assert (found.mean, found.se, found.low, found.high) == (2.5, 0.0, 2.5, 2.5)


@pytest.mark.parametrize("values", [np.empty((2, 0)), np.full((2, 4), np.nan)])
def test_nothing_known_is_nan(values: np.ndarray) -> None:
    found = two_level_mean(values)
    assert np.isnan([found.mean, found.se, found.low, found.high]).all()


@pytest.mark.parametrize("values", [np.ones(4), np.empty((0, 4)), np.ones((1, 2, 3))])
def test_other_shapes_are_refused(values: np.ndarray) -> None:
    with pytest.raises(InputError, match="one row per seed and one column per prompt"):
        two_level_mean(values)


def test_other_shapes_of_a_ratio_and_counts_below_0_are_refused() -> None:
    with pytest.raises(InputError, match="a ratio of"):
        two_level_ratio(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match="0 or more"):
        two_level_ratio(np.ones((2, 3)), -np.ones((2, 3)))
    with pytest.raises(UsageError, match="level"):
        two_level_mean(np.ones((2, 3)) * np.arange(3), Bootstrap(level=1.0))
