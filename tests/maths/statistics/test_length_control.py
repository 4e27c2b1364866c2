"""Length control: the published figures, what the fit must do on data where the truth is known, and
what it refuses."""

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit as sigmoid

import prefpipe
from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.length_control import (
    PENALTY_GRID,
    PartlyJudged,
    RegularisingRows,
    length_controlled_difference,
    length_controlled_win_rate,
)
from prefpipe.maths.statistics.winrate import win_rate

QUICK = Bootstrap(n_draws=1)


@cache
def alpaca(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, RegularisingRows]:
    """Annotations, baseline, published figures and the gamed baselines of AlpacaEval."""
    gamed = pl.read_parquet(folder / "alpaca_lc_gamed_surrogate.parquet")
    rows = RegularisingRows(
        gamed["preference_surrogate"], gamed["std_delta_len"], gamed["instruction_difficulty"]
    )
    candidates = pl.read_parquet(folder / "alpaca_candidates.parquet")
    known = pl.read_parquet(folder / "alpaca_leaderboard_known.parquet")
    return (
        candidates,
        pl.read_parquet(folder / "alpaca_baseline.parquet").sort("prompt_id"),
        known,
        rows,
    )


def inputs(folder: Path, model: str) -> dict[str, np.ndarray]:
    candidates, baseline, _, _ = alpaca(folder)
    rows = candidates.filter(pl.col("model") == model).sort("prompt_id")
    assert rows["prompt_id"].to_list() == baseline["prompt_id"].to_list()
    return {
        "preferences": rows["preference"].to_numpy(),
        "lengths": rows["response"].str.len_chars().to_numpy(),
        "baseline_lengths": baseline["response"].str.len_chars().to_numpy(),
        "difficulty": baseline["instruction_difficulty"].to_numpy(),
    }


@pytest.mark.slow
def test_published_figures_are_met_at_the_published_penalty(data_dir: Path) -> None:
    """Within 0.02 points, for the 12 models whose penalty is known."""
    _, _, known, regularising = alpaca(data_dir)
    for row in known.iter_rows(named=True):
        found = length_controlled_win_rate(
            **inputs(data_dir, row["model"]),
            regularising_rows=regularising,
            penalty_c=row["glm_C"],
            bootstrap=QUICK,
        )
        assert 100 * found.mean == pytest.approx(row["length_controlled_winrate"], abs=0.02), row[
            "model"
        ]


@pytest.mark.slow
def test_published_figures_are_met_with_a_penalty_of_our_own(data_dir: Path) -> None:
    """Within 0.25 points; the folds are other ones, so that one of the 12 penalties is."""
    _, _, known, regularising = alpaca(data_dir)
    n_same = 0
    for row in known.iter_rows(named=True):
        found = length_controlled_win_rate(
            **inputs(data_dir, row["model"]), regularising_rows=regularising, bootstrap=QUICK
        )
        assert found.penalty_from == "cross-validation"
        assert 100 * found.mean == pytest.approx(row["length_controlled_winrate"], abs=0.25), row[
            "model"
        ]
        n_same += np.isclose(found.penalty_c, row["glm_C"], rtol=1e-6)
    assert n_same >= 11


@pytest.mark.slow
def test_all_models_of_the_data_can_be_fitted(data_dir: Path) -> None:
    """32 models: every figure a share, every error positive, and higher raw rates go with higher
    controlled ones."""
    candidates, _, _, regularising = alpaca(data_dir)
    raw, controlled = [], []
    for model in candidates["model"].unique().sort():
        given = inputs(data_dir, model)
        found = length_controlled_win_rate(**given, regularising_rows=regularising, bootstrap=QUICK)
        assert 0 < found.mean < 1
        assert 0 < found.se < 0.05
        raw.append(win_rate(given["preferences"], bootstrap=QUICK).mean)
        controlled.append(found.mean)
    assert len(raw) == 32
    assert np.corrcoef(np.argsort(np.argsort(raw)), np.argsort(np.argsort(controlled)))[0, 1] > 0.8


@pytest.mark.slow
def test_the_error_is_that_of_the_bootstrap(data_dir: Path) -> None:
    """The delta method against 300 refits, which know nothing of it."""
    _, _, _, regularising = alpaca(data_dir)
    given = inputs(data_dir, "claude-2")
    found = length_controlled_win_rate(
        **given, regularising_rows=regularising, penalty_c=2.8, bootstrap=Bootstrap(n_draws=300)
    )
    assert found.se == pytest.approx(found.draws.std(ddof=1), rel=0.12)


