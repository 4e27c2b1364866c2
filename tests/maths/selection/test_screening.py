"""Which candidates can be selected from, and why not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.selection.distances import pairwise_distances
from prefpipe.maths.selection.screening import (
    mask_low_margins,
    mask_near_duplicates,
    prompt_rejections,
    screen_candidates,
)


def screen(texts, rewards, marks, statuses, prompts=None, **settings):
    """Screen candidates given as Python lists; texts that are equal have equal numbers."""
    numbers = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return screen_candidates(
        prompts_N=np.array(prompts if prompts is not None else [0] * len(texts), dtype=np.int64),
        texts_N=np.array([numbers[text] for text in texts], dtype=np.int64),
        is_blank_N=np.array([not text.strip() for text in texts], dtype=bool),
        rewards_N=np.array(
            [np.nan if reward is None else reward for reward in rewards], dtype=float
        ),
        statuses_N=np.array(statuses, dtype=object),
        flaws_N={} if marks is None else {"no_embedding": ~np.array(marks, dtype=bool)},
        **settings,
    ).tolist()


def test_each_flaw_of_a_candidate_has_its_reason():
    candidates = [
        ("good", 1.0, True, "ok", None),
        ("", 1.0, True, "ok", "empty"),
        (" \n\t", 1.0, True, "ok", "empty"),
        ("cut", 1.0, True, "truncated", None),
        ("lost", None, True, "ok", "no_reward"),
        ("not a number", np.nan, True, "ok", "no_reward"),
        ("huge", np.inf, True, "ok", "infinite_reward"),
        ("low", -np.inf, True, "ok", "infinite_reward"),
        ("beyond", -2e150, True, "ok", "infinite_reward"),
        ("unseen", 1.0, False, "ok", "no_embedding"),
        ("good", 2.0, True, "ok", "duplicate"),
        ("", None, False, "error", "generation_error"),
        ("", None, False, "prompt_too_long", "prompt_too_long"),
        ("good ", 2.0, True, "ok", None),
    ]
    texts, rewards, marks, statuses, reasons = zip(*candidates, strict=True)
    assert screen(texts, rewards, marks, statuses) == list(reasons)


def test_truncated_responses_are_dropped_on_request():
    assert screen(["a", ""], [1.0, 1.0], None, ["truncated"] * 2, drop_truncated=True) == [
        "truncated",
        "empty",
    ]


def test_without_a_need_for_embeddings_none_is_missed():
    assert screen(["a", "b"], [1.0, 2.0], None, ["ok", "ok"]) == [None, None]


def test_the_first_usable_of_equal_texts_of_a_prompt_is_kept():
    """The first "a" has no reward, so the second stands and the third is its duplicate; the other
    prompt's "a" is no copy."""
    reasons = screen(
        ["a", "a", "a", "a"], [None, 1.0, 2.0, 3.0], None, ["ok"] * 4, prompts=[0, 0, 0, 1]
    )
    assert reasons == ["no_reward", None, "duplicate", None]
    assert screen(["a", "a"], [1.0, 2.0], None, ["ok"] * 2, keep_duplicates=True) == [None, None]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="columns of 2, 2, 2, 1, 2 rows"):
        screen(["a", "b"], [1.0], None, ["ok", "ok"])


