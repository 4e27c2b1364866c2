"""Stop texts against their definition: the first number of tokens whose text holds one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.stop_texts import StopTexts, find_stop

PIECES = ["a", "b", "ab", "ba", "aab", " ", "", "", "c", "\n", "b c", "🙂"]
STOPS = ["ab", "ba", "b", "\n", "a b", "aaab", "🙂c", "c c c c c c c c"]


def decode(ids):
    return "".join(PIECES[token] for token in ids)


def decode_bytes(ids):
    """As a byte-level tokenizer does: half a character is U+FFFD."""
    return bytes(ids).decode(errors="replace")


def written_out(ids, stops, min_tokens, decode):
    """The definition, token by token: how many tokens, and the text before the stop text."""
    n_safe = len(decode(ids[:min_tokens]))
    for n in range(min_tokens + 1, len(ids) + 1):
        text = decode(ids[:n])
        ends = []
        for number, stop in enumerate(stops):
            starts = [
                place
                for place in range(len(text))
                if text.startswith(stop, place) and place + len(stop) > n_safe
            ]
            ends += [(place + len(stop), number, place) for place in starts]
        if ends:
            return n, text[: min(ends)[2]]
    return None


def as_the_decoder_does(ids, stops, min_tokens, decode):
    texts = StopTexts(stops, min_tokens, decode)
    for n in range(1, len(ids) + 1):
        last_tokens = ids[max(0, n - texts.n_last_tokens) : n]
        if texts.may_end(last_tokens):
            text = texts.text_before(ids[:n])
            if text is not None:
                return n, text
        else:
            assert texts.text_before(ids[:n]) is None, "what is said to be certain is"
    return None


@given(
    st.lists(st.integers(0, len(PIECES) - 1), max_size=60),
    st.lists(st.sampled_from(STOPS), min_size=1, max_size=3, unique=True),
    st.integers(0, 8),
)
def test_a_response_ends_with_the_token_that_completes_a_stop_text(ids, stops, min_tokens):
    expected = written_out(ids, stops, min_tokens, decode)
    assert as_the_decoder_does(ids, stops, min_tokens, decode) == expected


@given(st.text(alphabet="ab🙂é", max_size=40), st.sampled_from(["🙂", "é🙂", "ab", "bé"]))
def test_it_is_found_where_tokens_are_bytes(text, stop):
    ids = list(text.encode())
    found = as_the_decoder_does(ids, [stop], 0, decode_bytes)
    place = text.find(stop)
    if place < 0:
        assert found is None
    else:
        assert found == (len(text[: place + len(stop)].encode()), text[:place])


def test_tokens_without_a_letter_hide_no_stop_text():
    """Control tokens say nothing, however many of them stand inside of a stop text."""
    ids = [0, *[6] * 500, 1, 8]
    assert as_the_decoder_does(ids, ["ab"], 0, decode) == (502, "")


def test_a_long_response_is_not_read_again_with_every_token():
    read = []

    def counted(ids):
        read.append(len(ids))
        return decode(ids)

    ids = [8] * 5_000
    assert as_the_decoder_does_quickly(ids, counted) is None
    assert max(read) <= 4 * (2 + 4)


def as_the_decoder_does_quickly(ids, decode):
    texts = StopTexts(["ab"], 0, decode)
    for n in range(1, len(ids) + 1):
        if texts.may_end(ids[max(0, n - texts.n_last_tokens) : n]):
            return texts.text_before(ids[:n])
    return None


@pytest.mark.parametrize(
    ("text", "stops", "after", "expected"),
    [
        ("xab", ["b", "ab"], 0, (2, 3)),
        ("xab", ["ab", "b"], 0, (1, 3)),
        ("abab", ["ab"], 0, (0, 2)),
        ("abab", ["ab"], 2, (2, 4)),
        ("abab", ["ab"], 3, (2, 4)),
        ("abab", ["ab"], 4, None),
        ("abcd", ["abcd", "c"], 0, (2, 3)),
        ("", ["a"], 0, None),
    ],
)
def test_the_one_that_is_complete_first_and_then_the_one_named_first(text, stops, after, expected):
    assert find_stop(text, stops, after=after) == expected
