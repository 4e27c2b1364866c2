"""Asking a chat-completions server that may be busy, slow, broken or gone, many questions at a time.

Failures are of three kinds. *Transient* (time-outs, lost connections, 408, 409, 425, 429, 5xx, a body that is no completion):
tried again, after as long as ``Retry-After`` says or with exponential back-off. *Permanent for one request* (400, 413, 422, ...):
a row with a reason. *Hopeless* (no server, no such model, a refused key, no money left): the run ends, for no further request
could succeed.

The time limit is for a whole try: a server that sends a byte a second is given up like one that sends none.

An answer is kept the moment it has arrived. What ends a run in the middle, a signal or a hopeless failure, waits a bounded time
for the answers that are on their way, for they are paid for.

Reference: https://platform.openai.com/docs/api-reference/chat.
"""

import email.utils
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple, NoReturn

import openai

from prefpipe.artifacts.chat_messages import NoCompletionError
from prefpipe.artifacts.finite_json import parse_finite_json
from prefpipe.backends.chat_answers import (
    ERROR,
    REFUSED,
    TOO_LONG,
    ChatAnswer,
    read_completion,
    read_first_choice,
)
from prefpipe.backends.request_pace import RequestPace
from prefpipe.errors import ModelError, StoppedEarly
from prefpipe.surrogates import replace_lone_surrogates

Body = Mapping[str, Any]
Keep = Callable[[int, Body], None]
Arrival = tuple[int, Body | ChatAnswer | BaseException]

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key"
"""Sent to local servers, which look at no key; the client library insists on one."""

TRANSIENT_STATUSES = (408, 409, 425, 429)
HOPELESS_STATUSES = (401, 402)
HOPELESS_AT_START = (403, 404, 405)
"""Statuses that may be meant for one request, unless none has been answered yet."""
NO_MONEY_SIGNS = ("insufficient_quota", "billing_hard_limit", "exceeded your current quota")
FILTER_SIGNS = ("content_filter", "content_policy", "content management policy")
TOO_LONG_SIGNS = (
    "context_length_exceeded",
    "context length",
    "maximum context",
    "context size",
    "context window",
)
MOST_REFUSED_AT_START = 3
"""First requests that may be refused with a 400 before it is plain that the fault is in what all have in common."""

NEUTRAL = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Sampling settings that mean "off". They are sent because a server fills in what is not: vLLM's and SGLang's from the model's
``generation_config.json``, llama.cpp's from defaults of its own. -1 is every server's word for no ``top_k``."""
RECORDS = ("return_token_ids", "logprobs", "top_logprobs")
"""Fields that change no answer, and only what is told of it."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
LONGEST_OBEYED_S = 600.0
"""A ``Retry-After`` beyond this counts as this."""
WORTH_SAYING_S = 5.0
"""A wait from which on one wants to know why nothing happens."""
GRACE_S = 20.0
"""How long a run that is to end waits for answers on their way: Slurm kills 30 s after SIGTERM."""
POLL_S = 0.1


class ServerSettings(NamedTuple):
    """How a server is asked.

    ``max_tries`` counts the first; ``timeout_s`` is for one try, from the request to the last byte.
    ``can_do_without``: fields of the bodies that are left out where a server refuses them. ``needs_logprobs``: a server whose
    first answer has none is asked nothing more. ``ends_when_none_is_answered``: a server that is there, but refuses the first
    questions or fails at the first, ends the run; else these are failures of their rows.
    """

    base_url: str | None = None
    concurrency: int = 16
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    max_tries: int = 6
    can_do_without: tuple[str, ...] = ()
    needs_logprobs: bool = False
    ends_when_none_is_answered: bool = True


class Surroundings(NamedTuple):
    """Where to say what one should know, whether to stop, and how to go on then."""

    log: Callable[[str], None] = lambda _line: None
    should_stop: Callable[[], bool] = lambda: False
    how_to_go_on: str = "run the same command again to go on"


