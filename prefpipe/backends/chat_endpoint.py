"""One try at one chat-completions server: request out, completion or error back.

The time limit is for the whole try: a server that sends a byte a second times out like one that
sends none.

Tries are repeated by `chat_client`, not by the OpenAI client's ``max_retries``. That retry knows
one request only: it cannot hold back the others when a server asks for a pause, it sleeps through
signals, and it accepts a body that is not a completion.

A request is posted as is, not through the client's typed method, which walks through every field,
renames none, and took half of a request's cost here.

Reference: https://platform.openai.com/docs/api-reference/chat.
"""

import email.utils
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import openai

from prefpipe.artifacts.chat_messages import NoCompletionError
from prefpipe.artifacts.finite_json import parse_finite_json
from prefpipe.backends.chat_answers import read_first_choice
from prefpipe.errors import ModelError
from prefpipe.surrogates import replace_lone_surrogates
from prefpipe.text.server_address import address_with_secret

Body = Mapping[str, Any]
"""A chat-completion request, or the completion that answers it."""

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key"
"""Sent to local servers, which ignore the key; the client library requires one."""


class TransientError(Exception):
    """A temporary failure.

    ``wait_s`` is the pause that the server requests; None if it does not say. ``is_answered``:
    whether it answered at all.
    """

    def __init__(
        self, reason: str, wait_s: float | None = None, *, is_answered: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait_s, self.is_answered = wait_s, is_answered


class StatusError(Exception):
    """An HTTP status other than success.

    ``text`` is the server's whole answer in lower case: the reason has its message only, the body
    also its code. ``wait_s``: see `TransientError`.
    """

    def __init__(self, status: int, reason: str, text: str, wait_s: float | None) -> None:
        super().__init__(reason)
        self.status, self.text, self.wait_s = status, text, wait_s


class ChatEndpoint:
    """A server's address, its key, and the connections, which stay open between tries.

    Args:
        base_url: up to ``/v1``; default ``OPENAI_BASE_URL``, then OpenAI's own.
        timeout_s: for one try, from the request to the last byte.

    Raises:
        ModelError: no ``OPENAI_API_KEY`` for OpenAI's own server, or a secret in the address.
    """

    def __init__(self, base_url: str | None, timeout_s: float) -> None:
        self.url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        shown = address_with_secret(self.url)
        if shown is not None:
            raise ModelError(
                f"the server's address {shown} holds a user, a password or a query, which would be "
                "recorded",
                hint="set OPENAI_API_KEY, and name the server alone in --base-url or "
                "OPENAI_BASE_URL",
            )
        self._key = os.environ.get("OPENAI_API_KEY") or ""
        if not self._key and self.url == OPENAI_URL:
            raise ModelError(
                f"OPENAI_API_KEY is not set, and {OPENAI_URL} needs a key",
                hint="set OPENAI_API_KEY, or name your own server with --base-url",
            )
        self._timeout_s = timeout_s
        self._client = openai.OpenAI(
            api_key=self._key or NO_KEY, base_url=self.url, timeout=timeout_s, max_retries=0
        )

    def send(self, wire: Body) -> Body:
        """Send a request once and return the completion.

        Raises:
            TransientError: no completion came, or none in time.
            StatusError: the server refused.
        """
        deadline = time.monotonic() + self._timeout_s
        is_late = False
        try:
            # As a stream, so that the body is read here.
            with self._client.post(
                "/chat/completions",
                body=dict(wire),
                cast_to=object,
                stream=True,
                stream_cls=openai.Stream[object],
            ) as answer:
                data, is_late = _read_until(deadline, answer.response.iter_bytes())
            completion = _parse(data)
            read_first_choice(completion)
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except openai.APITimeoutError as error:
            raise self._late() from error
        except openai.APIConnectionError as error:
            raise TransientError(self.without_key(f"{error} ({error.__cause__})")) from error
        except NoCompletionError as error:
            raise TransientError(str(error), is_answered=True) from error
        except (ValueError, RecursionError) as error:
            # An answer cut off by the deadline is late, not broken.
            if is_late:
                raise self._late() from error
            raise TransientError(f"the answer is not JSON ({error})", is_answered=True) from error
        return dict(completion)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def without_key(self, text: str) -> str:
        """Return a text with the key masked, if it contains the key."""
        return text.replace(self._key, "***") if self._key else text

    def _status_error(self, error: openai.APIStatusError) -> StatusError:
        status = error.status_code
        said = self.without_key(f"status {status}: {_words_of_status(error)}")
        reason = replace_lone_surrogates(said[:500])
        text = f"{reason} {error.body}".lower()
        return StatusError(status, reason, text, _retry_after(error.response.headers))

    def _late(self) -> TransientError:
        return TransientError(f"no complete answer within {self._timeout_s:g} s")


def _read_until(deadline: float, chunks: Iterator[bytes]) -> tuple[bytes, bool]:
    """Return what arrived before the deadline, and whether the deadline cut it off.

    An answer that was complete by then still counts.
    """
    data = bytearray()
    try:
        for chunk in chunks:
            data += chunk
            if time.monotonic() > deadline:
                return bytes(data), True
    except Exception as error:
        # The HTTP library's own errors, whose name depends on the client's version.
        raise TransientError(f"the connection broke: {type(error).__name__}: {error}") from error
    return bytes(data), False


def _parse(data: bytes) -> Any:
    """Return the value of a JSON body.

    Bytes that are not UTF-8 become U+FFFD, because the rest of the answer was paid for.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    try:
        return parse_finite_json(data)
    except UnicodeDecodeError:
        return parse_finite_json(data.decode("utf-8", "replace"))


def _words_of_status(error: openai.APIStatusError) -> str:
    """Return a server's reason for refusing a request.

    The client library reads only the ``message`` of OpenAI's own form. Others answer ``{"error":
    "..."}`` (TGI, Ollama), ``{"detail": ...}`` (FastAPI), or plain words.
    """
    words = str(error)
    says_nothing = words == f"Error code: {error.status_code}"
    if not says_nothing or not error.body:
        return words
    body = error.body if isinstance(error.body, str) else repr(error.body)
    return f"{words} - {' '.join(body.split())}"


def _retry_after(headers: Any) -> float | None:
    """Return how many seconds a server asks to wait, None for 0.

    ``retry-after-ms``, or ``Retry-After`` in seconds or as a date.
    """
    with suppress(TypeError, ValueError):
        return max(0.0, float(headers.get("retry-after-ms")) / 1000) or None
    value = headers.get("retry-after")
    with suppress(TypeError, ValueError):
        return max(0.0, float(value)) or None
    with suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()) or None
    return None
