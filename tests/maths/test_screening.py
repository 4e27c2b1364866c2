"""Which candidates can be selected from, and why not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.screening import pool_verdict, screen_candidates, screen_margins


def test_every_reason_has_its_name():
    candidates = [
        ("good", 1.0, True, "ok", None),
        ("", 1.0, True, "ok", "empty"),
        (" \n\t", 1.0, True, "ok", "empty"),
        ("cut", 1.0, True, "truncated", None),
        ("lost", None, True, "ok", "no_reward"),
        ("not a number", np.nan, True, "ok", "no_reward"),
        ("huge", np.inf, True, "ok", "infinite_reward"),
        ("low", -np.inf, True, "ok", "infinite_reward"),
        ("unseen", 1.0, False, "ok", "no_embedding"),
        ("good", 2.0, True, "ok", "duplicate"),
        ("", None, False, "error", "generation_error"),
        ("", None, False, "prompt_too_long", "prompt_too_long"),
        ("good ", 2.0, True, "ok", None),
    ]
    texts, rewards, marks, statuses, reasons = zip(*candidates, strict=True)
    assert screen_candidates(texts, rewards, marks, statuses) == list(reasons)


def test_truncated_responses_are_dropped_on_request():
    assert screen_candidates(["a", ""], [1.0, 1.0], None, ["truncated"] * 2, drop_truncated=True) == ["truncated", "empty"]


def test_without_a_need_for_embeddings_none_is_missed():
    assert screen_candidates(["a", "b"], [1.0, 2.0], None, ["ok", "ok"]) == [None, None]


def test_the_first_usable_of_equal_texts_is_kept():
    """The first "a" has no reward, so the second stands and the third is its duplicate."""
    assert screen_candidates(["a", "a", "a"], [None, 1.0, 2.0], None, ["ok"] * 3) == ["no_reward", None, "duplicate"]


def test_case_and_unicode_forms_are_different_texts():
    assert screen_candidates(["\u00c9", "E\u0301", "\u00e9"], [1.0, 2.0, 3.0], None, ["ok"] * 3) == [None, None, None]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="2 texts, 1 rewards, 2 embedding marks and 2 statuses"):
        screen_candidates(["a", "b"], [1.0], None, ["ok", "ok"])


@given(st.lists(st.tuples(st.sampled_from("ab "), st.sampled_from([None, 1.0]), st.booleans()), max_size=8))
def test_usable_texts_are_distinct_and_each_reason_is_a_name(rows):
    texts, rewards, marks = zip(*rows, strict=True) if rows else ((), (), ())
    reasons = screen_candidates(texts, rewards, marks, ["ok"] * len(texts))
    usable = [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
    assert len(set(usable)) == len(usable)
    assert {reason for reason in reasons if reason} <= {"empty", "no_reward", "no_embedding", "duplicate"}


def test_candidates_near_the_positive_are_no_negatives():
    rewards = [1.0, 0.9, 1.0, 0.2, None]
    reasons = [None, None, None, None, "no_reward"]
    assert screen_margins(reasons, rewards, min_margin=0.0) == reasons
    assert screen_margins(reasons, rewards, min_margin=0.5) == [None, "low_margin", "low_margin", None, "no_reward"]
    assert screen_margins(reasons, rewards, min_margin=1e-9) == [None, None, "low_margin", None, "no_reward"]


def test_with_several_positives_the_margin_counts_from_the_lowest_of_them():
    assert screen_margins([None] * 4, [4.0, 3.0, 2.5, 1.0], min_margin=1.0, positives=2) == [None, None, "low_margin", None]


def test_a_margin_equal_to_the_least_is_enough():
    assert screen_margins([None, None], [2.0, 1.0], min_margin=1.0) == [None, None]


@pytest.mark.parametrize("margin", [-1.0, np.nan])
def test_a_margin_below_zero_is_refused(margin):
    with pytest.raises(UsageError, match="min_margin is"):
        screen_margins([None], [1.0], min_margin=margin)


@pytest.mark.parametrize(
    ("reasons", "rewards", "verdict"),
    [
        ([None, None], [1.0, 2.0], None),
        ([None, None, None], [0.1, 0.1, 0.1], "tie"),
        ([None, "duplicate"], [1.0, 2.0], "too_few_candidates"),
        ([], [], "too_few_candidates"),
        (["no_reward", "no_reward"], [None, np.nan], "no_rewards"),
        (["infinite_reward", "no_reward"], [np.inf, None], "no_rewards"),
        (["empty", "empty"], [1.0, 2.0], "too_few_candidates"),
        ([None, "low_margin"], [2.0, 1.9], "low_margin"),
        ([None, "low_margin"], [2.0, 2.0], "tie"),
        ([None, "low_margin", None], [2.0, 1.9, 1.0], None),
    ],
)
def test_a_pool_is_judged_by_name(reasons, rewards, verdict):
    assert pool_verdict(reasons, rewards) == verdict


def test_the_least_number_of_candidates_can_be_raised_and_not_lowered():
    assert pool_verdict([None, None], [1.0, 2.0], min_candidates=3) == "too_few_candidates"
    with pytest.raises(UsageError, match="min_candidates is 1"):
        pool_verdict([None, None], [1.0, 2.0], min_candidates=1)
