"""Pairs whose probability is known: against loops over the formulas, and against the truth itself."""

import math

import numpy as np
import pytest

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.calibration import expected_calibration_error, measure_calibration
from prefpipe.maths.statistics.known_pairs import (
    MEASURES,
    curve_of_pairs,
    measure_pairs,
    pairs_of_responses,
)
from prefpipe.maths.statistics.prompt_rows import PromptRows

GAMMA = 6.0


def sigma(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def some_responses(n_prompts: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Qualities, prompts and scores: two to five responses a prompt, some of one quality, in no order."""
    random = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(n_prompts), random.integers(2, 6, n_prompts))
    random.shuffle(prompts)
    qualities = random.integers(0, 5, len(prompts)) / 4
    scores = random.normal(size=len(prompts)) + 2 * qualities
    scores[np.flatnonzero(prompts == 0)[:2]] = 0.5  # a tie
    return qualities, prompts, scores


def test_every_measure_is_its_formula_pair_by_pair() -> None:
    q, prompts, s = some_responses()
    pairs = pairs_of_responses(q, prompts, 9, gamma=GAMMA)
    found = measure_pairs(s, pairs)
    assert tuple(found) == MEASURES
    assert len(pairs.first) == sum(math.comb(int(n), 2) for n in np.bincount(prompts))

    for prompt in range(9):
        rows = [row for row in range(len(q)) if prompts[row] == prompt]
        losses, entropies, briers, accuracies, agreements = [], [], [], [], []
        for place, i in enumerate(rows):
            for j in rows[place + 1 :]:
                p, predicted = sigma(GAMMA * (q[i] - q[j])), sigma(s[i] - s[j])
                right = 0.5 if s[i] == s[j] else float(s[i] > s[j])
                losses.append(-p * math.log(predicted) - (1 - p) * math.log(1 - predicted))
                entropies.append(-p * math.log(p) - (1 - p) * math.log(1 - p))
                briers.append((predicted - p) ** 2)
                accuracies.append(p * right + (1 - p) * (1 - right))
                if q[i] != q[j]:
                    agreements.append(right if q[i] > q[j] else 1 - right)
        assert found["log_loss"][prompt] == pytest.approx(np.mean(losses), abs=1e-12)
        excess = np.mean(losses) - np.mean(entropies)
        assert found["excess_log_loss"][prompt] == pytest.approx(excess, abs=1e-12)
        assert found["brier"][prompt] == pytest.approx(np.mean(briers), abs=1e-12)
        assert found["accuracy"][prompt] == pytest.approx(np.mean(accuracies), abs=1e-12)
        if agreements:
            assert found["agreement"][prompt] == pytest.approx(np.mean(agreements), abs=1e-12)
        else:
            assert math.isnan(found["agreement"][prompt])


def test_nothing_is_better_than_the_truth() -> None:
    """Scores of gamma q have no excess loss and no calibration error; any other scale has both."""
    q, prompts, _ = some_responses(40)
    pairs = pairs_of_responses(q, prompts, 40, gamma=GAMMA)
    truth = measure_pairs(GAMMA * q, pairs)
    np.testing.assert_allclose(truth["excess_log_loss"], 0.0, atol=1e-12)
    np.testing.assert_allclose(truth["brier"], 0.0, atol=1e-15)
    assert expected_calibration_error(curve_of_pairs(GAMMA * q, pairs)) < 1e-12
    np.testing.assert_array_equal(truth["agreement"][~np.isnan(truth["agreement"])], 1.0)

    for scale in (2.0, 5.0, 7.0, 18.0):
        other = measure_pairs(scale * q, pairs)
        assert np.nanmean(other["excess_log_loss"]) > 1e-3
        assert expected_calibration_error(curve_of_pairs(scale * q, pairs)) > 1e-2
        # a wrong gamma is a wrong scale and no wrong order
        np.testing.assert_array_equal(other["agreement"], truth["agreement"])
        np.testing.assert_allclose(other["scaled_log_loss"], truth["log_loss"], atol=1e-6)


def test_scaled_losses_never_see_their_own_prompts() -> None:
    """A change of one half's scores moves that half's own values through the scores alone."""
    q, prompts, s = some_responses(12, seed=3)
    pairs = pairs_of_responses(q, prompts, 12, gamma=GAMMA)
    changed = np.where(prompts % 2 == 0, 3.0 * s, s)
    before, after = measure_pairs(s, pairs), measure_pairs(changed, pairs)
    even = np.arange(12) % 2 == 0
    # the odd half's temperature is fitted on the even half, and three times as high
    expected = measure_pairs(np.where(prompts % 2 == 0, s, s / 3.0), pairs)["scaled_log_loss"]
    np.testing.assert_allclose(after["scaled_log_loss"][~even], expected[~even], rtol=1e-9)
    assert not np.allclose(after["scaled_log_loss"][even], before["scaled_log_loss"][even])
    np.testing.assert_array_equal(after["log_loss"][~even], before["log_loss"][~even])


def test_calibration_error_is_that_of_all_pairs() -> None:
    q, prompts, s = some_responses(30, seed=1)
    pairs = pairs_of_responses(q, prompts, 30, gamma=GAMMA)
    d = s[pairs.first] - s[pairs.second]
    expected = measure_calibration(d, pairs.probabilities, n_bins=10)["ece_mass"]
    assert expected_calibration_error(curve_of_pairs(s, pairs)) == pytest.approx(expected)


def test_the_mean_over_prompts_is_the_calibration_error() -> None:
    """Prompts of two to five responses, ties, unequal scales, and with some scores missing."""
    for seed, scale in enumerate((0.3, 1.0, 4.0, 30.0)):
        q, prompts, s = some_responses(30, seed=seed)
        s = scale * s.round(1)
        pairs = pairs_of_responses(q, prompts, 30, gamma=GAMMA)
        for missing in ([], [4, 17]):
            s[missing] = np.nan
            known = ~np.isin(prompts[pairs.first], prompts[missing])
            of_known = pairs._replace(
                first=pairs.first[known],
                second=pairs.second[known],
                probabilities=pairs.probabilities[known],
                prompts=PromptRows(pairs.prompts.prompt_of_row[known], 30),
            )
            ece = expected_calibration_error(curve_of_pairs(s, of_known))
            assert np.nanmean(measure_pairs(s, of_known)["ece"]) == pytest.approx(ece, abs=1e-12)
            assert ece > 1e-3


def test_a_missing_score_takes_its_prompt_and_no_other() -> None:
    q, prompts, s = some_responses(9, seed=2)
    pairs = pairs_of_responses(q, prompts, 9, gamma=GAMMA)
    whole = measure_pairs(s, pairs)
    s[5] = np.nan
    found = measure_pairs(s, pairs)
    others = np.arange(9) != prompts[5]
    for name in MEASURES:
        assert math.isnan(found[name][prompts[5]]), name
        if name not in ("scaled_log_loss", "ece"):
            np.testing.assert_array_equal(found[name][others], whole[name][others])
    assert not np.isnan(found["scaled_log_loss"][others]).any()


def test_an_unknown_quality_is_in_no_pair() -> None:
    q, prompts = np.array([0.0, np.nan, 1.0]), np.zeros(3, dtype=np.int64)
    pairs = pairs_of_responses(q, prompts, 1, gamma=2.0)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [2])
    assert pairs.probabilities == pytest.approx([sigma(-2.0)])


def test_refusals() -> None:
    with pytest.raises(InputError, match="no pair"):
        pairs_of_responses(np.array([1.0, np.nan]), np.array([0, 0]), 1, gamma=6.0)
    with pytest.raises(InputError, match="no pair"):
        pairs_of_responses(np.array([1.0, 0.0]), np.array([0, 1]), 2, gamma=6.0)
    for gamma in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="gamma of the truth"):
            pairs_of_responses(np.array([1.0, 0.0]), np.array([0, 0]), 1, gamma=gamma)
    pairs = pairs_of_responses(np.array([1.0, 0.0]), np.array([0, 0]), 1, gamma=6.0)
    with pytest.raises(InputError):
        curve_of_pairs(np.array([np.nan, 1.0]), pairs)
