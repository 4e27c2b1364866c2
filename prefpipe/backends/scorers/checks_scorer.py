"""Rates without a model, by a prompt's own verifiable constraints (docs/guides/checks.md)."""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prefpipe.backends.protocol import Score, ScoreRequest
from prefpipe.errors import InputError
from prefpipe.surrogates import replace_lone_surrogates
from prefpipe.text.checks.column import (
    CHECKS_VERSION,
    Rating,
    WeightedCheck,
    parse_checks,
    rate,
)
from prefpipe.text.checks.ifeval import IDS_COLUMN, KWARGS_COLUMN, NEAR, checks_of_instructions

COLUMN: Final = "checks"
IFEVAL_COLUMNS: Final = (IDS_COLUMN, KWARGS_COLUMN)
"""IFEval's column in place of ``checks``."""
NEAR_IFEVAL: Final = "n_near/"
"""Prefix of the tally of prompts with an approximately judged instruction.

The instruction follows.
"""
_MOST_PROMPTS_SHOWN: Final = 20
Checks = tuple[WeightedCheck, ...]
Near = Sequence[str]
"""IFEval's instructions that a prompt's checks only approximate."""


class ChecksScorer:
    """Rates a response by its prompt's column ``checks``: a weighted mean in [0, 1].

    One call at a time, because a user's own functions may keep state in their modules.
    """

    def __init__(self, *, trust_python_checks: bool = False) -> None:
        self._trust_python_checks = trust_python_checks
        self._rating = threading.Lock()

    def identity(self) -> dict[str, int]:
        """Return the fingerprint fields.

        The code of a user's own functions is not part of it.
        """
        return {"checks_version": CHECKS_VERSION}

    def validate(self, prompts: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Read the checks of every ``(prompt_id, columns)`` and return how many prompts have some.

        So a mistake in the file shows before the run, not as a failed row in the middle of it.

        Raises:
            InputError: lists all problems of the first prompts that have any.
        """
        n_with_checks = 0
        problems = []
        for prompt_id, columns in prompts:
            try:
                checks, _ = self._parse(prompt_id, columns)
                n_with_checks += bool(checks)
            except InputError as error:
                problems.append(error)
        if not problems:
            return n_with_checks

        lines = [error.message for error in problems[:_MOST_PROMPTS_SHOWN]]
        if len(problems) > len(lines):
            lines.append(f"and {len(problems) - len(lines)} more prompts")
        raise InputError("\n".join(lines), hint=problems[0].hint)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one score for each request.

        Statuses: ``ok``; ``no_checks``: the prompt has none; ``bad_checks``: they cannot be
        read; ``check_error``: a user's own function failed. ``detail`` lists each check's type,
        score, weight and reason. Tallies count prompts with approximately judged instructions.
        """
        # Once a prompt: its candidates share its checks.
        parsed: dict[str, Checks | InputError] = {}
        scores = []
        with self._rating:
            for request in requests:
                near: Near = ()
                if request.prompt_id not in parsed:
                    parsed[request.prompt_id], near = self._try_parse(request)
                score = _score(request, parsed[request.prompt_id])
                scores.append(score._replace(tally={NEAR_IFEVAL + name: 1 for name in near}))
        return scores

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _parse(self, prompt_id: str, columns: Mapping[str, Any]) -> tuple[Checks, Near]:
        """Return a prompt's checks, and IFEval's instructions that they only approximate."""
        where = f"prompt {prompt_id!r}"
        has_checks = columns.get(COLUMN) is not None
        has_instructions = all(columns.get(name) is not None for name in IFEVAL_COLUMNS)
        if has_instructions and not has_checks:
            return self._parse_instructions(where, columns)
        checks = parse_checks(
            columns.get(COLUMN), where, trust_python_checks=self._trust_python_checks
        )
        return checks, ()

    def _parse_instructions(self, where: str, columns: Mapping[str, Any]) -> tuple[Checks, Near]:
        try:
            value = checks_of_instructions(columns[IDS_COLUMN], columns[KWARGS_COLUMN])
        except ValueError as error:
            raise InputError(
                f"{where}: {error}",
                hint="correct the instruction, remove it and its kwargs, or give the prompt its "
                "own `checks`",
            ) from error
        checks = parse_checks(value, where)

        ids = columns[IDS_COLUMN]
        if isinstance(ids, str):
            ids = json.loads(ids)
        return checks, sorted(set(ids) & set(NEAR))

    def _try_parse(self, request: ScoreRequest) -> tuple[Checks | InputError, Near]:
        try:
            return self._parse(request.prompt_id, request.columns)
        except InputError as error:
            return error, ()


def _score(request: ScoreRequest, checks: Checks | InputError) -> Score:
    if isinstance(checks, InputError):
        return Score(None, "bad_checks", replace_lone_surrogates(checks.message))
    if not checks:
        return Score(None, "no_checks", f"the prompt has no column {COLUMN!r}, or it is empty")
    try:
        rating = rate(request.response, checks, request.messages, request.columns)
    except InputError as error:
        return Score(None, "check_error", replace_lone_surrogates(error.message))
    return Score(rating.reward, detail=_detail(rating))


def _detail(rating: Rating) -> str:
    results = [
        {
            "type": result.type,
            "score": round(result.score, 6),
            "weight": result.weight,
            "reason": result.reason,
        }
        for result in rating.results
    ]
    return replace_lone_surrogates(json.dumps(results, ensure_ascii=False))
