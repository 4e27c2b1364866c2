"""Sources of a judge's answers: earlier answers, a batch, or new requests.

Each question is asked once, however many rows or parts need its answer. Each answer is on disk
before it is used.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from prefpipe.artifacts.answer_cache import AnswerCache, request_key
from prefpipe.artifacts.chat_messages import NoCompletionError
from prefpipe.artifacts.interchange.judge_batch import BatchAnswers
from prefpipe.backends.chat_answers import ERROR, NOT_ANSWERED, ChatAnswer, read_completion
from prefpipe.backends.open_calls import Answered, answered_by
from prefpipe.text.control_text import spells_control_token

Body = Mapping[str, Any]
"""A chat-completion request, or the completion that answers it."""
Mode = Literal["ask", "collect", "ingest"]


class CompletionSource(Protocol):
    """Answers questions: a server, or an engine in this process."""

    def complete(
        self, bodies: Sequence[Body], keep: Callable[[int, Body], None]
    ) -> list[ChatAnswer]:
        """Return one answer for each body, in order. Several threads may call it at once.

        ``keep`` is called with place and completion as each arrives.
        """
        ...

    def has_room(self) -> bool:
        """Return whether the source may soon be idle because few questions wait."""
        ...

    def close(self) -> None:
        """Release connections or memory."""
        ...


N_QUESTIONS = "n_questions"
"""Tally name: the distinct questions of a call, whatever answered them."""
N_ASKED, N_FROM_CACHE = "n_asked", "n_from_cache"
"""Tally names: questions answered now, and questions answered before this run."""
N_PROMPT_TOKENS, N_COMPLETION_TOKENS = "n_prompt_tokens", "n_completion_tokens"
"""Tally names for the questions answered now."""
N_UNCOUNTED = "n_uncounted"
"""Tally name: new answers without the server's token counts."""
N_OF_BATCH = "n_of_batch"
"""Tally name: answers of a batch to open questions."""
N_SPELLING = "n_spelling_control_tokens"
"""Tally name: questions to a server that spell a control token."""
SAMPLED_WITHOUT = "sampled_without/"
"""Prefix of the tally of answers without a refused setting, whose name follows.

The server's own default applies.
"""


class Obtained(NamedTuple):
    """Answers, in the order of the questions, and what this call spent on them.

    ``tally`` has the names above.
    """

    answers: list[ChatAnswer]
    tally: Mapping[str, float]


class _Question(NamedTuple):
    """A request, its key, and whether an answer to it holds a verdict."""

    key: str
    body: Body
    is_usable: Callable[[ChatAnswer], bool]


