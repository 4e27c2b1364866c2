"""Figures that are no means, over seeds and prompts: by brute force, by derivatives, and by how often the interval holds the truth."""

import numpy as np
import pytest
from scipy import stats

from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.length_control import WEAK_PENALTY_C, length_controlled_win_rate
from prefpipe.maths.statistics.two_errors import two_errors
from prefpipe.maths.statistics.two_level import two_level_ratio
from prefpipe.maths.statistics.two_level_figures import (
    SeedFigures,
    length_controlled_figures,
    lowest_share_figures,
    ratio_figures,
    two_level_figure,
)

FEW = Bootstrap(n_draws=200)


def lowest_mean(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the mean of the lowest share of weighted values: fill a tail from below."""
    left, total = share * weights.sum(), 0.0
    for place in np.argsort(values, kind="stable"):
        taken = min(left, weights[place])
        total += taken * values[place]
        left -= taken
    return total / (share * weights.sum())


def preferences(rng: np.random.Generator, n_seeds: int, n_prompts: int):
    """Return preferences, lengths and the base's lengths: a longer response wins more often."""
    base = np.tile(rng.normal(100, 30, n_prompts), (n_seeds, 1))
    lengths = base + rng.normal(-10, 25, (n_seeds, n_prompts))
    chance = 1 / (1 + np.exp(-(0.3 + (lengths - base) / 40)))
    return rng.binomial(4, chance) / 4, lengths, base


@pytest.mark.parametrize("n_prompts", [7, 30, 37, 120])
@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_the_lowest_share_is_that_of_sorted_prompts(n_prompts: int, share: float) -> None:
    values = np.random.default_rng(n_prompts).normal(size=(3, n_prompts))
    found = lowest_share_figures(values, share, FEW)
    expected = [lowest_mean(row, np.ones(n_prompts), share) for row in values]
    assert found.by_seed == pytest.approx(expected, abs=1e-12)
    if n_prompts == 120 and share == 0.1:
        assert found.by_seed == pytest.approx(np.sort(values, axis=1)[:, :12].mean(axis=1))


def test_a_prompt_contributes_what_the_figure_changes_by_with_its_weight() -> None:
    """The derivative in the weight of each prompt, by differences: 37 prompts, of which 3.7 are the lowest."""
    values = np.random.default_rng(1).normal(size=(1, 37))
    found = lowest_share_figures(values, 0.1, FEW)
    step = 1e-4
    for prompt in range(37):
        weights = np.ones(37)
        weights[prompt] += 37 * step
        # the others' shares shrink as this one's grows
        moved = lowest_mean(values[0], weights / (1 + step), 0.1)
        influence = (moved - found.by_seed[0]) / (step / (1 + step))
        expected = found.contributions[0, prompt] - found.by_seed[0]
        assert influence == pytest.approx(expected, abs=2e-3 * (1 + abs(expected)))


def test_the_lowest_prompts_are_taken_anew_in_each_resample() -> None:
    values = np.random.default_rng(2).normal(size=(2, 50))
    found = lowest_share_figures(values, 0.1, FEW)
    assert found.resampled is not None
    drawn = np.random.default_rng(FEW.seed).integers(50, size=(FEW.n_draws, 50))
    for seed in range(2):
        for resample in (0, 17, 199):
            expected = np.sort(values[seed, drawn[resample]])[:5].mean()
            assert found.resampled[seed, resample] == pytest.approx(expected)


def test_win_rates_at_equal_lengths_are_those_of_each_seed() -> None:
    given = preferences(np.random.default_rng(3), 3, 60)
    found = length_controlled_figures(*given, FEW)
    assert found.resampled is not None
    for seed, (preference, length, base) in enumerate(zip(*given, strict=True)):
        fit = length_controlled_win_rate(
            preference, length, base, penalty_c=WEAK_PENALTY_C, bootstrap=FEW
        )
        assert found.by_seed[seed] == pytest.approx(fit.mean, abs=1e-12)
        assert found.resampled[seed] == pytest.approx(fit.draws)
        of_prompts = found.contributions[seed].std(ddof=1) / np.sqrt(60)
        assert of_prompts == pytest.approx(fit.se, rel=1e-5)


def test_a_ratio_contributes_what_the_two_level_ratio_says() -> None:
    rng = np.random.default_rng(4)
    below = rng.integers(1, 30, size=(3, 40)).astype(float)
    above = rng.normal(0.2, 0.1, size=(3, 40)) * below
    found = two_level_figure(ratio_figures(above, below), FEW)
    expected = two_level_ratio(above, below, FEW)
    assert found.mean == pytest.approx(expected.mean)
    assert found.se == pytest.approx(expected.se)


def test_the_interval_of_a_mean_is_the_half_width_where_resampled_means_are_normal() -> None:
    values = np.random.default_rng(5).normal(size=(6, 200))
    found = two_level_figure(SeedFigures(values), Bootstrap(n_draws=50_000))
    half = two_errors(values).half_width(0.05)
    assert (found.low, found.high) == pytest.approx(
        (found.mean - half, found.mean + half), abs=0.05 * half
    )


def test_differences_are_paired_in_prompts_and_resamples() -> None:
    """An arm against itself has no error, and against itself plus a constant none either."""
    values = np.random.default_rng(6).normal(size=(3, 40))
    for shift in (0.0, 0.3):
        first = lowest_share_figures(values + shift, bootstrap=FEW)
        difference = two_level_figure(first.minus(lowest_share_figures(values, bootstrap=FEW)), FEW)
        assert difference.mean == pytest.approx(shift, abs=1e-12)
        assert difference.se < 1e-12
        assert difference.high - difference.low < 1e-9


def test_seeds_that_differ_are_in_the_interval_of_prompts_that_are_alike() -> None:
    """Seed figures 0, 1 and 5: the half width is that of Student's t of three seeds."""
    level = np.array([[0.0], [1.0], [5.0]])
    values = level + 1e-6 * np.random.default_rng(7).normal(size=(3, 40))
    for figures in (SeedFigures(values), lowest_share_figures(values, bootstrap=FEW)):
        found = two_level_figure(figures, FEW)
        half = stats.t.ppf(0.975, 2) * level.std(ddof=1) / np.sqrt(3)
        assert (found.low, found.high) == pytest.approx((2.0 - half, 2.0 + half), abs=1e-4)


def test_prompts_that_are_skewed_skew_the_interval() -> None:
    """A few prompts of great value: the upper end is further off than the lower one, as resampled prompts say."""
    rng = np.random.default_rng(11)
    values = np.tile(rng.lognormal(0, 1.5, 60), (4, 1)) + rng.normal(0, 0.1, (4, 1))
    found = two_level_figure(SeedFigures(values))
    assert found.high - found.mean > 1.1 * (found.mean - found.low)


def test_of_one_seed_the_interval_is_over_prompts() -> None:
    values = np.random.default_rng(8).normal(size=(1, 60))
    figures = lowest_share_figures(values, bootstrap=FEW)
    found = two_level_figure(figures, FEW)
    assert figures.resampled is not None
    resampled = figures.resampled[0]
    width = np.quantile(resampled, 0.975) - np.quantile(resampled, 0.025)
    assert found.high - found.low == pytest.approx(width)
    assert found.se == pytest.approx(figures.contributions[0].std(ddof=1) / np.sqrt(60))


def test_some_of_the_seeds() -> None:
    values = np.random.default_rng(9).normal(size=(4, 30))
    some = lowest_share_figures(values, bootstrap=FEW).of_seeds(np.array([0, 3]))
    alone = lowest_share_figures(values[[0, 3]], bootstrap=FEW)
    assert two_level_figure(some, FEW) == two_level_figure(alone, FEW)


def test_what_is_not_paired_is_refused() -> None:
    values = np.random.default_rng(10).normal(size=(3, 30))
    mean, tail = SeedFigures(values), lowest_share_figures(values, bootstrap=FEW)
    more = lowest_share_figures(values, bootstrap=Bootstrap(n_draws=100))
    for one, other in ((mean, tail), (tail, more), (mean, SeedFigures(values[:2]))):
        with pytest.raises(InputError):
            one.minus(other)
    with pytest.raises(InputError, match="share"):
        lowest_share_figures(values, 0.0)
    with pytest.raises(InputError, match="denominators"):
        ratio_figures(values, np.zeros((3, 30)))
    with pytest.raises(InputError, match="denominators"):
        ratio_figures(values, -np.ones((3, 30)))


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_intervals_of_lowest_deciles_and_their_differences_hold_the_truth(n_seeds: int) -> None:
    """Two arms on 120 prompts, by what is known of normal values: at least 95 %, less two standard errors of 150 studies."""
    rng = np.random.default_rng(n_seeds)
    boot = Bootstrap(n_draws=200)
    of_prompt, of_arm, of_seed, rest = 0.15, 0.05, 0.02, 0.14
    spread = np.sqrt(of_prompt**2 + of_arm**2 + rest**2)
    # the mean below the tenth of a normal: -phi(z) / 0.1
    tail = -1.75498 * spread
    n_studies = 150
    n_held = np.zeros(2)
    for _ in range(n_studies):
        common = rng.normal(0, of_prompt, 120)
        arms = [
            lowest_share_figures(
                effect
                + common
                + rng.normal(0, of_arm, 120)
                + rng.normal(0, of_seed, (n_seeds, 1))
                + rng.normal(0, rest, (n_seeds, 120)),
                bootstrap=boot,
            )
            for effect in (0.1, 0.0)
        ]
        alone = two_level_figure(arms[0], boot)
        difference = two_level_figure(arms[0].minus(arms[1]), boot)
        n_held += (
            alone.low <= 0.1 + tail <= alone.high,
            difference.low <= 0.1 <= difference.high,
        )
    assert (n_held / n_studies > 0.95 - 2 * np.sqrt(0.05 * 0.95 / n_studies)).all(), n_held
