"""Errors over seeds and prompts: by hand, and never wrong more often than they say, at any level."""

import numpy as np
import pytest
from scipy import stats

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.holm import holm
from prefpipe.maths.statistics.t_tests import equivalence, p_of_difference
from prefpipe.maths.statistics.two_errors import SMALLEST_P, TwoErrors, two_errors
from prefpipe.maths.statistics.two_level import two_level_mean

N_PROMPTS = 120
SPREADS = {
    "prompts": (0.0, 0.10, 0.2),
    "both": (0.02, 0.10, 0.2),
    "seeds": (0.04, 0.05, 0.2),
    "seeds alone": (0.08, 0.02, 0.05),
}
"""Standard deviations of seeds, prompts and rest, of rewards in [0, 1]."""


def outcomes(spreads: tuple[float, float, float], n_seeds: int, n_studies: int, seed: int):
    """Return means of no difference and their two errors, each of many studies: they are independent."""
    rng = np.random.default_rng(seed)
    of_seeds, of_prompts, rest = spreads
    twice = rest**2 / (n_seeds * N_PROMPTS)
    in_seeds = of_seeds**2 / n_seeds + twice
    in_prompts = of_prompts**2 / N_PROMPTS + twice
    means = rng.normal(0, np.sqrt(in_seeds + in_prompts - twice), n_studies)
    found_seeds = in_seeds * rng.chisquare(n_seeds - 1, n_studies) / (n_seeds - 1)
    found_prompts = in_prompts * rng.chisquare(N_PROMPTS - 1, n_studies) / (N_PROMPTS - 1)
    return means, found_seeds, found_prompts


def test_the_half_width_by_hand() -> None:
    """Seed means 2 and 4, prompt means 2, 3, 4: 2/2 with t of 1, and 1/3 with t of 2."""
    errors = two_errors(np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]))
    assert errors == pytest.approx((1.0, 1 / 3, 2, 3))
    assert errors.se == pytest.approx(np.sqrt(4 / 3))
    expected = np.sqrt(stats.t.ppf(0.975, 1) ** 2 + stats.t.ppf(0.975, 2) ** 2 / 3)
    assert errors.half_width(0.05) == pytest.approx(expected)


def test_the_error_is_that_of_the_two_level_mean() -> None:
    values = np.random.default_rng(0).normal(size=(4, 30))
    assert two_errors(values).se == pytest.approx(two_level_mean(values).se)


def test_one_seed_has_student_s_t_over_prompts() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, size=(1, 50))
    errors = two_errors(values)
    assert np.isnan(errors.of_seeds)
    expected = stats.ttest_1samp(values[0], 0.0)
    assert p_of_difference(values.mean(), errors) == pytest.approx(expected.pvalue, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.6, 0.05, 0.05 / 6, 1e-6, 1e-11])
def test_p_is_the_level_whose_half_width_the_distance_is(alpha: float) -> None:
    errors = TwoErrors(2e-4, 1e-4, 3, N_PROMPTS)
    assert errors.p_of(errors.half_width(alpha)) == pytest.approx(alpha, rel=1e-6)


def test_the_ends_of_p() -> None:
    errors = TwoErrors(2e-4, 1e-4, 3, N_PROMPTS)
    assert errors.p_of(0.0) == 1.0
    assert errors.p_of(1e12) == SMALLEST_P
    assert TwoErrors(0.0, 0.0, 3, 5).p_of(0.1) == SMALLEST_P
    assert np.isnan(two_errors(np.array([[0.1], [0.2]])).p_of(0.1))


@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS.keys())
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_a_mean_is_hardly_ever_further_off(
    spreads: tuple[float, float, float], n_seeds: int
) -> None:
    """At 5 % and at Holm's first step of six: never more often, within two standard errors of 200,000 studies."""
    n_studies = 200_000
    means, in_seeds, in_prompts = outcomes(spreads, n_seeds, n_studies, seed=n_seeds)
    for alpha in (0.05, 0.05 / 6):
        t_seeds = stats.t.ppf(1 - alpha / 2, n_seeds - 1)
        t_prompts = stats.t.ppf(1 - alpha / 2, N_PROMPTS - 1)
        half = np.sqrt(in_seeds * t_seeds**2 + in_prompts * t_prompts**2)
        assert half[0] == pytest.approx(
            TwoErrors(in_seeds[0], in_prompts[0], n_seeds, N_PROMPTS).half_width(alpha)
        )
        assert (np.abs(means) > half).mean() <= alpha + 2 * np.sqrt(alpha / n_studies)