@given(
    st.lists(
        st.tuples(st.sampled_from("ab "), st.sampled_from([None, 1.0]), st.booleans()), max_size=8
    )
)
def test_usable_texts_are_distinct_and_each_reason_is_a_name(rows):
    texts, rewards, marks = zip(*rows, strict=True) if rows else ((), (), ())
    reasons = screen(texts, rewards, marks, ["ok"] * len(texts))
    usable = [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
    assert len(set(usable)) == len(usable)
    assert {reason for reason in reasons if reason} <= {
        "empty",
        "no_reward",
        "no_embedding",
        "duplicate",
    }


def low_margins(rewards, usable=None, **settings):
    mask = np.array([usable if usable is not None else [True] * len(rewards)])
    return mask_low_margins(np.array([rewards], dtype=float), mask, **settings)[0].tolist()


def test_candidates_near_the_positive_are_no_negatives():
    rewards, usable = [1.0, 0.9, 1.0, 0.2, np.nan], [True, True, True, True, False]
    assert low_margins(rewards, usable, min_margin=0.0) == [False] * 5
    assert low_margins(rewards, usable, min_margin=0.5) == [False, True, True, False, False]
    assert low_margins(rewards, usable, min_margin=1e-9) == [False, False, True, False, False]


def test_with_several_positives_the_margin_counts_from_the_lowest_of_them():
    assert low_margins([4.0, 3.0, 2.5, 1.0], min_margin=1.0, positives=2) == [
        False,
        False,
        True,
        False,
    ]
    # one candidate is always left to be a negative, and here it is too close to be one
    assert low_margins([4.0, 3.9], min_margin=1.0, positives=2) == [False, True]
    assert low_margins([10.0, 9.9, 9.8, 1.0, 0.0], min_margin=5.0, positives=4) == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_a_margin_equal_to_the_least_is_enough():
    assert low_margins([2.0, 1.0], min_margin=1.0) == [False, False]


@pytest.mark.parametrize("margin", [-1.0, np.nan])
def test_a_margin_below_zero_is_refused(margin):
    with pytest.raises(UsageError, match="min_margin is"):
        low_margins([1.0], min_margin=margin)


def near_duplicates(vectors, rewards, threshold, usable=None):
    embeddings = np.array([vectors], dtype=float)
    mask = np.array([usable if usable is not None else [True] * len(rewards)])
    rewards = np.array([rewards], dtype=float)
    return mask_near_duplicates(
        embeddings, pairwise_distances(embeddings), rewards, mask, threshold
    )[0].tolist()


def test_of_two_near_copies_the_higher_reward_stays():
    """Cosines: 0.8 between rows 0 and 1, 1 between 1 and 2 (lengths do not count), 0 with row 3 and
    with the zero vector."""
    vectors, rewards = [[1.0, 0.0], [0.8, 0.6], [8.0, 6.0], [0.0, 0.0]], [1.0, 2.0, 3.0, 9.0]
    assert near_duplicates(vectors, rewards, 0.81) == [False, True, False, False]
    assert near_duplicates(vectors, rewards, 0.8) == [True, True, False, False]
    assert near_duplicates(vectors, rewards, 1.0) == [False, True, False, False]
    assert near_duplicates(vectors, rewards, 0.8, usable=[True, True, False, True]) == [
        True,
        False,
        False,
        False,
    ]


def test_a_copy_of_a_copy_that_was_left_out_stays():
    """0, 20 and 40 degrees by falling reward, threshold cos 25: the second goes with the first, the
    third is far from that one."""
    angles = np.radians([0.0, 20.0, 40.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert near_duplicates(vectors, [3.0, 2.0, 1.0], np.cos(np.radians(25.0))) == [
        False,
        True,
        False,
    ]


def test_of_near_copies_with_equal_rewards_the_lower_index_stays():
    assert near_duplicates([[1.0], [1.0], [1.0]], [0.0, 0.0, 0.0], 0.99) == [False, True, True]


@pytest.mark.parametrize(
    ("reasons", "rewards", "verdict"),
    [
        ([None, None], [1.0, 2.0], None),
        ([None, None, None], [0.1, 0.1, 0.1], "tie"),
        ([None, "duplicate"], [1.0, 2.0], "too_few_candidates"),
        ([], [], "too_few_candidates"),
        (["no_reward", "no_reward"], [np.nan, np.nan], "no_rewards"),
        (["infinite_reward", "no_reward"], [np.inf, np.nan], "no_rewards"),
        (["empty", "empty"], [1.0, 2.0], "too_few_candidates"),
        ([None, "low_margin"], [2.0, 1.9], "low_margin"),
        ([None, "low_margin"], [2.0, 2.0], "tie"),
        ([None, "low_margin", None], [2.0, 1.9, 1.0], None),
    ],
)
def test_a_pool_that_cannot_be_selected_from_has_its_verdict(reasons, rewards, verdict):
    width = max(4, len(reasons))
    there = np.array([[place < len(reasons) for place in range(width)]])
    usable = np.array(
        [
            [
                place < len(reasons) and reasons[place] in (None, "low_margin")
                for place in range(width)
            ]
        ]
    )
    kept = np.array([[place < len(reasons) and reasons[place] is None for place in range(width)]])
    padded = np.array([[*rewards, *[np.nan] * (width - len(rewards))]], dtype=float)
    assert prompt_rejections(padded, there, usable, kept).tolist() == [verdict]


def test_positives_without_a_negative_are_no_group():
    """Two positives wanted of three: the margin takes the third, and the second positive must not
    become a negative."""
    rewards, there = np.array([[3.0, 2.9, 2.8]]), np.ones((1, 3), dtype=bool)
    kept = there & ~mask_low_margins(rewards, there, min_margin=0.5, positives=2)
    assert prompt_rejections(rewards, there, there, kept, positives=2).tolist() == ["low_margin"]
    assert prompt_rejections(rewards, there, there, kept, positives=1).tolist() == [None]
