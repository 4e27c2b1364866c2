"""The interface of stages and back-ends: four small protocols and their rows.

A back-end answers every request, in order. A bad row becomes a row with an error, never an
exception that loses its neighbours. Heavy imports are at the top of each back-end's own module,
which only ``prefpipe.wiring`` imports.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

TOO_LONG_PREFIX = "prompt_too_long: "
"""Prefix of the error of a prompt that does not fit, which is not an engine failure."""

Message = Mapping[str, str]
"""One turn of a conversation: ``{"role": "system" | "user" | "assistant", "content": text}``."""


class GenerationRequest(NamedTuple):
    """One response to sample.

    ``prompt_token_ids`` is what ``Generator.encode`` returned for ``messages``; empty when the
    engine keeps its tokenizer to itself.

    ``seed`` alone decides the randomness of this row, so other rows of the batch affect the answer
    only through the rounding of the engine's arithmetic.
    """

    prompt_id: str
    sample_idx: int
    messages: Sequence[Message]
    prompt_token_ids: Sequence[int]
    seed: int
    temperature: float


class Generation(NamedTuple):
    """One sampled response.

    ``token_ids`` includes the end-of-sequence token when the response ended with one; ``text`` does
    not. A stop text is treated alike: its tokens are the last of ``token_ids``, and ``text`` ends
    before it. ``logp`` is the summed natural log-probability of ``token_ids`` under the model at
    temperature 1, before any truncation of the distribution, penalty or ban; None if the engine
    does not give it. ``finish_reason`` is ``stop``, ``length`` or ``error``; ``error`` then gives
    the reason.

    ``reasoning`` is the model's thought before the response, None if there is none. For a local
    model it is found by its markers, and ``token_ids`` and ``logp`` cover both; for a server it is
    the separately returned thought, ``""`` if the server hides it. ``n_tokens`` and
    ``n_prompt_tokens`` are a server's counts of response and prompt if it gives no ids.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    logp: float | None
    error: str | None = None
    reasoning: str | None = None
    n_tokens: int | None = None
    n_prompt_tokens: int | None = None


class SamplingParams(NamedTuple):
    """The settings that all requests of a run share; the defaults switch everything off.

    With the logits l, all in float32, a token is drawn in this order, which is vLLM's:

    1. no end of sequence among the first ``min_tokens`` tokens, and with ``ignore_eos`` none ends
        the response;
    2. of tokens in the prompt or the response so far, l / ``repetition_penalty`` where l > 0, else
       l * ``repetition_penalty``; then l - ``frequency_penalty`` * (times in the response) -
       ``presence_penalty`` * [it is in the response];
    3. softmax(l / temperature), truncated to probabilities of at least ``min_p`` times the largest,
       then to the ``top_k`` largest, then to the share ``top_p``. At temperature 0 it is argmax(l).

    A response ends with the token that completes a text of ``stop``, except within the first
    ``min_tokens``. ``json_schema`` is JSON text; its order of properties matters.
    """

    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    json_schema: str | None = None


class Generator(Protocol):
    """An engine that samples responses.

    Several threads may call it at once. Each waits for its own answers; requests of earlier calls
    go first.
    """

    max_model_len: int
    """Longest prompt plus response, in tokens."""

    @property
    def engine_version(self) -> str | None:
        """The engine and its version, ``vllm 0.32.0``; None if unknown."""
        ...

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the templated conversation, generation prompt included."""
        ...

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Return one generation for each request, in order."""
        ...

    def has_room(self) -> bool:
        """Return whether the engine may soon be idle because few requests wait."""
        ...

    def close(self) -> None:
        """Release memory and processes."""
        ...


@runtime_checkable
class ServedGenerator(Protocol):
    """Additional methods of a generator behind a server.

    Its answers are paid for, and the server may refuse settings.
    """

    left_out: Sequence[str]
    """Neutral sampling settings that the server refuses, so that its own defaults hold."""

    def generate_and_keep(
        self,
        requests: Sequence[GenerationRequest],
        params: SamplingParams,
        folder: Path,
        *,
        ask_again: bool,
    ) -> list[Generation]:
        """Return the same as ``generate``, and save each answer in ``folder`` as it arrives.

        Answers that are already there are not requested again.

        Args:
            requests: what to sample.
            params: settings shared by all requests.
            folder: for the answers of only this call.
            ask_again: whether to request a saved answer again if it is an error.
        """
        ...


class ScoreRequest(NamedTuple):
    """One candidate to rate.

    ``columns`` holds the user's own columns of the prompt (``checks`` among them).
    """

    prompt_id: str
    sample_idx: int
    messages: Sequence[Message]
    response: str
    columns: Mapping[str, Any]


NOTHING_COUNTED: Mapping[str, float] = MappingProxyType({})
"""An empty tally."""


class Score(NamedTuple):
    """A rating. ``reward`` is None unless ``status`` is ``ok``; ``detail`` is JSON text or None.

    ``tally``: counts for the summary. Counts of a whole call are attached to its first score.
    """

    reward: float | None
    status: str = "ok"
    reason: str | None = None
    detail: str | None = None
    tally: Mapping[str, float] = NOTHING_COUNTED


class Scorer(Protocol):
    """A rater: higher is better, any scale. Several threads may call it at once."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one score for each request, in order."""
        ...

    def close(self) -> None:
        """Release memory."""
        ...


class PairRequest(NamedTuple):
    """Two responses to one conversation, in the order shown to the judge."""

    messages: Sequence[Message]
    first: str
    second: str


class PairVerdict(NamedTuple):
    """A judge's verdict on two responses in one order.

    ``preference`` is that for the first response, in [0, 1], None unless ``status`` is ``ok``;
    ``choice`` is the verdict in a word: ``first``, ``second`` or ``tie``. ``mass`` is the
    probability of the verdict's tokens before renormalising, None for a verdict read from text.
    ``raw`` is the judge's answer, ``request`` the content hash of its question. ``tally`` is as in
    `Score`.
    """

    preference: float | None
    choice: str | None = None
    mass: float | None = None
    raw: str | None = None
    status: str = "ok"
    reason: str | None = None
    request: str | None = None
    n_prompt_tokens: int | None = None
    n_completion_tokens: int | None = None
    tally: Mapping[str, float] = NOTHING_COUNTED


class PairwiseJudge(Protocol):
    """A judge of pairs. Several threads may call it at once."""

    def judge(self, requests: Sequence[PairRequest]) -> list[PairVerdict]:
        """Return one verdict for each request, in order."""
        ...

    def close(self) -> None:
        """Release connections or memory."""
        ...


class Embeddings(NamedTuple):
    """One vector for each of N texts.

    ``vectors``: (N, D) float32, L2-normalised. ``n_tokens``: (N,), before truncation.
    ``truncated``: (N,) bool.
    """

    vectors: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray


class Embedder(Protocol):
    """A model that turns texts into vectors. Several threads may call it at once."""

    dim: int

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one vector for each text, in order."""
        ...

    def close(self) -> None:
        """Release memory."""
        ...