def test_student_s_t_would_be_wrong_too_often_at_holm_s_first_step() -> None:
    """Why the tests of a study are not by Satterthwaite's degrees of freedom: three seeds that disagree."""
    means, in_seeds, in_prompts = outcomes(SPREADS["seeds alone"], 3, 200_000, seed=0)
    variance = in_seeds + in_prompts
    df = variance**2 / (in_seeds**2 / 2 + in_prompts**2 / (N_PROMPTS - 1))
    alpha = 0.05 / 6
    is_wrong = np.abs(means) > stats.t.ppf(1 - alpha / 2, df) * np.sqrt(variance)
    assert is_wrong.mean() > 2 * alpha


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_holm_over_contrasts_with_one_arm_is_hardly_ever_wrong(n_seeds: int) -> None:
    """Six arms against a seventh, none different, three seeds that disagree: any is called different in 5 % at most."""
    rng = np.random.default_rng(n_seeds)
    n_studies, n_wrong = 400, 0
    for _ in range(n_studies):
        arms = (
            rng.normal(0, 0.04, (7, n_seeds, 1))
            + rng.normal(0, 0.1, (7, 1, 40))
            + rng.normal(0, 0.14, (7, n_seeds, 40))
        )
        differences = arms[0] - arms[1:]
        p_values = [p_of_difference(each.mean(), two_errors(each)) for each in differences]
        n_wrong += bool((holm(np.array(p_values)) <= 0.05).any())
    assert n_wrong / n_studies <= 0.05


def test_equivalence_is_where_the_90_percent_interval_lies_within() -> None:
    errors = TwoErrors(1e-4, 1e-4, 5, N_PROMPTS)
    half = errors.half_width(0.1)
    for mean in (-0.02, 0.0, 0.013):
        at_the_end = equivalence(mean, errors, abs(mean) + half)
        assert (at_the_end.low, at_the_end.high) == pytest.approx((mean - half, mean + half))
        assert at_the_end.p == pytest.approx(0.05, rel=1e-6)
        assert equivalence(mean, errors, abs(mean) + 1.1 * half).p < 0.05
        assert equivalence(mean, errors, abs(mean) + 0.9 * half).p > 0.05


def test_equivalence_at_the_margin_and_beyond() -> None:
    errors = TwoErrors(1e-4, 1e-4, 5, N_PROMPTS)
    assert equivalence(0.03, errors, 0.03).p == pytest.approx(0.5)
    beyond = equivalence(0.05, errors, 0.03).p
    assert 0.5 < beyond < 1.0
    assert beyond == pytest.approx(1.0 - equivalence(0.01, errors, 0.03).p)
    for margin in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="margin"):
            equivalence(0.0, errors, margin)


@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS.keys())
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_arms_that_differ_by_the_margin_are_hardly_ever_called_equivalent(
    spreads: tuple[float, float, float], n_seeds: int
) -> None:
    n_studies, margin = 100_000, 0.06
    means, in_seeds, in_prompts = outcomes(spreads, n_seeds, n_studies, seed=n_seeds)
    t_seeds, t_prompts = stats.t.ppf(0.95, n_seeds - 1), stats.t.ppf(0.95, N_PROMPTS - 1)
    half = np.sqrt(in_seeds * t_seeds**2 + in_prompts * t_prompts**2)
    is_called = np.abs(means + margin) + half < margin
    assert is_called.mean() <= 0.05 + 2 * np.sqrt(0.05 / n_studies)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((0, 3)), np.array([[1.0, np.nan]])])
def test_what_has_no_errors_is_refused(values: np.ndarray) -> None:
    with pytest.raises(InputError):
        two_errors(values)
