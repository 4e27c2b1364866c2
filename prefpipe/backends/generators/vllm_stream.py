"""One vLLM engine for the calls of many threads.

A separate thread adds requests to the engine and steps it, so that the engine is full while any
caller has requests. It does nothing else: callers make ids and texts themselves. Why it drives
``LLMEngine`` and not ``AsyncLLM``: ``docs/decisions/vllm-steps.md``.
"""

import threading
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from prefpipe.backends.generators.waiting_call import WaitingCall, answered_of
from prefpipe.backends.open_calls import Answered
from prefpipe.errors import EngineDeadError

AHEAD = 2
"""The most requests inside vLLM, as a multiple of its slots.

As many wait there as run, so that a free slot is filled in the next step. Requests that wait here
are added as those advance, so a part of thousands of requests does not delay the steps.
"""
CLOSE_S = 10.0
"""How long `VllmStream.close` waits for the current step."""
DEAD_HINT = "read vLLM's log above; run the same command again to go on from the last finished part"


class EngineRequest(NamedTuple):
    """A request to vLLM: a prompt, in vLLM's form, and its sampling parameters."""

    prompt: Any
    params: Any


class Refused(NamedTuple):
    """The answer to a request that vLLM refuses."""

    reason: str


class VllmStream:
    """Answers the requests of many threads with one engine, those of earlier calls first.

    Args:
        engine: a ``vllm.LLMEngine``. Nothing else may use it until `close`.
        n_slots: the requests that it samples at a time.
        refusals: its errors for a request that it refuses.
        lora: the adapter of all requests.
    """

    def __init__(
        self, engine: Any, *, n_slots: int, refusals: tuple[type[Exception], ...], lora: Any
    ) -> None:
        self._engine, self._n_slots = engine, n_slots
        self._refusals, self._lora = refusals, lora
        self._changed = threading.Condition()
        """Protects the attributes below; never held while the engine steps."""
        self._line: deque[_Place] = deque()
        """Requests not yet added to vLLM, the oldest call's first."""
        self._inside: dict[str, _Place] = {}
        """Requests inside vLLM, waiting or running, by id."""
        self._calls: list[WaitingCall[Any]] = []
        """All waiting calls."""
        self._end: EngineDeadError | None = None
        """Why answering has ended."""
        self._ids = count()
        self._thread = threading.Thread(target=self._run, name="vllm steps", daemon=True)
        self._thread.start()

    def answer(self, requests: Sequence[EngineRequest]) -> list[Any]:
        """Return vLLM's completion for every request, or `Refused`, in order.

        Raises:
            EngineDeadError: the engine died, now or in an earlier call, or was closed.
        """
        if not requests:
            return []
        call = WaitingCall[Any](len(requests))
        with self._changed:
            self._raise_if_ended()
            self._calls.append(call)
            for position, request in enumerate(requests):
                self._line.append(_Place(request, call, position))
            self._changed.notify()

        try:
            call.is_over.wait()
        finally:
            with self._changed:
                self._calls.remove(call)
        if not call.is_answered:
            with self._changed:
                self._raise_if_ended()
        return call.answers

    def answered(self) -> Answered:
        """Return how many requests of the waiting calls are answered."""
        with self._changed:
            return answered_of(self._calls)

    def has_room(self) -> bool:
        """Return whether slots may be empty before the next call because few requests wait.

        A dead engine has room, so that the next caller learns of its death.
        """
        with self._changed:
            n_waiting = len(self._line) + len(self._inside) - self._n_slots
            return self._end is not None or n_waiting < max(1, self._n_slots // 4)

    def end(self, reason: str, cause: BaseException | None = None) -> None:
        """Raise ``EngineDeadError`` from all waiting calls and all later ones.

        The first reason counts.
        """
        with self._changed:
            if self._end is None:
                self._end = EngineDeadError(reason, hint=DEAD_HINT)
                self._end.__cause__ = cause
            for place in (*self._line, *self._inside.values()):
                place.call.is_over.set()
            self._line.clear()
            self._inside.clear()
            self._changed.notify()

    def close(self) -> None:
        """End waiting calls and, after the current step, the thread.

        A thread that waits for a dead engine's step is abandoned: it is a daemon.
        """
        is_dead = self._end is not None
        self.end("the vLLM engine was closed")
        self._thread.join(0 if is_dead else CLOSE_S)
        # References to this object for its errors must not keep the engine's memory.
        self._engine = None

    def _raise_if_ended(self) -> None:
        if self._end is not None:
            raise self._end.once_more()

    def _run(self) -> None:
        """Add and step until the end. Only this thread touches the engine."""
        try:
            while self._wait_for_requests():
                self._add()
                # If all added requests were refused, there is nothing to step.
                if self._inside:
                    self._hand_out(self._engine.step())
        except BaseException as error:  # noqa: BLE001 - raised again in every caller's thread
            self.end(f"the vLLM engine failed: {type(error).__name__}: {error}", error)

    def _wait_for_requests(self) -> bool:
        """Return True once there are requests, False at the end."""
        with self._changed:
            while self._end is None and not self._line and not self._inside:
                self._changed.wait()
            return self._end is None

    def _add(self) -> None:
        """Add requests to the engine, as many as it has room for."""
        while True:
            with self._changed:
                if not self._line or len(self._inside) >= AHEAD * self._n_slots:
                    return
                place = self._line.popleft()
                name = str(next(self._ids))
                # Before it is added: an end from another thread finds it in one place or the other.
                self._inside[name] = place
            try:
                self._engine.add_request(
                    name, place.request.prompt, place.request.params, lora_request=self._lora
                )
            except self._refusals as error:
                self._deliver(name, Refused(str(error)))

    def _hand_out(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            if not output.finished:
                continue
            completion = output.outputs[0]
            # Nothing here aborts requests: vLLM's process was stopped, for example by a signal to
            # the whole job, and its partial samples are not answers.
            if completion.finish_reason == "abort":
                self.end("the vLLM engine was stopped from outside and aborted its requests")
                return
            self._deliver(output.request_id, completion)

    def _deliver(self, name: str, answer: Any) -> None:
        with self._changed:
            place = self._inside.pop(name, None)
            # None after the end: its caller was woken.
            if place is not None:
                place.call.take(place.position, answer)


class _Place(NamedTuple):
    """One request of a call."""

    request: EngineRequest
    call: WaitingCall[Any]
    position: int
