"""The detectable difference is found with the power that it says, before the run and by what was found."""

import numpy as np
import pytest

from prefpipe.errors import UsageError
from prefpipe.maths.statistics.detectable import (
    DifferenceError,
    Spreads,
    detectable_difference,
    error_before,
    error_found,
    spread_of_samples,
    spreads_of,
)
from prefpipe.maths.statistics.t_tests import p_of_difference
from prefpipe.maths.statistics.two_errors import TwoErrors, two_errors

SPREADS = {
    "prompts": Spreads(0.0, 0.10, 0.2),
    "both": Spreads(0.02, 0.10, 0.2),
    "seeds": Spreads(0.04, 0.05, 0.1),
}


def differences(
    rng: np.random.Generator, spreads: Spreads, shape: tuple[int, int], mean: float = 0.0
) -> np.ndarray:
    n_seeds, n_prompts = shape
    return (
        mean
        + rng.normal(0, spreads.seeds, (n_seeds, 1))
        + rng.normal(0, spreads.prompts, n_prompts)
        + rng.normal(0, spreads.rest, shape)
    )


@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS.keys())
@pytest.mark.parametrize(("n_seeds", "n_tests"), [(1, 1), (3, 1), (3, 6), (5, 6)])
def test_a_difference_of_this_size_is_found_in_four_of_five_studies(
    spreads: Spreads, n_seeds: int, n_tests: int
) -> None:
    """1,200 studies of 40 prompts each: within three standard errors of 80 %."""
    if n_seeds == 1:
        # of one seed the test is of that seed: what others would differ by is not looked for
        spreads = spreads._replace(seeds=0.0)
    rng = np.random.default_rng(n_seeds)
    n_studies, n_found = 1200, 0
    size = detectable_difference(error_before(spreads, n_seeds, 40), n_tests=n_tests)
    for _ in range(n_studies):
        values = differences(rng, spreads, (n_seeds, 40), size)
        # p <= level, without looking for p
        n_found += abs(values.mean()) >= two_errors(values).half_width(0.05 / n_tests)
    assert n_found / n_studies == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / n_studies))


def test_the_half_width_and_p_say_the_same() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = differences(rng, SPREADS["both"], (3, 40), 0.05)
        errors = two_errors(values)
        is_off = abs(values.mean()) >= errors.half_width(0.05)
        assert (p_of_difference(values.mean(), errors) <= 0.05) == is_off


@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS.keys())
def test_what_was_found_is_on_the_whole_what_was_to_be_expected(spreads: Spreads) -> None:
    rng = np.random.default_rng(4)
    before = error_before(spreads, 4, 60)
    found = [error_found(differences(rng, spreads, (4, 60))) for _ in range(2000)]
    of_seeds = np.mean([each.errors.of_seeds for each in found])
    of_prompts = np.mean([each.errors.of_prompts for each in found])
    assert of_seeds == pytest.approx(before.errors.of_seeds, rel=0.08)
    assert of_prompts == pytest.approx(before.errors.of_prompts, rel=0.08)
    means = [differences(rng, spreads, (4, 60)).mean() for _ in range(4000)]
    assert np.std(means) == pytest.approx(before.sigma, rel=0.05)
    # above it, where the floor of a part holds
    assert 0.95 < np.mean([each.sigma**2 for each in found]) / before.sigma**2 < 1.25


def test_a_pilot_s_spreads_are_those_that_it_was_drawn_with() -> None:
    rng = np.random.default_rng(5)
    spreads = Spreads(0.05, 0.1, 0.2)
    found = np.array([spreads_of(differences(rng, spreads, (6, 80))) for _ in range(300)])
    assert np.sqrt((found**2).mean(axis=0)) == pytest.approx(spreads, rel=0.1)
    assert np.isnan(spreads_of(differences(rng, spreads, (1, 80))).seeds)


def test_more_of_anything_makes_it_smaller_and_more_tests_larger() -> None:
    spreads = SPREADS["both"]
    size = detectable_difference(error_before(spreads, 4, 100))
    assert detectable_difference(error_before(spreads, 5, 100)) < size
    assert detectable_difference(error_before(spreads, 4, 200)) < size
    assert detectable_difference(error_before(spreads._replace(rest=0.1), 4, 100)) < size
    assert detectable_difference(error_before(spreads, 4, 100), power=0.7) < size
    assert detectable_difference(error_before(spreads, 4, 100), n_tests=2) > size


def test_a_great_many_seeds_and_prompts_have_the_textbook_s_difference() -> None:
    """(1.960 + 0.842) sigma."""
    error = error_before(Spreads(0.1, 1.0, 0.0), 3000, 3000)
    assert detectable_difference(error) == pytest.approx(2.8016 * error.sigma, rel=0.002)


def test_samples_count_by_the_root_of_two_over_their_number() -> None:
    assert spread_of_samples(0.2, 2) == pytest.approx(0.2)
    assert spread_of_samples(0.2, 8) == pytest.approx(0.1)


def test_without_any_error_everything_is_found() -> None:
    assert detectable_difference(error_found(np.full((3, 5), 0.125))) == 0.0
    nothing = DifferenceError(np.nan, TwoErrors(np.nan, np.nan, 2, 1))
    assert np.isnan(detectable_difference(nothing))


@pytest.mark.parametrize(
    "make",
    [
        lambda: spread_of_samples(0.2, 0),
        lambda: spread_of_samples(-0.2, 1),
        lambda: error_before(Spreads(0, -0.1, 0), 3, 10),
        lambda: error_before(Spreads(np.nan, 0.1, 0), 3, 10),
        lambda: error_before(SPREADS["both"], 0, 10),
        lambda: error_before(SPREADS["both"], 3, 1),
        lambda: detectable_difference(error_before(SPREADS["both"], 3, 10), n_tests=0),
        lambda: detectable_difference(error_before(SPREADS["both"], 3, 10), power=1.0),
        lambda: detectable_difference(error_before(SPREADS["both"], 3, 10), alpha=0.9),
    ],
    ids=list(map(str, range(9))),
)
def test_what_makes_no_study_is_refused(make) -> None:
    with pytest.raises(UsageError):
        make()
