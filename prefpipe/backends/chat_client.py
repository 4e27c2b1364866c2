"""A client of a chat-completions server that may be busy, slow, broken or gone.

Failures are of three kinds:

- *transient* (time-outs, lost connections, 408, 409, 425, 429, 5xx, a body that is not a
  completion): tried again after the time in ``Retry-After`` or with exponential back-off;
- *permanent for one request* (400, 413, 422, ...): a row with a reason;
- *hopeless* (no server, no such model, a refused key, no money left): the run ends because no
  further request can succeed.

Each answer is saved as soon as it arrives.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from prefpipe.backends.chat_answers import ERROR, REFUSED, TOO_LONG, ChatAnswer, read_completion
from prefpipe.backends.chat_endpoint import Body, ChatEndpoint, StatusError, TransientError
from prefpipe.backends.open_calls import Answered
from prefpipe.backends.request_pace import RequestPace
from prefpipe.backends.request_threads import GivenUpError, RequestThreads, RunControl
from prefpipe.errors import ModelError

Keep = Callable[[int, Body], None]

TRANSIENT_STATUSES = (408, 409, 425, 429)
HOPELESS_STATUSES = (401, 402)
HOPELESS_AT_START = (403, 404, 405)
"""Statuses that may concern one request only, once any request has been answered."""
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
"""First requests refused with a 400 after which the fault is taken to be common to all."""

NEUTRAL = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Sampling settings that mean "off".

They are sent because a server fills in missing ones: vLLM and SGLang from the model's
``generation_config.json``, llama.cpp from its own defaults. On every server -1 means no ``top_k``.
"""
RECORDS = ("return_token_ids", "logprobs", "top_logprobs")
"""Fields that do not change an answer, only what is returned beside it."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
LONGEST_OBEYED_S = 600.0
"""Upper limit for ``Retry-After``."""
WORTH_SAYING_S = 5.0
"""Waits longer than this are logged with their reason."""

NO_FLAGS: Mapping[str, str] = MappingProxyType({})


NOTHING_NEEDED: Mapping[str, str] = MappingProxyType({})


class ServerSettings(NamedTuple):
    """How requests are sent to a server.

    ``max_tries`` counts the first; ``timeout_s`` is for one try, from the request to the last byte.

    ``can_do_without``: body fields that are left out if a server refuses them.
    ``cannot_do_without``: fields whose refusal ends the run, each with the hint.
    ``needs_logprobs``: the run ends if a server's first answer has none.
    ``ends_when_none_is_answered``: whether the run ends if a reachable server refuses the first
        questions or fails at the first; otherwise their rows fail.
    ``flags``: body fields that the user set, and their flags: the run ends if a server's first
        answer refuses one.
    """

    base_url: str | None = None
    concurrency: int = 16
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    max_tries: int = 6
    can_do_without: tuple[str, ...] = ()
    cannot_do_without: Mapping[str, str] = NOTHING_NEEDED
    needs_logprobs: bool = False
    ends_when_none_is_answered: bool = True
    flags: Mapping[str, str] = NO_FLAGS


class PermanentError(Exception):
    """A failure of one request that another try cannot repair."""

    def __init__(self, answer: ChatAnswer, *, is_bad_request: bool) -> None:
        super().__init__(answer.reason)
        self.answer, self.is_bad_request = answer, is_bad_request


class ChatClient:
    """Sends chat-completion bodies to one server.

    Any number of threads may use it at once: their requests share the slots, the connections, the
    pace and what is known about the server.

    The fields of `NEUTRAL` are added to each body, except those that the body sets or the server
    refuses. Only the first request can drop fields, so that a whole run uses the same settings.

    Raises:
        ModelError: no ``OPENAI_API_KEY`` for OpenAI's own server.
    """

    def __init__(self, settings: ServerSettings, run: RunControl | None = None) -> None:
        self.settings = settings
        self._run = run or RunControl()
        self._endpoint = ChatEndpoint(settings.base_url, settings.timeout_s)
        self._pace = RequestPace(settings.requests_per_minute)
        self._threads = RequestThreads(settings.concurrency, self._run)
        self._lock = threading.Lock()

        # What the first requests showed about the server.
        self._reached = False
        self._n_refused = 0
        self._has_new_name = False
        self._left_out: frozenset[str] = frozenset()
        self._has_tried_bare = False

        self._said_until = 0.0
        # Spreads the retries of many threads; no answer depends on it.
        self._random = random.Random()  # noqa: S311

    @property
    def url(self) -> str:
        """The server's address, up to ``/v1``."""
        return self._endpoint.url

    @property
    def left_out(self) -> list[str]:
        """Fields that the server refused and that are not sent any more."""
        return sorted(self._left_out)

    def complete(self, bodies: Sequence[Body], keep: Keep) -> list[ChatAnswer]:
        """Send all requests and return one answer for each, in order.

        Args:
            bodies: the request bodies.
            keep: called with the place and the completion's body as soon as one arrives, from the
                thread that received it.

        Raises:
            ModelError: a failure, in this call or another, that every request would meet; answers
                that arrived before are saved.
            StoppedEarly: a stop was requested; arrived answers are saved.
        """
        return [
            answer if isinstance(answer, ChatAnswer) else read_completion(answer)
            for answer in self.completions(bodies, keep)
        ]

    def completions(self, bodies: Sequence[Body], keep: Keep) -> list[Body | ChatAnswer]:
        """Send all requests and return each completion's body, in order.

        If there is none, a `ChatAnswer` in its place says why.

        Raises:
            ModelError, StoppedEarly: see `complete`.
        """

        def ask_one(place: int) -> Body | ChatAnswer:
            return self._answer(bodies[place], place, keep)

        return self._threads.ask(ask_one, len(bodies))

    def has_room(self) -> bool:
        """Return whether so few requests wait that slots may soon be empty."""
        return self._threads.has_room()

    def answered(self) -> Answered:
        """Return how many requests of the open calls are answered."""
        return self._threads.answered()

    def close(self) -> None:
        """Close the connections once pending answers have arrived or the grace is over."""
        self._threads.finish()
        self._endpoint.close()

    def _has_worked(self) -> None:
        """Note that the server has answered: until then, only one request is sent at a time.

        A single request shows whether there is a server and which fields it refuses.
        """
        self._reached = True
        self._threads.open_all_slots()

    def _answer(self, body: Body, place: int, keep: Keep) -> Body | ChatAnswer:
        """Return a completion and save it; a failure of this request alone becomes an answer."""
        try:
            completion = self._ask_until_answered(body, place, keep)
        except PermanentError as error:
            return self._refused(error)
        except TransientError as error:
            return self._failed(error)

        if not self._reached:
            if self.settings.needs_logprobs:
                self._require_logprobs(completion)
            self._has_worked()
        return completion

    def _refused(self, error: PermanentError) -> ChatAnswer:
        """Return the answer of a refused request; give up if the first ones are all refused."""
        if error.is_bad_request and not self._reached:
            self._n_refused += 1
            if self._n_refused == MOST_REFUSED_AT_START:
                if self.settings.ends_when_none_is_answered:
                    self._give_up(
                        f"the first {MOST_REFUSED_AT_START} requests were refused, "
                        f"the last with: {error}"
                    )
                self._has_worked()

        # A filter or a length limit: the server works and has read this request.
        if error.answer.status in (REFUSED, TOO_LONG) and not self._reached:
            self._has_worked()
        return error.answer

    def _failed(self, error: TransientError) -> ChatAnswer:
        """Return the answer of a request that failed all tries; give up if it is the first."""
        if not self._reached:
            if not error.is_answered or self.settings.ends_when_none_is_answered:
                self._give_up(str(error))
            self._has_worked()
        return ChatAnswer(ERROR, f"{error} (after {self.settings.max_tries} tries)")

    def _require_logprobs(self, completion: Body) -> None:
        answer = read_completion(completion)
        if answer.status == "ok" and answer.tokens is None:
            raise ModelError(
                f"the judge's server at {self.url} returns no log-probabilities, and the "
                "verdict needs them",
                hint="pass --verdict text, or use a server and model that return them (vllm serve "
                "does)",
            )

    def _give_up(self, reason: str) -> NoReturn:
        raise ModelError(
            f"the server at {self.url} is unusable: {self._endpoint.without_key(reason)}",
            hint="check that the server runs, then --base-url (or OPENAI_BASE_URL), OPENAI_API_KEY "
            "and the model's name",
        )

    def _ask_until_answered(self, body: Body, place: int, keep: Keep) -> Body:
        """Return a completion, after as many tries as it needs and the limit allows."""
        left_out = self._left_out
        n_tries = 0
        while self._pace.wait(self._threads.stop):
            wire = self._on_the_wire(body, left_out)
            try:
                with self._threads.on_the_way():
                    completion = self._send(wire)
                    # The next request leaves while this answer is written to disk.
                    if self._reached:
                        self._threads.free_slot()
                    keep(place, completion)
            except PermanentError as error:
                # This is not counted as a try: without the fields it is a different request.
                fewer = self._fields_to_drop(body, wire, error)
                if not fewer:
                    self._end_if_a_flag_is_refused(wire, body, error)
                    raise
                left_out |= fewer
                continue
            except TransientError as error:
                n_tries += 1
                if n_tries >= self.settings.max_tries:
                    raise
                self._wait(error, n_tries)
                continue

            # Only an answer proves that these fields, and nothing else, were refused.
            if left_out - self._left_out:
                self._leave_out(left_out)
            return completion
        raise GivenUpError

    def _on_the_wire(self, body: Body, left_out: frozenset[str]) -> dict[str, Any]:
        """Return the sent request: the body with the neutral settings.

        ``max_tokens`` is sent under the name that the server knows.
        """
        wire = {name: value for name, value in {**NEUTRAL, **body}.items() if name not in left_out}
        if self._has_new_name and "max_tokens" in wire:
            wire["max_completion_tokens"] = wire.pop("max_tokens")
        return wire

    def _fields_to_drop(self, body: Body, wire: Body, error: PermanentError) -> frozenset[str]:
        """Return the refused fields that can be left out.

        None if the refusal is about something else. A refusal usually names the fields. One that
        does not may still mean them: the first request is then tried without any.
        """
        if not error.is_bad_request:
            return frozenset()
        # Fields that the body sets are not neutral.
        neutral = NEUTRAL.keys() - body.keys()
        optional = {*neutral, *self.settings.can_do_without} & set(wire)
        if self._reached:
            # Sampling settings stay the same for a whole run.
            optional &= set(RECORDS)

        words = str(error).lower()
        named = {name for name in optional if name in words}
        if "logprobs" in named:
            named |= {"top_logprobs"} & set(wire)
        if named or self._reached or self._has_tried_bare:
            return frozenset(named)
        self._has_tried_bare = True
        return frozenset(optional)

    def _end_if_a_flag_is_refused(self, wire: Body, body: Body, error: PermanentError) -> None:
        """End the run if the first answer refuses a setting that a flag sets.

        A refusal may name a field for another reason: a content error may quote the request. The
        setting is the cause if the same question is answered without it.

        Raises:
            ModelError: a setting is refused.
        """
        refused: list[str] = []
        last = error
        while not self._reached and last.is_bad_request:
            named = [
                field
                for field in self.settings.flags
                if field in body
                and field not in refused
                and re.search(rf"(?<!\w){field}(?!\w)", str(last))
            ]
            if not named:
                return
            refused += named
            try:
                self._send({name: value for name, value in wire.items() if name not in refused})
            except PermanentError as another:
                last = another
                continue
            except TransientError:
                return

            flags = " and ".join(self.settings.flags[field] for field in refused)
            raise ModelError(
                f"the server at {self.url} refuses {flags}: "
                f"{self._endpoint.without_key(str(error))}",
                hint=f"drop {flags}, or use a server that takes it (vllm serve does)",
            )

    def _leave_out(self, left_out: frozenset[str]) -> None:
        """Leave fields out from now on, and log it: the server answered without them."""
        with self._lock:
            new = sorted(name for name in left_out - self._left_out if name in NEUTRAL)
            self._left_out |= left_out
        if new:
            self._run.log(
                f"the server at {self.url} refuses {', '.join(new)}: they are left out, and "
                "the server's own defaults apply"
            )

    def _send(self, wire: Body) -> Body:
        """Send once and return the completion.

        Raises:
            TransientError, PermanentError: there is none.
            ModelError: no request could succeed.
        """
        try:
            return self._endpoint.send(wire)
        except StatusError as error:
            raise self._failure_of(error, wire) from error

    def _failure_of(self, error: StatusError, wire: Body) -> TransientError | PermanentError:
        """Return the error that a status means; raise it if it ends the run."""
        status, text, reason = error.status, error.text, str(error)
        # Checked first: an empty account is a 429, too, which would be tried again.
        if status in HOPELESS_STATUSES or any(sign in text for sign in NO_MONEY_SIGNS):
            self._give_up(reason)
        if status == 403 and any(name in text for name in self.settings.can_do_without):
            # OpenAI's message about log-probabilities of o1
            return PermanentError(ChatAnswer(ERROR, reason), is_bad_request=True)
        if status in HOPELESS_AT_START and not self._reached:
            self._give_up(reason)

        if status in TRANSIENT_STATUSES or status >= 500:
            return TransientError(reason, error.wait_s, is_answered=True)
        # OpenAI's newer models know `max_tokens` only by this name: sent again at once with it.
        if status == 400 and "max_completion_tokens" in text and "max_tokens" in wire:
            self._has_new_name = True
            return TransientError(reason, 0.0)

        if any(sign in text for sign in TOO_LONG_SIGNS):
            return PermanentError(ChatAnswer(TOO_LONG, reason), is_bad_request=False)
        if any(sign in text for sign in FILTER_SIGNS):
            return PermanentError(ChatAnswer(REFUSED, reason), is_bad_request=False)
        self._refuse_to_do_without(wire, text, reason)
        return PermanentError(ChatAnswer(ERROR, reason), is_bad_request=True)

    def _refuse_to_do_without(self, wire: Body, text: str, reason: str) -> None:
        """End the run if a refusal names a field that requests must have.

        Raises:
            ModelError: names the field.
        """
        for name, hint in self.settings.cannot_do_without.items():
            if name in wire and name in text:
                raise ModelError(
                    f"the server at {self.url} refuses `{name}`: "
                    f"{self._endpoint.without_key(reason)}",
                    hint=hint,
                )

    def _wait(self, error: TransientError, n_tries: int) -> None:
        """Wait before the next try: the server's time, or exponential back-off."""
        if error.wait_s is None:
            # 0.5, 1, 2, ... seconds up to a minute, each spread over half to all of it
            longest_s = min(FIRST_WAIT_S * 2 ** (n_tries - 1), LONGEST_WAIT_S)
            wait_s = longest_s * self._random.uniform(0.5, 1.0)
        else:
            wait_s = min(error.wait_s, LONGEST_OBEYED_S)
            # The limit is the account's, not this request's: nothing is sent meanwhile.
            self._pace.hold(wait_s)
        self._say_long_wait(error, wait_s, n_tries)
        self._threads.stop.wait(wait_s)

    def _say_long_wait(self, error: TransientError, wait_s: float, n_tries: int) -> None:
        """Log why nothing happens for a while; once if many threads wait for the same."""
        now = time.monotonic()
        with self._lock:
            is_news = wait_s >= WORTH_SAYING_S and now + wait_s > self._said_until + 1.0
            if not is_news:
                return
            self._said_until = now + wait_s

        until = (datetime.now().astimezone() + timedelta(seconds=wait_s)).strftime("%H:%M:%S")
        reason = self._endpoint.without_key(str(error))[:200]
        if error.wait_s is None:
            self._run.log(
                f"{reason}: the next try is at {until} (try {n_tries + 1} of "
                f"{self.settings.max_tries})"
            )
            return
        beyond = ""
        if error.wait_s > LONGEST_OBEYED_S:
            beyond = f", of which prefpipe waits {LONGEST_OBEYED_S:.0f} s"
        self._run.log(
            f"the server at {self.url} asks for a pause of {error.wait_s:.0f} s{beyond} "
            f"({reason}): the next request leaves at {until}"
        )
