"""Words, sentences, paragraphs and list items are counted as a person would count them."""

import pytest

from prefpipe.text.checks.counts import (
    Bullets,
    Characters,
    Paragraphs,
    Sentences,
    Words,
    count_paragraphs,
    count_sentences,
)
from prefpipe.text.checks.grading import CheckedResponse


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", 0),
        ("...", 0),
        ("No full stop", 1),
        ("One. Two! Three? Four…", 4),
        ("Dr. Who met J. S. Bach, e.g. in 3.5 minutes.", 1),
        ('He said: "Go away!" She went.', 2),
        ("Wait... what?", 2),
        ("1. First point\n2. Second point. With more.", 3),
        ("A heading\n\nThen text.", 2),
        ("你好。我很好！真的吗？", 3),
        ("यह एक वाक्य है। यह दूसरा है।", 2),
        ("It is 42.", 1),
    ],
)
def test_count_sentences_knows_ends_and_abbreviations(text, n):
    assert count_sentences(text) == n


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", 0),
        ("\n\n \n", 0),
        ("a\nb", 1),
        ("a\n\nb", 2),
        ("\n\na\n \t\n\n\nb\n\n", 2),
        ("a\r\n\r\nb", 2),
    ],
)
def test_paragraphs_have_blank_lines_between_them(text, n):
    assert count_paragraphs(text) == n


LIST = "Intro:\n- one\n* two\n  + three\n• four\n1. five\n2) six\n---\n**bold** start\n-7 degrees\n3.5 percent"


@pytest.mark.parametrize(("style", "n"), [("any", 6), ("bullet", 4), ("numbered", 2)])
def test_bullets_count_the_items_of_their_style(style, n):
    assert Bullets(exactly=n, style=style).grade(CheckedResponse(LIST)).score == 1.0


def test_each_check_counts_its_own_thing():
    text = " One two. Three.\n\nFour. "
    assert Words(exactly=1).count(text) == 4
    assert Characters(exactly=1).count(text) == len("One two. Three.\n\nFour.")
    assert Sentences(exactly=1).count(text) == 3
    assert Paragraphs(exactly=1).count(text) == 2
