"""Half characters become whole ones or a replacement sign."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.surrogates import replace_lone_surrogates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 😀\x00", "plain é 😀\x00"),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("\udc00", "\ufffd"),
        ("é\ud800😀", "é\ufffd😀"),
    ],
)
def test_pairs_are_joined_and_lone_halves_replaced(text, expected):
    assert replace_lone_surrogates(text) == expected


@given(st.text(st.characters(codec=None)))
def test_the_result_can_always_be_encoded(text):
    result = replace_lone_surrogates(text)
    assert result.encode("utf-8").decode("utf-8") == result
