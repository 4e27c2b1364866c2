"""The loop of one process: several parts are open at a time, each in a thread of its own.

Engines are shared by these threads and keep themselves full, so none runs empty between two parts:
another part is opened while the last one still drains. The main thread only waits, so that signals
are noticed at once, and opens engines on behalf of the part threads.
"""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Generic

from prefpipe.errors import EngineDeadError, StoppedEarly
from prefpipe.execution.part_maker import PartMade, PartMaker, Prepared
from prefpipe.execution.part_source import PartSource
from prefpipe.execution.runtime import Runtime

POLL_S = 0.02
"""How often an engine is asked whether it has room, while no part ends."""


class PartLoop(Generic[Prepared]):
    """Makes the parts of a source. Not reusable."""

    def __init__(self, source: PartSource, maker: PartMaker[Prepared], runtime: Runtime) -> None:
        self._source, self._maker, self._runtime = source, maker, runtime
        self._open: dict[int, _OpenPart] = {}
        self._ended: queue.SimpleQueue[_OpenPart] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._errors: dict[int, Exception] = {}

    def run(self) -> Iterator[PartMade]:
        """Yield the parts as they are made, until the source is over or a stop is asked for.

        Parts that are open are finished. When this is left by an exception, an interrupt, they are
        given up: they appear whole or not at all, and their threads are daemons, so that nobody
        waits for them.

        Raises:
            Exception: what the first of the parts that failed raised, once the others have ended;
                not the death of an engine after a stop was asked for.
        """
        self._source.attach(self._wake.set)
        self._runtime.main_thread.attach(self._wake.set)
        try:
            # all of it: while there is a loop, parts are being made
            with self._runtime.finishing():
                yield from self._loop()
        finally:
            self._source.close()
        self._give_up_what_a_stop_ended()
        if self._errors:
            raise self._errors[min(self._errors)]

    def _loop(self) -> Iterator[PartMade]:
        is_ending = False
        while True:
            self._wake.clear()
            self._runtime.main_thread.do_what_waits()
            yield from self._collect()

            is_ending = is_ending or bool(self._errors) or self._runtime.should_stop()
            if not is_ending and self._opens_another():
                continue
            if not self._open and (is_ending or self._source.is_over()):
                return
            self._wake.wait(POLL_S)

    def _give_up_what_a_stop_ended(self) -> None:
        """Leave parts that a stop kept from their end, as those that are not begun.

        Their engine died, for a batch system sends its signal to all processes of a job, an
        engine's own ones included; or they would have needed another model, which is not loaded
        any more.
        """
        if not (self._errors and self._runtime.should_stop()):
            return
        n_stopped = 0
        for index, error in list(self._errors.items()):
            if isinstance(error, EngineDeadError):
                self._runtime.log(f"part {index} is given up: {error}")
                del self._errors[index]
            elif isinstance(error, StoppedEarly):
                n_stopped, reason = n_stopped + 1, error
                del self._errors[index]
        # There may be hundreds, all for one reason.
        if n_stopped:
            parts = "part is" if n_stopped == 1 else "parts are"
            self._runtime.log(f"{n_stopped} open {parts} given up: {reason}")

    def _opens_another(self) -> bool:
        """Open a part if the engine would run empty without it."""
        is_preparing = any(not part.is_prepared for part in self._open.values())
        if is_preparing or not self._maker.has_room(len(self._open)):
            return False
        index = self._source.next_part()
        if index is None:
            return False
        part = _OpenPart(index)
        self._open[index] = part
        threading.Thread(target=self._make, args=(part,), name=f"part {index}", daemon=True).start()
        return True

    def _make(self, part: "_OpenPart") -> None:
        """Make a part, in its thread."""
        try:
            prepared = self._maker.prepare(part.index)
            part.is_prepared = True
            self._wake.set()
            tally = self._maker.complete(part.index, prepared)
            part.made = PartMade(part.index, tally, time.monotonic() - part.opened_at_s)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            part.error = error
        self._ended.put(part)
        self._wake.set()

    def _collect(self) -> Iterator[PartMade]:
        """Yield the parts that have been made; note the errors of those that have not."""
        while not self._ended.empty():
            part = self._ended.get()
            del self._open[part.index]
            if part.made is not None:
                self._source.made(part.made)
                yield part.made
            elif isinstance(part.error, Exception):
                if not self._source.failed(part.index, part.error):
                    self._errors[part.index] = part.error
            elif part.error is not None:
                raise part.error


class _OpenPart:
    """A part between its opening and its end."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.opened_at_s = time.monotonic()
        self.is_prepared = False
        self.made: PartMade | None = None
        self.error: BaseException | None = None
