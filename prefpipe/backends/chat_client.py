"""Asking a chat-completions server that may be busy, slow, broken or gone, many questions at a time.

Failures are of three kinds. *Transient* (time-outs, lost connections, 408, 409, 425, 429, 5xx, a body that is no completion):
tried again, after as long as ``Retry-After`` says or with exponential back-off. *Permanent for one request* (400, 413, 422, ...):
a row with a reason. *Hopeless* (no server, no such model, a refused key, no money left): the run ends, for no further request
could succeed.

The time limit is for a whole try: a server that sends a byte a second is given up like one that sends none.

Reference: https://platform.openai.com/docs/api-reference/chat.
"""

import email.utils
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import openai

from prefpipe.artifacts.finite_json import parse_finite_json
from prefpipe.backends.chat_answers import ERROR, REFUSED, TOO_LONG, ChatAnswer, NoCompletionError, read_completion
from prefpipe.backends.openai_server import NO_KEY, OPENAI_URL, TOO_LONG_SIGNS
from prefpipe.backends.request_pace import RequestPace
from prefpipe.errors import ModelError

Body = Mapping[str, Any]
TRANSIENT_STATUSES = (408, 409, 425, 429)
HOPELESS_STATUSES = (401, 402)
HOPELESS_AT_START = (403, 404, 405)
"""Statuses that may be meant for one request, unless none has been answered yet."""
NO_MONEY_SIGNS = ("insufficient_quota", "billing_hard_limit", "exceeded your current quota")
FILTER_SIGNS = ("content_filter", "content_policy", "content management policy")
MOST_REFUSED_AT_START = 3
"""First requests that may be refused with a 400 before it is plain that the fault is in what all have in common."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
LONGEST_OBEYED_S = 600.0
"""A ``Retry-After`` beyond this counts as this."""
HINT = "check --base-url (or OPENAI_BASE_URL), OPENAI_API_KEY, the judge's name, and that the server runs"


class ServerSettings(NamedTuple):
    """How a server is asked.

    ``max_tries`` counts the first; ``timeout_s`` is for one try, from the request to the last byte.
    ``can_do_without_logprobs``: a server that refuses log-probabilities is asked again without them. ``needs_logprobs``: one
    whose first answer has none is asked nothing more.
    """

    base_url: str | None = None
    concurrency: int = 16
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    max_tries: int = 6
    can_do_without_logprobs: bool = False
    needs_logprobs: bool = False


class TransientError(Exception):
    """A failure that may pass. ``wait_s`` is how long the server wants to be left alone, None where it does not say."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class PermanentError(Exception):
    """A failure of one request that trying again does not mend."""

    def __init__(self, answer: ChatAnswer, *, is_bad_request: bool) -> None:
        super().__init__(answer.reason)
        self.answer, self.is_bad_request = answer, is_bad_request


