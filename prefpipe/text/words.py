"""Splits a text into words, with or without spaces: for checks that count, and for n-grams."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

import regex  # type: ignore[import-untyped]

IN_WORDS: Final = r"\p{L}\p{M}\p{N}_"
"""Characters of a word, for a pattern's brackets: letters with their marks, and digits."""
CHINESE_AND_JAPANESE: Final = r"\p{Han}\p{Hiragana}\p{Katakana}"
SOUTH_EAST_ASIAN: Final = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
TIBETAN: Final = r"\p{Tibetan}"
_APOSTROPHES: Final = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u2018": "'"})


def _spaced_word(unspaced: str) -> str:
    """Return the pattern of a word of scripts with spaces: ``don't``, ``well-known``, ``3.14``.

    Args:
        unspaced: the scripts without spaces, whose letters are not part of such a word.
    """
    letters = rf"[[{IN_WORDS}]--[{unspaced}]]++"
    return rf"{letters}(?:['\u2019.,\-](?=[\p{{L}}\p{{N}}]){letters})*+"


# Checks count a run of Thai as one word, and n-grams use its letters. One rule for both would
# change either the grade of a check or a figure of `eval`, which earlier runs have on disk.
_CHECKED_WORD: Final = regex.compile(
    rf"(?V1)[{CHINESE_AND_JAPANESE}] | {_spaced_word(CHINESE_AND_JAPANESE)}", regex.VERBOSE
)
_UNSPACED: Final = CHINESE_AND_JAPANESE + SOUTH_EAST_ASIAN + TIBETAN
_WORD_OR_SIGN: Final = regex.compile(
    rf"""(?V1)
    [[{_UNSPACED}]&&[\p{{L}}\p{{N}}]]\p{{M}}*+  # written without spaces: a letter with its marks
    | {_spaced_word(_UNSPACED)}
    | (?!\s)\X  # a punctuation mark, an emoji with what belongs to it
    """,
    regex.VERBOSE,
)


def split_words(text: str) -> list[str]:
    """Return the words of ``text`` as checks count them, without punctuation.

    A word is a run of letters, marks, digits and underscores, with an apostrophe, hyphen, full stop
    or comma inside it (``don't``, ``well-known``, ``3.14``, ``1,000``). Every Chinese or Japanese
    character is a word.
    """
    words: list[str] = _CHECKED_WORD.findall(text)
    return words


def words_and_signs(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, punctuation marks and emoji among them.

    Words are those of `split_words`, and of more scripts without spaces (Thai, Lao, Khmer, Burmese,
    Tibetan, too) every letter with its marks is one. Unicode forms (NFC), case and curly
    apostrophes make no difference.
    """
    plain = unicodedata.normalize("NFC", text).casefold().translate(_APOSTROPHES)
    words: list[str] = _WORD_OR_SIGN.findall(plain)
    return words


def count_ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Return how often each n-gram of ``words`` occurs; none if there are fewer than ``n``."""
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))
