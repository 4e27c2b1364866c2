"""Verifiable constraints that a prompt carries in its column ``checks``, and the graded reward they give.

    [{"type": "words", "max": 50}, {"type": "language", "language": "de", "weight": 2.0}]

``type`` names one of ``CHECKS``; ``weight`` (1.0) is its share in the weighted mean; ``strict`` (false) counts anything
short of full marks as 0, and ``not_empty`` (false) gives a response of white space alone 0, as IFEval does both; every other
key is a parameter of that type. See docs/checks.md.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

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
from prefpipe.text.checks.grading import Candidate, Check
from prefpipe.text.checks.keywords import KeywordFrequency, Keywords
from prefpipe.text.checks.languages import Language
from prefpipe.text.checks.parameters import read_number, read_parameters, read_switch
from prefpipe.text.checks.user_checks import PythonCheck

CHECKS_VERSION: Final = 1
"""Rises when a check gives the same text another score; part of the fingerprint."""

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


@dataclass(frozen=True)
class WeightedCheck:
    """One entry of the column ``checks``, read and found good."""

    type: str
    check: Check
    weight: float = 1.0
    strict: bool = False
    not_empty: bool = False


class CheckResult(NamedTuple):
    """What one check found. ``score`` is in [0, 1]."""

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
    """Return the reward ``sum(weight * score) / sum(weight)`` and what each check found.

    Any string can be rated. Only a user's own function can fail (``InputError``). ``messages`` and ``columns`` are for
    those functions.
    """
    if not checks:
        raise ValueError("nothing to rate: the prompt carries no checks")
    candidate = Candidate(response, messages, columns or {})
    results = []
    for item in checks:
        if item.not_empty and not response.strip():
            results.append(CheckResult(item.type, 0.0, item.weight, "the response is empty"))
            continue
        score, reason = item.check.grade(candidate)
        if item.strict and score < 1.0:
            score = 0.0
        results.append(CheckResult(item.type, score, item.weight, reason))
    total = math.fsum(result.weight for result in results)
    reward = math.fsum(result.weight * result.score for result in results) / total
    return Rating(min(1.0, reward), tuple(results))


def parse_checks(
    value: Any, where: str, *, trust_python_checks: bool = False
) -> tuple[WeightedCheck, ...]:
    """Return the checks in ``value``: a list of objects, JSON text of such a list, or nothing (null, ``""``, ``[]``).

    ``where`` names the prompt in the message of the ``InputError``, which lists every problem. A prompts file is data,
    often somebody else's: it may name a function in any module (``package.module:function``) only with
    ``trust_python_checks``; functions installed as entry points need no such leave.
    """
    problems: list[str] = []
    checks = _read_checks(value, trust_python_checks, problems)
    if problems:
        text = (
            problems[0]
            if len(problems) == 1
            else f"{len(problems)} problems\n  " + "\n  ".join(problems)
        )
        raise InputError(
            f"{where}: column 'checks': {text}",
            hint="docs/checks.md lists every check with its parameters",
        )
    return checks


def _read_checks(
    value: Any, trust_python_checks: bool, problems: list[str]
) -> tuple[WeightedCheck, ...]:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            problems.append(f"not JSON: {error}")
            return ()
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        problems.append(f"must be a list of objects, got {type(value).__name__}: {value!r}")
        return ()
    items = list(value)
    checks = [
        _read_check(item, index, trust_python_checks, problems) for index, item in enumerate(items)
    ]
    if items and not problems and not any(check.weight for check in checks if check):
        problems.append("all weights are 0")
    return tuple(check for check in checks if check)


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
    found: list[str] = []
    weight = _read_or(1.0, read_number, item.get("weight"), "weight", found)
    strict = _read_or(False, read_switch, item.get("strict"), "strict", found)
    not_empty = _read_or(False, read_switch, item.get("not_empty"), "not_empty", found)
    if weight < 0:
        found.append(f"'weight' cannot be negative, got {weight:g}")
    given = {
        name: value
        for name, value in item.items()
        if name not in {"type", "weight", "strict", "not_empty"}
    }
    check = None
    if kind == "python" and not trust_python_checks and ":" in str(given.get("function")):
        found.append(
            f"'function' {given['function']!r} names code to run: pass --trust-python-checks if you trust this prompts "
            "file, or install the function as an entry point of the group 'prefpipe.checks' and give its name"
        )
    else:
        check = read_parameters(CHECKS[kind], given, found)
    problems += [f"[{index}] {kind}: {problem}" for problem in found]
    return (
        WeightedCheck(kind, check, weight, strict, not_empty)
        if check is not None and not found
        else None
    )


def _read_or(default: Any, read: Any, value: Any, name: str, problems: list[str]) -> Any:
    if value is None:
        return default
    try:
        return read(value)
    except ValueError as error:
        problems.append(f"{name!r} {error}")
        return default