def test_the_error_of_the_predictions_is_the_published_one(data_dir: Path) -> None:
    """AlpacaEval publishes 0.6669 and 0.6406 as lc_standard_error of these two, in points; the
    error of the figure is twice that."""
    _, _, _, regularising = alpaca(data_dir)
    for model, published in (
        ("FuseChat-Llama-3.1-8B-Instruct", 0.6668876),
        ("FuseChat-Llama-3.2-1B-Instruct", 0.6406637),
    ):
        found = length_controlled_win_rate(
            **inputs(data_dir, model),
            regularising_rows=regularising,
            penalty_c=2.7825594,
            bootstrap=QUICK,
        )
        assert 100 * found.prediction_se == pytest.approx(published, abs=1e-4)
        assert found.se > 2 * found.prediction_se


def made(
    n: int = 400, *, quality: float = 0.3, per_char: float = 0.002, seed: int = 0
) -> dict[str, np.ndarray]:
    """Preferences of a judge that likes ``quality`` and length, for a policy that writes 200
    characters more."""
    rng = np.random.default_rng(seed)
    baseline_lengths = rng.integers(300, 1500, size=n)
    lengths = np.maximum(baseline_lengths + rng.normal(200, 300, size=n).round(), 1)
    preferences = sigmoid(
        quality + per_char * (lengths - baseline_lengths) + rng.normal(0, 0.3, size=n)
    )
    return {"preferences": preferences, "lengths": lengths, "baseline_lengths": baseline_lengths}


def test_a_judge_that_likes_length_is_seen_through() -> None:
    """At equal lengths this judge prefers the policy with sigmoid(0.3) = 0.574; raw it is far more,
    for 200 characters more."""
    given = made()
    raw = win_rate(given["preferences"], bootstrap=QUICK).mean
    found = length_controlled_win_rate(**given)
    assert raw > 0.63
    assert found.mean == pytest.approx(sigmoid(0.3), abs=0.02)
    assert found.low < sigmoid(0.3) < found.high
    assert found.length_coefficient < 0  # t falls as the policy's response grows
    assert (found.mean_length, found.mean_baseline_length) == (
        given["lengths"].mean(),
        given["baseline_lengths"].mean(),
    )
    assert found.share_longer == pytest.approx(
        (given["lengths"] > given["baseline_lengths"]).mean()
    )


def test_swapping_the_sides_gives_one_minus_it() -> None:
    """Without difficulty and regularising rows the fit is odd: theta turns its sign."""
    given = made()
    back = length_controlled_win_rate(
        1 - given["preferences"],
        given["baseline_lengths"],
        given["lengths"],
        penalty_c=5.0,
        bootstrap=QUICK,
    )
    forth = length_controlled_win_rate(**given, penalty_c=5.0, bootstrap=QUICK)
    assert back.mean == pytest.approx(1 - forth.mean, abs=1e-9)
    assert back.se == pytest.approx(forth.se, abs=1e-9)


def test_equal_lengths_give_the_raw_rate() -> None:
    given = made() | {"lengths": made()["baseline_lengths"]}
    found = length_controlled_win_rate(**given, penalty_c=1e8, bootstrap=QUICK)
    raw = win_rate(given["preferences"], bootstrap=QUICK)
    assert found.mean == pytest.approx(raw.mean, abs=1e-6)
    assert found.se == pytest.approx(raw.se, rel=1e-4)


def test_another_unit_of_length_changes_nothing() -> None:
    given = made()
    ten = given | {
        "lengths": 10 * given["lengths"],
        "baseline_lengths": 10 * given["baseline_lengths"],
    }
    assert length_controlled_win_rate(**ten, bootstrap=QUICK).mean == pytest.approx(
        length_controlled_win_rate(**given, bootstrap=QUICK).mean, abs=1e-12
    )


def test_rows_repeated_within_their_prompt_change_nothing() -> None:
    """Twice the rows are not twice the evidence: figure, error, interval and penalty stay."""
    given = made(60) | {"difficulty": np.random.default_rng(4).normal(size=60)}
    rows = RegularisingRows([0.3, 0.4], [2.0, -2.0], [0.0, 1.0])
    twice = {name: np.repeat(values, 2) for name, values in given.items()}
    draws = Bootstrap(n_draws=50)
    once = length_controlled_win_rate(
        **given, regularising_rows=rows, bootstrap=draws, penalty_c=3.0
    )
    again = length_controlled_win_rate(
        **twice,
        prompt_ids=np.repeat(np.arange(60), 2).tolist(),
        regularising_rows=rows,
        bootstrap=draws,
        penalty_c=3.0,
    )
    # std with ddof 1 of twice the rows is a little smaller, and nothing else differs
    assert again.mean == pytest.approx(once.mean, abs=1e-4)
    assert again.se == pytest.approx(once.se, rel=1e-2)
    assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=1e-3)
    assert again.n == once.n == 60
    naive = length_controlled_win_rate(
        **twice, regularising_rows=rows, bootstrap=draws, penalty_c=3.0
    )
    assert naive.se < 0.8 * once.se


