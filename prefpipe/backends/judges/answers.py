"""Where a judge's answers come from: what was paid for before, a batch, or asking.

One question is asked once, however many rows need its answer. Each answer is on disk before
anything is made of it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from prefpipe.artifacts.answer_cache import AnswerCache, request_key
from prefpipe.artifacts.chat_messages import NoCompletionError
from prefpipe.artifacts.interchange.judge_batch import BatchAnswers
from prefpipe.backends.chat_answers import ERROR, NOT_ANSWERED, ChatAnswer, read_completion
from prefpipe.backends.protocol import NOTHING_COUNTED
from prefpipe.text.control_text import spells_control_token

Body = Mapping[str, Any]
"""A chat-completion request, or the completion that answers it."""
Mode = Literal["ask", "collect", "ingest"]


class CompletionSource(Protocol):
    """What can answer questions: a server, or an engine in this process."""

    def complete(
        self, bodies: Sequence[Body], keep: Callable[[int, Body], None]
    ) -> list[ChatAnswer]:
        """Return one answer for each body, in order.

        ``keep`` is called with place and completion as each arrives.
        """
        ...

    def close(self) -> None:
        """Release connections or memory."""
        ...


N_QUESTIONS = "n_questions"
"""Different questions of a call, whoever answered them."""
N_ASKED, N_FROM_CACHE = "n_asked", "n_from_cache"
"""Questions answered now, and those answered before this run."""
N_PROMPT_TOKENS, N_COMPLETION_TOKENS = "n_prompt_tokens", "n_completion_tokens"
"""Of the questions answered now."""
N_UNCOUNTED = "n_uncounted"
"""Answers of now whose tokens the server did not count."""
N_OF_BATCH = "n_of_batch"
"""Answers of a batch that a question was open for."""
N_SPELLING = "n_spelling_control_tokens"
"""Questions to a server that spell a control token."""
SAMPLED_WITHOUT = "sampled_without/"
"""Begins the name of a count of answers without a setting that the server refuses, which follows.

