"""Back-ends with made-up answers: for tests, documentation and dry runs.

The fakes follow the protocols, depend only on their input and seeds, and take no time unless
configured to. A run with them exercises every file and every row of a pipeline without a model.
With delays they take as long as an engine with that number of slots, however many threads call
them.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from prefpipe.backends.open_calls import Answered
from prefpipe.backends.protocol import (
    TOO_LONG_PREFIX,
    Embeddings,
    Generation,
    GenerationRequest,
    Message,
    SamplingParams,
    Score,
    ScoreRequest,
)
from prefpipe.errors import UsageError
from prefpipe.models.bundled import PREFIX as BUNDLED
from prefpipe.text.begun_turns import is_begun
from prefpipe.text.stop_texts import find_stop

BOS_ID, EOS_ID = 1, 2
FIRST_BYTE_ID = 3
"""Token ids are UTF-8 bytes plus this."""

VOCABULARY = (
    "a and answer because bright but careful clear could each every example first follow from "
    "give good have here however idea if important in into is it keep later like make many "
    "may more most need not of often one only or other our people please point question "
    "reason result same say second see short should simple so some step still such take than "
    "that the then there these think this time to true try under use very want way we well "
    "what when which while why will with word work would you your"
)
WORDS = VOCABULARY.split()
LONGEST_ANSWER_WORDS = 80
NO_SHAPING = (0.0, 1.0, 0.0, 0.0)
"""``min_p`` and penalties when switched off."""


TIMING = ("delay_s", "token_delay_s", "slots")
"""Settings of a fake that do not change rows."""


class FakeModel(NamedTuple):
    """A fake as ``--model`` names it, ``fake:delay_s=0.01,slots=16,error_rate=0.1``.

    ``identity`` is the name with every given setting except those of `TIMING`.
    """

    name: str
    identity: str
    max_model_len: int = 8192
    delay_s: float = 0.0
    token_delay_s: float = 0.0
    slots: int = 1
    error_rate: float = 0.0

    @classmethod
    def parse(cls, reference: str) -> "FakeModel":
        """Read ``NAME[:SETTING=NUMBER,...]``, or ``bundled:NAME``, which has no settings.

        Raises:
            UsageError: an unknown setting, or a value that is not a number.
        """
        # a dry run of a plan, whose `train` needs a model
        if reference.startswith(BUNDLED):
            return cls(reference, identity=reference)
        name, _, rest = reference.partition(":")
        settings: dict[str, float] = {}
        for text in filter(None, rest.split(",")):
            key, _, value = text.partition("=")
            try:
                settings[key] = float(value)
            except ValueError as error:
                raise UsageError(
                    f"--model {reference}: settings of a fake model are numbers"
                ) from error

        unknown = sorted(settings.keys() - {*TIMING, "error_rate", "max_model_len"})
        if unknown:
            raise UsageError(
                f"--model {reference}: a fake model has no setting `{unknown[0]}`; it has "
                "delay_s, token_delay_s, slots, error_rate, max_model_len"
            )
        if settings.get("slots", 1) < 1:
            raise UsageError(f"--model {reference}: a fake model needs at least one slot")

        pieces = [f"{key}={settings[key]:g}" for key in sorted(settings) if key not in TIMING]
        return cls(
            name,
            identity=":".join([name, *pieces]),
            max_model_len=int(settings.get("max_model_len", 8192)),
            delay_s=settings.get("delay_s", 0.0),
            token_delay_s=settings.get("token_delay_s", 0.0),
            slots=int(settings.get("slots", 1)),
            error_rate=settings.get("error_rate", 0.0),
        )

    def open(self) -> "FakeGenerator":
        """Return the generator."""
        return FakeGenerator(
            max_model_len=self.max_model_len,
            delay_s=self.delay_s,
            token_delay_s=self.token_delay_s,
            slots=self.slots,
            error_rate=self.error_rate,
        )


class SimulatedSlots:
    """Times at which an engine that answers ``n`` requests at a time would finish each.

    A request begins when a slot is free; requests of earlier calls begin first.
    """

    def __init__(self, n: int) -> None:
        self._lock = threading.Lock()
        self._free_at = [0.0] * n
        """A heap of monotonic times, one a slot."""
        self._starts: deque[float] = deque()
        """Start times of requests that have not begun, ascending."""
        self._open: list[list[float]] = []
        """Times at which the requests of sleeping calls end, by call."""

    def sleep(self, durations_s: Sequence[float]) -> None:
        """Sleep until requests of these durations, and all before them, would be answered."""
        if not any(durations_s):
            return
        ends: list[float] = []
        with self._lock:
            now = time.monotonic()
            for duration_s in durations_s:
                start = max(now, self._free_at[0])
                heapq.heapreplace(self._free_at, start + duration_s)
                self._starts.append(start)
                ends.append(start + duration_s)
            self._open.append(ends)
        try:
            time.sleep(max(0.0, max(ends) - time.monotonic()))
        finally:
            with self._lock:
                self._open.remove(ends)

    def answered(self) -> Answered:
        """Return how many requests of the sleeping calls would be answered by now."""
        with self._lock:
            now = time.monotonic()
            return Answered(
                sum(end <= now for ends in self._open for end in ends), sum(map(len, self._open))
            )

    def n_waiting(self) -> int:
        """Return how many requests wait for a slot."""
        with self._lock:
            while self._starts and self._starts[0] <= time.monotonic():
                self._starts.popleft()
            return len(self._starts)


class FakeGenerator:
    """A generator whose tokens are bytes, and whose words a hash of seed and prompt chooses.

    Answers have 1 to 80 words, short ones more often, so that some hit ``max_tokens``. At
    temperature 0 the answer depends on the prompt alone. Each answer takes ``delay_s`` and
    ``token_delay_s`` for each of its tokens, ``slots`` of them at a time, so that a test can kill a
    run in the middle; ``error_rate`` is the share of requests, chosen by seed, that come back as
    errors. ``min_p`` and penalties choose other words, and nothing more: there are no logits.
    """

    def __init__(
        self,
        *,
        max_model_len: int = 8192,
        delay_s: float = 0.0,
        token_delay_s: float = 0.0,
        slots: int = 1,
        error_rate: float = 0.0,
    ) -> None:
        self.max_model_len = max_model_len
        self.engine_version = None
        self._delay_s, self._token_delay_s = delay_s, token_delay_s
        self._n_slots, self._slots = slots, SimulatedSlots(slots)
        self._error_rate = error_rate

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return BOS and the bytes of a plain rendering of the conversation."""
        turns = "".join(f"<{message['role']}>{message['content']}\n" for message in messages)
        # A begun answer continues where it stops.
        prompt = turns.removesuffix("\n") if is_begun(messages) else f"{turns}<assistant>"
        return [BOS_ID, *_encode_text(prompt)]

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Return one made-up generation for each request, in order."""
        answers = [self._answer(request, params) for request in requests]
        self._slots.sleep(
            [self._delay_s + self._token_delay_s * len(answer.token_ids) for answer in answers]
        )
        return answers

    def has_room(self) -> bool:
        """Return whether slots would be empty without another part's requests."""
        return self._slots.n_waiting() < max(1, self._n_slots // 4)

    def answered(self) -> Answered:
        """Return how many requests of the open calls are answered."""
        return self._slots.answered()

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _answer(self, request: GenerationRequest, params: SamplingParams) -> Generation:
        max_tokens = params.max_tokens
        prompt = list(request.prompt_token_ids) or self.encode(request.messages)
        if _uniform("error", request.seed, prompt) < self._error_rate:
            return Generation("", [], "error", None, "the fake generator was asked to fail here")
        if len(prompt) + max_tokens > self.max_model_len:
            reason = (
                f"{TOO_LONG_PREFIX}{len(prompt)} + {max_tokens} tokens, "
                f"the limit is {self.max_model_len}"
            )
            return Generation("", [], "error", None, reason)

        key: tuple[Any, ...] = (prompt,)
        if request.temperature != 0:
            key = (prompt, request.seed, request.temperature)
        shaping = params.min_p, *_penalties(params)
        if shaping != NO_SHAPING:
            key = (*key, shaping)

        n_words = 1 + int(LONGEST_ANSWER_WORDS * _uniform("length", *key) ** 2)
        random = np.random.default_rng(_hash("words", *key))
        words = " ".join(WORDS[pick] for pick in random.integers(len(WORDS), size=n_words))
        while len(words) < (max_tokens if params.ignore_eos else params.min_tokens):
            words += " " + WORDS[random.integers(len(WORDS))]
        ids = _encode_text(words)
        if not params.ignore_eos:
            ids.append(EOS_ID)

        finish_reason = "stop" if len(ids) <= max_tokens and not params.ignore_eos else "length"
        ids = ids[:max_tokens]
        text = bytes(index - FIRST_BYTE_ID for index in ids if index >= FIRST_BYTE_ID).decode()
        # A token is a letter here.
        stop = find_stop(text, params.stop, after=params.min_tokens)
        if stop is not None:
            finish_reason, ids, text = "stop", ids[: stop[1]], text[: stop[0]]
        logp = -len(ids) * (0.1 + _uniform("logp", *key))
        return Generation(text, ids, finish_reason, logp)


class FakeScorer:
    """A scorer whose reward in [0, 1) is a hash of the conversation and the response."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self._delay_s, self._slots = delay_s, SimulatedSlots(1)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one made-up score for each request, in order."""
        scores = [self._rate(request) for request in requests]
        self._slots.sleep([self._delay_s] * len(scores))
        return scores

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _rate(self, request: ScoreRequest) -> Score:
        turns = [(message["role"], message["content"]) for message in request.messages]
        return Score(reward=_uniform("reward", turns, request.response))


class FakeEmbedder:
    """An embedder that counts hashed words: texts that share words are near each other.

    ``max_tokens`` words of a text are read, the rest is cut off and reported.
    """

    def __init__(self, dim: int = 16, *, max_tokens: int = 512, delay_s: float = 0.0) -> None:
        self.dim = dim
        self._max_tokens = max_tokens
        self._delay_s, self._slots = delay_s, SimulatedSlots(1)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return the L2-normalised counts of words by bucket.

        A text without words counts as one empty word.
        """
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        n_tokens = np.zeros(len(texts), dtype=np.int64)
        for row, text in enumerate(texts):
            words = text.lower().split()
            n_tokens[row] = len(words)
            for word in words[: self._max_tokens] or [""]:
                vectors[row, _hash("word", word) % self.dim] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self._slots.sleep([self._delay_s] * len(texts))
        return Embeddings(vectors, n_tokens, n_tokens > self._max_tokens)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _penalties(params: SamplingParams) -> tuple[float, float, float]:
    return params.repetition_penalty, params.presence_penalty, params.frequency_penalty


def _encode_text(text: str) -> list[int]:
    # Lone surrogates, which JSON can hold, have no UTF-8 form.
    return [byte + FIRST_BYTE_ID for byte in text.encode("utf-8", errors="replace")]


def _hash(*parts: object) -> int:
    content = repr(parts).encode("utf-8", errors="replace")
    return int.from_bytes(blake2b(content, digest_size=8).digest())


def _uniform(*parts: object) -> float:
    """Return a number in [0, 1) that depends only on ``parts``."""
    return (_hash(*parts) >> 11) / 2**53
