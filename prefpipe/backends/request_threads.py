"""Sends many requests of several calls at a time, and ends a run in order.

A server has a fixed number of slots for the whole run. Requests of all threads wait in one queue,
the oldest call first, and the next request leaves as soon as a slot is free. So a draining call
leaves no slot empty while another one waits.

A signal or a hopeless failure that ends a run waits a bounded time for pending answers, because
they are paid for.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

from prefpipe.backends.open_calls import Answered
from prefpipe.errors import ModelError, StoppedEarly

Answer = TypeVar("Answer")

GRACE_S = 20.0
"""How long an ending run waits for pending answers: Slurm kills 30 s after SIGTERM."""
POLL_S = 0.1


class RunControl(NamedTuple):
    """A server client's view of the run.

    It holds the log, whether to stop, how to go on afterwards, how long to wait for pending
    answers, and whether a further signal has cut that short.
    """

    log: Callable[[str], None] = lambda _line: None
    should_stop: Callable[[], bool] = lambda: False
    how_to_go_on: str = "run the same command again to go on"
    grace_s: float = GRACE_S
    is_hurried: Callable[[], bool] = lambda: False


class GivenUpError(Exception):
    """The run ends, and this request was between two tries, so nothing waits for it."""


class RequestThreads:
    """The slots of a server, and the threads that fill them with the requests of all calls.

    Until `open_all_slots` there is one slot: the first request alone shows what the server
    supports.

    A thread frees its slot when its answer arrives and saves the answer afterwards, so slow disks
    do not block slots: there may be twice as many threads as slots. They are daemons, so that a
    thread whose answer never comes does not keep an interrupted process alive.
    """

    def __init__(self, concurrency: int, run: RunControl) -> None:
        self.stop = threading.Event()
        """Set when nothing more may be sent."""
        self._concurrency = concurrency
        self._run = run
        self._slot = threading.local()

        self._lock = threading.Lock()
        self._work_waits = threading.Condition(self._lock)
        self._calls: list[_Call[Any]] = []
        """Unfinished calls, the oldest first."""
        self._n_slots = 1
        self._n_taken = 0
        self._n_threads = 0
        self._n_idle = 0
        """Idle threads that have not been woken."""
        self._n_on_the_way = 0
        self._failure: BaseException | None = None
        self._ends_at: float | None = None

    def ask(self, ask_one: Callable[[int], Answer], n: int) -> list[Answer]:
        """Call ``ask_one`` with each number below ``n``, and return the answers in order.

        Any number of threads may call it at once. A call with all its answers returns them,
        whatever happens to others.

        Raises:
            StoppedEarly: a stop was requested.
            BaseException: the first error of an ``ask_one`` of any call, which ended the run.
        """
        if not n:
            return []
        call = _Call(ask_one, n)
        with self._lock:
            if self.stop.is_set():
                raise self._why_ended()
            self._calls.append(call)
            self._call_up()

        try:
            self._wait_for(call)
        except BaseException:
            # An interrupt: this was the main thread.
            self.finish()
            raise
        with self._lock:
            if len(call.answers) < n:
                raise self._why_ended()
        return [call.answers[place] for place in range(n)]

    def has_room(self) -> bool:
        """Return whether fewer requests wait than there are slots: some may soon be empty."""
        with self._lock:
            return self._n_waiting() < self._concurrency

    def answered(self) -> Answered:
        """Return how many requests of the unfinished calls are answered."""
        with self._lock:
            return Answered(
                sum(len(call.answers) for call in self._calls), sum(call.n for call in self._calls)
            )

    def open_all_slots(self) -> None:
        """Allow the full number of concurrent requests: the server has shown that it works."""
        with self._lock:
            self._n_slots = self._concurrency
            self._call_up()

    def free_slot(self) -> None:
        """Send the next request before this thread has finished with its answer."""
        with self._lock:
            self._leave_slot()
            self._call_up()

    @contextmanager
    def on_the_way(self) -> Iterator[None]:
        """Count a request as paid for, from before it is sent until its answer is saved."""
        with self._lock:
            self._n_on_the_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_on_the_way -= 1

    def finish(self) -> None:
        """Send nothing more, and wait for pending answers; at the end of a run there are none.

        A further signal cuts that short.
        """
        self._end()
        while self._n_on_the_way and self._has_grace():
            time.sleep(POLL_S / 2)

    def _wait_for(self, call: "_Call[Any]") -> None:
        """Wait until a call has all its answers, or will get no more."""
        while not call.is_over.wait(POLL_S):
            if self._run.should_stop():
                self._end()
            if self.stop.is_set() and not self._has_grace():
                return

    def _has_grace(self) -> bool:
        assert self._ends_at is not None
        return time.monotonic() < self._ends_at and not self._run.is_hurried()

    def _why_ended(self) -> BaseException:
        if self._failure is not None:
            return self._failure
        return StoppedEarly(
            "stopped as requested in the middle of a part; every answer that arrived is kept",
            hint=self._run.how_to_go_on,
        )

    def _end(self, failure: BaseException | None = None) -> None:
        """Send nothing more. Calls end when their pending answers have arrived."""
        with self._lock:
            if self.stop.is_set():
                return
            self.stop.set()
            self._failure = failure
            self._ends_at = time.monotonic() + self._run.grace_s

            self._work_waits.notify_all()
            for call in list(self._calls):
                self._look_whether_over(call)
            n_on_the_way = self._n_on_the_way
        if n_on_the_way:
            self._run.log(
                f"waiting for {n_on_the_way} pending answers, which are paid for; a second "
                "signal drops them"
            )

    def _n_waiting(self) -> int:
        return sum(len(call.waiting) for call in self._calls)

    def _call_up(self) -> None:
        """Ensure a thread for each request that may leave now."""
        n_wanted = min(self._n_slots - self._n_taken, self._n_waiting())
        n_called = min(n_wanted, self._n_idle)
        self._n_idle -= n_called
        self._work_waits.notify(n_called)

        n_new = min(n_wanted - n_called, 2 * self._concurrency - self._n_threads)
        for _ in range(n_new):
            try:
                threading.Thread(target=self._work, daemon=True).start()
            except RuntimeError as error:
                # A system limit: continue more slowly with the existing threads.
                if self._n_threads:
                    return
                raise ModelError(
                    f"no thread can be started to send requests: {error}",
                    hint="raise the limit of processes: ulimit -u, or the container's limit",
                ) from error
            self._n_threads += 1

    def _work(self) -> None:
        """Send waiting requests until nothing more may be sent."""
        while True:
            taken = self._take()
            if taken is None:
                return
            call, place = taken
            try:
                call.answers[place] = call.ask_one(place)
            except GivenUpError:
                pass
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                self._end(error)
            with self._lock:
                # No need to wake others: this thread looks for the next request itself.
                self._leave_slot()
                call.n_taken -= 1
                self._look_whether_over(call)

    def _take(self) -> "tuple[_Call[Any], int] | None":
        """Wait for a slot and a request of the oldest call that has one; None at the end."""
        while True:
            # Checked here, too: callers that wait for answers see a signal up to `POLL_S` later.
            if self._run.should_stop():
                self._end()
            with self._lock:
                if self.stop.is_set():
                    return None
                call = self._oldest_waiting()
                if call is not None and self._n_taken < self._n_slots:
                    self._n_taken += 1
                    self._slot.is_taken = True
                    call.n_taken += 1
                    return call, call.waiting.popleft()
                self._n_idle += 1
                self._work_waits.wait()

    def _oldest_waiting(self) -> "_Call[Any] | None":
        return next((call for call in self._calls if call.waiting), None)

    def _leave_slot(self) -> None:
        if self._slot.is_taken:
            self._slot.is_taken = False
            self._n_taken -= 1

    def _look_whether_over(self, call: "_Call[Any]") -> None:
        is_over = not call.n_taken and (not call.waiting or self.stop.is_set())
        if is_over and not call.is_over.is_set():
            self._calls.remove(call)
            call.is_over.set()


class _Call(Generic[Answer]):
    """The requests of one call: waiting, pending, and answered."""

    def __init__(self, ask_one: Callable[[int], Answer], n: int) -> None:
        self.ask_one, self.n = ask_one, n
        self.waiting = deque(range(n))
        self.n_taken = 0
        self.answers: dict[int, Answer] = {}
        self.is_over = threading.Event()
        """Set when all answers have arrived, or no more will come."""
