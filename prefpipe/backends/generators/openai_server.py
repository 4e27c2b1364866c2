"""Sampling from any server that speaks OpenAI's chat completions.

vLLM's own server, llama.cpp's, a hosted one. The server keeps its tokenizer: prompts are sent as
messages, and ``encode`` returns no ids.

vLLM's server returns the response's ids when asked with ``return_token_ids``. Others refuse or
ignore the field, which is said once, and rows then have text only. The text is the server's too:
vLLM's leaves out a last character that ``max_tokens`` cut in half, where the other back-ends have
U+FFFD. Log-probabilities are the server's: for vLLM those at temperature 1 before truncation.

Reference: https://platform.openai.com/docs/api-reference/chat,
https://docs.vllm.ai/en/stable/serving/openai_compatible_server/.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefpipe.artifacts.answer_cache import AnswerCache
from prefpipe.backends.chat_answers import TOO_LONG, ChatAnswer, read_generation
from prefpipe.backends.chat_client import NEUTRAL, ChatClient, ServerSettings
from prefpipe.backends.protocol import (
    TOO_LONG_PREFIX,
    Generation,
    GenerationRequest,
    Message,
    SamplingParams,
)
from prefpipe.backends.request_threads import RunControl
from prefpipe.text.tool_turns import for_server

UNKNOWN_LENGTH = 2**31 - 1

OPTIONAL_FIELDS = {
    "return_token_ids": (
        "rows have no response_token_ids, so `train` will tokenise their texts again"
    ),
    "logprobs": "rows have no logp",
}
"""Request fields that a server may refuse, and what is lost without them."""


class OpenAIGenerator:
    """A generator behind HTTP.

    Args:
        model_name: the model's name on the server.
        base_url: address up to ``/v1``; default ``OPENAI_BASE_URL``, then OpenAI's own.
        concurrency: requests on their way at a time.
        max_model_len: the server's limit in tokens if known; a request that exceeds an unknown
            limit comes back as a row with an error that starts with ``prompt_too_long``.
        timeout_s: how long one try may take.
        max_tries: tries in all after a time-out, a lost connection, 408, 409, 429 or 5xx, with
            exponential back-off or after as long as the server's ``Retry-After`` says.
        run: where to say what one should know, and whether to stop.

    Raises:
        ModelError: no ``OPENAI_API_KEY`` for OpenAI's own server; from ``generate``, when the very
            first request shows that there is no server, no such model, or that the key is refused.
    """

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str | None = None,
        concurrency: int,
        max_model_len: int | None = None,
        timeout_s: float = 600.0,
        max_tries: int = 6,
        run: RunControl | None = None,
    ) -> None:
        self.max_model_len = max_model_len or UNKNOWN_LENGTH
        self._model_name = model_name
        self._run = run or RunControl()
        settings = ServerSettings(
            base_url=base_url,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_tries=max_tries,
            can_do_without=tuple(OPTIONAL_FIELDS),
            # all samples of one prompt fail together
            ends_when_none_is_answered=False,
        )
        self._client = ChatClient(settings, self._run)
        self._cache: AnswerCache | None = None
        self._asks_again = False
        self._said: set[str] = set()

    @property
    def left_out(self) -> list[str]:
        """Neutral sampling settings that the server refuses, so that its own defaults hold."""
        return [name for name in self._client.left_out if name in NEUTRAL]

    def encode(self, messages: Sequence[Message]) -> list[int]:  # noqa: ARG002
        """Return no ids: the server's tokenizer stays there."""
        return []

    def keep_answers_in(self, folder: Path, *, ask_again: bool) -> None:
        """Keep each answer in ``folder`` as it arrives, and take from there what arrived before.

        Args:
            folder: for the answers of one part, which is removed when the part is written.
            ask_again: whether a kept answer that is an error is asked for again.
        """
        self._cache, self._asks_again = AnswerCache(folder), ask_again
        self._cache.sweep()

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Return one generation for each request, in order; those that fail are rows with an error.

        Raises:
            ModelError: the first request ever sent shows that none can succeed.
            StoppedEarly: a stop was asked for; answers that arrived are kept.
        """
        bodies = [self._body(request, params) for request in requests]
        generations: dict[int, Generation] = {}
        for place, body in enumerate(bodies):
            kept = self._kept(body)
            if kept is not None:
                generations[place] = kept
        if generations:
            self._run.log(
                f"{len(generations):,} of {len(bodies):,} answers arrived in an earlier run "
                "and are kept"
            )

        open_places = [place for place in range(len(bodies)) if place not in generations]
        open_bodies = [bodies[place] for place in open_places]
        completions = self._client.completions(
            open_bodies, lambda number, completion: self._keep(open_bodies[number], completion)
        )
        for place, completion in zip(open_places, completions, strict=True):
            if isinstance(completion, ChatAnswer):
                generations[place] = _failed(completion)
            else:
                generations[place] = read_generation(completion)

        in_order = [generations[place] for place in range(len(bodies))]
        self._say_what_is_lost(in_order)
        return in_order

    def close(self) -> None:
        """Close the connections; requests that wait are dropped."""
        self._client.close()

    def _body(self, request: GenerationRequest, params: SamplingParams) -> dict[str, Any]:
        messages, tools = for_server(request.messages)
        body: dict[str, Any] = {
            "model": self._model_name,
            "messages": messages,
            "seed": request.seed,
            "temperature": request.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            "n": 1,
        }
        if params.top_k:
            body["top_k"] = params.top_k
        if tools:
            # The model knows of them; a response is a text, so no calls are to be read out of it.
            body |= {"tools": tools, "tool_choice": "none"}
        return body | dict.fromkeys(OPTIONAL_FIELDS, True)

    def _keep(self, body: Mapping[str, Any], completion: Mapping[str, Any]) -> None:
        """Keep what was read of an answer, and not the answer.

        Its log-probabilities, token by token, are a hundred times as long.
        """
        if self._cache is not None:
            self._cache.put(body, read_generation(completion)._asdict())

    def _kept(self, body: Mapping[str, Any]) -> Generation | None:
        values = self._cache.get(body) if self._cache is not None else None
        # What another release kept may have other fields, and is asked for again.
        if values is None or values.keys() != set(Generation._fields):
            return None
        generation = Generation(**values)
        return None if self._asks_again and generation.finish_reason == "error" else generation

    def _say_what_is_lost(self, generations: Sequence[Generation]) -> None:
        """Say once what the answers lack, and why."""
        without_error = [made for made in generations if made.finish_reason != "error"]
        # What is lost to reasoning is said below.
        plain = [made for made in without_error if made.reasoning is None]
        if any(not made.token_ids for made in plain):
            self._say_lost("return_token_ids")
        if any(made.logp is None for made in plain):
            self._say_lost("logprobs")
        if any(made.reasoning is not None for made in generations):
            self._say(
                "reasoning",
                "returns the model's reasoning apart from its responses: it is kept in "
                "`response_reasoning`, and rows that have one have no response_token_ids and no "
                "logp, since the server's are of both together",
            )

    def _say_lost(self, name: str) -> None:
        self._say(name, f"gives no {name}: {OPTIONAL_FIELDS[name]}")

    def _say(self, name: str, sentence: str) -> None:
        if name not in self._said:
            self._said.add(name)
            self._run.log(f"{self._client.url} {sentence}")


def _failed(answer: ChatAnswer) -> Generation:
    reason = answer.reason or "the server gave no reason"
    prefix = TOO_LONG_PREFIX if answer.status == TOO_LONG else ""
    return Generation("", [], "error", None, f"{prefix}{reason}")
