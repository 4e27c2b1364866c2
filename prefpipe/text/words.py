"""A text as the words that n-grams are made of, in languages with and without spaces."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

import regex  # type: ignore[import-untyped]

_UNSPACED: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORD: Final = regex.compile(
    rf"""(?V1)
    [[{_UNSPACED}]&&[\p{{L}}\p{{N}}]]\p{{M}}*+                            # written without spaces: a sign with its marks
    | [[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]++                         # letters with their marks, and digits
      (?:['.,\-](?=[\p{{L}}\p{{N}}])[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]++)*+  # don't, 3.14
    | (?!\s)\X                                                          # a punctuation mark, an emoji with what belongs to it
    """,
    regex.VERBOSE,
)
_APOSTROPHES: Final = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u2018": "'"})


def words_and_signs(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, each punctuation mark and emoji as a word of its own.

    A word is a run of letters, marks, digits and underscores, with an apostrophe, hyphen, full stop or comma inside it
    (``don't``, ``3.14``). Of scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) every sign with its
    marks is one. Unicode forms (NFC), case and curly apostrophes make no difference.
    """
    words: list[str] = _WORD.findall(
        unicodedata.normalize("NFC", text).casefold().translate(_APOSTROPHES)
    )
    return words


def count_ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Return how often each n-gram of ``words`` occurs; none where there are fewer than ``n``."""
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))
