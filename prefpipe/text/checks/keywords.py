"""Checks on words and phrases: present, absent, or how often."""

import functools
import unicodedata
from typing import Any, Final

import regex  # type: ignore[import-untyped]
from pydantic.dataclasses import dataclass

from prefpipe.text.checks.grading import CheckedResponse, CountCheck, Grade
from prefpipe.text.checks.parameters import Switch, Text, Texts
from prefpipe.text.words import CHINESE_AND_JAPANESE, IN_WORDS, SOUTH_EAST_ASIAN

# Tibetan is not among them: a mark separates its syllables, so keywords have edges.
_WITHOUT_EDGES: Final = regex.compile(f"[{CHINESE_AND_JAPANESE}{SOUTH_EAST_ASIAN}]")


def count_keyword(
    text: str, keyword: str, *, whole_words: bool = True, ignore_case: bool = True
) -> int:
    """Return how often ``keyword`` occurs in ``text``.

    White space inside the keyword matches any white space. A whole word has no letter or digit
    beside it, except in scripts that are written without spaces.
    """
    pattern = _pattern(keyword, whole_words, ignore_case)
    return sum(1 for _ in pattern.finditer(_fold(text, ignore_case)))


def _fold(text: str, ignore_case: bool) -> str:
    text = unicodedata.normalize("NFC", text)
    return text.casefold() if ignore_case else text


@functools.lru_cache(maxsize=4096)
def _pattern(keyword: str, whole_words: bool, ignore_case: bool) -> Any:
    # Patterns are cached: a prompt's keywords are searched in each of its responses.
    words = _fold(keyword, ignore_case).split()
    pattern = r"\s++".join(map(regex.escape, words))
    if whole_words and not _WITHOUT_EDGES.search(keyword):
        # No \b: it would require a letter beside a keyword such as "C++".
        pattern = rf"(?<![{IN_WORDS}]){pattern}(?![{IN_WORDS}])"
    return regex.compile(pattern)


def _require_text(keyword: str) -> None:
    if not keyword.strip():
        raise ValueError("a keyword cannot be white space only")


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """Words or phrases: ``all`` of one list, ``any`` of a second, none of a third (``exclude``)."""

    all: Texts = ()
    any: Texts = ()
    exclude: Texts = ()
    whole_words: Switch = True
    ignore_case: Switch = True

    def __post_init__(self) -> None:
        """Refuse a check without keywords."""
        keywords = self.all + self.any + self.exclude
        if not keywords:
            raise ValueError("one of 'all', 'any', 'exclude' needs a keyword")
        for keyword in keywords:
            _require_text(keyword)

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return the share of demands met.

        There is one for each word of ``all`` and of ``exclude``, and one for ``any``.
        """
        text = candidate.response
        faults = [f"lacks {word!r}" for word in self.all if not self._occurs(word, text)]
        faults += [f"has {word!r}" for word in self.exclude if self._occurs(word, text)]
        if self.any and not any(self._occurs(word, text) for word in self.any):
            faults.append(f"has none of {', '.join(map(repr, self.any))}")

        n_demands = len(self.all) + len(self.exclude) + bool(self.any)
        reason = "; ".join(faults) or f"all {n_demands} demands met"
        return Grade(1.0 - len(faults) / n_demands, reason)

    def _occurs(self, keyword: str, text: str) -> bool:
        n_found = count_keyword(
            text, keyword, whole_words=self.whole_words, ignore_case=self.ignore_case
        )
        return n_found > 0


@dataclass(frozen=True, kw_only=True)
class KeywordFrequency(CountCheck):
    """How often one word or phrase occurs."""

    keyword: Text
    whole_words: Switch = True
    ignore_case: Switch = True

    def __post_init__(self) -> None:
        """Refuse a keyword of only white space, and bad limits."""
        super().__post_init__()
        _require_text(self.keyword)

    def count(self, text: str) -> int:
        """Return the number of occurrences."""
        return count_keyword(
            text, self.keyword, whole_words=self.whole_words, ignore_case=self.ignore_case
        )