Its own default holds for it.
"""


class Obtained(NamedTuple):
    """An answer, and what it took to obtain it: figures by the names above.

    Where several questions of a call are one, the first of them has the figures.
    """

    answer: ChatAnswer
    tally: Mapping[str, float]


@dataclass
class JudgeAnswers:
    """The answers to a judge's questions, by the content of the question.

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
    open_questions: dict[str, Body] = field(default_factory=dict)
    _used_of_batch: set[str] = field(default_factory=set)
    _spelling_control_tokens: set[str] = field(default_factory=set)
    """Questions to a server that spell a control token, by key: counted once a run."""
    _source: CompletionSource | None = None
    _failed: dict[str, ChatAnswer] = field(default_factory=dict)
    """What was asked in vain in this run, by key: once a run is enough."""

    def __post_init__(self) -> None:
        """Clear away what a killed run left half written."""
        self.cache.sweep()

    def obtain(
        self, bodies: Sequence[Body], is_usable: Sequence[Callable[[ChatAnswer], bool]]
    ) -> list[Obtained]:
        """Return one answer for each body, in order, and what it took.

        Args:
            bodies: chat-completion requests; equal ones are asked once.
            is_usable: whether an answer holds a verdict, for each body.

        Raises:
            ModelError: the judge cannot be asked at all.
        """
        keys = [request_key(body) for body in bodies]
        answers: dict[str, ChatAnswer] = {}
        tallies: dict[str, Counter[str]] = {}
        open_places: list[int] = []
        for place, key in enumerate(keys):
            if key in answers:
                continue
            tally = tallies[key] = Counter({N_QUESTIONS: 1})
            self._count_control_tokens(key, bodies[place], tally)
            known = self._known(key, bodies[place], is_usable[place], tally)
            if known is None:
                open_places.append(place)
                # Stands until the answer arrives; for good where nothing is asked.
                known = self._unanswered(key)
            answers[key] = known

        if self.mode == "collect":
            for place in open_places:
                self.open_questions[keys[place]] = bodies[place]
        elif self.mode == "ask" and open_places:
            arrived = self._ask([bodies[place] for place in open_places])
            for place, answer in zip(open_places, arrived, strict=True):
                key = keys[place]
                answers[key] = answer
                tallies[key].update(self._counted(answer))
                if not is_usable[place](answer):
                    self._failed[key] = answer
        return [Obtained(answers[key], tallies.pop(key, NOTHING_COUNTED)) for key in keys]

    def close(self) -> None:
        """Close the source, if it was opened."""
        if self._source is not None:
            self._source.close()

    def _count_control_tokens(self, key: str, body: Body, tally: Counter[str]) -> None:
        if not self.is_served or key in self._spelling_control_tokens:
            return
        if spells_control_token(turn["content"] for turn in body["messages"]):
            self._spelling_control_tokens.add(key)
            tally[N_SPELLING] += 1

    def _counted(self, answer: ChatAnswer) -> Counter[str]:
        """Return the figures of an answer that arrived now."""
        tally = Counter({N_ASKED: 1})
        tally[N_PROMPT_TOKENS] += answer.n_prompt_tokens or 0
        tally[N_COMPLETION_TOKENS] += answer.n_completion_tokens or 0
        tally[N_UNCOUNTED] += answer.n_prompt_tokens is None and answer.status != ERROR
        for setting in getattr(self._source, "left_out", ()):
            tally[SAMPLED_WITHOUT + setting] += 1
        return tally

    def _known(
        self,
        key: str,
        body: Body,
        is_usable: Callable[[ChatAnswer], bool],
        tally: Counter[str],
    ) -> ChatAnswer | None:
        """Return the answer of a batch or an earlier run; None if it is to be asked for."""
        if self.mode == "ingest" and key not in self._used_of_batch:
            arrived = self._take_from_batch(key, body, is_usable, tally)
            if arrived is not None:
                return arrived
        if key in self._failed:
            return self._failed[key]

        answer = _read_or_none(self.cache.get(body))
        if answer is None:
            return None
        if self.ask_again and self.mode != "ingest" and not is_usable(answer):
            return None
        tally[N_FROM_CACHE] += 1
        return answer

    def _take_from_batch(
        self,
        key: str,
        body: Body,
        is_usable: Callable[[ChatAnswer], bool],
        tally: Counter[str],
    ) -> ChatAnswer | None:
        """Keep and return a batch's answer; None if it has none or a usable one is kept already."""
        arrived = self.batch.answers.get(key)
        answer = _read_or_none(arrived)
        if arrived is None or answer is None:
            return None

        self._used_of_batch.add(key)
        tally[N_OF_BATCH] += 1
        before = _read_or_none(self.cache.get(body))
        if before is not None and is_usable(before):
            return None
        self.cache.put(body, arrived)
        tally.update(self._counted(answer))
        return answer

    def _unanswered(self, key: str) -> ChatAnswer:
        """Return why a batch has no answer to a request."""
        if key in self.batch.failures:
            return ChatAnswer(ERROR, self.batch.failures[key])
        if key in self.batch.answers:
            return ChatAnswer(ERROR, "what the batch holds as the answer is no chat completion")
        return ChatAnswer(NOT_ANSWERED, "the batch holds no answer to this request yet")

    def _ask(self, bodies: Sequence[Body]) -> list[ChatAnswer]:
        if self._source is None:
            # before an answer is paid for that could not be kept
            self.cache.require_writable()
            self._source = self.open_source()

        return self._source.complete(
            bodies, lambda place, completion: self.cache.put(bodies[place], completion)
        )


def _read_or_none(completion: Body | None) -> ChatAnswer | None:
    try:
        return None if completion is None else read_completion(completion)
    except NoCompletionError:
        return None
