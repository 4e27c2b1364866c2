"""Reward expressions over scorers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.rewards import FUNCTIONS, logit, parse_reward, standardise

CHECKS = np.array([0.0, 0.5, 1.0, 0.5])
MODEL = np.array([-3.0, 2.0, 8.0, 1.0])
COLUMNS = {"checks": CHECKS, "reward_model": MODEL}


def z(x):
    return (x - x.mean()) / x.std()


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("checks", ("checks",), CHECKS),
        ("z(checks) + 0.5*reward_model", ("checks", "reward_model"), z(CHECKS) + 0.5 * MODEL),
        ("z(checks + reward_model)", ("checks", "reward_model"), z(CHECKS + MODEL)),
        ("checks - reward_model - 1", ("checks", "reward_model"), (CHECKS - MODEL) - 1),
        ("checks - (reward_model - 1)", ("checks", "reward_model"), CHECKS - (MODEL - 1)),
        ("checks + 2 * reward_model", ("checks", "reward_model"), CHECKS + (2 * MODEL)),
        ("reward_model / 4 / 2", ("reward_model",), (MODEL / 4) / 2),
        ("-reward_model", ("reward_model",), -MODEL),
        ("-(+checks)", ("checks",), -CHECKS),
        ("1e-1 * checks", ("checks",), 0.1 * CHECKS),
        (
            "min(checks, reward_model, 0.25)",
            ("checks", "reward_model"),
            np.minimum(np.minimum(CHECKS, MODEL), 0.25),
        ),
        ("max(checks, reward_model)", ("checks", "reward_model"), np.maximum(CHECKS, MODEL)),
        ("clip(reward_model, -1, 2)", ("reward_model",), np.array([-1.0, 2.0, 2.0, 1.0])),
        ("logit(clip(checks, 0.1, 0.8))", ("checks",), np.log([1 / 9, 1.0, 4.0, 1.0])),
        ("  checks\n", ("checks",), CHECKS),
        ("bin(reward_model, 3, -4, 8)", ("reward_model",), np.array([-4.0, 2.0, 8.0, 2.0])),
    ],
)
def test_an_expression_is_worth_its_formula(text, names, expected):
    expression = parse_reward(text)
    assert expression.names == names
    assert expression.evaluate(COLUMNS) == pytest.approx(expected)


def test_a_missing_value_is_missing_for_its_candidate_alone():
    """z takes mean and deviation of the three others."""
    holed = np.array([0.0, np.nan, 1.0, 0.5])
    known = holed[[0, 2, 3]]
    rewards = parse_reward("z(a) + 2 * b").evaluate({"a": holed, "b": MODEL})
    assert np.isnan(rewards).tolist() == [False, True, False, False]
    assert rewards[[0, 2, 3]] == pytest.approx(z(known) + 2 * MODEL[[0, 2, 3]])


@pytest.mark.parametrize(
    "text",
    [
        "min(a, 0)",
        "max(0, a)",
        "clip(a, 0, 1)",
        "0 * a",
        "-a",
        "logit(a)",
        "z(a)",
        "bin(a, 3, 0, 1)",
    ],
)
def test_no_function_invents_a_missing_value(text):
    rewards = parse_reward(text).evaluate({"a": np.array([0.5, np.nan, 0.25])})
    assert np.isnan(rewards).tolist() == [False, True, False]


def test_z_of_equal_values_is_zero_also_within_rounding():
    """The mean of three 0.1 is not 0.1 in binary; dividing that dust by itself would make +-1 of
    it."""
    for flat in ([0.1, 0.1, 0.1], [0.1 + 0.2, 0.3, 0.3], [7.0], [1e6, 1e6]):
        assert standardise(np.array(flat)).tolist() == [0.0] * len(flat)


def test_z_leaves_out_what_is_not_finite():
    assert standardise(np.array([1.0, np.inf, 3.0, np.nan])) == pytest.approx(
        [-1.0, np.nan, 1.0, np.nan], nan_ok=True
    )
    assert np.isnan(standardise(np.array([np.nan, np.nan]))).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_z_has_mean_zero_and_deviation_one_or_zero(values):
    scores = standardise(np.array(values))
    assert abs(scores.mean()) < 1e-3
    assert scores.std() == pytest.approx(1.0, abs=1e-3) or not scores.any()


def test_evaluation_leaves_the_columns_alone():
    rewards = parse_reward("checks").evaluate(COLUMNS)
    rewards += 1
    assert CHECKS.tolist() == [0.0, 0.5, 1.0, 0.5]


def test_division_by_zero_is_not_finite_and_not_an_error():
    rewards = parse_reward("b / a").evaluate(
        {"a": np.array([0.0, 0.0, 2.0]), "b": np.array([1.0, 0.0, 1.0])}
    )
    assert rewards.tolist()[0] == np.inf
    assert np.isnan(rewards[1])
    assert rewards[2] == 0.5


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 7.0])
def test_logit_off_its_domain_is_refused(value):
    with pytest.raises(UsageError, match=f"logit of {value:g}"):
        logit(np.array([0.5, value]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read at column"),
        ("z(checks", "cannot be read at column 2: '\\(' was never closed"),
        ("checks +", "cannot be read at column"),
        ("3 + 4", "names no scorer"),
        ("checks ** 2", "has 'checks \\*\\* 2', which is not part of the grammar, at column 1"),
        ("1 + checks % 2", "has 'checks % 2', which is not part of the grammar, at column 5"),
        ("checks > 1", "has 'checks > 1', which is not part"),
        ("checks if checks else 0", "which is not part of the grammar"),
        ("a.b", "has 'a.b', which is not part"),
        ("a[0]", "has 'a\\[0\\]', which is not part"),
        ("lambda: a", "which is not part of the grammar"),
        ("__import__('os')", "calls '__import__', which is not a function, at column 1"),
        ("  1 + exp(a)", "calls 'exp', which is not a function, at column 7"),
        ("a.min(1)", "calls 'a.min', which is not a function"),
        ("'a' + b", "has 'a', which is not a number, at column 1"),
        ("True * a", "has True, which is not a number"),
        ("2j * a", "has 2j, which is not a number"),
        ("1e999 * a", "has a number that is too large at column 1"),
        ("1" * 400 + "*a", "has a number that is too large"),
        ("z + 1", "uses the function z as a scorer at column 1"),
        ("z(a, b)", "gives z 2 arguments, not 1, at column 1"),
        ("min(a)", "gives min 1 arguments, not 2 or more, at column 1"),
        ("clip(a, 0)", "gives clip 2 arguments, not 3, at column 1"),
        ("clip(a, low=0, high=1)", "gives clip named or starred arguments"),
        ("max(*a)", "gives max named or starred arguments"),
        ("-" * 200 + "a", "is nested deeper than 100 operators"),
        ("(" * 5000 + "a" + ")" * 5000, "cannot be read"),
        ("a\0b", "cannot be read"),
        ("a; b", "cannot be read at column 2"),
        ("not a", "which is not part of the grammar"),
        ("bin(a, 5)", "gives bin 2 arguments, not 4, at column 1"),
        ("bin(a, 1, 1, 10)", "gives bin 1 levels, not a whole number of at least 2 at column 1"),
        ("bin(a, 2.5, 1, 10)", "gives bin 2.5 levels, not a whole number"),
        ("bin(a, -3, 1, 10)", "gives bin -3 levels, not a whole number"),
        ("2 + bin(a, 5, 10, 1)", "gives bin a scale from 10 to 1, .* at column 5"),
        ("bin(a, 5, 1, 1)", "gives bin a scale from 1 to 1, whose lower end comes first"),
        ("bin(a, b, 1, 10)", "gives bin more than one argument that is not a number"),
        ("bin(a, 2 + 3, 1, 10)", "gives bin more than one argument that is not a number"),
        (f"bin(a, {'1' * 400}, 1, 10)", "has a number that is too large"),
        ("bin(a, 1e999, 1, 10)", "has a number that is too large"),
    ],
)
def test_anything_else_is_refused_with_its_place(text, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_reward(text)
    assert "z, logit, min, max, clip" in caught.value.hint


@given(st.text(alphabet="ab01.+-*/()%,z mincl\n\0é", max_size=30))
def test_no_text_makes_anything_but_an_expression_or_a_usage_error(text):
    try:
        expression = parse_reward(text)
    except UsageError:
        return
    assert expression.names
    assert not set(expression.names) & set(FUNCTIONS)


def test_a_scorer_without_scores_is_named_with_those_there_are():
    with pytest.raises(UsageError, match="names a scorer without scores: judge") as caught:
        parse_reward("judge + checks").evaluate(COLUMNS)
    assert caught.value.hint == "scorers: checks, reward_model"


@pytest.mark.parametrize("other", [np.zeros(3), np.zeros((4, 1)), np.float64(1.0)])
def test_columns_of_different_shapes_are_refused(other):
    with pytest.raises(InputError, match="must have one shape: checks"):
        parse_reward("checks + other").evaluate({"checks": CHECKS, "other": other})


def nearest(x, levels):
    """By looking at each level; halfway the higher one, which comes last."""
    return min(reversed(levels), key=lambda level: abs(x - level))


@pytest.mark.parametrize("n_levels", [2, 3, 5, 7, 10, 19])
def test_bin_is_the_nearest_level_of_a_scale_with_both_ends(n_levels):
    levels = [1 + 9 * k / (n_levels - 1) for k in range(n_levels)]
    halves = [(low + high) / 2 for low, high in pairwise(levels)]
    ratings = np.array([*range(1, 11), *np.linspace(1, 10, 181), *levels, *halves])
    expression = parse_reward(f"bin(a, {n_levels}, 1, 10)")
    found = expression.evaluate({"a": ratings})
    assert found == pytest.approx([nearest(x, levels) for x in ratings])
    assert len(set(found.round(9))) == n_levels
    assert expression.evaluate({"a": found}) == pytest.approx(found)


def test_ten_levels_leave_ratings_of_1_to_10_as_they_are():
    ratings = np.arange(1.0, 11.0)
    assert parse_reward("bin(a, 10, 1, 10)").evaluate({"a": ratings}).tolist() == ratings.tolist()


@given(st.lists(st.floats(1, 10), min_size=1, max_size=9), st.integers(2, 12))
def test_bin_never_turns_two_ratings_round_and_moves_none_by_more_than_half_a_step(values, n):
    values = np.sort(values)
    found = parse_reward(f"bin(a, {n}, 1, 10)").evaluate({"a": values})
    assert (np.diff(found) >= 0).all()
    assert np.abs(found - values).max() <= 4.5 / (n - 1) + 1e-6
    reversed_scale = parse_reward(f"bin(-a, {n}, -10, -1)").evaluate({"a": values})
    halfway = np.abs((values - 1) * (n - 1) / 9 % 1 - 0.5) < 1e-6
    assert -reversed_scale[~halfway] == pytest.approx(found[~halfway])


def test_halfway_is_the_higher_level_whatever_rounding_did():
    """0.7 - 0.4 falls short of 0.3, 0.8 - 0.5 is beyond it."""
    columns = {"a": np.array([0.7, 0.8, 0.3]), "b": np.array([0.4, 0.5, 0.0])}
    assert np.ptp(columns["a"] - columns["b"]) > 0
    found = parse_reward("bin(a - b, 2, 0, 0.6)").evaluate(columns)
    assert found == pytest.approx([0.6] * 3)


@pytest.mark.parametrize("value", [0.0, 10.5, np.inf, -np.inf, 73.0])
def test_bin_of_a_value_outside_the_scale_is_refused(value):
    with pytest.raises(
        UsageError, match=rf"bin of {value:g}: the scale runs from 1 to 10"
    ) as caught:
        parse_reward("bin(a, 5, 1, 10)").evaluate({"a": np.array([3.0, value, np.nan])})
    assert "clip first" in caught.value.hint


def test_z_of_huge_rewards_keeps_their_order():
    """Squares of 1e200 would be infinite, and every z zero: a tie that is none."""
    scores = parse_reward("z(a)").evaluate({"a": np.array([1e149, 1.0, 2.0, 1e200])})
    assert scores[3] == pytest.approx(np.sqrt(3.0))
    assert scores[:3] == pytest.approx([-1 / np.sqrt(3.0)] * 3)
