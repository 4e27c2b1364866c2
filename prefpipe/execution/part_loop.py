"""The loop of one process: several parts are open at a time, each in its own thread.

The threads share the engines, which keep themselves full: another part opens while the last one
still drains, so no engine runs empty between parts. The main thread only waits, so that it notices
signals at once, and opens engines for the part threads.
"""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Generic

from prefpipe.artifacts.storage import files
from prefpipe.errors import EngineDeadError, StoppedEarly
from prefpipe.execution.part_maker import PartMade, PartMaker, Prepared, ReadsParts
from prefpipe.execution.part_source import PartSource
from prefpipe.execution.runtime import Runtime

POLL_S = 0.02
"""How often to check whether the engine has room while no part ends."""


class PartLoop(Generic[Prepared]):
    """Makes the parts of a source. Not reusable."""

    def __init__(self, source: PartSource, maker: PartMaker[Prepared], runtime: Runtime) -> None:
        self._source, self._maker, self._runtime = source, maker, runtime
        self._open: dict[int, _OpenPart] = {}
        self._ended: queue.SimpleQueue[_OpenPart] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._errors: dict[int, Exception] = {}
        self._fetched: set[int] = set()
        """Parts whose inputs were fetched ahead."""

    def run(self) -> Iterator[PartMade]:
        """Yield parts as they are made, until the source is exhausted or a stop is requested.

        Open parts are finished. An exception or an interrupt abandons them instead: parts appear
        whole or not at all, and their threads are daemons, so nothing waits for them.

        Raises:
            Exception: the error of the first failed part, once the others have ended; except the
                death of an engine after a stop request.
        """
        self._source.attach(self._wake.set)
        self._runtime.main_thread.attach(self._wake.set)
        try:
            # The whole loop is one finishing section: parts are being made all the time.
            with self._runtime.finishing():
                yield from self._loop()
        finally:
            self._source.close()
            files.forget_ahead()
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
            if not is_ending:
                self._fetch_ahead()
            if not is_ending and self._opens_another():
                continue
            if not self._open and (is_ending or self._source.is_over()):
                return
            self._wake.wait(POLL_S)

    def _give_up_what_a_stop_ended(self) -> None:
        """Leave unfinished parts of a stopped run for the next run.

        Either their engine died, because a batch system signals all processes of a job, the
        engine's included; or they need a model that is not loaded any more.
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
        # There may be hundreds, all with one reason.
        if n_stopped:
            parts = "part is" if n_stopped == 1 else "parts are"
            self._runtime.log(f"{n_stopped} open {parts} given up: {reason}")

    def _fetch_ahead(self) -> None:
        """Begin to read the inputs of the next parts, where they lie in a bucket."""
        if not isinstance(self._maker, ReadsParts):
            return
        for index in self._source.upcoming():
            if index not in self._fetched:
                self._fetched.add(index)
                for place in self._maker.inputs_of(index):
                    files.read_ahead(place)

    def _opens_another(self) -> bool:
        """Open another part if the engine would run empty without it."""
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
        """Make a part in its own thread."""
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
        """Yield finished parts; note the errors of failed ones."""
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
