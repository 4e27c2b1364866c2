"""Where a judge's answers come from: what was paid for before, a batch, or asking.

One question is asked once, however many rows need its answer, and however many parts need it at the
same moment. Each answer is on disk before anything is made of it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, Protocol

from prefpipe.artifacts.answer_cache import AnswerCache, request_key
from prefpipe.artifacts.chat_messages import NoCompletionError
from prefpipe.artifacts.interchange.judge_batch import BatchAnswers
from prefpipe.backends.chat_answers import ERROR, NOT_ANSWERED, ChatAnswer, read_completion
from prefpipe.text.control_text import spells_control_token

Body = Mapping[str, Any]
"""A chat-completion request, or the completion that answers it."""
Mode = Literal["ask", "collect", "ingest"]


class CompletionSource(Protocol):
    """What can answer questions: a server, or an engine in this process."""

    def complete(
        self, bodies: Sequence[Body], keep: Callable[[int, Body], None]
    ) -> list[ChatAnswer]:
        """Return one answer for each body, in order. Several threads may ask at once.

        ``keep`` is called with place and completion as each arrives.
        """
        ...

    def has_room(self) -> bool:
        """Return whether so few questions wait that there may soon be nothing to answer."""
        ...

    def close(self) -> None:
        """Release connections or memory."""
        ...


@dataclass
class Spending:
    """What was asked and used.

    Questions answered now and before this run, and the tokens of those answered now.
    """

    n_asked: int = 0
    n_from_cache: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    n_uncounted: int = 0
    """Answers whose tokens the server did not count."""

    def add(self, answer: ChatAnswer) -> None:
        """Count an answer that arrived now."""
        self.n_asked += 1
        self.n_prompt_tokens += answer.n_prompt_tokens or 0
        self.n_completion_tokens += answer.n_completion_tokens or 0
        self.n_uncounted += answer.n_prompt_tokens is None and answer.status != ERROR

    def __add__(self, other: "Spending") -> "Spending":
        """Return the sum."""
        sums = {each.name: getattr(self, each.name) for each in fields(self)}
        return Spending(**{name: value + getattr(other, name) for name, value in sums.items()})

    def cost(self, price_in: float, price_out: float) -> float:
        """Return the cost at so much a million prompt and completion tokens."""
        return (self.n_prompt_tokens * price_in + self.n_completion_tokens * price_out) / 1e6


class Obtained(NamedTuple):
    """Answers, in the order of the questions, and what this call spent on them."""

    answers: list[ChatAnswer]
    spending: Spending


class _Question(NamedTuple):
    """A request, its key, and whether an answer to it holds a verdict."""

    key: str
    body: Body
    is_usable: Callable[[ChatAnswer], bool]


@dataclass
class JudgeAnswers:
    """The answers to a judge's questions, by the content of the question.

    Several threads may obtain answers at once, each those of a part.

    Args:
        open_source: opens what answers questions; called when the first one has to be asked.
        cache: answers of before.
        mode: ``ask``; ``collect``: nothing is asked, open questions are gathered in
            ``open_questions``; ``ingest``: answers come from ``batch``, and nothing is asked.
        batch: what a batch brought.
        ask_again: whether an answer of an earlier run that holds no verdict is asked for again.
        is_served: whether a server renders the questions. It may take a control token that a
            response spells for its own.
    """

    open_source: Callable[[], CompletionSource]
    cache: AnswerCache
    mode: Mode = "ask"
    batch: BatchAnswers = field(default_factory=lambda: BatchAnswers({}, {}))
    ask_again: bool = True
    is_served: bool = False
    spending: Spending = field(default_factory=Spending)
    """That of all calls so far."""
    open_questions: dict[str, Body] = field(default_factory=dict)
    used_of_batch: set[str] = field(default_factory=set)
    spelling_control_tokens: set[str] = field(default_factory=set)
    """Questions to a server that spell a control token, by key."""
    _source: CompletionSource | None = None
    _failed: dict[str, ChatAnswer] = field(default_factory=dict)
    """What was asked in vain in this run, by key: once a run is enough."""
    _claimed: dict[str, threading.Event] = field(default_factory=dict)
    """Questions that a call looks up or asks now, by key. Set when it is done with them."""
    _n_calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _opening: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Clear away what a killed run left half written."""
        self.cache.sweep()

    def obtain(
        self, bodies: Sequence[Body], is_usable: Sequence[Callable[[ChatAnswer], bool]]
    ) -> Obtained:
        """Return one answer for each body, in order.

        Args:
            bodies: chat-completion requests; equal ones are asked once.
            is_usable: whether an answer holds a verdict, for each body.

        Raises:
            ModelError: the judge cannot be asked at all.
        """
        keys = [request_key(body) for body in bodies]
        if self.is_served:
            self._note_control_tokens(keys, bodies)
        questions: dict[str, _Question] = {}
        for key, body, test in zip(keys, bodies, is_usable, strict=True):
            questions.setdefault(key, _Question(key, body, test))

        answers: dict[str, ChatAnswer] = {}
        spending = Spending()
        with self._lock:
            self._n_calls += 1
        try:
            while len(answers) < len(questions):
                left = [each for each in questions.values() if each.key not in answers]
                with self._claim(left) as (mine, of_others):
                    answers |= self._look_up_or_ask(mine, spending)
                # What another call asks is found on the next round, like all that is on disk.
                for is_done in of_others:
                    is_done.wait()
        finally:
            with self._lock:
                self._n_calls -= 1
                self.spending += spending
        return Obtained([answers[key] for key in keys], spending)

    def has_room(self) -> bool:
        """Return whether so few questions wait that there may soon be nothing to answer.

        As long as none had to be asked, one call at a time is enough.
        """
        if self._source is None:
            return self._n_calls == 0
        return self._source.has_room()

    @property
    def left_out(self) -> list[str]:
        """The sampling settings that a server refuses, so that its own defaults hold."""
        return list(getattr(self._source, "left_out", []))

    def close(self) -> None:
        """Close the source, if it was opened."""
        if self._source is not None:
            self._source.close()

    @contextmanager
    def _claim(
        self, questions: Sequence[_Question]
    ) -> Iterator[tuple[list[_Question], list[threading.Event]]]:
        """Yield the questions that no other call sees to now, and what tells that others are done.

        Until the block ends they are this call's.
        """
        is_done = threading.Event()
        mine: list[_Question] = []
        of_others: list[threading.Event] = []
        with self._lock:
            for question in questions:
                if question.key in self._claimed:
                    of_others.append(self._claimed[question.key])
                else:
                    self._claimed[question.key] = is_done
                    mine.append(question)
        try:
            yield mine, of_others
        finally:
            with self._lock:
                for question in mine:
                    del self._claimed[question.key]
            is_done.set()

    def _look_up_or_ask(
        self, questions: Sequence[_Question], spending: Spending
    ) -> dict[str, ChatAnswer]:
        """Return the answers to questions that this call has claimed, by key.

        What they take is added to ``spending``.
        """
        answers: dict[str, ChatAnswer] = {}
        open_questions: list[_Question] = []
        for question in questions:
            known = self._known(question, spending)
            if known is None:
                open_questions.append(question)
                # Stands until the answer arrives; for good where nothing is asked.
                known = self._unanswered(question.key)
            answers[question.key] = known

        if self.mode == "collect":
            self.open_questions |= {each.key: each.body for each in open_questions}
        elif self.mode == "ask" and open_questions:
            arrived = self._ask([each.body for each in open_questions])
            for question, answer in zip(open_questions, arrived, strict=True):
                answers[question.key] = answer
                spending.add(answer)
                if not question.is_usable(answer):
                    self._failed[question.key] = answer
        return answers

    def _note_control_tokens(self, keys: Sequence[str], bodies: Sequence[Body]) -> None:
        for key, body in zip(keys, bodies, strict=True):
            if spells_control_token(turn["content"] for turn in body["messages"]):
                self.spelling_control_tokens.add(key)

    def _known(self, question: _Question, spending: Spending) -> ChatAnswer | None:
        """Return the answer of a batch or an earlier run; None if it is to be asked for."""
        if self.mode == "ingest" and question.key not in self.used_of_batch:
            arrived = self._take_from_batch(question, spending)
            if arrived is not None:
                return arrived
        if question.key in self._failed:
            return self._failed[question.key]

        answer = _read_or_none(self.cache.get(question.body))
        if answer is None:
            return None
        if self.ask_again and self.mode != "ingest" and not question.is_usable(answer):
            return None
        spending.n_from_cache += 1
        return answer

    def _take_from_batch(self, question: _Question, spending: Spending) -> ChatAnswer | None:
        """Keep and return a batch's answer; None if it has none or a usable one is kept already."""
        arrived = self.batch.answers.get(question.key)
        answer = _read_or_none(arrived)
        if arrived is None or answer is None:
            return None

        self.used_of_batch.add(question.key)
        before = _read_or_none(self.cache.get(question.body))
        if before is not None and question.is_usable(before):
            return None
        self.cache.put(question.body, arrived)
        spending.add(answer)
        return answer

    def _unanswered(self, key: str) -> ChatAnswer:
        """Return why a batch has no answer to a request."""
        if key in self.batch.failures:
            return ChatAnswer(ERROR, self.batch.failures[key])
        if key in self.batch.answers:
            return ChatAnswer(ERROR, "what the batch holds as the answer is no chat completion")
        return ChatAnswer(NOT_ANSWERED, "the batch holds no answer to this request yet")

    def _ask(self, bodies: Sequence[Body]) -> list[ChatAnswer]:
        return self._opened_source().complete(
            bodies, lambda place, completion: self.cache.put(bodies[place], completion)
        )

    def _opened_source(self) -> CompletionSource:
        with self._opening:
            if self._source is None:
                # before an answer is paid for that could not be kept
                self.cache.require_writable()
                self._source = self.open_source()
        return self._source


def _read_or_none(completion: Body | None) -> ChatAnswer | None:
    try:
        return None if completion is None else read_completion(completion)
    except NoCompletionError:
        return None
