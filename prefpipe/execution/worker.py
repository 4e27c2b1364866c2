"""The worker's end: parts come from a driver, one at a time, when the engine has room."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn

from prefpipe.errors import EngineDeadError, EngineNotOpenedError, StoppedEarly
from prefpipe.execution.channel import Channel, Failure, Message
from prefpipe.execution.part_loop import PartLoop
from prefpipe.execution.part_maker import PartMade
from prefpipe.execution.runtime import Job


class WorkerIsDone(BaseException):
    """The worker has made its parts.

    The driver does the rest of the command: figures and exit code. It is not an ``Exception``, so
    that no stage takes it for its own failure.
    """


class DrivenParts:
    """The parts that a driver hands out, one per request."""

    def __init__(self, channel: Channel, incoming: "queue.SimpleQueue[Message | None]") -> None:
        self._channel, self._incoming = channel, incoming
        self._has_asked = False
        self._is_over = False

    def attach(self, wake: Callable[[], None]) -> None:
        """Do nothing: the loop looks often enough."""

    def next_part(self) -> int | None:
        """Return the part that has arrived; request one if no request is open."""
        if not self._has_asked and not self._is_over:
            self._has_asked = True
            self._channel.send({"type": "pull"})

        while not self._incoming.empty():
            message = self._incoming.get()
            if message is None or message["type"] in ("over", "stop"):
                self._is_over = True
            elif message["type"] == "part":
                self._has_asked = False
                index: int = message["index"]
                return index
        return None

    def upcoming(self) -> Sequence[int]:
        """Return nothing: the driver decides when it is asked."""
        return ()

    def is_over(self) -> bool:
        """Return whether the driver has no part left."""
        return self._is_over

    def made(self, part: PartMade) -> None:
        """Report that a part is on disk."""
        message = {
            "type": "made",
            "index": part.index,
            "tally": dict(part.tally),
            "elapsed_s": part.elapsed_s,
        }
        self._channel.send(message)

    def failed(self, index: int, error: Exception) -> bool:
        """Report that a part could not be made; go on with others unless the engine is dead.

        If the engine is dead, the worker ends and loses its open parts.
        """
        if isinstance(error, StoppedEarly | EngineNotOpenedError):
            self._channel.send({"type": "returned", "index": index})
        elif not isinstance(error, EngineDeadError):
            failure = Failure.of(error).as_fields()
            self._channel.send({"type": "failed", "index": index, **failure})
        return not isinstance(error, EngineDeadError)

    def close(self) -> None:
        """Do nothing: the driver knows which parts were handed out."""


class Worker:
    """Makes parts for a driver at the other end of a channel.

    Args:
        channel: the connection to the driver.
        on_lost_driver: called when the driver is gone.
    """

    is_worker = True
    has_workers = False

    def __init__(self, channel: Channel, on_lost_driver: Callable[[], None]) -> None:
        self._channel, self._on_lost_driver = channel, on_lost_driver
        self._incoming: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._is_stopped = False
        self._is_open = False
        threading.Thread(target=self._listen, name="driver", daemon=True).start()

    def should_stop(self) -> bool:
        """Return whether the driver wants the worker to end."""
        return self._is_stopped

    def log(self, line: str) -> None:
        """Send a line to the driver's log.

        Lines that a stage logs before its parts are dropped: the driver has logged them already.
        """
        if self._is_open:
            self._channel.send({"type": "log", "line": line})

    def make_parts(self, job: Job) -> NoReturn:
        """Make the parts that the driver hands out.

        Raises:
            WorkerIsDone: no part is left, or the driver wants the worker to end.
            EngineDeadError: the engine has died.
        """
        self._is_open = True
        self._channel.send({"type": "ready"})
        parts = DrivenParts(self._channel, self._incoming)
        # `DrivenParts` has reported each one: there is nothing left to do here.
        try:
            deque(PartLoop(parts, job.maker, job.runtime).run(), maxlen=0)
        finally:
            job.output.keep_footers()
        raise WorkerIsDone

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            if message["type"] == "stop":
                self._is_stopped = True
            self._incoming.put(message)
        self._incoming.put(None)
        self._on_lost_driver()
