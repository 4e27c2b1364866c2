"""Back-ends that make up their answers: for tests, documentation and dry runs.

Honest fakes: they follow the protocols, depend on nothing but their input and seeds, and cost no
time unless asked to. A run with them exercises every file and every row of a pipeline without a
model.
"""

import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

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


class FakeModel(NamedTuple):
    """A fake as ``--model`` names it, ``fake:delay_s=0.01,error_rate=0.1``.

    ``identity`` is the name with every setting that was given but ``delay_s``, which changes no
    row.
    """

    name: str
    identity: str
    max_model_len: int = 8192
    delay_s: float = 0.0
    error_rate: float = 0.0

    @classmethod
    def parse(cls, reference: str) -> "FakeModel":
        """Read ``NAME[:SETTING=NUMBER,...]``.

        Raises:
            UsageError: a setting that a fake does not have, or a value that is no number.
        """
        name, _, rest = reference.partition(":")
        settings: dict[str, float] = {}
        for text in filter(None, rest.split(",")):
            key, _, value = text.partition("=")
            try:
                settings[key] = float(value)
            except ValueError as error:
                raise UsageError(
                    f"--model {reference}: a fake takes numbers, fake:delay_s=0.01,error_rate=0.1"
                ) from error

        unknown = sorted(settings.keys() - {"delay_s", "error_rate", "max_model_len"})
        if unknown:
            raise UsageError(
                f"--model {reference}: a fake has no `{unknown[0]}`; it has delay_s, error_rate, "
                "max_model_len"
            )

        pieces = [f"{key}={settings[key]:g}" for key in sorted(settings) if key != "delay_s"]
        return cls(
            name,
            identity=":".join([name, *pieces]),
            max_model_len=int(settings.get("max_model_len", 8192)),
            delay_s=settings.get("delay_s", 0.0),
            error_rate=settings.get("error_rate", 0.0),
        )

    def open(self) -> "FakeGenerator":
        """Return the generator."""
        return FakeGenerator(
            max_model_len=self.max_model_len, delay_s=self.delay_s, error_rate=self.error_rate
        )


class FakeGenerator:
    """A generator whose tokens are bytes, and whose words a hash of seed and prompt chooses.

    Answers have 1 to 80 words, short ones more often, so that some hit ``max_tokens``. At
    temperature 0 the answer depends on the prompt alone. ``delay_s`` is slept for each request, so
    that a test can kill a run in the middle; ``error_rate`` is the share of requests, chosen by
    seed, that come back as errors.
    """

    def __init__(
        self, *, max_model_len: int = 8192, delay_s: float = 0.0, error_rate: float = 0.0
    ) -> None:
        self.max_model_len = max_model_len
        self._delay_s = delay_s
        self._error_rate = error_rate

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return BOS and the bytes of a plain rendering of the conversation."""
        turns = "".join(f"<{message['role']}>{message['content']}\n" for message in messages)
        return [BOS_ID, *_encode_text(f"{turns}<assistant>")]

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Return one made-up generation for each request, in order."""
        return [self._answer(request, params.max_tokens) for request in requests]

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _answer(self, request: GenerationRequest, max_tokens: int) -> Generation:
        if self._delay_s:
            time.sleep(self._delay_s)

        prompt = list(request.prompt_token_ids) or self.encode(request.messages)
        if _uniform("error", request.seed, prompt) < self._error_rate:
            return Generation("", [], "error", None, "the fake generator was asked to fail here")
        if len(prompt) + max_tokens > self.max_model_len:
            reason = (
                f"{TOO_LONG_PREFIX}{len(prompt)} + {max_tokens} tokens, "
                f"the limit is {self.max_model_len}"
            )
            return Generation("", [], "error", None, reason)

        key = (prompt,) if request.temperature == 0 else (prompt, request.seed, request.temperature)
        n_words = 1 + int(LONGEST_ANSWER_WORDS * _uniform("length", *key) ** 2)
        picks = np.random.default_rng(_hash("words", *key)).integers(len(WORDS), size=n_words)
        ids = [*_encode_text(" ".join(WORDS[pick] for pick in picks)), EOS_ID]

        finish_reason = "stop" if len(ids) <= max_tokens else "length"
        ids = ids[:max_tokens]
        text = bytes(index - FIRST_BYTE_ID for index in ids if index >= FIRST_BYTE_ID).decode()
        logp = -len(ids) * (0.1 + _uniform("logp", *key))
        return Generation(text, ids, finish_reason, logp)


class FakeScorer:
    """A scorer whose reward in [0, 1) is a hash of the conversation and the response."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one made-up score for each request, in order."""
        return [self._rate(request) for request in requests]

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _rate(self, request: ScoreRequest) -> Score:
        if self._delay_s:
            time.sleep(self._delay_s)
        turns = [(message["role"], message["content"]) for message in request.messages]
        return Score(reward=_uniform("reward", turns, request.response))


class FakeEmbedder:
    """An embedder that counts hashed words: texts that share words are near each other.

    ``max_tokens`` words of a text are read, the rest is cut off and reported.
    """

    def __init__(self, dim: int = 16, *, max_tokens: int = 512, delay_s: float = 0.0) -> None:
        self.dim = dim
        self._max_tokens = max_tokens
        self._delay_s = delay_s

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return the L2-normalised counts of words by bucket.

        A text without words counts as one empty word.
        """
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        n_tokens = np.zeros(len(texts), dtype=np.int64)
        for row, text in enumerate(texts):
            if self._delay_s:
                time.sleep(self._delay_s)
            words = text.lower().split()
            n_tokens[row] = len(words)
            for word in words[: self._max_tokens] or [""]:
                vectors[row, _hash("word", word) % self.dim] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(vectors, n_tokens, n_tokens > self._max_tokens)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _encode_text(text: str) -> list[int]:
    # lone surrogates, which JSON can carry, have no UTF-8 form
    return [byte + FIRST_BYTE_ID for byte in text.encode("utf-8", errors="replace")]


def _hash(*parts: object) -> int:
    content = repr(parts).encode("utf-8", errors="replace")
    return int.from_bytes(blake2b(content, digest_size=8).digest())


def _uniform(*parts: object) -> float:
    """Return a number in [0, 1) that depends on ``parts`` alone."""
    return (_hash(*parts) >> 11) / 2**53