class ChatClient:
    """Sends chat-completion bodies to one server.

    Errors:
        ModelError: no ``OPENAI_API_KEY`` for OpenAI's own server.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        self._key = os.environ.get("OPENAI_API_KEY") or ""
        if not self._key and self._url == OPENAI_URL:
            raise ModelError(
                f"no OPENAI_API_KEY, and {OPENAI_URL} asks for one", hint="set it, or name your own server with --base-url"
            )
        self._client = openai.OpenAI(api_key=self._key or NO_KEY, base_url=self._url, timeout=settings.timeout_s, max_retries=0)
        self._pace = RequestPace(settings.requests_per_minute)
        self._stop = threading.Event()
        self._reached = False
        self._n_refused = 0
        self._has_new_name, self._has_no_logprobs = False, False
        self._random = random.Random()  # noqa: S311 - spreads retries of many threads; no answer depends on it

    def complete(self, bodies: Sequence[Body], keep: Callable[[int, Body], None]) -> list[ChatAnswer]:
        """Ask all and return one answer for each, in order.

        Args:
            bodies: what is sent.
            keep: called with the place and the completion's body as soon as one arrives, from the thread that received it.

        Errors:
            ModelError: the failure is one that no request could escape; answers that arrived before have been kept.
        """
        answers: dict[int, ChatAnswer] = {}
        places = iter(range(len(bodies)))
        while not self._reached and (place := next(places, None)) is not None:  # one alone shows whether there is a server
            answers[place] = self._answer(bodies[place], place, keep)
            self._reached = answers[place].status in ("ok", REFUSED, TOO_LONG)
            if self.settings.needs_logprobs and answers[place].status == "ok" and answers[place].tokens is None:
                raise ModelError(
                    f"the judge's server at {self._url} gives no log-probabilities; every answer would be paid for in vain",
                    hint="use --verdict text, or a server and model that give them (vllm serve does)",
                )
        with ThreadPoolExecutor(self.settings.concurrency) as threads:
            try:
                running = {threads.submit(self._answer, bodies[place], place, keep): place for place in places}
                for future in as_completed(running):
                    answers[running[future]] = future.result()
            except BaseException:
                self._stop.set()  # threads that wait for their turn or their next try give up; what is on its way is kept
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return [answers[place] for place in range(len(bodies))]

    def close(self) -> None:
        """Close the connections."""
        self._stop.set()
        self._client.close()

    def _answer(self, body: Body, place: int, keep: Callable[[int, Body], None]) -> ChatAnswer:
        """Return an answer, kept when it is one; a failure of this request alone becomes an answer that says so."""
        try:
            completion = self._completed(body)
        except PermanentError as error:
            if error.is_bad_request and not self._reached:
                self._n_refused += 1
                if self._n_refused == MOST_REFUSED_AT_START:
                    self._give_up(f"the first {MOST_REFUSED_AT_START} requests were refused, the last with: {error}")
            return error.answer
        except TransientError as error:
            if not self._reached:
                self._give_up(str(error))
            return ChatAnswer(ERROR, f"{error} (after {self.settings.max_tries} tries)")
        keep(place, completion)
        return read_completion(completion)

    def _give_up(self, reason: str) -> NoReturn:
        raise ModelError(f"the judge's server at {self._url} cannot be used: {self._without_key(reason)}", hint=HINT)

    def _completed(self, body: Body) -> Body:
        """Return a completion's body, asking as often as it takes or is allowed."""
        for attempt in range(self.settings.max_tries):
            if not self._pace.wait(self._stop):
                break
            try:
                return self._post(body)
            except TransientError as error:
                if attempt + 1 == self.settings.max_tries:
                    raise
                wait_s = min(error.wait_s, LONGEST_OBEYED_S) if error.wait_s is not None else self._back_off(attempt)
                if error.wait_s is not None:
                    self._pace.hold(wait_s)  # the limit is the account's, not this request's
                self._stop.wait(wait_s)
        raise TransientError("the run was stopped")

    def _back_off(self, attempt: int) -> float:
        """Return 0.5, 1, 2, ... seconds up to a minute, each spread over half to all of it."""
        return float(min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * self._random.uniform(0.5, 1.0))

    def _post(self, body: Body) -> Body:
        """Send once and return the body of the completion."""
        deadline = time.monotonic() + self.settings.timeout_s
        is_late = False
        try:
            with self._client.chat.completions.with_streaming_response.create(**self._on_the_wire(body)) as response:
                data, is_late = _read(response.iter_bytes(), deadline)
            completion = parse_finite_json(data)
            read_completion(completion)
        except openai.APIStatusError as error:
            raise self._status_failure(error) from error
        except openai.APITimeoutError as error:
            raise self._late() from error
        except openai.APIConnectionError as error:
            raise TransientError(self._without_key(f"{error} ({error.__cause__})")) from error
        except NoCompletionError as error:
            raise TransientError(str(error)) from error
        except (ValueError, RecursionError) as error:
            raise self._late() if is_late else TransientError(f"the answer is no JSON ({error})") from error
        return dict(completion)

    def _on_the_wire(self, body: Body) -> dict[str, Any]:
        """Return what is sent: some servers know ``max_tokens`` under a newer name only, some give no log-probabilities."""
        left_out = ("logprobs", "top_logprobs") if self._has_no_logprobs else ()
        names = {"max_tokens": "max_completion_tokens"} if self._has_new_name else {}
        return {names.get(name, name): value for name, value in body.items() if name not in left_out}

    def _status_failure(self, error: openai.APIStatusError) -> TransientError | PermanentError:
        """Return what a status means; raise when it means the end of the run."""
        status = error.status_code
        reason = self._without_key(f"status {status}: {str(error)[:500]}")
        low = f"{reason} {error.body}".lower()  # the text has the message alone, the body also the code
        if status in HOPELESS_STATUSES or any(sign in low for sign in NO_MONEY_SIGNS):
            self._give_up(reason)
        if status in HOPELESS_AT_START and not self._reached:
            self._give_up(reason)
        if status in TRANSIENT_STATUSES or status >= 500:
            return TransientError(reason, _retry_after(error.response.headers))
        if status == 400 and "max_completion_tokens" in low and not self._has_new_name:
            self._has_new_name = True
            return TransientError(reason, 0.0)
        if status in (400, 422) and "logprobs" in low and self.settings.can_do_without_logprobs and not self._has_no_logprobs:
            self._has_no_logprobs = True
            return TransientError(reason, 0.0)
        if any(sign in low for sign in TOO_LONG_SIGNS):
            return PermanentError(ChatAnswer(TOO_LONG, reason), is_bad_request=False)
        if any(sign in low for sign in FILTER_SIGNS):
            return PermanentError(ChatAnswer(REFUSED, reason), is_bad_request=False)
        return PermanentError(ChatAnswer(ERROR, reason), is_bad_request=True)

    def _late(self) -> TransientError:
        return TransientError(f"no whole answer within {self.settings.timeout_s:g} s")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _read(chunks: Any, deadline: float) -> tuple[bytes, bool]:
    """Return what came until the deadline, and whether that ended it: an answer that was whole by then is one all the same."""
    data = bytearray()
    try:
        for chunk in chunks:
            data += chunk
            if time.monotonic() > deadline:
                return bytes(data), True
    except Exception as error:  # the HTTP library's own family, whose name depends on the client's version
        raise TransientError(f"the connection broke: {type(error).__name__}: {error}") from error
    return bytes(data), False


def _retry_after(headers: Any) -> float | None:
    """Return how many seconds a server asks to wait (``retry-after-ms``, ``Retry-After`` in seconds or as a date), None for 0."""
    with suppress(TypeError, ValueError):
        return max(0.0, float(headers.get("retry-after-ms")) / 1000) or None
    value = headers.get("retry-after")
    with suppress(TypeError, ValueError):
        return max(0.0, float(value)) or None
    with suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()) or None
    return None
