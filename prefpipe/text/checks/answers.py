r"""Checks on the final answer: an exact text, a number.

The answer is found in this order: the last ``\boxed{...}``; after the last ``####``; after the last
``answer is``, ``answer:`` or ``answer =`` on its line; else the whole response (of numbers: the
last one in it).
"""

import math
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import regex  # type: ignore[import-untyped]
from pydantic.dataclasses import dataclass

from prefpipe.text.checks.grading import CheckedResponse, Grade, passed
from prefpipe.text.checks.parameters import NotNegative, Number, Switch, Texts

_ANSWER_IS: Final = regex.compile(r"\banswer(?:\s++is\b\s*+:?|\s*+[:=])", regex.IGNORECASE)
_SENTENCE_END: Final = regex.compile(r"[.!?](?=\s)")
_FRACTION_MACRO: Final = regex.compile(r"\\[dt]?frac\{(-?[0-9]{1,300})\}\{([0-9]{1,300})\}")
_LATEX: Final = (("{,}", ","), ("\\,", ""), ("\\!", ""), ("\\%", "%"), ("\\$", "$"))
_THOUSANDS: Final = regex.compile(r"[0-9]{1,3}(?:,[0-9]{3})++(?:[.eE].*+)?+")
_NUMBER: Final = regex.compile(
    r"""
    (?<![\p{L}\p{N}_.])                       # not inside a word, a longer number or a version
    (?:(?<![\p{L}\p{N}_.)\]])(?P<sign>[-+\u2212]))?+  [$\u20ac\u00a3\u00a5]?+
    (?P<sign2>[-\u2212])?+
    (?: (?:(?P<whole>[0-9]{1,15})[ ])?(?P<above>[0-9]{1,15})
        [ ]?/[ ]?(?P<below>[0-9]{1,15})(?![0-9/])
      | (?P<decimal>(?:[0-9]++(?:,[0-9]++)*+(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+)
    )
    [ ]?(?P<percent>%|percent\b)?+
    """,
    regex.VERBOSE,
)


def _boxed(text: str) -> str | None:
    r"""Return what the last ``\boxed{...}`` holds, braces inside it balanced."""
    begin = text.rfind("\\boxed{")
    if begin < 0:
        return None

    begin += len("\\boxed{")
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return text[begin:]


def marked_answers(text: str) -> Iterator[str]:
    """Yield the marked final answers, the most explicit mark first."""
    boxed = _boxed(text)
    if boxed is not None:
        yield boxed

    if "####" in text:
        yield text.rpartition("####")[2]

    end = max((match.end() for match in _ANSWER_IS.finditer(text)), default=None)
    if end is not None:
        yield text[end:].lstrip(" \t*_").partition("\n")[0]


def normalise_answer(text: str) -> str:
    """Return ``text`` in one case and one Unicode form, with single spaces.

    Punctuation around a word is left out. Inside a word it stays (``3.5``, ``don't``), and so does
    the sign of a number.
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(filter(None, map(_normalise_word, words)))


def _normalise_word(word: str) -> str:
    sign = "-" if word[0] in "-\u2212" and word[1:2].isdigit() else ""
    kept = []
    for place, letter in enumerate(word):
        if not unicodedata.category(letter).startswith("P"):
            kept.append(place)
    if not kept:
        return ""
    return sign + word[kept[0] : kept[-1] + 1]


@dataclass(frozen=True, kw_only=True)
class ExactAnswer:
    """The final answer, or the whole response, equals a text (or one of several)."""

    answer: Texts
    normalise: Switch = True

    def __post_init__(self) -> None:
        """Refuse an answer with nothing left to compare."""
        if not self.answer:
            raise ValueError("'answer' needs a text")
        for answer in self.answer:
            if not self._form(answer):
                raise ValueError(f"'answer' {answer!r} is empty once normalised")

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 1 or 0."""
        wanted = set(map(self._form, self.answer))
        marked = list(marked_answers(candidate.response))
        final = marked[0] if marked else candidate.response

        # The answer may be the whole response, or the first sentence after a mark.
        given = [candidate.response]
        for text in marked:
            given += [text, _SENTENCE_END.split(text, maxsplit=1)[0]]
        is_right = any(self._form(text) in wanted for text in given)
        return passed(is_right, f"answer {_shorten(final)}")

    def _form(self, text: str) -> str:
        return normalise_answer(text) if self.normalise else text.strip()


def _shorten(text: str, length: int = 60) -> str:
    text = text.strip()
    return repr(text if len(text) <= length else text[: length - 1] + "\u2026")


def read_numbers(text: str) -> list[tuple[float, bool]]:
    r"""Return each number in ``text`` with whether a percent sign follows it.

    Reads ``-3``, ``1,234.5``, ``.5``, ``1e-3``, ``$5``, ``3/4``, ``1 1/2``, ``\frac{3}{4}``,
    ``12 %``. The comma groups thousands (``1,2,3`` is three numbers), the point is decimal. Digits
    inside a word or a version (``x2``, ``1.2.3``) are not numbers.
    """
    for macro, plain in _LATEX:
        text = text.replace(macro, plain)
    text = _FRACTION_MACRO.sub(r"\1/\2", text)
    numbers: list[tuple[float, bool]] = []
    for match in _NUMBER.finditer(text):
        numbers += _values(match)
    return numbers


def _values(match: Any) -> list[tuple[float, bool]]:
    """Return the numbers of one match: a fraction, a decimal, or several with commas between."""
    sign = -1.0 if (match["sign"] or match["sign2"] or "+") != "+" else 1.0
    is_percentage = match["percent"] is not None

    if match["decimal"] is None:
        below = int(match["below"])
        if not below:
            # ``3/0`` is still the answer, and NaN is within no tolerance of any number.
            return [(math.nan, is_percentage)]
        value = int(match["whole"] or 0) + int(match["above"]) / below
        return [(sign * value, is_percentage)]

    if _THOUSANDS.fullmatch(match["decimal"]):
        return [(sign * float(match["decimal"].replace(",", "")), is_percentage)]

    # ``1,2,3%`` is three numbers, the first with the sign and the last with the percent
    first, *others = match["decimal"].split(",")
    values = [sign * float(first), *map(float, others)]
    return [(value, is_percentage and place == len(others)) for place, value in enumerate(values)]


def final_number(text: str) -> tuple[float, bool] | None:
    """Return the response's final number, and whether it is a percentage.

    None if the response holds no number.
    """
    for marked in marked_answers(text):
        numbers = read_numbers(marked)
        if numbers:
            return numbers[0]
    numbers = read_numbers(text)
    return numbers[-1] if numbers else None


@dataclass(frozen=True, kw_only=True)
class NumericAnswer:
    """The final answer is a number within ``tolerance`` or ``relative_tolerance`` of ``answer``."""

    answer: Number
    tolerance: NotNegative = 1e-6
    relative_tolerance: NotNegative = 0.0

    def grade(self, candidate: CheckedResponse) -> Grade:
        """Return 1 or 0. A percentage is right both ways: ``50%`` answers 50 and 0.5."""
        number = final_number(candidate.response)
        if number is None:
            return Grade(0.0, "no number")

        value, is_percentage = number
        readings = [value, value / 100] if is_percentage else [value]
        margin = max(self.tolerance, self.relative_tolerance * abs(self.answer))
        is_right = any(abs(reading - self.answer) <= margin for reading in readings)
        unit = "%" if is_percentage else ""
        return passed(is_right, f"answer {value:g}{unit}, wanted {self.answer:g}")