def test_the_result_says_what_was_left_out() -> None:
    given = made(50)
    plain = length_controlled_win_rate(**given, bootstrap=QUICK)
    assert plain.name == "length-controlled win rate without difficulty term and regularising rows"
    assert plain.difficulty_coefficient is None
    assert (plain.penalty_c, plain.penalty_from) == (1e4, "default")
    rows = RegularisingRows([0.3, 0.4], [2.0, -2.0])
    assert length_controlled_win_rate(
        **given, regularising_rows=rows, bootstrap=QUICK
    ).name.endswith("without difficulty term")
    full = length_controlled_win_rate(
        **given,
        difficulty=np.linspace(-1, 1, 50),
        regularising_rows=rows._replace(difficulty=[0.0, 1.0]),
        bootstrap=QUICK,
    )
    assert full.name == "length-controlled win rate"
    assert full.penalty_c in PENALTY_GRID
    assert set(full.figures()) >= {"name", "mean", "se", "penalty_c", "penalty_from"}
    assert "draws" not in full.figures()


def test_a_penalty_that_leaves_nothing_has_no_error() -> None:
    """50 % by the penalty's doing is not 50 % without doubt."""
    found = length_controlled_win_rate(**made(50), penalty_c=1e-6, bootstrap=QUICK)
    assert found.mean == 0.5
    assert np.isnan(found.se)


def test_the_interval_follows_the_seed() -> None:
    given = made(50)
    first, again, other = (
        length_controlled_win_rate(**given, bootstrap=Bootstrap(0.9, 40, seed))
        for seed in (1, 1, 2)
    )
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)
    assert first.level == 0.9


@pytest.mark.slow
def test_a_length_controlled_difference_is_paired_by_prompt() -> None:
    """The same judge on the same prompts: a policy with more quality, whose noise is the
    other's."""
    first, second = made(quality=0.0), made(quality=0.2)
    one, two = length_controlled_win_rate(**first), length_controlled_win_rate(**second)
    found = length_controlled_difference(one, two)
    assert found.mean == pytest.approx(two.mean - one.mean)
    assert found.mean == pytest.approx(sigmoid(0.2) - 0.5, abs=0.02)
    assert found.se < 0.5 * np.hypot(one.se, two.se)
    assert found.low < found.mean < found.high
    with pytest.raises(InputError, match="prompts: 400 and 50"):
        length_controlled_difference(one, length_controlled_win_rate(**made(50)))


