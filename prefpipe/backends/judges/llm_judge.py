"""Language models as judges: of pairs (``judge``) and of single responses (``score``), by text or by token probabilities."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from prefpipe.artifacts.answer_cache import request_key
from prefpipe.backends.chat_answers import REFUSED, ChatAnswer
from prefpipe.backends.judges.judge_desk import JudgeDesk
from prefpipe.backends.protocol import PairRequest, PairVerdict, Score, ScoreRequest
from prefpipe.text.judging.judge_prompt import JudgePrompt, Question
from prefpipe.text.judging.verdicts import Reading, read_probabilities, read_text

VerdictBy = Literal["text", "logprobs", "either"]
"""``either``: by probabilities where the answer has them, else by text."""
TOP_LOGPROBS = 20
"""The most that OpenAI and vLLM (by default) give."""
BARE_TOKENS, LINE_TOKENS = 8, 1024
PARSE_ERROR, NO_LOGPROBS = "parse_error", "no_logprobs"


class JudgeSettings(NamedTuple):
    """What every question of a judge is asked with."""

    model: str
    prompt: JudgePrompt
    verdict: VerdictBy
    max_tokens: int
    temperature: float

    def identity(self) -> dict[str, Any]:
        """Return what belongs in the fingerprint beside the model."""
        return {
            "prompt": self.prompt.sha256,
            "verdict": self.verdict,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    def body(self, question: Question) -> dict[str, Any]:
        """Return the chat-completion request of a question."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        return (
            body
            if self.verdict == "text"
            else body | {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        )

    def read(self, answer: ChatAnswer, question: Question) -> Reading:
        """Return the verdict of an answer whose status is ``ok``.

        Probabilities are looked at only where the text is a verdict too: the first token of an answer that repeats a response
        says nothing about it.
        """
        stated = read_text(answer.text, self.prompt.kind, self.prompt.form, question.nonce)
        if (
            answer.is_cut
            and self.prompt.kind == "pointwise"
            and answer.text.rstrip().endswith("1")
            and not _knows_ten(answer)
        ):
            return Reading(None, problem="the answer ends in 1, which may be the beginning of 10")
        if (
            stated.value is None
            or self.verdict == "text"
            or (self.verdict == "either" and answer.tokens is None)
        ):
            return stated
        return read_probabilities(
            answer.tokens or (), self.prompt.kind, self.prompt.form, question.nonce
        )


def _knows_ten(answer: ChatAnswer) -> bool:
    """Return whether 10 is a token of its own, so that an answer that was cut behind a 1 means 1."""
    return answer.tokens is not None and "10" in {token.strip() for token in answer.tokens[-1].top}


class Asked(NamedTuple):
    """A question's answer, what was read from it, and what it comes to as a row."""

    answer: ChatAnswer
    reading: Reading
    status: str
    reason: str | None
    key: str


class _Judge:
    """Asks questions and reads verdicts."""

    def __init__(self, settings: JudgeSettings, desk: JudgeDesk) -> None:
        self.settings, self.desk = settings, desk

    def close(self) -> None:
        """Close what answers the questions."""
        self.desk.close()

    def _ask(self, questions: Sequence[Question]) -> list[Asked]:
        bodies = [self.settings.body(question) for question in questions]
        answers = self.desk.answers(bodies, [self._usable(question) for question in questions])
        return [self._asked(*item) for item in zip(bodies, questions, answers, strict=True)]

    def _usable(self, question: Question) -> Callable[[ChatAnswer], bool]:
        return lambda answer: (
            answer.status == REFUSED
            or (answer.status == "ok" and self.settings.read(answer, question).value is not None)
        )

    def _asked(self, body: dict[str, Any], question: Question, answer: ChatAnswer) -> Asked:
        key = request_key(body)
        if answer.status != "ok":
            return Asked(answer, Reading(None), answer.status, answer.reason, key)
        if self.settings.verdict == "logprobs" and answer.tokens is None:
            return Asked(
                answer, Reading(None), NO_LOGPROBS, "the answer came without log-probabilities", key
            )
        reading = self.settings.read(answer, question)
        if reading.value is not None:
            return Asked(answer, reading, "ok", None, key)
        cut = f"; it was cut at {self.settings.max_tokens} tokens" if answer.is_cut else ""
        return Asked(answer, reading, PARSE_ERROR, f"{reading.problem}{cut}", key)


class LlmJudge(_Judge):
    """A language model that compares two responses."""

    def judge(self, requests: Sequence[PairRequest]) -> list[PairVerdict]:
        """Return one verdict for each request, in order.

        Statuses: ``ok``, ``parse_error``: the answer holds no clear verdict, ``no_logprobs``, and those of ``ChatAnswer``.
        """
        prompt = self.settings.prompt
        asked = self._ask(
            [
                prompt.ask_about_pair(request.messages, request.first, request.second)
                for request in requests
            ]
        )
        return [_pair_verdict(item) for item in asked]


class JudgeScorer(_Judge):
    """A language model that rates single responses from 1 to 10."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one score for each request, in order; ``detail`` has the answer, and the expected rating's ``mass``."""
        prompt = self.settings.prompt
        asked = self._ask(
            [prompt.ask_about_response(request.messages, request.response) for request in requests]
        )
        return [_score(item) for item in asked]


def _pair_verdict(asked: Asked) -> PairVerdict:
    value = asked.reading.value
    choice = (
        {"A": "first", "B": "second", "C": "tie"}.get(asked.reading.choice or "")
        if value is not None
        else None
    )
    return PairVerdict(
        value,
        choice,
        asked.reading.mass,
        asked.answer.text or None,
        asked.status,
        asked.reason,
        asked.key,
        asked.answer.n_prompt_tokens,
        asked.answer.n_completion_tokens,
    )


def _score(asked: Asked) -> Score:
    reading = asked.reading
    detail: dict[str, Any] = {
        "answer": asked.answer.text or None,
        "rating": int(reading.choice) if reading.choice else None,
        "mass": reading.mass,
        "unsplit_one": reading.unsplit_one,
        "request": asked.key,
        "prompt_tokens": asked.answer.n_prompt_tokens,
        "completion_tokens": asked.answer.n_completion_tokens,
    }
    text = json.dumps(
        {name: value for name, value in detail.items() if value is not None}, ensure_ascii=False
    )
    return Score(reading.value, asked.status, asked.reason, text)


def default_max_tokens(prompt: JudgePrompt) -> int:
    """Return how long an answer may be: 8 tokens where it is the verdict alone, 1,024 where the judge reasons first."""
    return BARE_TOKENS if prompt.form == "bare" else LINE_TOKENS
