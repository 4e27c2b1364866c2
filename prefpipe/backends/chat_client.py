"""Asking a chat-completions server that may be busy, slow, broken or gone.

Failures are of three kinds:

- *transient* (time-outs, lost connections, 408, 409, 425, 429, 5xx, a body that is no completion):
  tried again, after as long as ``Retry-After`` says or with exponential back-off;
- *permanent for one request* (400, 413, 422, ...): a row with a reason;
- *hopeless* (no server, no such model, a refused key, no money left): the run ends, for no further
  request could succeed.

An answer is kept the moment it has arrived.
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
from prefpipe.backends.request_pace import RequestPace
from prefpipe.backends.request_threads import GivenUpError, RequestThreads, RunControl
from prefpipe.errors import ModelError

Keep = Callable[[int, Body], None]

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
"""First requests that may be refused with a 400 before the fault is in what all have in common."""

NEUTRAL = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Sampling settings that mean "off".

They are sent because a server fills in what is not: vLLM's and SGLang's from the model's
``generation_config.json``, llama.cpp's from defaults of its own. -1 is every server's word for no
``top_k``.
"""
RECORDS = ("return_token_ids", "logprobs", "top_logprobs")
"""Fields that change no answer, and only what is returned beside it."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
LONGEST_OBEYED_S = 600.0
"""A ``Retry-After`` beyond this counts as this."""
WORTH_SAYING_S = 5.0
"""A wait from which on one wants to know why nothing happens."""

NO_FLAGS: Mapping[str, str] = MappingProxyType({})


NOTHING_NEEDED: Mapping[str, str] = MappingProxyType({})


class ServerSettings(NamedTuple):
    """How a server is asked.

    ``max_tries`` counts the first; ``timeout_s`` is for one try, from the request to the last byte.

    ``can_do_without``: fields of the bodies that are left out where a server refuses them.
    ``cannot_do_without``: fields whose refusal ends the run, each with the hint.
    ``needs_logprobs``: a server whose first answer has none is asked nothing more.
    ``ends_when_none_is_answered``: a server that is there, but refuses the first questions or fails
    at the first, ends the run; else these are failures of their rows.
    ``flags``: fields of the bodies that the user asked for, and the flags that did: a server that
    refuses one in its first answer ends the run.
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
    """A failure of one request that trying again does not mend."""

    def __init__(self, answer: ChatAnswer, *, is_bad_request: bool) -> None:
        super().__init__(answer.reason)
        self.answer, self.is_bad_request = answer, is_bad_request


