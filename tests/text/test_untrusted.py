"""Nothing that a model writes can move a terminal's cursor, hide text or turn its direction."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.text.untrusted import visible, visible_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("a\x00b", "a␀b"),
        ("bell\x07 back\x08 return\r", "bell␇ back␈ return␍"),
        ("\x7f", "␡"),
        ("\x9b31m", "\\x9b31m"),  # the one-byte form of ESC [
        ("\u202eevil\u202c", "\\u202eevil\\u202c"),
        ("\u2066isolate\u2069", "\\u2066isolate\\u2069"),
        ("line\u2028separator", "line\\u2028separator"),
        ("hidden \U000e0041", "hidden \\U000e0041"),
        ("zero\u200bwidth \ufeff", "zero\\u200bwidth \\ufeff"),
        ("tab\there", "tab    here"),
        ("two\nlines", "two\nlines"),
        ("שלום, 世界, 👩\u200d🚀, café", "שלום, 世界, 👩\u200d🚀, café"),
        ("[bold]markup[/bold]", "[bold]markup[/bold]"),
    ],
)
def test_signs_stand_for_what_cannot_be_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_no_control_character_is_left(text: str) -> None:
    left = {
        unicodedata.category(character)
        for character in visible(text)
        if character not in "\n\u200c\u200d"
    }
    assert not left & {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


@pytest.mark.slow
def test_every_character_of_unicode_is_safe() -> None:
    everything = visible("".join(map(chr, range(sys.maxunicode + 1))))
    assert not [
        character
        for character in everything
        if unicodedata.category(character) == "Cc" and character != "\n"
    ]


def test_a_line_is_one_line_of_limited_length() -> None:
    assert visible_line("a\n  b\tc") == "a b c"
    assert visible_line("x" * 100, 10) == "x" * 9 + "…"
    assert len(visible_line("\x1b" * 1000, 10)) == 10