class TransientError(Exception):
    """A failure that may pass.

    ``wait_s`` is how long the server wants to be left alone, None where it does not say; ``is_answered`` whether it answered.
    """

    def __init__(
        self, reason: str, wait_s: float | None = None, *, is_answered: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait_s, self.is_answered = wait_s, is_answered


class PermanentError(Exception):
    """A failure of one request that trying again does not mend."""

    def __init__(self, answer: ChatAnswer, *, is_bad_request: bool) -> None:
        super().__init__(answer.reason)
        self.answer, self.is_bad_request = answer, is_bad_request


def _words_of_status(error: openai.APIStatusError) -> str:
    """Return what a server says of a request that it refuses.

    The client tells the ``message`` of OpenAI's own form alone. Others answer ``{"error": "..."}`` (TGI, Ollama),
    ``{"detail": ...}`` (FastAPI), or plain words.
    """
    words = str(error)
    says_nothing = words == f"Error code: {error.status_code}"
    if not says_nothing or not error.body:
        return words
    body = error.body if isinstance(error.body, str) else repr(error.body)
    return f"{words} - {' '.join(body.split())}"


class ChatClient:
    """Sends chat-completion bodies to one server.

    Beside what a body says, `NEUTRAL` is sent, but for what the body sets itself and what the server refuses. Refusals are
    looked for in the first request alone: one setting holds for a whole run.

    Raises:
        ModelError: no ``OPENAI_API_KEY`` for OpenAI's own server.
    """

    def __init__(self, settings: ServerSettings, surroundings: Surroundings | None = None) -> None:
        self.settings = settings
        self.surroundings = surroundings or Surroundings()
        self.url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        self._key = os.environ.get("OPENAI_API_KEY") or ""
        if not self._key and self.url == OPENAI_URL:
            raise ModelError(
                f"no OPENAI_API_KEY, and {OPENAI_URL} asks for one",
                hint="set it, or name your own server with --base-url",
            )
        self._client = openai.OpenAI(
            api_key=self._key or NO_KEY,
            base_url=self.url,
            timeout=settings.timeout_s,
            max_retries=0,
        )
        self._pace = RequestPace(settings.requests_per_minute)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._n_on_the_way = 0
        self._reached = False
        self._n_refused = 0
        self._has_new_name = False
        self._left_out: frozenset[str] = frozenset()
        self._has_tried_bare = False
        self._said_until = 0.0
        self._random = random.Random()  # noqa: S311 - spreads retries of many threads; no answer depends on it

    @property
    def left_out(self) -> list[str]:
        """Fields that the server refused and that are not sent any more."""
        return sorted(self._left_out)

    def complete(self, bodies: Sequence[Body], keep: Keep) -> list[ChatAnswer]:
        """Ask all and return one answer for each, in order.

        Args:
            bodies: what is sent.
            keep: called with the place and the completion's body as soon as one arrives, from the thread that received it.

        Raises:
            ModelError: the failure is one that no request could escape; answers that arrived before have been kept.
            StoppedEarly: a stop was asked for; the same.
        """
        return [
            answer if isinstance(answer, ChatAnswer) else read_completion(answer)
            for answer in self.completions(bodies, keep)
        ]

    def completions(self, bodies: Sequence[Body], keep: Keep) -> list[Body | ChatAnswer]:
        """Ask all and return for each, in order, the completion's body, or an answer that says why there is none.

        Raises:
            ModelError, StoppedEarly: see `complete`.
        """
        answers: dict[int, Body | ChatAnswer] = {}
        places = list(range(len(bodies)))
        while (
            places and not self._reached
        ):  # one alone shows whether there is a server, and what it refuses
            answers |= self._ask_many(bodies, [places.pop(0)], keep)
        answers |= self._ask_many(bodies, places, keep)
        return [answers[place] for place in range(len(bodies))]

    def close(self) -> None:
        """Close the connections."""
        self._stop.set()
        self._client.close()

    def _ask_many(
        self, bodies: Sequence[Body], places: Sequence[int], keep: Keep
    ) -> dict[int, Body | ChatAnswer]:
        """Ask the questions at these places, from as many threads as there may be requests at a time.

        The threads are daemons: one whose answer never comes must not keep a process that was interrupted from ending. The
        main thread only waits, so that signals are noticed at once.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        arrived: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        for place in places:
            waiting.put(place)

        def work() -> None:
            while not self._stop.is_set():
                try:
                    place = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    arrived.put((place, self._answer(bodies[place], place, keep)))
                except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                    arrived.put((place, error))
                    return

        for _ in range(min(self.settings.concurrency, len(places))):
            threading.Thread(target=work, daemon=True).start()

        try:
            return self._gather(arrived, len(places))
        except BaseException:
            self._wait_for_what_is_paid()
            raise

    def _gather(
        self, arrived: "queue.SimpleQueue[Arrival]", n: int
    ) -> dict[int, Body | ChatAnswer]:
        """Return ``n`` answers by place.

        Raises:
            StoppedEarly: a stop was asked for.
            BaseException: what ended a thread.
        """
        answers: dict[int, Body | ChatAnswer] = {}
        while len(answers) < n:
            with suppress(queue.Empty):
                place, answer = arrived.get(timeout=POLL_S)
                if isinstance(answer, BaseException):
                    raise answer
                answers[place] = answer
            if self.surroundings.should_stop() and len(answers) < n:
                raise StoppedEarly(
                    "stopped as asked in the middle of a part; every answer that arrived is kept",
                    hint=self.surroundings.how_to_go_on,
                )
        return answers

    def _wait_for_what_is_paid(self) -> None:
        """Send nothing more, and give answers on their way `GRACE_S` to arrive; a further signal cuts that short."""
        self._stop.set()
        if self._n_on_the_way:
            self.surroundings.log(
                f"waiting up to {GRACE_S:.0f} s for {self._n_on_the_way} answers that are on their way and paid for; "
                "a second signal drops them"
            )
        deadline = time.monotonic() + GRACE_S
        while self._n_on_the_way and time.monotonic() < deadline:
            time.sleep(POLL_S / 2)

    @contextmanager
    def _on_the_way(self) -> Iterator[None]:
        with self._lock:
            self._n_on_the_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_on_the_way -= 1

    def _answer(self, body: Body, place: int, keep: Keep) -> Body | ChatAnswer:
        """Return a completion, kept; a failure of this request alone becomes an answer that says so."""
        try:
            completion = self._completed(body, place, keep)
        except PermanentError as error:
            if error.is_bad_request and not self._reached:
                self._n_refused += 1
                if self._n_refused == MOST_REFUSED_AT_START:
                    if self.settings.ends_when_none_is_answered:
                        self._give_up(
                            f"the first {MOST_REFUSED_AT_START} requests were refused, the last with: {error}"
                        )
                    self._reached = True
            self._reached = self._reached or error.answer.status in (REFUSED, TOO_LONG)
            return error.answer
        except TransientError as error:
            is_there = error.is_answered and not self.settings.ends_when_none_is_answered
            if not self._reached and not is_there and not self._stop.is_set():
                self._give_up(str(error))
            self._reached = self._reached or is_there
            return ChatAnswer(ERROR, f"{error} (after {self.settings.max_tries} tries)")

        if self.settings.needs_logprobs and not self._reached:
            answer = read_completion(completion)
            if answer.status == "ok" and answer.tokens is None:
                raise ModelError(
                    f"the judge's server at {self.url} gives no log-probabilities; every answer would be paid for in vain",
                    hint="use --verdict text, or a server and model that give them (vllm serve does)",
                )
        self._reached = True
        return completion

    def _give_up(self, reason: str) -> NoReturn:
        raise ModelError(
            f"the server at {self.url} cannot be used: {self._without_key(reason)}",
            hint="check --base-url (or OPENAI_BASE_URL), OPENAI_API_KEY, the model's name, and that the server runs",
        )

    def _completed(self, body: Body, place: int, keep: Keep) -> Body:
        """Return a completion's body, asking as often as it takes or is allowed."""
        left_out = self._left_out
        n_tries = 0
        while self._pace.wait(self._stop):
            wire = self._on_the_wire(body, left_out)
            try:
                with self._on_the_way():
                    completion = self._post(wire)
                    keep(place, completion)
            except PermanentError as error:
                fewer = self._fields_to_drop(wire, error)
                if not fewer:
                    raise
                left_out |= fewer
                continue
            except TransientError as error:
                n_tries += 1
                if n_tries >= self.settings.max_tries:
                    raise
                self._wait(error, n_tries)
                continue

            if left_out - self._left_out:
                self._leave_out(left_out)
            return completion
        raise TransientError("the run was stopped")

    def _fields_to_drop(self, wire: Body, error: PermanentError) -> frozenset[str]:
        """Return the fields that a refusal is about and that one can do without, none if it is about something else.

        A refusal names them, as a rule. One that does not may mean them all the same: the first is tried without any.
        """
        if not error.is_bad_request:
            return frozenset()
        words = str(error).lower()
        optional = set(NEUTRAL) & set(wire) | set(self.settings.can_do_without) & set(wire)
        if self._reached:
            optional &= set(RECORDS)  # what is sampled stays the same for a whole run
        named = {name for name in optional if name in words}
        if named and "logprobs" in named:
            named |= {"top_logprobs"} & set(wire)
        if named or self._reached or self._has_tried_bare:
            return frozenset(named)
        self._has_tried_bare = True
        return frozenset(optional)

    def _leave_out(self, left_out: frozenset[str]) -> None:
        """Leave fields out from now on, and say so: the server answered without them."""
        new = sorted(name for name in left_out - self._left_out if name in NEUTRAL)
        self._left_out |= left_out
        if new:
            self.surroundings.log(
                f"the server at {self.url} refuses {', '.join(new)}: sent without, so its own defaults hold for them"
            )

    def _wait(self, error: TransientError, n_tries: int) -> None:
        """Wait before the next try, as long as the server asks for or with exponential back-off; say a long wait."""
        if error.wait_s is None:
            wait_s = self._back_off(n_tries - 1)
        else:
            wait_s = min(error.wait_s, LONGEST_OBEYED_S)
            self._pace.hold(wait_s)  # the limit is the account's, not this request's
        now = time.monotonic()
        with self._lock:
            is_news = wait_s >= WORTH_SAYING_S and now + wait_s > self._said_until + 1.0
            if is_news:
                self._said_until = now + wait_s
        if is_news:
            until = (datetime.now().astimezone() + timedelta(seconds=wait_s)).strftime("%H:%M:%S")
            reason = self._without_key(str(error))[:200]
            if error.wait_s is None:
                self.surroundings.log(
                    f"{reason}: asked again at {until} (try {n_tries + 1} of {self.settings.max_tries})"
                )
            else:
                beyond = (
                    f", of which {LONGEST_OBEYED_S:.0f} s are waited"
                    if error.wait_s > LONGEST_OBEYED_S
                    else ""
                )
                self.surroundings.log(
                    f"the server at {self.url} asks for {error.wait_s:.0f} s of patience{beyond} ({reason}): "
                    f"nothing is sent until {until}"
                )
        self._stop.wait(wait_s)

    def _back_off(self, n_waits: int) -> float:
        """Return 0.5, 1, 2, ... seconds up to a minute, each spread over half to all of it."""
        return float(
            min(FIRST_WAIT_S * 2**n_waits, LONGEST_WAIT_S) * self._random.uniform(0.5, 1.0)
        )

    def _post(self, wire: Body) -> Body:
        """Send once and return the body of the completion.

        Raises:
            TransientError, PermanentError: there is none.
        """
        deadline = time.monotonic() + self.settings.timeout_s
        is_late = False
        try:
            with self._client.chat.completions.with_streaming_response.create(
                **_arguments(wire)
            ) as response:
                data, is_late = _read(response.iter_bytes(), deadline)
            completion = _parsed(data)
            read_first_choice(completion)
        except openai.APIStatusError as error:
            raise self._status_failure(error) from error
        except openai.APITimeoutError as error:
            raise self._late() from error
        except openai.APIConnectionError as error:
            raise TransientError(self._without_key(f"{error} ({error.__cause__})")) from error
        except NoCompletionError as error:
            raise TransientError(str(error), is_answered=True) from error
        except (ValueError, RecursionError) as error:
            no_json = TransientError(f"the answer is no JSON ({error})", is_answered=True)
            raise self._late() if is_late else no_json from error
        return dict(completion)

    def _on_the_wire(self, body: Body, left_out: frozenset[str]) -> dict[str, Any]:
        """Return what is sent: neutral settings beside the body, and ``max_tokens`` under the name that the server knows."""
        wire = {name: value for name, value in {**NEUTRAL, **body}.items() if name not in left_out}
        if self._has_new_name and "max_tokens" in wire:
            wire["max_completion_tokens"] = wire.pop("max_tokens")
        return wire

    def _status_failure(self, error: openai.APIStatusError) -> TransientError | PermanentError:
        """Return what a status means; raise when it means the end of the run."""
        status = error.status_code
        reason = replace_lone_surrogates(
            self._without_key(f"status {status}: {_words_of_status(error)}")[:500]
        )
        low = (
            f"{reason} {error.body}".lower()
        )  # the text has the message alone, the body also the code
        if status in HOPELESS_STATUSES or any(sign in low for sign in NO_MONEY_SIGNS):
            self._give_up(reason)
        if status == 403 and any(name in low for name in self.settings.can_do_without):
            return PermanentError(
                ChatAnswer(ERROR, reason), is_bad_request=True
            )  # OpenAI's word on log-probabilities of o1
        if status in HOPELESS_AT_START and not self._reached:
            self._give_up(reason)
        if status in TRANSIENT_STATUSES or status >= 500:
            return TransientError(reason, _retry_after(error.response.headers), is_answered=True)
        if status == 400 and "max_completion_tokens" in low and not self._has_new_name:
            self._has_new_name = True
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


def _arguments(wire: Body) -> dict[str, Any]:
    """Return a body as arguments of the client: what OpenAI's own API does not know goes into ``extra_body``."""
    beside = ("top_k", "min_p", "repetition_penalty", "return_token_ids")
    arguments = {name: value for name, value in wire.items() if name not in beside}
    extra = {name: value for name, value in wire.items() if name in beside}
    return arguments | ({"extra_body": extra} if extra else {})


def _read(chunks: Any, deadline: float) -> tuple[bytes, bool]:
    """Return what came until the deadline, and whether that ended it: an answer that was whole by then is one all the same."""
    data = bytearray()
    try:
        for chunk in chunks:
            data += chunk
            if time.monotonic() > deadline:
                return bytes(data), True
    except (
        Exception
    ) as error:  # the HTTP library's own family, whose name depends on the client's version
        raise TransientError(f"the connection broke: {type(error).__name__}: {error}") from error
    return bytes(data), False


def _parsed(data: bytes) -> Any:
    """Return what a body's JSON holds; bytes that are no UTF-8 become U+FFFD, for the rest of the answer was paid for.

    Raises:
        ValueError, RecursionError: it is no JSON.
    """
    try:
        return parse_finite_json(data)
    except UnicodeDecodeError:
        return parse_finite_json(data.decode("utf-8", "replace"))


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
