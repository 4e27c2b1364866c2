"""Grades of counts are the lines that their docstring promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.checks.counts import Words
from prefpipe.text.checks.grading import CheckedResponse, grade_count, passed


@given(st.integers(1, 500), st.integers(0, 2000))
def test_above_the_limit_the_grade_falls_linearly_to_zero_at_twice_the_limit(most, count):
    expected = 1.0 if count <= most else max(0.0, 2 - count / most)
    assert grade_count(count, None, most) == pytest.approx(expected)


@given(st.integers(1, 500), st.integers(0, 2000))
def test_below_the_limit_the_grade_is_the_share_reached(least, count):
    assert grade_count(count, least, None) == min(1.0, count / least)


@given(st.integers(1, 300), st.integers(0, 1000))
def test_an_exact_count_loses_its_relative_distance(wanted, count):
    assert grade_count(count, wanted, wanted) == pytest.approx(
        max(0.0, 1 - abs(count - wanted) / wanted)
    )


def test_a_limit_of_zero_knows_no_half_measures():
    assert (grade_count(0, None, 0), grade_count(1, None, 0)) == (1.0, 0.0)


def test_passed_grades_one_or_zero():
    assert (passed(True, "").score, passed(False, "").score) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max": 1}, "found 2, wanted at most 1"),
        ({"min": 3}, "found 2, wanted at least 3"),
        ({"min": 3, "max": 9}, "found 2, wanted 3 to 9"),
        ({"exactly": 4}, "found 2, wanted exactly 4"),
    ],
)
def test_the_reason_says_what_was_found_and_wanted(limits, reason):
    assert Words(**limits).grade(CheckedResponse("two words")).reason == reason


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "one of 'min', 'max', 'exactly' is needed"),
        ({"exactly": 1, "max": 2}, "'exactly' excludes 'min' and 'max'"),
        ({"min": 5, "max": 2}, "'min' 5 is above 'max' 2"),
        ({"max": -1}, r"max.*\n.*greater than or equal to 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        Words(**limits)
