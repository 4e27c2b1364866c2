"""Self-BLEU by hand, against a second implementation pair by pair, and against sacrebleu and nltk, whose figures are written down."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.self_bleu import self_bleu
from prefpipe.text.words import words_and_signs

sets = st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=5)


def plainly(texts):
    """BLEU of each text against the others, reference by reference, as the formula says."""
    texts = [text for text in texts if text]
    total = 0.0
    for place, text in enumerate(texts):
        others = [other for index, other in enumerate(texts) if index != place]
        logs, has_match = [], False
        for n in range(1, min(4, len(text)) + 1):
            own, *theirs = [
                Counter(tuple(t[i : i + n]) for i in range(len(t) - n + 1)) for t in (text, *others)
            ]
            matches = sum(
                min(count, max(other[ngram] for other in theirs)) for ngram, count in own.items()
            )
            has_match = has_match or matches > 0
            logs.append(math.log((matches or 0.1) / own.total()))
        nearest = min(
            (len(other) for other in others), key=lambda length: (abs(length - len(text)), length)
        )
        penalty = 1.0 if len(text) >= nearest else math.exp(1 - nearest / len(text))
        total += penalty * math.exp(sum(logs) / len(logs)) if has_match else 0.0
    return total / len(texts)


def test_self_bleu_is_the_geometric_mean_of_precisions():
    """a b c d against a b c e: 3/4, 2/3, 1/2, and 0.1 of one 4-gram; both ways the same, no brevity: (3/4 2/3 1/2 1/10)^(1/4)."""
    assert self_bleu([["a", "b", "c", "d"], ["a", "b", "c", "e"]]) == pytest.approx(
        (3 / 4 * 2 / 3 * 1 / 2 * 1 / 10) ** 0.25
    )


def test_short_texts_pay_for_their_brevity():
    """a against a b: the one word is there, e^(1 - 2/1); a b against a: 1/2 and 0.1 of one pair."""
    assert self_bleu([["a"], ["a", "b"]]) == pytest.approx(
        (math.exp(-1) + (1 / 2 * 0.1) ** 0.5) / 2
    )


def test_clipping_takes_the_reference_that_has_most():
    """a a a against a a b and a b b: two of three; pairs aa one of two; 0.1 of one triple."""
    found = self_bleu([list("aaa"), list("aab"), list("abb")])
    assert found == pytest.approx(plainly([list("aaa"), list("aab"), list("abb")]))


@pytest.mark.parametrize(
    ("some", "score"), [([["a"], ["a"]], 1.0), ([list("abcdef")] * 3, 1.0), ([["a"], ["b"]], 0.0)]
)
def test_copies_have_1_whatever_their_length_and_strangers_0(some, score):
    assert self_bleu(some) == pytest.approx(score)


@pytest.mark.parametrize("some", [[], [["a"]], [[], []], [["a"], []]])
def test_fewer_than_two_texts_with_words_have_none(some):
    assert math.isnan(self_bleu(some))


@pytest.mark.parametrize(
    ("texts", "score"),
    [
        # sacrebleu 2.6.0: BLEU(smooth_method="floor", smooth_value=0.1, effective_order=True, tokenize="none"), mean over texts;
        # nltk 3.10.4, SmoothingFunction().method1, says the same of texts of four words or more.
        (["the cat sat on the mat .", "a cat sat on a mat .", "dogs bark"], 0.1370445390),
        (["yes", "yes , of course", "no"], 0.3601142806),
        (
            ["one two three four five", "one two three four six", "one two nine four five"],
            0.5297538915,
        ),
    ],
)
def test_self_bleu_agrees_with_other_programs(texts, score):
    assert self_bleu([text.split() for text in texts]) == pytest.approx(score, abs=1e-9)


@pytest.mark.slow
@given(sets)
def test_linear_time_is_the_same_as_pair_by_pair(some):
    if sum(map(bool, some)) >= 2:
        assert self_bleu(some) == pytest.approx(plainly(some))


@pytest.mark.slow
@given(sets, st.randoms())
def test_self_bleu_lies_in_its_range_whatever_the_order(some, rng):
    found = self_bleu(some)
    shuffled = list(some)
    rng.shuffle(shuffled)
    if math.isnan(found):
        assert math.isnan(self_bleu(shuffled))
        return
    assert 0 <= found <= 1 + 1e-12
    assert self_bleu(shuffled) == pytest.approx(found)


def test_scripts_without_spaces_are_compared_sign_by_sign():
    """Two Chinese sentences that share six of seven signs are alike, and by white space they would be strangers."""
    texts = [
        "\u6211\u559c\u6b22\u5403\u82f9\u679c\u3002",
        "\u6211\u559c\u6b22\u5403\u9999\u8549\u3002",
    ]
    assert self_bleu([words_and_signs(text) for text in texts]) > 0.3
    assert self_bleu([text.split() for text in texts]) == 0.0


@pytest.mark.slow
def test_hundreds_of_long_texts_take_a_moment():
    rng = random.Random(0)
    assert 0 < self_bleu([[rng.choice("abcdefgh") for _ in range(500)] for _ in range(200)]) < 1