@dataclass
class JudgeAnswers:
    """The answers to a judge's questions, by the content of the question.

    Several threads may obtain answers at once, each for a part.

    Args:
        open_source: opens the source of answers; called when the first question must be asked.
        cache: earlier answers.
        mode: ``ask``; ``collect``: nothing is asked, open questions are gathered in
            ``open_questions``; ``ingest``: answers come from ``batch``, and nothing is asked.
        batch: the answers of a batch.
        ask_again: whether to ask again if an earlier run's answer has no verdict.
        is_served: whether a server renders the questions. It may take a control token that a
            response spells for its own.
    """

    open_source: Callable[[], CompletionSource]
    cache: AnswerCache
    mode: Mode = "ask"
    batch: BatchAnswers = field(default_factory=lambda: BatchAnswers({}, {}))
    ask_again: bool = True
    is_served: bool = False
    open_questions: dict[str, Body] = field(default_factory=dict)
    _used_of_batch: set[str] = field(default_factory=set)
    _spelling_control_tokens: set[str] = field(default_factory=set)
    """Questions to a server that spell a control token, by key: counted once a run."""
    _source: CompletionSource | None = None
    _failed: dict[str, ChatAnswer] = field(default_factory=dict)
    """Questions without a verdict in this run, by key: they are asked once a run."""
    _claimed: dict[str, threading.Event] = field(default_factory=dict)
    """Questions that a call is looking up or asking, by key. Set when the call is done."""
    _n_calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _opening: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Remove incomplete files of a killed run."""
        self.cache.sweep()

    def obtain(
        self, bodies: Sequence[Body], is_usable: Sequence[Callable[[ChatAnswer], bool]]
    ) -> Obtained:
        """Return one answer for each body, in order, and the tally.

        Args:
            bodies: chat-completion requests; equal ones are asked once.
            is_usable: whether an answer holds a verdict, for each body.

        Raises:
            ModelError: the judge is unusable.
        """
        keys = [request_key(body) for body in bodies]
        questions: dict[str, _Question] = {}
        for key, body, test in zip(keys, bodies, is_usable, strict=True):
            questions.setdefault(key, _Question(key, body, test))

        answers: dict[str, ChatAnswer] = {}
        tally = Counter({N_QUESTIONS: len(questions)})
        with self._lock:
            self._n_calls += 1
            tally[N_SPELLING] += self._n_spelling_control_tokens(questions.values())
        try:
            while len(answers) < len(questions):
                left = [each for each in questions.values() if each.key not in answers]
                with self._claim(left) as (mine, of_others):
                    answers |= self._look_up_or_ask(mine, tally)
                # Answers to another call's questions are found in the next iteration, like all on
                # disk.
                for is_done in of_others:
                    is_done.wait()
        finally:
            with self._lock:
                self._n_calls -= 1

        return Obtained([answers[key] for key in keys], tally)

    def has_room(self) -> bool:
        """Return whether the source may soon be idle because few questions wait.

        Until a question must be asked, one call at a time is enough.
        """
        if self._source is None:
            return self._n_calls == 0
        return self._source.has_room()

    def answered(self) -> Answered:
        """Return how many of the questions that are being asked are answered."""
        return answered_by(self._source)

    def close(self) -> None:
        """Close the source, if it was opened."""
        if self._source is not None:
            self._source.close()

    @contextmanager
    def _claim(
        self, questions: Sequence[_Question]
    ) -> Iterator[tuple[list[_Question], list[threading.Event]]]:
        """Yield the questions that no other call handles, and events of those that others handle.

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
        self, questions: Sequence[_Question], tally: Counter[str]
    ) -> dict[str, ChatAnswer]:
        """Return the answers to questions that this call has claimed, by key.

        Their cost is added to ``tally``.
        """
        answers: dict[str, ChatAnswer] = {}
        open_questions: list[_Question] = []
        for question in questions:
            known = self._known(question, tally)
            if known is None:
                open_questions.append(question)
                # Kept until the answer arrives; final if nothing is asked.
                known = self._unanswered(question.key)
            answers[question.key] = known

        if self.mode == "collect":
            self.open_questions |= {each.key: each.body for each in open_questions}
        elif self.mode == "ask" and open_questions:
            arrived = self._ask([each.body for each in open_questions])
            for question, answer in zip(open_questions, arrived, strict=True):
                answers[question.key] = answer
                self._count(answer, tally)
                if not question.is_usable(answer):
                    self._failed[question.key] = answer

        return answers

    def _n_spelling_control_tokens(self, questions: Iterable[_Question]) -> int:
        """Return how many new questions to a server spell a control token."""
        n = 0
        for question in questions if self.is_served else ():
            if question.key in self._spelling_control_tokens:
                continue
            if spells_control_token(turn["content"] for turn in question.body["messages"]):
                self._spelling_control_tokens.add(question.key)
                n += 1
        return n

    def _count(self, answer: ChatAnswer, tally: Counter[str]) -> None:
        """Count a new answer."""
        tally[N_ASKED] += 1
        tally[N_PROMPT_TOKENS] += answer.n_prompt_tokens or 0
        tally[N_COMPLETION_TOKENS] += answer.n_completion_tokens or 0
        tally[N_UNCOUNTED] += answer.n_prompt_tokens is None and answer.status != ERROR
        for setting in getattr(self._source, "left_out", ()):
            tally[SAMPLED_WITHOUT + setting] += 1

    def _known(self, question: _Question, tally: Counter[str]) -> ChatAnswer | None:
        """Return the answer of a batch or an earlier run; None if it must be requested."""
        if self.mode == "ingest" and question.key not in self._used_of_batch:
            arrived = self._take_from_batch(question, tally)
            if arrived is not None:
                return arrived
        if question.key in self._failed:
            return self._failed[question.key]

        answer = _read_or_none(self.cache.get(question.body))
        if answer is None:
            return None
        if self.ask_again and self.mode != "ingest" and not question.is_usable(answer):
            return None
        tally[N_FROM_CACHE] += 1
        return answer

    def _take_from_batch(self, question: _Question, tally: Counter[str]) -> ChatAnswer | None:
        """Save and return a batch's answer; None if there is none or a usable one is saved."""
        arrived = self.batch.answers.get(question.key)
        answer = _read_or_none(arrived)
        if arrived is None or answer is None:
            return None

        self._used_of_batch.add(question.key)
        tally[N_OF_BATCH] += 1
        before = _read_or_none(self.cache.get(question.body))
        if before is not None and question.is_usable(before):
            return None
        self.cache.put(question.body, arrived)
        self._count(answer, tally)
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
                # Before paying for an answer that could not be saved.
                self.cache.require_writable()
                self._source = self.open_source()
        return self._source


def _read_or_none(completion: Body | None) -> ChatAnswer | None:
    try:
        return None if completion is None else read_completion(completion)
    except NoCompletionError:
        return None
