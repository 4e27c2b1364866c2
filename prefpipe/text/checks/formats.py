"""Checks on the form of a response: case, commas, start and end, quotes, JSON, a regular expression."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import regex  # type: ignore[import-untyped]

from prefpipe.text.checks.counts import split_words
from prefpipe.text.checks.grading import Candidate, Grade, passed

REGEX_TIMEOUT_S: Final = 1.0
"""A search that takes longer scores 0: a pattern that backtracks without end must not stop the run."""

_COMMAS: Final = frozenset(",\u060c\u3001\uff0c")
_QUOTES: Final = frozenset(
    {'""', "\u201c\u201d", "\u201e\u201c", "\u201e\u201d", "\u00ab\u00bb", "\u300c\u300d"}
)
_FENCE: Final = regex.compile(
    r"\s*+```[a-zA-Z]*+[ \t]*+\n(?P<body>.*)\n[ \t]*+```\s*+", regex.DOTALL
)
_FENCE_BEGINNINGS: Final = ("```json", "```Json", "```JSON", "```")
_MINOR_WORDS: Final = frozenset(
    {
        "a",
        "an",
        "and",
        "as",
        "at",
        "but",
        "by",
        "for",
        "from",
        "in",
        "into",
        "nor",
        "of",
        "on",
        "onto",
        "or",
        "over",
        "per",
        "so",
        "the",
        "to",
        "up",
        "via",
        "with",
        "yet",
    }
)


def _grade_words(words: list[str], is_right: Callable[[str], bool], wanted: str) -> Grade:
    """Return the share of ``words`` that are right; a response without any word to judge scores 0."""
    if not words:
        return Grade(0.0, "no words with upper or lower case")
    n_right = sum(map(is_right, words))
    return Grade(n_right / len(words), f"{n_right} of {len(words)} words {wanted}")


def _cased_words(text: str) -> list[str]:
    return [word for word in split_words(text) if word.upper() != word.lower()]


@dataclass(frozen=True, kw_only=True)
class Lowercase:
    """No capital letters."""

    def grade(self, candidate: Candidate) -> Grade:
        """Return the share of words without a capital letter."""
        return _grade_words(
            _cased_words(candidate.response), lambda word: word == word.lower(), "in lower case"
        )


@dataclass(frozen=True, kw_only=True)
class Uppercase:
    """Capital letters only."""

    def grade(self, candidate: Candidate) -> Grade:
        """Return the share of words in capital letters."""
        return _grade_words(
            _cased_words(candidate.response), lambda word: word == word.upper(), "in capitals"
        )


@dataclass(frozen=True, kw_only=True)
class TitleCase:
    """Every word begins with a capital letter, small English words (of, the, and, ...) excepted."""

    def grade(self, candidate: Candidate) -> Grade:
        """Return the share of words, the excepted ones left out, that begin with a capital letter."""
        words = [word for word in _cased_words(candidate.response) if word not in _MINOR_WORDS]
        return _grade_words(words, lambda word: not word[0].islower(), "begin with a capital")


@dataclass(frozen=True, kw_only=True)
class NoCommas:
    """Not a single comma (the Arabic, Chinese and Japanese commas count)."""

    def grade(self, candidate: Candidate) -> Grade:
        """Return 1 without commas, else 0."""
        n_commas = sum(character in _COMMAS for character in candidate.response)
        return passed(n_commas == 0, f"{n_commas} commas")


@dataclass(frozen=True, kw_only=True)
class StartsWith:
    """The response begins with a text, white space before it not counted."""

    text: str
    ignore_case: bool = True

    def grade(self, candidate: Candidate) -> Grade:
        """Return 1 or 0."""
        begin, wanted = candidate.response.strip(), self.text.strip()
        if self.ignore_case:
            begin, wanted = begin.casefold(), wanted.casefold()
        return passed(begin.startswith(wanted), f"begins with {begin[: len(wanted)]!r}")


@dataclass(frozen=True, kw_only=True)
class EndsWith:
    """The response ends with a text, white space after it not counted."""

    text: str
    ignore_case: bool = True

    def grade(self, candidate: Candidate) -> Grade:
        """Return 1 or 0."""
        end, wanted = candidate.response.strip(), self.text.strip()
        if self.ignore_case:
            end, wanted = end.casefold(), wanted.casefold()
        return passed(end.endswith(wanted), f"ends with {end[-len(wanted) :]!r}")


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """The whole response stands in one pair of double quotation marks (straight, curly, German, French, Japanese)."""

    def grade(self, candidate: Candidate) -> Grade:
        """Return 1 or 0."""
        text = candidate.response.strip()
        ends = text[:1] + text[-1:]
        return passed(len(text) > 1 and ends in _QUOTES, f"begins and ends with {ends!r}")


@dataclass(frozen=True, kw_only=True)
class Json:
    """The whole response is one JSON value, by default also inside a Markdown code fence; with ``required`` keys an object.

    ``style`` ``python`` takes what Python's own parser takes: NaN and Infinity are values, and a fence need not stand on lines
    of its own.
    """

    required: tuple[str, ...] = ()
    fenced: bool = True
    style: Literal["strict", "python"] = "strict"

    def grade(self, candidate: Candidate) -> Grade:
        """Return 0 for what is not JSON, else (1 + keys present) / (1 + keys required)."""
        text = candidate.response
        try:
            value = self._read_loosely(text) if self.style == "python" else self._read(text)
        except (ValueError, RecursionError) as error:
            return Grade(0.0, f"not JSON: {error or 'nested too deep'}")
        missing = [key for key in self.required if not (isinstance(value, dict) and key in value)]
        score = (1 + len(self.required) - len(missing)) / (1 + len(self.required))
        return Grade(
            score,
            f"valid JSON without {', '.join(map(repr, missing))}" if missing else "valid JSON",
        )

    def _read(self, text: str) -> Any:
        fence = _FENCE.fullmatch(text) if self.fenced else None
        return read_json(fence["body"] if fence else text)

    def _read_loosely(self, text: str) -> Any:
        text = text.strip()
        if self.fenced:
            for beginning in _FENCE_BEGINNINGS:
                text = text.removeprefix(beginning)
            text = text.removesuffix("```").strip()
        return json.loads(text)


def read_json(text: str) -> Any:
    """Return the value of a JSON text. Unlike ``json.loads`` it refuses NaN and Infinity and takes long integers."""

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse_constant, parse_int=float)


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str, ignore_case: bool) -> Any:
    return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)


@dataclass(frozen=True, kw_only=True)
class Regex:
    """A regular expression (syntax of Python's ``re``) found in the response, or matching all of it."""

    pattern: str
    mode: Literal["search", "fullmatch"] = "search"
    ignore_case: bool = False

    def __post_init__(self) -> None:
        """Refuse a pattern that does not compile."""
        try:
            _compile(self.pattern, self.ignore_case)
        except regex.error as error:
            raise ValueError(
                f"'pattern' {self.pattern!r} is no regular expression: {error}"
            ) from error

    def grade(self, candidate: Candidate) -> Grade:
        """Return 1 or 0; a search stopped after ``REGEX_TIMEOUT_S`` scores 0 and says so."""
        find = getattr(_compile(self.pattern, self.ignore_case), self.mode)
        try:
            match = find(candidate.response, timeout=REGEX_TIMEOUT_S)
        except TimeoutError:
            return Grade(0.0, f"the pattern {self.pattern!r} took more than {REGEX_TIMEOUT_S} s")
        return passed(
            match is not None, "the pattern matches" if match else "the pattern does not match"
        )
