"""Sampling from any server that speaks OpenAI's chat completions.

vLLM's own server, llama.cpp's, a hosted one. The server keeps its tokenizer: prompts are sent as
messages, and ``encode`` returns no ids.

vLLM's server returns the response's ids if ``return_token_ids`` is set. Others refuse or ignore the
field, which is logged once, and rows then have text only. The text is the server's, too: vLLM omits
a last character that ``max_tokens`` cut in half, where the other back-ends have U+FFFD.
Log-probabilities are the server's: for vLLM those at temperature 1 before truncation.

Reference: https://platform.openai.com/docs/api-reference/chat,
https://docs.vllm.ai/en/stable/serving/openai_compatible_server/.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefpipe.artifacts.answer_cache import request_key
from prefpipe.artifacts.answer_log import AnswerLog
from prefpipe.backends.chat_answers import TOO_LONG, ChatAnswer, read_generation
from prefpipe.backends.chat_client import NEUTRAL, ChatClient, ServerSettings
from prefpipe.backends.chat_endpoint import Body
from prefpipe.backends.open_calls import Answered
from prefpipe.backends.protocol import (
    TOO_LONG_PREFIX,
    Generation,
    GenerationRequest,
    Message,
    SamplingParams,
)
from prefpipe.backends.request_threads import RunControl
from prefpipe.text.begun_turns import is_begun
from prefpipe.text.tool_turns import for_server

UNKNOWN_LENGTH = 2**31 - 1

OPTIONAL_FIELDS = {
    "return_token_ids": "rows have no response_token_ids, so `train` tokenises their texts again",
    "logprobs": "rows have no logp",
}
"""Request fields that a server may refuse, and the loss without them."""

FLAGS = {
    "top_k": "--top-k",
    "min_p": "--min-p",
    "repetition_penalty": "--repetition-penalty",
    "presence_penalty": "--presence-penalty",
    "frequency_penalty": "--frequency-penalty",
    "min_tokens": "--min-tokens",
    "ignore_eos": "--ignore-eos",
    "stop": "--stop",
    "response_format": "--json-schema",
}
"""Request fields that a flag sets, and the flag."""


TEMPLATE_KWARGS = "chat_template_kwargs"
CONTINUES = {"continue_final_message": True, "add_generation_prompt": False}
OF_THE_PROMPT = {
    TEMPLATE_KWARGS: "leave --template-arg out, or use a server that passes it on (vLLM, SGLang, "
    "llama.cpp)",
    **dict.fromkeys(
        CONTINUES,
        "for prompts that begin the answer, use a server that continues it (vLLM, SGLang) or "
        "a local model (--backend vllm or transformers)",
    ),
}
"""Request fields without which the prompt would be different, and the hint if one is refused.