def test_too_few_prompts_for_folds_say_so() -> None:
    given = {name: values[:4] for name, values in made(50).items()}
    with pytest.raises(InputError, match="4 prompts are too few for 5 folds"):
        length_controlled_win_rate(**given, difficulty=[0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": [1.0, 2.0]}, r"lengths of shape \(2,\) for 3 preferences"),
        ({"baseline_lengths": [1.0, np.nan, 2.0]}, "baseline lengths: row 1 holds nan"),
        ({"difficulty": [0.0, 0.0]}, r"difficulties of shape \(2,\) for 3 preferences"),
        ({"preferences": [0.5, np.nan, 0.5]}, "the preference in row 1 is NaN"),
        (
            {"preferences": [1.0, 2.0, 1.5]},
            r"the preference in row 1 is 2; preferences must be in \[0, 1\]",
        ),
        ({"lengths": [11.0, 21.0, 31.0]}, "differ from the baseline's by 1 in every row"),
        (
            {"lengths": ["9", "long", "33"]},
            "lengths must be numbers: could not convert string to float: 'long'",
        ),
        (
            {"prompt_ids": ["a", "a", "a"]},
            "1 prompts have a preference; a length-controlled win rate needs at least 2",
        ),
        ({"prompt_ids": ["a"]}, "1 prompt ids for 3 preferences"),
        (
            {"difficulty": [0.0, 1.0, 2.0], "regularising_rows": RegularisingRows([0.5], [1.0])},
            "regularising rows do not",
        ),
        (
            {"regularising_rows": RegularisingRows([0.5], [1.0, 2.0])},
            "regularising length differences of shape",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message) -> None:
    given = {
        "preferences": [0.1, 0.5, 0.9],
        "lengths": [9.0, 25.0, 33.0],
        "baseline_lengths": [10.0, 20.0, 30.0],
    }
    with pytest.raises(InputError, match=message):
        length_controlled_win_rate(**(given | change))


def test_a_penalty_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="penalty_c is 0"):
        length_controlled_win_rate(**made(50), penalty_c=0.0)


def test_length_control_is_public() -> None:
    assert prefpipe.length_controlled_win_rate is length_controlled_win_rate
    assert prefpipe.win_rate is win_rate


def test_rows_without_a_preference_are_predicted_and_not_fitted_to():
    """AlpacaEval's estimand, step by step: std over all rows, the fit over the judged, the mean of
    all predictions."""
    rng = np.random.default_rng(4)
    lengths, baseline, difficulty = (
        rng.integers(50, 900, 60),
        rng.integers(50, 900, 60),
        rng.normal(size=60),
    )
    preferences = sigmoid((lengths - baseline) / 300 + rng.normal(size=60))
    preferences[[3, 10, 59]] = np.nan
    lengths[59] = 4_000  # a response that was not judged still spreads the lengths
    found = length_controlled_win_rate(
        PartlyJudged(preferences), lengths, baseline, difficulty, penalty_c=50.0, bootstrap=QUICK
    )
    delta = (baseline - lengths).astype(float)
    features = np.stack([np.tanh(delta / delta.std(ddof=1)), difficulty, np.ones(60)], axis=1)
    theta = np.array(
        [found.length_coefficient, found.difficulty_coefficient, found.model_coefficient]
    )
    judged = ~np.isnan(preferences)

    # The least of sum CE(y_i, P_i) + |theta| / C over the judged rows: its gradient is 0 where
    # theta is not.
    assert (theta != 0.0).all()
    residual = 1.0 / (1.0 + np.exp(-features[judged] @ theta)) - preferences[judged]
    assert features[judged].T @ residual + np.sign(theta) / 50.0 == pytest.approx(
        np.zeros(3), abs=1e-5
    )

    expected = (1.0 / (1.0 + np.exp(-(theta[1] * difficulty + theta[2])))).mean()
    assert found.mean == pytest.approx(expected, abs=1e-12)
    assert (found.n, found.n_missing) == (60, 3)
    alone = length_controlled_win_rate(
        preferences[judged],
        lengths[judged],
        baseline[judged],
        difficulty[judged],
        penalty_c=50.0,
        bootstrap=QUICK,
    )
    assert abs(alone.mean - found.mean) > 1e-4


def test_a_missing_preference_is_refused_unless_it_is_said_and_two_must_be_there():
    values, lengths, others = [0.2, np.nan, 0.9], [3, 4, 5], [4, 3, 9]
    with pytest.raises(InputError, match="the preference in row 1 is NaN, one of 1") as refused:
        length_controlled_win_rate(values, lengths, others)
    assert "PartlyJudged" in refused.value.hint
    with pytest.raises(
        InputError, match=r"the preference in row 0 is 1.5; preferences must be in \[0, 1\]"
    ):
        length_controlled_win_rate(PartlyJudged([1.5, np.nan, 0.9]), lengths, others)
    with pytest.raises(InputError, match="1 prompts have a preference"):
        length_controlled_win_rate(PartlyJudged([0.2, np.nan, np.nan]), lengths, others)


def test_folds_skip_what_has_no_preference():
    """Cross-validation chooses the C that it chooses without the missing rows, where these do not
    move the lengths' spread."""
    rng = np.random.default_rng(9)
    delta, difficulty, preferences = (
        np.tile([-30.0, 30.0], 20),
        rng.normal(size=40),
        rng.uniform(size=40),
    )
    delta[1::2] = 30.0
    missing = np.zeros(40, dtype=bool)
    missing[[4, 5, 20, 21]] = True
    whole = length_controlled_win_rate(
        PartlyJudged(np.where(missing, np.nan, preferences)),
        100 - delta,
        np.full(40, 100),
        difficulty,
        bootstrap=QUICK,
    )
    kept = length_controlled_win_rate(
        preferences[~missing],
        100 - delta[~missing],
        np.full(36, 100),
        difficulty[~missing],
        bootstrap=QUICK,
    )
    assert whole.penalty_c == kept.penalty_c
    assert whole.model_coefficient == pytest.approx(kept.model_coefficient, abs=2e-2)
