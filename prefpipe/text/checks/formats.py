"""Checks on the form of a response: case, commas, start and end, quotes, JSON, a pattern."""

import functools
import json
from collections.abc import Callable
from typing import Any, Final, Literal

import regex  # type: ignore[import-untyped]
from pydantic.dataclasses import dataclass

from prefpipe.text.checks.grading import CheckedResponse, Grade, passed
from prefpipe.text.checks.parameters import Switch, Text, Texts
from prefpipe.text.words import split_words

REGEX_TIMEOUT_S: Final = 1.0
"""A longer search scores 0: a pattern that backtracks forever must not stop the run."""

_COMMAS: Final = frozenset(",\u060c\u3001\uff0c")
_QUOTES: Final = frozenset(
    {'""', "\u201c\u201d", "\u201e\u201c", "\u201e\u201d", "\u00ab\u00bb", "\u300c\u300d"}
)
_FENCE: Final = regex.compile(
    r"\s*+```[a-zA-Z]*+[ \t]*+\n(?P<body>.*)\n[ \t]*+```\s*+", regex.DOTALL
)
_FENCE_BEGINNINGS: Final = ("```json", "```Json", "```JSON", "```")
_SMALL: Final = """a an and as at but by for from in into nor of on onto or over per so the to up
    via with yet"""
_MINOR_WORDS: Final = frozenset(_SMALL.split())


def _grade_words(words: list[str], is_right: Callable[[str], bool], wanted: str) -> Grade:
    """Return the share of correct ``words``; a response without words to judge scores 0."""
    if not words:
        return Grade(0.0, "no words with upper or lower case")
    n_right = sum(map(is_right, words))
    return Grade(n_right / len(words), f"{n_right} of {len(words)} words {wanted}")


def _cased_words(text: str) -> list[str]:
    """Return the words in scripts with upper and lower case."""
    return [word for word in split_words(text) if word.upper() != word.lower()]


@dataclass(frozen=True, kw_only=True)
class Lowercase:
    """No capital letters."""

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return the share of words without a capital letter."""
        words = _cased_words(candidate.response)
        return _grade_words(words, lambda word: word == word.lower(), "in lower case")


@dataclass(frozen=True, kw_only=True)
class Uppercase:
    """Capital letters only."""

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return the share of words in capital letters."""
        words = _cased_words(candidate.response)
        return _grade_words(words, lambda word: word == word.upper(), "in capitals")


@dataclass(frozen=True, kw_only=True)
class TitleCase:
    """Every word begins with a capital letter, small English words (of, the, and, ...) excepted."""

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return the share of words that begin with a capital, except small English words."""
        words = [word for word in _cased_words(candidate.response) if word not in _MINOR_WORDS]
        return _grade_words(words, lambda word: not word[0].islower(), "begin with a capital")


@dataclass(frozen=True, kw_only=True)
class NoCommas:
    """Not a single comma (the Arabic, Chinese and Japanese commas count)."""

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 1 without commas, else 0."""
        n_commas = sum(character in _COMMAS for character in candidate.response)
        return passed(n_commas == 0, f"{n_commas} commas")


@dataclass(frozen=True, kw_only=True)
class StartsWith:
    """The response begins with a text, white space before it not counted."""

    text: Text
    ignore_case: Switch = True

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 1 or 0."""
        begin, wanted = candidate.response.strip(), self.text.strip()
        if self.ignore_case:
            begin, wanted = begin.casefold(), wanted.casefold()
        return passed(begin.startswith(wanted), f"begins with {begin[: len(wanted)]!r}")


@dataclass(frozen=True, kw_only=True)
class EndsWith:
    """The response ends with a text, white space after it not counted."""

    text: Text
    ignore_case: Switch = True

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 1 or 0."""
        end, wanted = candidate.response.strip(), self.text.strip()
        if self.ignore_case:
            end, wanted = end.casefold(), wanted.casefold()
        return passed(end.endswith(wanted), f"ends with {end[-len(wanted) :]!r}")


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """The whole response is in one pair of double quotation marks.

    They may be straight, curly, German, French or Japanese.
    """

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 1 or 0."""
        text = candidate.response.strip()
        ends = text[:1] + text[-1:]
        return passed(len(text) > 1 and ends in _QUOTES, f"begins and ends with {ends!r}")


@dataclass(frozen=True, kw_only=True)
class Json:
    """The whole response is one JSON value; with ``required`` keys, an object.

    By default it may be inside a Markdown code fence. ``style`` ``python`` accepts what Python's
    parser accepts: NaN and Infinity are values, and a fence need not be on its own lines.
    """

    required: Texts = ()
    fenced: Switch = True
    style: Literal["strict", "python"] = "strict"

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 0 if it is not JSON, else (1 + keys present) / (1 + keys required)."""
        read = self._read_loosely if self.style == "python" else self._read
        try:
            value = read(candidate.response)
        except (ValueError, RecursionError) as error:
            return Grade(0.0, f"not JSON: {error or 'nested too deep'}")

        keys = value if isinstance(value, dict) else {}
        missing = [key for key in self.required if key not in keys]
        score = (1 + len(self.required) - len(missing)) / (1 + len(self.required))
        if missing:
            return Grade(score, f"valid JSON without {', '.join(map(repr, missing))}")
        return Grade(score, "valid JSON")

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
    """Return the value of a JSON text.

    Unlike ``json.loads`` it refuses NaN and Infinity, and takes integers of any length.
    """

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse_constant, parse_int=float)


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str, ignore_case: bool) -> Any:
    return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)


@dataclass(frozen=True, kw_only=True)
class Regex:
    """A regular expression (as of Python's ``re``) in the response, or matching all of it."""

    pattern: Text
    mode: Literal["search", "fullmatch"] = "search"
    ignore_case: Switch = False

    def __post_init__(self) -> None:
        """Refuse a pattern that does not compile."""
        try:
            _compile(self.pattern, self.ignore_case)
        except regex.error as error:
            raise ValueError(
                f"'pattern' {self.pattern!r} is not a regular expression: {error}"
            ) from error

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 1 or 0; a search stopped after ``REGEX_TIMEOUT_S`` scores 0 and says so."""
        find = getattr(_compile(self.pattern, self.ignore_case), self.mode)
        try:
            match = find(candidate.response, timeout=REGEX_TIMEOUT_S)
        except TimeoutError:
            return Grade(0.0, f"the pattern {self.pattern!r} took more than {REGEX_TIMEOUT_S} s")
        if match is None:
            return passed(False, "the pattern does not match")
        return passed(True, "the pattern matches")
