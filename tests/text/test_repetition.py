"""Repetition within a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.repetition import longest_repeated_run, repeated_ngram_share

texts = st.lists(st.sampled_from(["a", "b", "c", "é", "🙂"]), max_size=30).map(" ".join)


def test_the_share_of_repeated_ngrams():
    """a b c d e a b c d: 4-grams abcd bcde cdea deab eabc abcd: one of six occurred before."""
    assert repeated_ngram_share(["a", "b", "c", "d", "e", "a", "b", "c", "d"]) == pytest.approx(1 / 6)
    assert repeated_ngram_share(["a", "a", "a", "a"], n=1) == pytest.approx(3 / 4)
    assert repeated_ngram_share(["a", "b", "c", "d", "e", "f"]) == 0.0


@pytest.mark.parametrize("text", ["", "   ", "one", "one two three"])
def test_a_text_too_short_for_an_ngram_repeats_none(text):
    assert repeated_ngram_share(text.split()) == 0.0


def test_a_loop_is_nearly_all_repetition():
    """100 words have 97 4-grams, one of them distinct."""
    assert repeated_ngram_share(["no"] * 100) == pytest.approx(1 - 1 / 97)


@pytest.mark.parametrize(
    ("text", "n_words"),
    [
        ("", 0),
        ("a", 0),
        ("to be or not to be", 0),
        ("no no", 2),
        ("no no no", 3),
        ("well no no no then", 3),
        ("to be or to be or not", 6),
        ("a b a b a", 5),
        ("a b a", 0),
        ("x x y y y y z z z", 4),
        ("No no", 0),
    ],
)
def test_the_longest_run_of_one_phrase(text, n_words):
    assert longest_repeated_run(text) == n_words


def test_phrases_longer_than_the_greatest_period_are_not_looked_for():
    phrase = " ".join(str(number) for number in range(5))
    assert longest_repeated_run(f"{phrase} {phrase}", max_period=5) == 10
    assert longest_repeated_run(f"{phrase} {phrase}", max_period=4) == 0


@given(texts)
def test_the_run_is_that_of_trying_every_stretch(text):
    words = text.split()
    runs = [
        stop - start
        for start in range(len(words))
        for stop in range(start + 2, len(words) + 1)
        for period in range(1, (stop - start) // 2 + 1)
        if all(words[place] == words[place - period] for place in range(start + period, stop))
    ]
    assert longest_repeated_run(text) == max(runs, default=0)


@given(texts)
def test_shares_lie_in_their_range(text):
    assert 0.0 <= repeated_ngram_share(text.split()) < 1.0


def test_a_hundred_thousand_characters_are_read_in_a_moment():
    assert longest_repeated_run("spam and eggs " * 7200) == 3 * 7200