vLLM: https://docs.vllm.ai/en/stable/serving/openai_compatible_server/ (extra parameters).
"""


class OpenAIGenerator:
    """A generator behind HTTP.

    Calls from several threads share its slots: the requests of earlier calls go first.

    Args:
        model_name: the model's name on the server.
        base_url: address up to ``/v1``; default ``OPENAI_BASE_URL``, then OpenAI's own.
        concurrency: pending requests at a time.
        max_model_len: the server's limit in tokens if known; a request that exceeds an unknown
            limit comes back as a row with an error that starts with ``prompt_too_long``.
        timeout_s: time limit of one try.
        max_tries: tries in all after a time-out, a lost connection, 408, 409, 429 or 5xx, with
            exponential back-off or after the server's ``Retry-After``.
        template_args: arguments of the server's chat template beside the conversation.
        run: the log, and stop requests.

    Raises:
        ModelError: no ``OPENAI_API_KEY`` for OpenAI's own server; from every ``generate``, when the
            very first request shows that there is no server, no such model, or that the key is
            refused.
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
        template_args: Mapping[str, Any] | None = None,
        run: RunControl | None = None,
    ) -> None:
        self.max_model_len = max_model_len or UNKNOWN_LENGTH
        self.engine_version = None
        self._model_name = model_name
        self._template_args = dict(template_args or {})
        self._run = run or RunControl()
        settings = ServerSettings(
            base_url=base_url,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_tries=max_tries,
            can_do_without=tuple(OPTIONAL_FIELDS),
            cannot_do_without=OF_THE_PROMPT,
            # All samples of one prompt fail together.
            ends_when_none_is_answered=False,
            flags=FLAGS,
        )
        self._client = ChatClient(settings, self._run)
        self._lock = threading.Lock()
        self._said: set[str] = set()

    @property
    def left_out(self) -> list[str]:
        """Neutral sampling settings that the server refuses, so that its own defaults hold."""
        return [name for name in self._client.left_out if name in NEUTRAL]

    def encode(self, messages: Sequence[Message]) -> list[int]:  # noqa: ARG002
        """Return no ids: the tokenizer is on the server."""
        return []

    def has_room(self) -> bool:
        """Return whether the server may soon be idle because few requests wait."""
        return self._client.has_room()

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Return one generation for each request, in order; those that fail are rows with an error.

        Raises:
            ModelError: the first request ever sent shows that none can succeed.
            StoppedEarly: a stop was requested.
        """
        return self._generate(requests, params, None, ask_again=False)

    def generate_and_keep(
        self,
        requests: Sequence[GenerationRequest],
        params: SamplingParams,
        folder: Path,
        *,
        ask_again: bool,
    ) -> list[Generation]:
        """Return the same, and save each answer in ``folder`` as it arrives.

        Answers that are already there are not requested again.

        Args:
            requests: what to sample.
            params: settings shared by all requests.
            folder: for the answers of one part; it is removed when the part is written.
            ask_again: whether to request a saved answer again if it is an error.

        Raises:
            ModelError, StoppedEarly: see `generate`; arrived answers are saved.
        """
        log = AnswerLog(folder)
        try:
            return self._generate(requests, params, log, ask_again=ask_again)
        finally:
            log.close()

    def _generate(
        self,
        requests: Sequence[GenerationRequest],
        params: SamplingParams,
        log: AnswerLog | None,
        *,
        ask_again: bool,
    ) -> list[Generation]:
        bodies = [self._body(request, params) for request in requests]
        generations: dict[int, Generation] = {}
        if log is not None:
            generations = _kept_in(log, bodies, ask_again=ask_again)
        if generations:
            self._run.log(
                f"{len(generations):,} of {len(bodies):,} answers arrived in an earlier run "
                "and are kept"
            )

        open_places = [place for place in range(len(bodies)) if place not in generations]
        open_bodies = [bodies[place] for place in open_places]

        def keep(number: int, completion: Body) -> None:
            # The parsed answer: the raw log-probabilities, token by token, are a hundred times as
            # long.
            if log is not None:
                log.put(open_bodies[number], read_generation(completion)._asdict())

        completions = self._client.completions(open_bodies, keep)
        for place, completion in zip(open_places, completions, strict=True):
            if isinstance(completion, ChatAnswer):
                generations[place] = _failed(completion)
            else:
                generations[place] = read_generation(completion)
        if params.json_schema is not None:
            generations = {place: _held_to_json(made) for place, made in generations.items()}

        in_order = [generations[place] for place in range(len(bodies))]
        self._say_what_is_lost(in_order, params)
        return in_order

    def answered(self) -> Answered:
        """Return how many requests of the open calls are answered."""
        return self._client.answered()

    def close(self) -> None:
        """Close the connections once pending answers have arrived or the grace is over."""
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
        body |= _given_settings(params)
        if self._template_args:
            body[TEMPLATE_KWARGS] = self._template_args
        if is_begun(request.messages):
            body |= CONTINUES
        if tools:
            # The model sees the tools, but a response is text, so the server must not extract
            # calls.
            body |= {"tools": tools, "tool_choice": "none"}
        return body | dict.fromkeys(OPTIONAL_FIELDS, True)

    def _say_what_is_lost(self, generations: Sequence[Generation], params: SamplingParams) -> None:
        """Log once what the answers lack, and why."""
        without_error = [made for made in generations if made.finish_reason != "error"]
        # Losses due to reasoning are logged below.
        plain = [made for made in without_error if made.reasoning is None]
        if any(not made.token_ids for made in plain):
            self._say_lost("return_token_ids")
        if any(made.logp is None for made in plain) and params.json_schema is None:
            self._say_lost("logprobs")
        if any(made.reasoning is not None for made in generations):
            self._say(
                "reasoning",
                "returns the model's reasoning separately: it is kept in "
                "`response_reasoning`. Rows with reasoning have no response_token_ids and no "
                "logp, because the server's cover both together",
            )

    def _say_lost(self, name: str) -> None:
        self._say(name, f"returns no {name}: {OPTIONAL_FIELDS[name]}")

    def _say(self, name: str, sentence: str) -> None:
        with self._lock:
            is_news = name not in self._said
            self._said.add(name)
        if is_news:
            self._run.log(f"{self._client.url} {sentence}")


def _given_settings(params: SamplingParams) -> dict[str, Any]:
    """Return the fields of `FLAGS` that are switched on.

    The client sends neutral values for the others, if the server accepts them.
    """
    fields: dict[str, Any] = {
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "min_tokens": params.min_tokens,
        "ignore_eos": params.ignore_eos,
        "stop": params.stop,
    }
    off = SamplingParams(params.max_tokens)
    given = {name: value for name, value in fields.items() if value != getattr(off, name)}
    if params.stop:
        given["stop"] = list(params.stop)
    if params.json_schema is not None:
        schema = {
            "name": "response",
            "schema": json.loads(params.json_schema),
            "strict": True,
        }
        given["response_format"] = {"type": "json_schema", "json_schema": schema}
    return given


def _held_to_json(made: Generation) -> Generation:
    """Return a response to a schema unchanged, or an error if the server ignored the schema.

    Its log-probability, if any, is that of tokens among those allowed by the schema, not the
    model's own.
    """
    if made.finish_reason != "stop":
        return made._replace(logp=None)
    try:
        json.loads(made.text)
    except (ValueError, RecursionError):
        reason = "the server does not keep to --json-schema: the response is no JSON"
        return Generation("", [], "error", None, reason, made.reasoning)
    return made._replace(logp=None)


def _kept_in(log: AnswerLog, bodies: Sequence[Body], *, ask_again: bool) -> dict[int, Generation]:
    """Return earlier answers by place, without errors that are requested again."""
    kept: dict[int, Generation] = {}
    answers = log.read()
    for place, body in enumerate(bodies):
        # Usually there is none.
        values = answers.get(request_key(body)) if answers else None
        # Answers of another release may have other fields and are requested again.
        if values is None or values.keys() != set(Generation._fields):
            continue
        generation = Generation(**values)
        if not (ask_again and generation.finish_reason == "error"):
            kept[place] = generation
    return kept


def _failed(answer: ChatAnswer) -> Generation:
    reason = answer.reason or "the server gave no reason"
    prefix = TOO_LONG_PREFIX if answer.status == TOO_LONG else ""
    return Generation("", [], "error", None, f"{prefix}{reason}")
