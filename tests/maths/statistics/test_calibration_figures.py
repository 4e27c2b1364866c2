"""All figures of calibration of one set of pairs: the same as one by one, with intervals that hold
what they should."""

import json

import numpy as np
import pytest

from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.calibration import (
    FIGURES,
    Binning,
    calibration_by_gap,
    calibration_figures,
    measure_calibration,
    preference_curve,
    preference_probabilities,
    scale_temperature,
)

QUICK = Bootstrap(n_draws=200)


def drawn(n: int, *, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Differences (N,), and outcomes that come true as sigma(d / sharpness) says."""
    rng = np.random.default_rng(seed)
    d = rng.normal(scale=2.0, size=n)
    return d, (rng.random(n) < preference_probabilities(d / sharpness)).astype(float)


def test_the_figures_are_those_of_the_single_functions() -> None:
    d, y = drawn(300)
    prompts = np.arange(300) // 2
    found = calibration_figures(d, y, prompts, binning=Binning(8, 3, 0.4), bootstrap=QUICK)
    assert {name: found[name] for name in ("n_pairs", *FIGURES)} == measure_calibration(
        d, y, n_bins=8
    )
    for name, kind in (("reliability", "width"), ("reliability_mass", "mass")):
        curve = preference_curve(d, y, n_bins=8, binning=kind)
        assert [list(row) for row in found[name]] == [
            ["lower", "upper", "n", "predicted", "observed"]
        ] * len(curve.n)
        assert [tuple(row.values()) for row in found[name]] == list(
            zip(*(column.tolist() for column in curve), strict=True)
        )
    gaps = calibration_by_gap(d, y, n_gap_bins=3, n_bins=8)
    assert [
        {key: value for key, value in row.items() if key != "reliability"}
        for row in found["by_gap"]
    ] == gaps
    assert sum(each["n"] for row in found["by_gap"] for each in row["reliability"]) == 2 * 300
    assert found["temperature"] == scale_temperature(d, y, prompts, fit_share=0.4, seed=0, n_bins=8)
    assert found["n_prompts"] == 150


def test_the_ece_is_what_the_curve_says() -> None:
    d, y = drawn(500)
    found = calibration_figures(d, y, bootstrap=QUICK)
    for figure, name in (("ece", "reliability"), ("ece_mass", "reliability_mass")):
        total = sum(each["n"] for each in found[name])
        assert found[figure] == pytest.approx(
            sum(each["n"] * abs(each["observed"] - each["predicted"]) for each in found[name])
            / total
        )


@pytest.mark.slow
def test_intervals_of_calibration_are_over_prompts() -> None:
    """Every pair four times: the same figures and about the same errors where the prompt is told,
    half of them where not."""
    d, y = drawn(200)
    prompts = np.repeat(np.arange(200), 4)
    once = calibration_figures(d, y, bootstrap=QUICK)
    many = calibration_figures(np.repeat(d, 4), np.repeat(y, 4), prompts, bootstrap=QUICK)
    apart = calibration_figures(np.repeat(d, 4), np.repeat(y, 4), bootstrap=QUICK)
    for name in ("accuracy", "auc", "brier", "log_loss"):
        assert many[name] == pytest.approx(once[name])
        assert many["intervals"][name] == pytest.approx(once["intervals"][name])
        assert apart["intervals"][name]["se"] < 0.65 * once["intervals"][name]["se"]
        assert once["intervals"][name]["low"] < once[name] < once["intervals"][name]["high"]


@pytest.mark.slow
def test_the_interval_of_an_ece_is_not_pushed_up_by_resampling() -> None:
    """Of calibrated scores the true error is 0: a percentile interval lies wholly above it, this
    one reaches it."""
    d, y = drawn(2000)
    found = calibration_figures(d, y, bootstrap=QUICK)
    assert found["intervals"]["ece"]["low"] == 0.0
    assert found["intervals"]["ece"]["high"] < 2 * found["ece"]


@pytest.mark.slow
def test_overconfident_scores_get_the_temperature_that_made_them_so() -> None:
    d, y = drawn(4000, sharpness=3.0)
    fitted = calibration_figures(d, y, bootstrap=QUICK)["temperature"]
    assert fitted["temperature"] == pytest.approx(3.0, rel=0.15)
    assert fitted["after"]["log_loss"] < fitted["before"]["log_loss"]
    assert fitted["after"]["accuracy"] == fitted["before"]["accuracy"]


@pytest.mark.slow
def test_rater_gaps_are_binned_by_size_and_unknown_ones_left_out() -> None:
    d, y = drawn(60)
    gaps = np.tile([1.0, -1.0, 2.0 / 3.0, 1.0 - 1.0 / 3.0, np.nan, 0.0], 10)
    found = calibration_figures(d, y, rater_gaps=gaps, bootstrap=QUICK)["by_rater_gap"]
    assert [(row["gap_lower"], row["n_pairs"]) for row in found] == [
        (0.0, 10),
        (0.66667, 20),
        (1.0, 20),
    ]
    assert calibration_figures(d, y, bootstrap=QUICK)["by_rater_gap"] is None
    assert (
        calibration_figures(d, y, rater_gaps=np.full(60, np.nan), bootstrap=QUICK)["by_rater_gap"]
        is None
    )


def test_one_prompt_has_no_interval_and_no_temperature() -> None:
    found = calibration_figures([1.0, -0.5], 1.0, ["a", "a"], bootstrap=QUICK)
    assert np.isnan(found["intervals"]["accuracy"]["se"])
    assert found["temperature"]["temperature"] is None
    assert "1 prompts" in found["temperature"]["reason"]
    json.dumps(found)
