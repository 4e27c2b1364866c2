"""Calibration: against scikit-learn where it has the figure, against short formulas where it has
not."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.calibration import (
    TEMPERATURES,
    both_orders,
    brier_score,
    calibration_by_gap,
    expected_calibration_error,
    fit_temperature,
    measure_calibration,
    pair_accuracy,
    preference_curve,
    preference_log_loss,
    preference_probabilities,
    reliability_curve,
    roc_auc,
    scale_temperature,
)


def make_pairs(n=400, seed=0, scale=2.0):
    """Differences, and outcomes drawn with the probability sigma(scale * d): a scorer that is less
    sure than it should be."""
    random = np.random.default_rng(seed)
    d = random.normal(size=n)
    return d, (random.random(n) < 1 / (1 + np.exp(-scale * d))).astype(float)


def test_figures_are_those_of_scikit_learn():
    d, y = make_pairs()
    p = preference_probabilities(d)
    assert roc_auc(d, y) == pytest.approx(roc_auc_score(y, d), abs=1e-12)
    assert brier_score(p, y) == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert preference_log_loss(d, y) == pytest.approx(log_loss(y, p), abs=1e-12)
    observed, predicted = calibration_curve(y, p, n_bins=10)
    curve = reliability_curve(p, y)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)


def test_auc_with_ties_and_shares_is_that_of_weighted_items():
    """An item with the share y is a positive of weight y and a negative of weight 1 - y."""
    random = np.random.default_rng(1)
    d, y = random.integers(-3, 4, 50).astype(float), random.random(50)
    labels, weights = np.repeat([1, 0], 50), np.concatenate([y, 1 - y])
    assert roc_auc(d, y) == pytest.approx(
        roc_auc_score(labels, np.tile(d, 2), sample_weight=weights), abs=1e-12
    )
    assert math.isnan(roc_auc(d, np.ones(50)))


def test_both_orders_change_neither_accuracy_nor_brier_nor_log_loss():
    d, y = make_pairs()
    twice = both_orders(d, y)
    assert len(twice.differences) == 2 * len(d)
    assert pair_accuracy(*twice) == pytest.approx(pair_accuracy(d, y))
    assert brier_score(
        preference_probabilities(twice.differences), twice.outcomes
    ) == pytest.approx(brier_score(preference_probabilities(d), y))
    assert preference_log_loss(*twice) == pytest.approx(preference_log_loss(d, y))


def test_figures_do_not_depend_on_which_response_stands_first():
    d, y = make_pairs()
    turned = np.random.default_rng(3).random(len(d)) < 0.5
    other = measure_calibration(np.where(turned, -d, d), np.where(turned, 1 - y, y))
    assert other == pytest.approx(measure_calibration(d, y))


def test_equal_scores_are_half_right():
    """(1 + 1/2 + 0) / 3; with a share of 3/4, a right sign is right for 3/4 of the raters."""
    assert pair_accuracy([2.0, 0.0, -1.0]) == pytest.approx(0.5)
    assert pair_accuracy([2.0], [0.75]) == pytest.approx(0.75)
    assert pair_accuracy([-2.0], [0.75]) == pytest.approx(0.25)


def test_ece_is_its_formula_written_out():
    """Two pairs at p = 0.7, one of them lost: observed 1/2 in (0.6, 0.7] and its mirror image; one
    at 0.95, won."""
    d = np.log([0.69 / 0.31, 0.69 / 0.31, 0.95 / 0.05])
    curve = preference_curve(d, [1.0, 0.0, 1.0])
    np.testing.assert_allclose(curve.n, [1, 2, 2, 1])
    np.testing.assert_allclose(curve.observed, [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(curve.predicted, [0.05, 0.31, 0.69, 0.95])
    assert expected_calibration_error(curve) == pytest.approx((2 * 0.19 + 0.05) / 3)


def test_ece_in_both_orders_is_that_of_the_confidence():
    """10 bins over [0, 1] of pairs in both orders are 5 over the confidence in [1/2, 1] (Guo et al.
    2017)."""
    d, y = make_pairs()
    p = preference_probabilities(d)
    confidence, right = np.maximum(p, 1 - p), np.where(d > 0, y, 1 - y)
    bins = np.ceil((confidence - 0.5) * 10).astype(int)
    expected = sum(
        (bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean())
        for b in range(1, 6)
        if (bins == b).any()
    )
    assert measure_calibration(d, y)["ece"] == pytest.approx(expected)


def test_bins_of_equal_mass_hold_equal_numbers_and_mirror_each_other():
    d, y = make_pairs(n=500)
    curve = preference_curve(d, y, binning="mass")
    assert curve.n.tolist() == [100] * 10
    np.testing.assert_allclose(curve.lower, 1 - curve.upper[::-1])
    np.testing.assert_allclose(curve.observed, 1 - curve.observed[::-1])
    inside = (curve.predicted > curve.lower) & (curve.predicted < curve.upper)
    assert inside.all()


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_no_bin_tears_a_pair_from_its_mirror_image(binning):
    """``sigma(-d)`` and ``1 - sigma(d)`` differ in their last digits, and edges of equal mass lie
    on such numbers."""
    random = np.random.default_rng(0)
    for _ in range(300):
        n = random.integers(2, 30)
        d = random.choice(random.normal(size=n), n)
        curve = preference_curve(d, random.choice([0.0, 0.5, 1.0], n), binning=binning)
        assert curve.n.tolist() == curve.n[::-1].tolist()
        np.testing.assert_allclose(curve.predicted, 1.0 - curve.predicted[::-1], atol=1e-12)
        np.testing.assert_allclose(curve.observed, 1.0 - curve.observed[::-1], atol=1e-12)


def test_a_scorer_that_says_nothing_is_calibrated_and_worthless():
    """All differences 0: p = 1/2 and observed 1/2 on either side, log loss log 2, Brier 1/4."""
    figures = measure_calibration(np.zeros(7))
    assert figures == pytest.approx(
        {
            "n_pairs": 7,
            "accuracy": 0.5,
            "auc": 0.5,
            "ece": 0,
            "ece_mass": 0,
            "brier": 0.25,
            "log_loss": math.log(2),
        }
    )


def test_an_odd_number_of_bins_is_refused_because_it_hides_errors():
    """In a bin around 1/2 a pair meets its mirror image, and the observed share is 1/2 whatever
    happened."""
    with pytest.raises(UsageError, match="n_bins is 15; it must be even"):
        reliability_curve([0.5], [1.0], n_bins=15)
    with pytest.raises(UsageError, match="unknown binning 'height'"):
        reliability_curve([0.5], [1.0], binning="height")


def test_huge_differences_have_finite_figures():
    """At d = -1e4 sigma is 0 in float64; the log loss is 1e4 all the same."""
    assert preference_log_loss([-1e4, 1e4]) == pytest.approx(5e3)
    assert all(
        math.isfinite(value)
        for value in measure_calibration([-1e4, 1e4, 3.0], [1, 1, 0.5]).values()
    )


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_the_temperature_is_the_one_with_the_smallest_log_loss(scale):
    d, y = make_pairs(n=20_000, scale=scale)
    found = fit_temperature(d, y)
    best = minimize_scalar(
        lambda t: preference_log_loss(d, y, temperature=t), bounds=(0.05, 20), method="bounded"
    ).x
    assert found == pytest.approx(best, rel=1e-3)
    assert found == pytest.approx(1 / scale, rel=0.15)
    assert fit_temperature(*both_orders(d, y)) == pytest.approx(found)


def test_temperatures_end_at_the_limits():
    assert fit_temperature([1.0, 2.0]) == TEMPERATURES[0]
    assert fit_temperature([-1.0, -2.0]) == TEMPERATURES[1]
    assert fit_temperature([0.0, 0.0]) == TEMPERATURES[1]


def test_temperature_scaling_mends_the_prompts_it_was_not_fitted_on():
    d, y = make_pairs(n=4_000, scale=3.0)
    prompts = np.repeat(np.arange(400), 10)
    found = scale_temperature(d, y, prompts)
    assert found["n_fitted"] == 2_000
    assert found["before"]["n_pairs"] == found["after"]["n_pairs"] == 2_000
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    assert found["after"]["ece"] < 0.5 * found["before"]["ece"]
    assert found["after"]["accuracy"] == found["before"]["accuracy"]
    with pytest.raises(UsageError, match="leaves one side of the split empty"):
        scale_temperature(d[:10], y[:10], prompts[:10])


def test_by_gap_the_bins_hold_all_pairs_and_farther_pairs_are_easier():
    d, y = make_pairs(n=1000)
    rows = calibration_by_gap(d, y)
    assert [row["n_pairs"] for row in rows] == [250] * 4
    assert [row["gap_upper"] for row in rows[:-1]] < [row["gap_lower"] for row in rows[1:]]
    assert rows[0]["accuracy"] < rows[-1]["accuracy"]
    assert rows[-1]["confidence"] > 0.8
    two = calibration_by_gap(d, y, np.where(d > 0, 1.0, 2.0), n_gap_bins=2)
    assert [(row["gap_lower"], row["n_pairs"]) for row in two] == [
        (1.0, (d > 0).sum()),
        (2.0, (d <= 0).sum()),
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure_calibration([]), "there is no pair"),
        (lambda: measure_calibration([1.0, float("nan")]), "difference 1 is nan"),
        (lambda: measure_calibration([1.0], [1.0, 0.0]), "expected one of each per pair"),
        (lambda: measure_calibration([1.0], [1.5]), "outcome 0 is 1.5, outside 0 to 1"),
        (lambda: brier_score([1.2], [1.0]), "probability 0 is 1.2, outside 0 to 1"),
        (lambda: calibration_by_gap([1.0], 1.0, [1.0, 2.0]), "one finite number of each per pair"),
    ],
)
def test_pairs_that_cannot_be_measured_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
