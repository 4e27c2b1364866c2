"""Sampling from any server that speaks OpenAI's chat completions: vLLM's own, llama.cpp's, a hosted one.

The server keeps its tokenizer: prompts are sent as messages, and ``encode`` returns no ids. vLLM's server returns
the response's ids when asked with ``return_token_ids``; others refuse or ignore the field, which is said once, and
rows then have text only. The text is the server's too: vLLM's leaves out a last character that ``max_tokens`` cut in half,
where the other back-ends have U+FFFD. Log-probabilities are the server's: for vLLM those at temperature 1 before truncation.

Reference: https://platform.openai.com/docs/api-reference/chat, https://docs.vllm.ai/en/stable/serving/openai_compatible_server/.
"""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from prefpipe.backends.protocol import Generation, GenerationRequest, Message, SamplingParams
from prefpipe.errors import ModelError, PrefpipeWarning

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key"
"""Sent to local servers, which look at no key; the client library insists on one."""
UNKNOWN_LENGTH = 2**31 - 1

OPTIONAL_FIELDS = {
    "return_token_ids": "rows have no response_token_ids, so `train` will tokenise their texts again",
    "logprobs": "rows have no logp",
}
"""Request fields that a server may refuse, and what is lost without them."""

TOO_LONG_SIGNS = ("context_length_exceeded", "context length", "maximum context", "context size", "context window")
FATAL_AT_START = (
    openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, openai.APIConnectionError,
)  # fmt: skip


class OpenAIGenerator:
    """A generator behind HTTP.

    Args:
        model_name: the model's name on the server.
        base_url: address up to ``/v1``; default ``OPENAI_BASE_URL``, then OpenAI's own.
        concurrency: requests on their way at a time.
        max_model_len: the server's limit in tokens if known; a request that exceeds an unknown limit comes back
            as a row with an error that starts with ``prompt_too_long``.
        timeout_s: how long one try may take.
        max_retries: further tries after a time-out, a lost connection, 408, 409, 429 or 5xx, with exponential back-off
            or after as long as the server's ``Retry-After`` says.

    Errors:
        ModelError: no ``OPENAI_API_KEY`` for OpenAI's own server; from ``generate``, when the very first request
            shows that there is no server, no such model, or that the key is refused.
    """

    def __init__(
        self, model_name: str, *, base_url: str | None = None, concurrency: int, max_model_len: int | None = None,
        timeout_s: float = 600.0, max_retries: int = 5,
    ) -> None:  # fmt: skip
        self.max_model_len = max_model_len or UNKNOWN_LENGTH
        self._model_name = model_name
        self._url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        self._key = os.environ.get("OPENAI_API_KEY") or ""
        if not self._key and self._url == OPENAI_URL:
            raise ModelError(
                f"no OPENAI_API_KEY, and {OPENAI_URL} asks for one", hint="set it, or name your own server with --base-url"
            )
        self._client = openai.OpenAI(api_key=self._key or NO_KEY, base_url=self._url, timeout=timeout_s, max_retries=max_retries)
        self._pool = ThreadPoolExecutor(max_workers=concurrency)
        self._reached = False
        self._refused: set[str] = set()
        self.missing: set[str] = set()
        """Names of ``OPTIONAL_FIELDS`` that the server refused, or ignored in at least one answer."""
        self._said: set[str] = set()

    def encode(self, messages: Sequence[Message]) -> list[int]:  # noqa: ARG002 - the protocol's parameter
        """Return no ids: the server's tokenizer stays there."""
        return []

    def generate(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> list[Generation]:
        """Return one generation for each request, in order; requests that fail are rows with an error.

        Errors:
            ModelError: the first request ever sent shows that none can succeed.
        """
        if not requests:
            return []
        answers = []
        if not self._reached:  # one request alone tells whether there is a server, and what it refuses
            answers = [self._first(requests[0], params)]
        answers += self._pool.map(lambda request: self._answer(request, params), requests[len(answers) :])
        self._say_what_is_lost()
        return answers

    def close(self) -> None:
        """Close the connections; requests that wait are dropped."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _first(self, request: GenerationRequest, params: SamplingParams) -> Generation:
        try:
            completion = self._complete(request, params)
        except FATAL_AT_START as error:
            raise ModelError(
                f"the server at {self._url} cannot be used for the model {self._model_name!r}: {self._describe(error)}",
                hint="check --base-url (or OPENAI_BASE_URL), OPENAI_API_KEY, the model's name, and that the server runs",
            ) from error
        except (openai.OpenAIError, ValueError) as error:
            return self._failed(error)
        self._reached = True
        return self._read(completion)

    def _answer(self, request: GenerationRequest, params: SamplingParams) -> Generation:
        try:
            return self._read(self._complete(request, params))
        except (openai.OpenAIError, ValueError) as error:  # a broken JSON body is a ValueError
            return self._failed(error)

    def _complete(self, request: GenerationRequest, params: SamplingParams) -> Any:
        """Ask, and ask again without an optional field when the server's refusal names that field."""
        while True:
            asked = set(OPTIONAL_FIELDS) - self._refused
            extra: dict[str, Any] = {"top_k": params.top_k} if params.top_k else {}
            extra |= dict.fromkeys(asked, True)
            try:
                return self._client.chat.completions.create(
                    model=self._model_name, messages=[dict(message) for message in request.messages],  # type: ignore[misc]
                    seed=request.seed, temperature=request.temperature, top_p=params.top_p, max_tokens=params.max_tokens,
                    n=1, extra_body=extra,
                )  # fmt: skip
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = {name for name in asked if name in str(error)}
                if not refused:
                    raise
                self._refused |= refused

    def _read(self, completion: Any) -> Generation:
        try:
            choice = completion.choices[0]
            text, finish_reason = choice.message.content or "", choice.finish_reason
        except (AttributeError, IndexError, TypeError):
            return Generation("", [], "error", None, f"the server's answer is no chat completion: {str(completion)[:200]!r}")
        if finish_reason not in {"stop", "length"}:
            return Generation("", [], "error", None, f"the server ended the response with finish_reason {finish_reason!r}")
        ids = getattr(choice, "token_ids", None)
        positions = getattr(choice.logprobs, "content", None) if choice.logprobs else None
        self.missing |= {"return_token_ids"} if ids is None else set()
        self.missing |= {"logprobs"} if positions is None else set()
        logp = None if positions is None else float(sum(position.logprob for position in positions))
        return Generation(text, list(ids or []), finish_reason, logp)

    def _failed(self, error: Exception) -> Generation:
        reason = self._describe(error)
        if isinstance(error, openai.APIStatusError) and any(sign in reason.lower() for sign in TOO_LONG_SIGNS):
            reason = f"prompt_too_long: {reason}"
        return Generation("", [], "error", None, reason)

    def _describe(self, error: Exception) -> str:
        """Return the error in words, the cause of a lost connection included, and never the key."""
        cause = f" ({error.__cause__})" if isinstance(error, openai.APIConnectionError) and error.__cause__ else ""
        text = f"{type(error).__name__}: {error}{cause}"
        return text.replace(self._key, "***") if self._key else text

    def _say_what_is_lost(self) -> None:
        for name in sorted(self.missing - self._said):
            self._said.add(name)
            warnings.warn(f"{self._url} gives no {name}: {OPTIONAL_FIELDS[name]}", PrefpipeWarning, stacklevel=3)
