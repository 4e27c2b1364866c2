"""Words for checks and for n-grams, in any script."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.words import count_ngrams, split_words, words_and_signs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (
            "Don't stop, well-known 3.14 and 1,000!",
            ["Don't", "stop", "well-known", "3.14", "and", "1,000"],
        ),
        ("- a -- b ... c", ["a", "b", "c"]),
        ("one,two", ["one,two"]),
        ("**bold** _it_", ["bold", "_it_"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("你好 world", ["你", "好", "world"]),
        ("👍🏽 yes \x00 no", ["yes", "no"]),
    ],
)
def test_split_words_finds_words_without_punctuation(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t", []),
        ("x", ["x"]),
        ("Don't, DON\u2019T!", ["don't", ",", "don't", "!"]),
        ("3.14 and 1,000", ["3.14", "and", "1,000"]),
        ("well-known (fact)", ["well-known", "(", "fact", ")"]),
        (
            "\u6211\u7231\u5317\u4eac\u3002",
            ["\u6211", "\u7231", "\u5317", "\u4eac", "\u3002"],
        ),  # Chinese
        (
            "\u3053\u3093\u306b\u3061\u306f",
            ["\u3053", "\u3093", "\u306b", "\u3061", "\u306f"],
        ),  # Japanese
        (
            "\u0e01\u0e35\u0e48\u0e04\u0e19",
            ["\u0e01\u0e35\u0e48", "\u0e04", "\u0e19"],
        ),  # Thai: a consonant with vowel and tone is one
        ("\ud55c\uad6d \uc0ac\ub78c", ["\ud55c\uad6d", "\uc0ac\ub78c"]),  # Korean has spaces
        ("GPT\u6a21\u578b", ["gpt", "\u6a21", "\u578b"]),
        ("\U0001f642\U0001f642", ["\U0001f642", "\U0001f642"]),
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467!",
            ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "!"],
        ),  # one family
        ("e\u0301t\u00e9", ["\u00e9t\u00e9"]),  # composed or not, the same word
    ],
)
def test_words_and_signs_knows_every_script(text, words):
    assert words_and_signs(text) == words


def test_the_two_differ_in_thai_case_and_signs():
    text = "\u0e01\u0e35\u0e48\u0e04\u0e19 Yes!"
    assert split_words(text) == ["\u0e01\u0e35\u0e48\u0e04\u0e19", "Yes"]
    assert words_and_signs(text) == ["\u0e01\u0e35\u0e48", "\u0e04", "\u0e19", "yes", "!"]


@given(st.text())
def test_nothing_but_white_space_is_lost(text):
    """The words put together are the text without white space, in one case and form."""
    plain = (
        unicodedata.normalize("NFC", text)
        .casefold()
        .replace("\u2019", "'")
        .replace("\u2018", "'")
        .replace("\u02bc", "'")
    )
    assert "".join("".join(words_and_signs(text)).split()) == "".join(plain.split())


def test_count_ngrams_counts_every_occurrence():
    """a b a b: ab twice, ba once; no 5-gram."""
    assert count_ngrams(["a", "b", "a", "b"], 2) == {("a", "b"): 2, ("b", "a"): 1}
    assert count_ngrams(["a", "b", "a", "b"], 5) == {}


@pytest.mark.slow
def test_a_megabyte_without_a_space_is_read_in_a_moment():
    assert len(words_and_signs("'-" * 500_000)) == 1_000_000
    assert len(words_and_signs("a'" * 200_000 + "a")) == 1
