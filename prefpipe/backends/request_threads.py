"""Many requests on their way at a time, from threads, and an orderly end when the run is stopped.

What ends a run in the middle, a signal or a hopeless failure, waits a bounded time for the answers
that are on their way, for they are paid for.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar

from prefpipe.errors import StoppedEarly

Answer = TypeVar("Answer")
Arrival = tuple[int, Answer | BaseException]
"""A place, and its answer or what went wrong."""

GRACE_S = 20.0
"""How long a run that is to end waits for answers on their way: Slurm kills 30 s after SIGTERM."""
POLL_S = 0.1


class RunControl(NamedTuple):
    """What a client of a server sees of the run.

    Where to say what one should know, whether to stop, and how to go on then.
    """

    log: Callable[[str], None] = lambda _line: None
    should_stop: Callable[[], bool] = lambda: False
    how_to_go_on: str = "run the same command again to go on"


class RequestThreads:
    """As many threads as there may be requests at a time.

    The threads are daemons: one whose answer never comes must not keep a process that was
    interrupted from ending. The main thread only waits, so that signals are noticed at once.
    """

    def __init__(self, concurrency: int, run: RunControl) -> None:
        self.stop = threading.Event()
        """Set when nothing more may be sent."""
        self._concurrency = concurrency
        self._run = run
        self._lock = threading.Lock()
        self._n_on_the_way = 0

    def ask(self, ask_one: Callable[[int], Answer], places: Sequence[int]) -> dict[int, Answer]:
        """Call ``ask_one`` with each place, and return its answers by place.

        Raises:
            StoppedEarly: a stop was asked for.
            BaseException: what ``ask_one`` raised first.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        arrived: queue.SimpleQueue[Arrival[Answer]] = queue.SimpleQueue()
        for place in places:
            waiting.put(place)

        def ask_what_waits() -> None:
            while not self.stop.is_set():
                try:
                    place = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    arrived.put((place, ask_one(place)))
                except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                    # What went wrong ends the run: this thread asks nothing more.
                    arrived.put((place, error))
                    return

        for _ in range(min(self._concurrency, len(places))):
            threading.Thread(target=ask_what_waits, daemon=True).start()

        try:
            return self._gather(arrived, len(places))
        except BaseException:
            self._wait_for_what_is_paid()
            raise

    def _gather(self, arrived: "queue.SimpleQueue[Arrival[Answer]]", n: int) -> dict[int, Answer]:
        """Return ``n`` answers by place; raise what ended a thread, or `StoppedEarly`."""
        answers: dict[int, Answer] = {}
        while len(answers) < n:
            with suppress(queue.Empty):
                place, answer = arrived.get(timeout=POLL_S)
                if isinstance(answer, BaseException):
                    raise answer
                answers[place] = answer
            # With all answers here there is no middle of a part to stop in.
            if self._run.should_stop() and len(answers) < n:
                raise StoppedEarly(
                    "stopped as asked in the middle of a part; every answer that arrived is kept",
                    hint=self._run.how_to_go_on,
                )
        return answers

    @contextmanager
    def on_the_way(self) -> Iterator[None]:
        """Count a request as paid for, from before it is sent until its answer is kept."""
        with self._lock:
            self._n_on_the_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_on_the_way -= 1

    def _wait_for_what_is_paid(self) -> None:
        """Send nothing more, and give answers on their way `GRACE_S` to arrive.

        A further signal cuts that short.
        """
        self.stop.set()
        if self._n_on_the_way:
            self._run.log(
                f"waiting up to {GRACE_S:.0f} s for {self._n_on_the_way} answers that are on their "
                "way and paid for; a second signal drops them"
            )
        deadline = time.monotonic() + GRACE_S
        while self._n_on_the_way and time.monotonic() < deadline:
            time.sleep(POLL_S / 2)