class ChatClient:
    """Sends chat-completion bodies to one server.

    Any number of threads may ask at once: their requests share the slots, the connections, the pace
    and what is known of the server.

    Beside what a body says, `NEUTRAL` is sent, but for what the body sets itself and what the
    server refuses. Refusals are looked for in the first request alone: one setting holds for a
    whole run.

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

        # What the first requests showed of the server.
        self._reached = False
        self._n_refused = 0
        self._has_new_name = False
        self._left_out: frozenset[str] = frozenset()
        self._has_tried_bare = False

        self._said_until = 0.0
        # Spreads retries of many threads; no answer depends on it.
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
        """Ask all and return one answer for each, in order.

        Args:
            bodies: what is sent.
            keep: called with the place and the completion's body as soon as one arrives, from the
                thread that received it.

        Raises:
            ModelError: the failure is one that no request could escape, of this call or another;
                answers that arrived before have been kept.
            StoppedEarly: a stop was asked for; the same.
        """
        return [
            answer if isinstance(answer, ChatAnswer) else read_completion(answer)
            for answer in self.completions(bodies, keep)
        ]

    def completions(self, bodies: Sequence[Body], keep: Keep) -> list[Body | ChatAnswer]:
        """Ask all and return for each, in order, the completion's body.

        Where there is none, an answer stands in its place that says why.

        Raises:
            ModelError, StoppedEarly: see `complete`.
        """

        def ask_one(place: int) -> Body | ChatAnswer:
            return self._answer(bodies[place], place, keep)

        return self._threads.ask(ask_one, len(bodies))

    def has_room(self) -> bool:
        """Return whether so few requests wait that slots may soon be empty."""
        return self._threads.has_room()

    def close(self) -> None:
        """Close the connections, once answers on their way have arrived or the grace is over."""
        self._threads.finish()
        self._endpoint.close()

    def _has_worked(self) -> None:
        """Note that the server has answered: until then, one request at a time is on its way.

        One alone shows whether there is a server, and what it refuses.
        """
        self._reached = True
        self._threads.open_all_slots()

    def _answer(self, body: Body, place: int, keep: Keep) -> Body | ChatAnswer:
        """Return a completion, kept; a failure of this request alone becomes an answer."""
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

        # a filter, or a limit of length: the server works, and has read this one
        if error.answer.status in (REFUSED, TOO_LONG) and not self._reached:
            self._has_worked()
        return error.answer

    def _failed(self, error: TransientError) -> ChatAnswer:
        """Return the answer of a request whose tries all failed; give up if it is the first one."""
        if not self._reached:
            if not error.is_answered or self.settings.ends_when_none_is_answered:
                self._give_up(str(error))
            self._has_worked()
        return ChatAnswer(ERROR, f"{error} (after {self.settings.max_tries} tries)")

    def _require_logprobs(self, completion: Body) -> None:
        answer = read_completion(completion)
        if answer.status == "ok" and answer.tokens is None:
            raise ModelError(
                f"the judge's server at {self.url} gives no log-probabilities; "
                "every answer would be paid for in vain",
                hint="use --verdict text, or a server and model that give them (vllm serve does)",
            )

    def _give_up(self, reason: str) -> NoReturn:
        raise ModelError(
            f"the server at {self.url} cannot be used: {self._endpoint.without_key(reason)}",
            hint="check --base-url (or OPENAI_BASE_URL), OPENAI_API_KEY, the model's name, "
            "and that the server runs",
        )

    def _ask_until_answered(self, body: Body, place: int, keep: Keep) -> Body:
        """Return a completion, asking as often as it takes or is allowed."""
        left_out = self._left_out
        n_tries = 0
        while self._pace.wait(self._threads.stop):
            wire = self._on_the_wire(body, left_out)
            try:
                with self._threads.on_the_way():
                    completion = self._send(wire)
                    # The next request leaves while this answer goes to the disk.
                    if self._reached:
                        self._threads.free_slot()
                    keep(place, completion)
            except PermanentError as error:
                # This takes no try: without the fields it is another request.
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

            # Only an answer shows that it was these fields, and nothing else, that was refused.
            if left_out - self._left_out:
                self._leave_out(left_out)
            return completion
        raise GivenUpError

    def _on_the_wire(self, body: Body, left_out: frozenset[str]) -> dict[str, Any]:
        """Return what is sent: the body, and neutral settings beside it.

        ``max_tokens`` goes under the name that the server knows.
        """
        wire = {name: value for name, value in {**NEUTRAL, **body}.items() if name not in left_out}
        if self._has_new_name and "max_tokens" in wire:
            wire["max_completion_tokens"] = wire.pop("max_tokens")
        return wire

    def _fields_to_drop(self, body: Body, wire: Body, error: PermanentError) -> frozenset[str]:
        """Return the fields that a refusal is about and that one can do without.

        None if it is about something else. A refusal names them, as a rule. One that does not may
        mean them all the same: the first is tried without any.
        """
        if not error.is_bad_request:
            return frozenset()
        # what the body sets itself is not neutral
        neutral = NEUTRAL.keys() - body.keys()
        optional = {*neutral, *self.settings.can_do_without} & set(wire)
        if self._reached:
            # what is sampled stays the same for a whole run
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
        """End the run where the first answer is that a setting is not taken which a flag asks for.

        A refusal may name a field for another reason: one of a content that repeats the request.
        That it was the setting shows when the same question is answered without it.

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
        """Leave fields out from now on, and say so: the server answered without them."""
        with self._lock:
            new = sorted(name for name in left_out - self._left_out if name in NEUTRAL)
            self._left_out |= left_out
        if new:
            self._run.log(
                f"the server at {self.url} refuses {', '.join(new)}: sent without, "
                "so its own defaults hold for them"
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
        """Return what a status means; raise when it means the end of the run."""
        status, text, reason = error.status, error.text, str(error)
        # First of all: an empty account comes as a 429 too, which would be tried again.
        if status in HOPELESS_STATUSES or any(sign in text for sign in NO_MONEY_SIGNS):
            self._give_up(reason)
        if status == 403 and any(name in text for name in self.settings.can_do_without):
            # OpenAI's word on log-probabilities of o1
            return PermanentError(ChatAnswer(ERROR, reason), is_bad_request=True)
        if status in HOPELESS_AT_START and not self._reached:
            self._give_up(reason)

        if status in TRANSIENT_STATUSES or status >= 500:
            return TransientError(reason, error.wait_s, is_answered=True)
        # OpenAI's newer models know `max_tokens` by this name alone: asked again at once with it.
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
        """End the run where a refusal names a field without which nothing should be asked.

        Raises:
            ModelError: naming the field.
        """
        for name, hint in self.settings.cannot_do_without.items():
            if name in wire and name in text:
                raise ModelError(
                    f"the server at {self.url} refuses `{name}`: "
                    f"{self._endpoint.without_key(reason)}",
                    hint=hint,
                )

    def _wait(self, error: TransientError, n_tries: int) -> None:
        """Wait before the next try, as long as the server asks for or with exponential back-off."""
        if error.wait_s is None:
            # 0.5, 1, 2, ... seconds up to a minute, each spread over half to all of it
            longest_s = min(FIRST_WAIT_S * 2 ** (n_tries - 1), LONGEST_WAIT_S)
            wait_s = longest_s * self._random.uniform(0.5, 1.0)
        else:
            wait_s = min(error.wait_s, LONGEST_OBEYED_S)
            # The limit is the account's, not this request's: nobody sends meanwhile.
            self._pace.hold(wait_s)
        self._say_long_wait(error, wait_s, n_tries)
        self._threads.stop.wait(wait_s)

    def _say_long_wait(self, error: TransientError, wait_s: float, n_tries: int) -> None:
        """Say why nothing happens for a while; once, where many threads wait for the same."""
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
                f"{reason}: asked again at {until} (try {n_tries + 1} of {self.settings.max_tries})"
            )
            return
        beyond = ""
        if error.wait_s > LONGEST_OBEYED_S:
            beyond = f", of which {LONGEST_OBEYED_S:.0f} s are waited"
        self._run.log(
            f"the server at {self.url} asks for {error.wait_s:.0f} s of patience{beyond} "
            f"({reason}): nothing is sent until {until}"
        )
