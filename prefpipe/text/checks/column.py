"""The column ``checks`` of a prompt: verifiable constraints, and the graded reward they give.

    [{"type": "words", "max": 50}, {"type": "language", "language": "de", "weight": 2.0}]

``type`` names one of ``CHECKS``. ``weight`` (1.0) is its share in the weighted mean. ``strict``
(false) counts anything short of full marks as 0, and ``not_empty`` (false) gives a response of
white space alone 0; IFEval does both. Every other key is a parameter of that type. See
docs/guides/checks.md.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, NamedTuple

from pydantic.dataclasses import dataclass

from prefpipe.errors import InputError
from prefpipe.spelling import did_you_mean
from prefpipe.text.checks.answers import ExactAnswer, NumericAnswer
from prefpipe.text.checks.counts import Bullets, Characters, Paragraphs, Sentences, Words
from prefpipe.text.checks.formats import (
    EndsWith,
    Json,
    Lowercase,
    NoCommas,
    Quoted,
    Regex,
    StartsWith,
    TitleCase,
    Uppercase,
)
from prefpipe.text.checks.grading import Check, CheckedResponse
from prefpipe.text.checks.keywords import KeywordFrequency, Keywords
from prefpipe.text.checks.languages import Language
from prefpipe.text.checks.parameters import NotNegative, Switch, read_parameters
from prefpipe.text.checks.user_checks import PythonCheck

CHECKS_VERSION: Final = 1
"""Increased when a check scores the same text differently; part of the fingerprint."""

CHECKS: Final[Mapping[str, type[Check]]] = {
    "words": Words,
    "chars": Characters,
    "sentences": Sentences,
    "paragraphs": Paragraphs,
    "bullets": Bullets,
    "lowercase": Lowercase,
    "uppercase": Uppercase,
    "title_case": TitleCase,
    "no_commas": NoCommas,
    "starts_with": StartsWith,
    "ends_with": EndsWith,
    "quoted": Quoted,
    "json": Json,
    "regex": Regex,
    "keywords": Keywords,
    "keyword_frequency": KeywordFrequency,
    "language": Language,
    "exact_answer": ExactAnswer,
    "numeric_answer": NumericAnswer,
    "python": PythonCheck,
}
"""Every type of check, with the frozen dataclass whose fields are its parameters."""


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """How a check's score counts in the reward: the keys that every check takes."""

    weight: NotNegative = 1.0
    strict: Switch = False
    not_empty: Switch = False


_WEIGHTING_KEYS: Final = frozenset(field.name for field in fields(Weighting))


class WeightedCheck(NamedTuple):
    """One valid entry of the column ``checks``."""

    type: str
    check: Check
    weighting: Weighting


class CheckResult(NamedTuple):
    """The result of one check. ``score`` is in [0, 1]."""

    type: str
    score: float
    weight: float
    reason: str


class Rating(NamedTuple):
    """``reward`` in [0, 1] is the weighted mean of the scores in ``results``."""

    reward: float
    results: tuple[CheckResult, ...]


def rate(
    response: str,
    checks: Sequence[WeightedCheck],
    messages: Sequence[Mapping[str, str]] = (),
    columns: Mapping[str, Any] | None = None,
) -> Rating:
    """Return the reward ``sum(weight * score) / sum(weight)`` and each check's result.

    Args:
        response: any string.
        checks: the prompt's checks, one or more.
        messages: the conversation, for a user's own functions.
        columns: the prompt's user columns, for the same functions.

    Raises:
        InputError: a user's own function failed. Other checks do not raise.
    """
    if not checks:
        raise ValueError("there is nothing to rate: the prompt has no checks")

    candidate = CheckedResponse(response, messages, columns or {})
    is_empty = not response.strip()
    results = []
    for kind, check, weighting in checks:
        if weighting.not_empty and is_empty:
            score, reason = 0.0, "the response is empty"
        else:
            score, reason = check.grade(candidate)
            if weighting.strict and score < 1.0:
                score = 0.0
        results.append(CheckResult(kind, score, weighting.weight, reason))

    total = math.fsum(result.weight for result in results)
    reward = math.fsum(result.weight * result.score for result in results) / total
    return Rating(min(1.0, reward), tuple(results))


def parse_checks(
    value: Any, where: str, *, trust_python_checks: bool = False
) -> tuple[WeightedCheck, ...]:
    """Return the checks of a prompt.

    Args:
        value: a list of objects, JSON text of such a list, or nothing (null, ``""``, ``[]``).
        where: names the prompt in messages.
        trust_python_checks: a check may name a function in any module
            (``package.module:function``). A prompts file is data, often from others: without this
            it may only name functions installed as entry points.

    Raises:
        InputError: lists every problem.
    """
    problems: list[str] = []
    checks = _read_checks(value, trust_python_checks, problems)
    if problems:
        text = problems[0]
        if len(problems) > 1:
            text = "\n  ".join([f"{len(problems)} problems", *problems])
        raise InputError(
            f"{where}: column 'checks': {text}",
            hint="docs/guides/checks.md lists every check with its parameters",
        )
    return checks


def _read_checks(
    value: Any, trust_python_checks: bool, problems: list[str]
) -> tuple[WeightedCheck, ...]:
    if isinstance(value, str):
        if not value.strip():
            return ()
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            problems.append(f"not JSON: {error}")
            return ()
        # The JSON of an empty text, `""`, means no checks, too.
        if isinstance(value, str) and not value.strip():
            return ()

    if value is None:
        return ()
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        problems.append(f"must be a list of objects, got {type(value).__name__}: {value!r}")
        return ()

    checks = []
    for index, item in enumerate(value):
        check = _read_check(item, index, trust_python_checks, problems)
        if check is not None:
            checks.append(check)
    if checks and not problems and not any(check.weighting.weight for check in checks):
        problems.append("all weights are 0")
    return tuple(checks)


def _read_check(
    item: Any, index: int, trust_python_checks: bool, problems: list[str]
) -> WeightedCheck | None:
    if not isinstance(item, Mapping):
        problems.append(f"[{index}]: must be an object, got {item!r}")
        return None

    kind = item.get("type")
    if not isinstance(kind, str) or kind not in CHECKS:
        guess = did_you_mean(kind, CHECKS, quote="'") if isinstance(kind, str) else ""
        problems.append(f"[{index}]: unknown type {kind!r}{guess}; known: {', '.join(CHECKS)}")
        return None

    parameters = {name: item[name] for name in item if name not in {"type", *_WEIGHTING_KEYS}}
    shared = {name: item[name] for name in item if name in _WEIGHTING_KEYS}
    of_check: list[str] = []
    weighting = read_parameters(Weighting, shared, of_check)

    # Refused before the check is created, because that loads the function.
    function = parameters.get("function")
    check = None
    if kind == "python" and ":" in str(function) and not trust_python_checks:
        of_check.append(
            f"'function' {function!r} names code to run: pass --trust-python-checks if you "
            "trust this prompts file, or install the function as an entry point of the group "
            "'prefpipe.checks' and use its name"
        )
    else:
        check = read_parameters(CHECKS[kind], parameters, of_check)

    problems += [f"[{index}] {kind}: {problem}" for problem in of_check]
    if of_check or check is None:
        return None
    return WeightedCheck(kind, check, weighting)
