"""Repetition within a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.checks.repetition import repeated_ngram_share

texts = st.lists(st.sampled_from(["a", "b", "c", "é", "🙂"]), max_size=30).map(" ".join)


def test_the_share_of_repeated_ngrams():
    """a b c d e a b c d: 4-grams abcd bcde cdea deab eabc abcd: one of six occurred before."""
    assert repeated_ngram_share(["a", "b", "c", "d", "e", "a", "b", "c", "d"]) == pytest.approx(
        1 / 6
    )
    assert repeated_ngram_share(["a", "a", "a", "a"], n=1) == pytest.approx(3 / 4)
    assert repeated_ngram_share(["a", "b", "c", "d", "e", "f"]) == 0.0


@pytest.mark.parametrize("text", ["", "   ", "one", "one two three"])
def test_a_text_too_short_for_an_ngram_repeats_none(text):
    assert repeated_ngram_share(text.split()) == 0.0


def test_a_loop_is_nearly_all_repetition():
    """100 words have 97 4-grams, one of them distinct."""
    assert repeated_ngram_share(["no"] * 100) == pytest.approx(1 - 1 / 97)


@given(texts)
def test_shares_lie_in_their_range(text):
    assert 0.0 <= repeated_ngram_share(text.split()) < 1.0
