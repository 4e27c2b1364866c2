"""What the self-test of a reward model lets pass, warns of and refuses."""

import math

import pytest

from prefpipe.backends.scorers.padding_self_test import EXACT, ROUNDED, judge_padding

ALONE = [0.0, 1.0, 2.0, 4.0]
SPREAD = 4.0


def moved(by):
    return [ALONE[0] + by, *ALONE[1:]]


@pytest.mark.parametrize(("exact", "tolerance"), [(True, EXACT), (False, ROUNDED)])
def test_differences_pass_warn_or_refuse_by_their_share_of_the_spread(exact, tolerance):
    verdicts = [
        judge_padding(ALONE, moved(-share * SPREAD), exact=exact)
        for share in (0.0, 0.9 * tolerance.warn, 1.1 * tolerance.warn, 1.1 * tolerance.refuse)
    ]
    assert [bool(verdict.problem) for verdict in verdicts] == [False, False, True, True]
    assert [verdict.fatal for verdict in verdicts] == [False, False, False, True]


def test_a_flip_of_rows_that_lie_apart_is_refused():
    alone = [0.0, 0.1 * SPREAD, 2.0, SPREAD]
    verdict = judge_padding(alone, [0.06 * SPREAD, 0.05 * SPREAD, 2.0, SPREAD], exact=False)
    assert verdict.fatal
    assert verdict.problem.startswith(
        "padding changes which of two conversations scores higher; padding moves scores by up "
        "to 0.06"
    )


def test_a_flip_of_rows_that_are_as_good_as_equal_is_rounding():
    assert judge_padding([0.0, 1e-6, 2.0, 4.0], [1e-6, 0.0, 2.0, 4.0], exact=True).problem is None


def test_equal_scores_for_different_conversations_are_refused():
    assert judge_padding([3.0] * 4, [3.0] * 4, exact=True).fatal
    assert judge_padding([0.0] * 4, [0.0] * 4, exact=True).problem.startswith(
        "four different conversations all score 0"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    assert judge_padding(ALONE, moved(bad), exact=True) == (
        judge_padding(ALONE, moved(bad), exact=True).problem,
        True,
    )
