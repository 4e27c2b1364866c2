"""Gamma by the raters' agreement: pairs by hand, the fit by its definition and on known truth."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from prefpipe.errors import UsageError
from prefpipe.maths.statistics.rater_agreement import (
    RatedPairs,
    gamma_of_agreement,
    gamma_of_point,
    rated_pairs,
)

NAN = float("nan")


def test_each_rater_meets_the_mean_of_the_others() -> None:
    """Three raters, two responses: rater 0 sees 4 - 2, raters 1 and 2 the means with rater 0's 5 - 1."""
    pairs = rated_pairs(np.array([[5.0, 4.0, 4.0], [1.0, 2.0, 2.0]]))
    assert pairs.gaps.tolist() == [2.0, 4.5 - 1.5, 4.5 - 1.5]
    assert pairs.outcomes.tolist() == [1.0, 1.0, 1.0]


def test_ties_are_a_half_and_what_nobody_else_rated_is_left_out() -> None:
    """Rater 1 has not rated the third response: only the first two are compared."""
    pairs = rated_pairs(np.array([[3.0, 7.0], [3.0, 9.0], [1.0, NAN]]))
    assert pairs.gaps.tolist() == [-2.0, 0.0]
    assert pairs.outcomes.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("ratings", [np.empty((0, 2)), np.ones((1, 3)), np.ones((4, 1))])
def test_there_is_no_pair_of_one_response_or_of_one_rater(ratings: np.ndarray) -> None:
    assert len(rated_pairs(ratings).gaps) == 0


def simulated(gamma: float, n: int = 40_000) -> RatedPairs:
    """Outcomes drawn from the target itself."""
    generator = np.random.default_rng(0)
    gaps = generator.integers(-9, 10, n) / 2.0
    return RatedPairs(gaps, (generator.random(n) < 1 / (1 + np.exp(-gamma * gaps))) * 1.0)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.1])
def test_the_gamma_that_drew_the_outcomes_is_found(gamma: float) -> None:
    agreed = gamma_of_agreement(simulated(gamma))
    assert agreed.gamma == pytest.approx(gamma, rel=0.04)
    assert agreed.n_pairs == 40_000


def test_it_is_the_least_cross_entropy() -> None:
    pairs = simulated(0.3, n=300)

    def entropy(gamma: float) -> float:
        x = gamma * pairs.gaps
        losses = pairs.outcomes * np.logaddexp(0, -x) + (1 - pairs.outcomes) * np.logaddexp(0, x)
        return float(losses.sum())

    best = minimize_scalar(entropy, bounds=(0.01, 5), method="bounded", options={"xatol": 1e-10})
    assert gamma_of_agreement(pairs).gamma == pytest.approx(best.x, rel=1e-5)


@pytest.mark.parametrize(
    ("gaps", "outcomes", "message"),
    [
        ([], [], "no two raters rated the same two responses differently"),
        ([0.0, 0.0], [1.0, 0.0], "no two raters rated the same two responses differently"),
        ([1.0, 2.0, -1.0], [1.0, 1.0, 0.0], "agree on every pair"),
        ([1.0, 2.0], [0.0, 0.0], r"agree on 0.0% of the pairs, no more than chance"),
    ],
)
def test_ratings_that_no_gamma_fits_are_refused(
    gaps: list[float], outcomes: list[float], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        gamma_of_agreement(RatedPairs(np.array(gaps), np.array(outcomes)))
    assert "--point-wins" in (caught.value.hint or "")


@pytest.mark.parametrize(("probability", "gamma"), [(0.75, math.log(3)), (0.9, math.log(9))])
def test_a_point_that_wins_so_often_is_its_log_odds(probability: float, gamma: float) -> None:
    assert gamma_of_point(probability) == pytest.approx(gamma)
