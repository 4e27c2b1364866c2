"""Checks that count: words, characters, sentences, paragraphs, bullet points.

Every function here is linear in the length of the text, whatever the text.
"""

from typing import Final, Literal

import regex  # type: ignore[import-untyped]
from pydantic.dataclasses import dataclass

from prefpipe.text.checks.grading import CountCheck
from prefpipe.text.words import split_words

_BULLET: Final = regex.compile(r"\s*+[-*+\u2022\u2023\u25e6\u2043]\s")
_NUMBERED: Final = regex.compile(r"\s*+\d{1,4}[.)]\s")
_LIST_NUMBER: Final = regex.compile(r"\d{1,4}[.)]")
_OPENERS: Final = "\"'([{\u201c\u2018\u00ab*_"
_CLOSERS: Final = "\"'\u2019\u201d\u00bb)]}*_\u300d\u300f\uff09"
_SPACED_ENDS: Final = (".", "!", "?", "\u2026", "\u061f", "\u06d4", "\u0964", "\u0965")
_UNSPACED_ENDS: Final = ("\u3002", "\uff01", "\uff1f")
_ABBREVIATIONS: Final = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "fig"}
)


def count_sentences(text: str) -> int:
    """Return the number of sentences.

    A sentence ends at ``. ! ? …`` before white space (their Chinese and Japanese forms need none),
    or with its line. Titles (``Dr.``), single capitals (``J. S. Bach``) and the number of a list
    item do not end one, and a sentence needs a letter or digit.
    """
    for end in _UNSPACED_ENDS:
        text = text.replace(end, end + " ")
    return sum(_count_in_line(line.split()) for line in text.splitlines())


def _count_in_line(tokens: list[str]) -> int:
    # the full stop of ``1.`` ends no sentence
    if len(tokens) > 1 and _LIST_NUMBER.fullmatch(tokens[0]):
        tokens = tokens[1:]

    n_sentences, is_open = 0, False
    for token in tokens:
        is_open = is_open or any(character.isalnum() for character in token)
        if is_open and _ends_sentence(token):
            n_sentences += 1
            is_open = False
    return n_sentences + is_open


def _ends_sentence(token: str) -> bool:
    token = token.rstrip(_CLOSERS)
    if not token.endswith(_SPACED_ENDS + _UNSPACED_ENDS):
        return False
    if not token.endswith("."):
        return True

    stem = token[:-1].lstrip(_OPENERS)
    is_initial = len(stem) == 1 and stem.isupper() and stem != "I"
    return not is_initial and stem.lower() not in _ABBREVIATIONS


def count_paragraphs(text: str) -> int:
    """Return the number of blocks of text with blank lines between them."""
    n_paragraphs, after_blank = 0, True
    for line in text.splitlines():
        is_blank = not line.strip()
        n_paragraphs += after_blank and not is_blank
        after_blank = is_blank
    return n_paragraphs


@dataclass(frozen=True, kw_only=True)
class Words(CountCheck):
    """Number of words (``split_words``)."""

    def count(self, text: str) -> int:
        """Return the number of words."""
        return len(split_words(text))


@dataclass(frozen=True, kw_only=True)
class Characters(CountCheck):
    """Number of characters, white space at both ends not counted."""

    def count(self, text: str) -> int:
        """Return the number of code points."""
        return len(text.strip())


@dataclass(frozen=True, kw_only=True)
class Sentences(CountCheck):
    """Number of sentences (``count_sentences``)."""

    def count(self, text: str) -> int:
        """Return the number of sentences."""
        return count_sentences(text)


@dataclass(frozen=True, kw_only=True)
class Paragraphs(CountCheck):
    """Number of blocks of text with blank lines between them."""

    def count(self, text: str) -> int:
        """Return the number of paragraphs."""
        return count_paragraphs(text)


@dataclass(frozen=True, kw_only=True)
class Bullets(CountCheck):
    """Number of list items: lines that begin with ``-``, ``*``, ``+``, ``•``, ``1.`` or ``1)``."""

    style: Literal["any", "bullet", "numbered"] = "any"

    def count(self, text: str) -> int:
        """Return the number of lines that begin as list items of the style do."""
        n_items = 0
        # the new line at a line's end counts as the white space behind the sign
        for line in text.splitlines(keepends=True):
            is_bullet = self.style != "numbered" and _BULLET.match(line)
            is_numbered = self.style != "bullet" and _NUMBERED.match(line)
            n_items += bool(is_bullet or is_numbered)
        return n_items
