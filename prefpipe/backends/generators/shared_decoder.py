"""One decoder for the calls of many threads.

The rows of all calls share one batch. The decoder's own thread computes them and lives as long as
there are rows to sample: a caller queues its rows, waits, and decodes the results itself while the
next step runs.
"""

import atexit
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakSet

import torch

from prefpipe.backends.generators.decoding import Decoder, Row, Sampled
from prefpipe.backends.generators.waiting_call import WaitingCall, answered_of
from prefpipe.backends.open_calls import Answered
from prefpipe.backends.protocol import SamplingParams
from prefpipe.errors import EngineDeadError

CLOSE_S = 10.0
"""How long `SharedDecoder.close` waits for the current step.

It may be one of a large model on a CPU, and the thread is a daemon: the process ends without it.
"""


class Sample(NamedTuple):
    """A caller's request: one sample of a prompt."""

    prompt: tuple[int, ...]
    seed: int
    temperature: float


class SharedDecoder:
    """Samples the rows of many threads together, those of earlier calls first.

    ``decode``: see `Decoder`.
    """

    def __init__(
        self,
        model: Any,
        eos_ids: Iterable[int],
        batch_size: int,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self._model, self._eos_ids, self._batch_size = model, list(eos_ids), batch_size
        self._decode_text = decode
        self._numbers = count()
        self._lock = threading.Lock()
        """Protects the attributes below; never held during a step."""
        self._thread: threading.Thread | None = None
        """The thread that was started last."""
        self._is_running = False
        """Whether that thread will check for new calls once more."""
        self._calls: dict[int, WaitingCall[Sampled]] = {}
        """All waiting calls, by number."""
        self._offered: list[list[Row]] = []
        """Rows that the decoder has not seen yet, call by call, the oldest first."""
        self._given_up: list[int] = []
        """Calls whose callers no longer wait."""
        self._n_waiting = 0
        """Rows that the decoder has seen but not given a slot."""
        self._end: EngineDeadError | None = None
        """Why sampling has ended."""
        _DECODERS.add(self)

    def sample(self, samples: Sequence[Sample], params: SamplingParams) -> list[Sampled]:
        """Return every sample, in order.

        Raises:
            EngineDeadError: the decoder failed, now or in an earlier call, or was closed.
        """
        if not samples:
            return []
        number, call = next(self._numbers), WaitingCall[Sampled](len(samples))
        rows = [
            Row(number, place, sample.prompt, sample.seed, sample.temperature, params)
            for place, sample in enumerate(samples)
        ]

        try:
            self._offer(number, call, rows)
            call.is_over.wait()
        except BaseException:
            # A signal in the main thread, perhaps before the call was queued: these rows are not
            # needed any more, and others may rely on a thread that was not started.
            with self._lock:
                self._given_up.append(number)
                if self._is_running and self._thread is not None and self._thread.ident is None:
                    self._start_thread()
            raise

        if not call.is_answered:
            self._refuse_if_dead()
        return call.answers

    def _offer(self, number: int, call: WaitingCall[Sampled], rows: list[Row]) -> None:
        with self._lock:
            self._refuse_if_dead()
            self._calls[number] = call
            self._offered.append(rows)
            if not self._is_running:
                self._start_thread()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._decode, name="decoder", daemon=True)
        self._is_running = True
        self._thread.start()

    def has_room(self) -> bool:
        """Return whether slots may be empty before the next call because few rows wait."""
        with self._lock:
            n_offered = sum(len(rows) for rows in self._offered)
            return n_offered + self._n_waiting < max(1, self._batch_size // 4)

    def answered(self) -> Answered:
        """Return how many rows of the waiting calls are sampled."""
        with self._lock:
            return answered_of(self._calls.values())

    def close(self) -> None:
        """End waiting calls and, after the current step, the thread."""
        with self._lock:
            self._end_calls(EngineDeadError("the engine was closed"))
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        self._model = None

    def _refuse_if_dead(self) -> None:
        if self._end is not None:
            raise self._end.once_more()

    def _decode(self) -> None:
        """Sample until no row is left."""
        try:
            decoder = Decoder(self._model, self._eos_ids, self._batch_size, self._decode_text)
            while self._goes_on(decoder):
                self._hand_out(decoder.step())
        except BaseException as error:  # noqa: BLE001 - raised again in every caller's thread
            is_memory = isinstance(error, torch.OutOfMemoryError)
            end = EngineDeadError(
                f"the engine failed during sampling: {type(error).__name__}: {error}",
                hint="pass a smaller --batch-size" if is_memory else None,
            )
            end.__cause__ = error
            with self._lock:
                self._end_calls(end)

    def _goes_on(self, decoder: Decoder) -> bool:
        """Pass new and abandoned calls to the decoder; return whether a row is left."""
        with self._lock:
            # A thread whose start was interrupted may have begun after all, beside its successor.
            if self._end is not None or self._thread is not threading.current_thread():
                return False
            for rows in self._offered:
                decoder.add(rows)
            self._offered.clear()
            for number in self._given_up:
                decoder.drop(number)
                self._calls.pop(number, None)
            self._given_up.clear()

            self._n_waiting = decoder.n_waiting
            if decoder.is_idle:
                # Inside the lock: a call from now on starts the next thread.
                self._is_running = False
            return self._is_running

    def _hand_out(self, sampled: Sequence[Sampled]) -> None:
        with self._lock:
            for each in sampled:
                call = self._calls.get(each.row.call)
                if call is None:
                    continue
                call.take(each.row.place, each)
                if call.is_answered:
                    del self._calls[each.row.call]

    def _end_calls(self, end: EngineDeadError) -> None:
        """Tell every caller that no results will come; the first reason counts."""
        self._end = self._end or end
        self._offered.clear()
        for call in self._calls.values():
            call.is_over.set()
        self._calls.clear()


_DECODERS: WeakSet[SharedDecoder] = WeakSet()


@atexit.register
def _close_all() -> None:
    """End the threads before the interpreter exits: one inside torch would abort the process."""
    for decoder in list(_DECODERS):
        decoder.close()
