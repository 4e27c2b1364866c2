"""Checks on words and phrases: present, absent, so many times."""

import functools
import unicodedata
from dataclasses import dataclass
from typing import Any, Final

import regex  # type: ignore[import-untyped]

from prefpipe.text.checks.grading import Candidate, CountCheck, Grade

_WITHOUT_SPACES: Final = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
)


def count_keyword(
    text: str, keyword: str, *, whole_words: bool = True, ignore_case: bool = True
) -> int:
    """Return how often ``keyword`` occurs in ``text``.

    White space inside the keyword matches any white space. A whole word has no letter or digit beside it, except
    in scripts that are written without spaces.
    """
    return sum(
        1 for _ in _pattern(keyword, whole_words, ignore_case).finditer(_fold(text, ignore_case))
    )


def _fold(text: str, ignore_case: bool) -> str:
    text = unicodedata.normalize("NFC", text)
    return text.casefold() if ignore_case else text


@functools.lru_cache(maxsize=4096)
def _pattern(keyword: str, whole_words: bool, ignore_case: bool) -> Any:
    parts = _fold(keyword, ignore_case).split()
    pattern = r"\s++".join(map(regex.escape, parts))
    if whole_words and not _WITHOUT_SPACES.search(keyword):
        # No \b: it would demand a letter beside a keyword such as "C++".
        pattern = rf"(?<![\p{{L}}\p{{M}}\p{{N}}_]){pattern}(?![\p{{L}}\p{{M}}\p{{N}}_])"
    return regex.compile(pattern)


def _require_text(keyword: str) -> None:
    if not keyword.strip():
        raise ValueError("a keyword cannot be white space only")


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """Words or phrases: ``all`` of one list, ``any`` of a second, none of a third (``exclude``)."""

    all: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    whole_words: bool = True
    ignore_case: bool = True

    def __post_init__(self) -> None:
        """Refuse a check without keywords."""
        keywords = self.all + self.any + self.exclude
        if not keywords:
            raise ValueError("one of 'all', 'any', 'exclude' needs a keyword")
        for keyword in keywords:
            _require_text(keyword)

    def grade(self, candidate: Candidate) -> Grade:
        """Return the share of demands met: one for each of ``all``, one for ``any``, one for each of ``exclude``."""
        missing = [keyword for keyword in self.all if not self._occurs(keyword, candidate.response)]
        found = [keyword for keyword in self.exclude if self._occurs(keyword, candidate.response)]
        lacks_any = bool(self.any) and not [
            word for word in self.any if self._occurs(word, candidate.response)
        ]
        n_demands = len(self.all) + len(self.exclude) + bool(self.any)
        faults = [f"lacks {word!r}" for word in missing] + [f"has {word!r}" for word in found]
        if lacks_any:
            faults.append(f"has none of {', '.join(map(repr, self.any))}")
        return Grade(
            1.0 - len(faults) / n_demands, "; ".join(faults) or f"all {n_demands} demands met"
        )

    def _occurs(self, keyword: str, text: str) -> bool:
        return (
            count_keyword(text, keyword, whole_words=self.whole_words, ignore_case=self.ignore_case)
            > 0
        )


@dataclass(frozen=True, kw_only=True)
class KeywordFrequency(CountCheck):
    """How often one word or phrase occurs."""

    keyword: str
    whole_words: bool = True
    ignore_case: bool = True

    def __post_init__(self) -> None:
        """Refuse a keyword of white space, and limits as every count does."""
        super().__post_init__()
        _require_text(self.keyword)

    def count(self, text: str) -> int:
        """Return the number of occurrences."""
        return count_keyword(
            text, self.keyword, whole_words=self.whole_words, ignore_case=self.ignore_case
        )
