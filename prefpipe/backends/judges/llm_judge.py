"""Language models as judges: of pairs (``judge``) and of single responses (``score``).

A verdict is read from the answer's text or from the probabilities of its tokens.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from prefpipe.artifacts.answer_cache import request_key
from prefpipe.backends.chat_answers import REFUSED, ChatAnswer
from prefpipe.backends.judges.answers import JudgeAnswers
from prefpipe.backends.open_calls import Answered
from prefpipe.backends.protocol import (
    NOTHING_COUNTED,
    PairRequest,
    PairVerdict,
    Score,
    ScoreRequest,
)
from prefpipe.text.judging.judge_prompt import JudgePrompt, Question
from prefpipe.text.judging.verdicts import Reading, read_verdict, read_verdict_from_probabilities

VerdictBy = Literal["text", "logprobs", "either"]
"""``either``: by probabilities if the answer has them, else by text."""
TOP_LOGPROBS = 20
"""The most alternatives that OpenAI and vLLM (by default) return."""
BARE_TOKENS, LINE_TOKENS = 8, 1024
PARSE_ERROR, NO_LOGPROBS = "parse_error", "no_logprobs"
CHOICES = {"A": "first", "B": "second", "C": "tie"}


class JudgeSettings(NamedTuple):
    """The settings of every question of a judge."""

    model: str
    prompt: JudgePrompt
    verdict: VerdictBy
    max_tokens: int
    temperature: float

    def identity(self) -> dict[str, Any]:
        """Return the fingerprint fields beside the model."""
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
        if self.verdict != "text":
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body

    def read(self, answer: ChatAnswer, question: Question) -> Reading:
        """Return the verdict of an answer whose status is ``ok``.

        Probabilities are used only if the text is a verdict, too: the first token of an answer that
        repeats a response is not evidence.
        """
        kind, form = self.prompt.kind, self.prompt.form
        stated = read_verdict(answer.text, kind, form, question.nonce)

        ends_in_one = kind == "pointwise" and answer.text.rstrip().endswith("1")
        if answer.is_cut and ends_in_one and not _knows_ten(answer):
            return Reading(None, problem="the answer ends in 1, which may be the beginning of 10")
        if stated.value is None or self.verdict == "text":
            return stated
        if self.verdict == "either" and answer.tokens is None:
            return stated
        return read_verdict_from_probabilities(answer.tokens or (), kind, form, question.nonce)


def _knows_ten(answer: ChatAnswer) -> bool:
    """Return whether 10 is a single token, so that an answer cut after a 1 means 1."""
    return answer.tokens is not None and "10" in {token.strip() for token in answer.tokens[-1].top}


class ReadAnswer(NamedTuple):
    """A question's answer, its verdict, its row status, and its tally."""

    answer: ChatAnswer
    reading: Reading
    status: str
    reason: str | None
    key: str
    tally: Mapping[str, float] = NOTHING_COUNTED


class _Judge:
    """Asks questions and reads verdicts."""

    def __init__(self, settings: JudgeSettings, answers: JudgeAnswers) -> None:
        self.settings, self.answers = settings, answers

    def has_room(self) -> bool:
        """Return whether the source of answers may soon be idle."""
        return self.answers.has_room()

    def answered(self) -> Answered:
        """Return how many of the questions that are being asked are answered."""
        return self.answers.answered()

    def close(self) -> None:
        """Close the source of answers."""
        self.answers.close()

    def _ask(self, questions: Sequence[Question]) -> list[ReadAnswer]:
        bodies = [self.settings.body(question) for question in questions]
        is_usable = [self._holds_verdict(question) for question in questions]
        answers, tally = self.answers.obtain(bodies, is_usable)
        read = [self._read(*item) for item in zip(bodies, questions, answers, strict=True)]
        # The call's cost is attached to its first answer.
        return [each._replace(tally=tally) for each in read[:1]] + read[1:]

    def _holds_verdict(self, question: Question) -> Callable[[ChatAnswer], bool]:
        """Return the test for a usable answer: another try would repeat a refusal."""

        def is_usable(answer: ChatAnswer) -> bool:
            if answer.status != "ok":
                return answer.status == REFUSED
            return self.settings.read(answer, question).value is not None

        return is_usable

    def _read(self, body: dict[str, Any], question: Question, answer: ChatAnswer) -> ReadAnswer:
        read = ReadAnswer(answer, Reading(None), "ok", None, request_key(body))
        if answer.status != "ok":
            return read._replace(status=answer.status, reason=answer.reason)
        if self.settings.verdict == "logprobs" and answer.tokens is None:
            reason = "the answer came without log-probabilities"
            return read._replace(status=NO_LOGPROBS, reason=reason)

        reading = self.settings.read(answer, question)
        if reading.value is not None:
            return read._replace(reading=reading)
        cut = f"; it was cut at {self.settings.max_tokens} tokens" if answer.is_cut else ""
        return read._replace(reading=reading, status=PARSE_ERROR, reason=f"{reading.problem}{cut}")


class LlmJudge(_Judge):
    """A language model that compares two responses."""

    def judge(self, requests: Sequence[PairRequest]) -> list[PairVerdict]:
        """Return one verdict for each request, in order.

        Statuses: ``ok``, ``parse_error``: the answer holds no clear verdict, ``no_logprobs``, and
        those of ``ChatAnswer``.
        """
        prompt = self.settings.prompt
        questions = [
            prompt.ask_about_pair(request.messages, request.first, request.second)
            for request in requests
        ]
        return [_pair_verdict(read_answer) for read_answer in self._ask(questions)]


class JudgeScorer(_Judge):
    """A language model that rates single responses from 1 to 10."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one score for each request, in order.

        ``detail`` has the answer, and the expected rating's ``mass``.
        """
        prompt = self.settings.prompt
        questions = [
            prompt.ask_about_response(request.messages, request.response) for request in requests
        ]
        return [_score(read_answer) for read_answer in self._ask(questions)]


def _pair_verdict(read_answer: ReadAnswer) -> PairVerdict:
    answer, reading = read_answer.answer, read_answer.reading
    has_verdict = reading.value is not None
    return PairVerdict(
        preference=reading.value,
        choice=CHOICES.get(reading.choice or "") if has_verdict else None,
        mass=reading.mass,
        raw=answer.text or None,
        status=read_answer.status,
        reason=read_answer.reason,
        request=read_answer.key,
        n_prompt_tokens=answer.n_prompt_tokens,
        n_completion_tokens=answer.n_completion_tokens,
        tally=read_answer.tally,
    )


def _score(read_answer: ReadAnswer) -> Score:
    answer, reading = read_answer.answer, read_answer.reading
    detail: dict[str, Any] = {
        "answer": answer.text or None,
        "rating": int(reading.choice) if reading.choice else None,
        "mass": reading.mass,
        "unsplit_one": reading.unsplit_one,
        "request": read_answer.key,
        "prompt_tokens": answer.n_prompt_tokens,
        "completion_tokens": answer.n_completion_tokens,
    }
    known = {name: value for name, value in detail.items() if value is not None}
    text = json.dumps(known, ensure_ascii=False)
    return Score(
        reading.value, read_answer.status, read_answer.reason, text, tally=read_answer.tally
    )


def default_max_tokens(prompt: JudgePrompt) -> int:
    """Return the maximum length of an answer.

    It is 8 tokens for a bare verdict, 1,024 if the judge reasons first.
    """
    return BARE_TOKENS if prompt.form == "bare" else LINE_TOKENS
