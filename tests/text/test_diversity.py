"""Distinct n-grams, raw and at equal length, repeated ones, and copies."""

import math
import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.diversity import (
    copied_share,
    distinct_share,
    expected_distinct_share,
    pooled_ngrams,
    repeated_share,
)

texts = st.lists(st.lists(st.sampled_from("abcd"), max_size=12), max_size=5)


def test_distinct_n_pools_its_texts():
    """Bigrams ab bc | ab: two distinct of three, and none across the texts."""
    assert distinct_share(pooled_ngrams([["a", "b", "c"], ["a", "b"]], 2)) == pytest.approx(2 / 3)
    assert distinct_share(pooled_ngrams([["a", "b"]], 1)) == 1.0


def test_without_ngrams_diversity_is_unknown():
    assert math.isnan(distinct_share(pooled_ngrams([], 1)))
    assert math.isnan(distinct_share(pooled_ngrams([["a"], []], 2)))


def test_the_expected_distinct_share_is_the_mean_over_all_draws():
    """aab, two drawn: aa has 1 distinct, ab twice has 2: (1 + 2 + 2) / 3 / 2 = 5/6."""
    assert expected_distinct_share(Counter("aab"), 2) == pytest.approx(5 / 6)
    pool = "aaabbcd"
    for m in range(1, len(pool) + 1):
        draws = [
            len({pool[place] for place in places}) / m
            for places in combinations(range(len(pool)), m)
        ]
        assert expected_distinct_share(Counter(pool), m) == pytest.approx(sum(draws) / len(draws))


@pytest.mark.slow
@given(texts, st.integers(1, 40))
def test_expected_share_falls_from_one_to_the_raw_share(some, m):
    """1 for one n-gram, the raw share for all of them, falling between; NaN beyond."""
    counts = pooled_ngrams(some, 2)
    total = counts.total()
    if m > total:
        assert math.isnan(expected_distinct_share(counts, m))
        return
    found = expected_distinct_share(counts, m)
    assert 0 < found <= 1
    assert found >= distinct_share(counts) - 1e-9
    assert expected_distinct_share(counts, 1) == pytest.approx(1)
    assert expected_distinct_share(counts, total) == pytest.approx(distinct_share(counts))
    if m > 1:
        assert found <= expected_distinct_share(counts, m - 1) + 1e-9


@pytest.mark.slow
@given(texts, st.randoms())
def test_the_order_of_the_texts_is_no_matter(some, rng):
    shuffled = list(some)
    rng.shuffle(shuffled)
    assert pooled_ngrams(shuffled, 2) == pooled_ngrams(some, 2)


def test_length_alone_moves_the_raw_share_and_not_the_one_at_equal_length():
    """Words drawn from one vocabulary of 50: 60 of them and 600 of them are as varied."""
    rng = random.Random(0)
    short, long = (Counter(rng.choices(range(50), k=k)) for k in (60, 600))
    raw = [len(counts) / counts.total() for counts in (short, long)]
    assert raw[0] > 4 * raw[1]
    assert expected_distinct_share(long, 60) == pytest.approx(
        expected_distinct_share(short, 60), abs=0.06
    )


@pytest.mark.parametrize(
    ("some", "share"),
    [
        (["a", "a", "b"], 1 / 3),
        (["a", "b"], 0.0),
        (["a"] * 4, 3 / 4),
        (["", ""], 1 / 2),
        (["a", "A"], 0.0),
    ],
)
def test_copied_share_counts_texts_that_equal_an_earlier_one(some, share):
    assert copied_share(some) == pytest.approx(share)


@pytest.mark.parametrize("some", [[], ["a"]])
def test_one_text_has_no_copies_to_speak_of(some):
    assert math.isnan(copied_share(some))


def test_large_counts_lose_no_digits():
    """Two words, a million each: both are in any draw of 100 but for 2^-99."""
    assert expected_distinct_share({("a",): 10**6, ("b",): 10**6}, 100) == pytest.approx(
        2 / 100, rel=1e-6
    )


def test_repeated_share_counts_ngrams_that_occurred_before():
    """a b c d e a b c d: 4-grams abcd bcde cdea deab eabc abcd: one of six occurred before."""
    words = ["a", "b", "c", "d", "e", "a", "b", "c", "d"]
    assert repeated_share(words) == pytest.approx(1 / 6)
    assert repeated_share(["a", "a", "a", "a"], n=1) == pytest.approx(3 / 4)
    assert repeated_share(["a", "b", "c", "d", "e", "f"]) == 0.0


@pytest.mark.parametrize("text", ["", "   ", "one", "one two three"])
def test_a_text_too_short_for_an_ngram_repeats_none(text):
    assert repeated_share(text.split()) == 0.0


def test_a_loop_is_nearly_all_repetition():
    """100 words have 97 4-grams, one of them distinct."""
    assert repeated_share(["no"] * 100) == pytest.approx(1 - 1 / 97)


@given(st.lists(st.sampled_from(["a", "b", "c", "é", "🙂"]), max_size=30))
def test_repeated_shares_lie_in_their_range(words):
    assert 0.0 <= repeated_share(words) < 1.0
