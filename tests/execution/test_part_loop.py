"""The loop over open parts: how many are open, in which thread engines are opened, how it ends."""

import threading
import time
from collections.abc import Callable

import pytest

from prefpipe.errors import EngineDeadError
from prefpipe.execution.lazy_engine import LazyEngine
from prefpipe.execution.part_loop import PartLoop
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.part_source import ListedParts
from prefpipe.execution.runtime import Runtime


class SlottedEngine:
    """Answers requests in so many threads; the time that each takes is the request."""

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self.slots = threading.Semaphore(n_slots)
        self.lock = threading.Lock()
        self.n_waiting = 0
        self.closed = False

    def has_room(self) -> bool:
        return self.n_waiting < max(1, self.n_slots // 4)

    def ask(self, times_s: list[float]) -> None:
        with self.lock:
            self.n_waiting += len(times_s)
        threads = [threading.Thread(target=self._answer, args=(time_s,)) for time_s in times_s]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _answer(self, time_s: float) -> None:
        with self.slots:
            with self.lock:
                self.n_waiting -= 1
            time.sleep(time_s)

    def close(self) -> None:
        self.closed = True


class Maker:
    """Asks an engine, and remembers how many parts were open at a time."""

    def __init__(self, engine: LazyEngine[SlottedEngine], times_s: list[list[float]]) -> None:
        self.engine, self.times_s = engine, times_s
        self.n_preparing = self.most_preparing = self.n_open = self.most_open = 0
        self.lock = threading.Lock()
        self.fails: dict[int, Exception] = {}

    def has_room(self, n_open: int) -> bool:
        return self.engine.has_room(n_open)

    def prepare(self, index: int) -> list[float]:
        with self.lock:
            self.n_preparing += 1
            self.most_preparing = max(self.most_preparing, self.n_preparing)
            self.n_open += 1
            self.most_open = max(self.most_open, self.n_open)
        time.sleep(0.001)
        with self.lock:
            self.n_preparing -= 1
        return self.times_s[index]

    def complete(self, index: int, prepared: list[float]) -> Tally:
        try:
            self.engine.get().ask(prepared)
            if index in self.fails:
                raise self.fails[index]
        finally:
            with self.lock:
                self.n_open -= 1
        return {"n_answers": len(prepared)}


def made_by(maker: Maker, n_parts: int, runtime: Runtime) -> list[int]:
    return [part.index for part in PartLoop(ListedParts(range(n_parts)), maker, runtime).run()]


def engine_of(n_slots: int, runtime: Runtime) -> LazyEngine[SlottedEngine]:
    return LazyEngine(lambda: SlottedEngine(n_slots), runtime)


def test_stragglers_of_some_parts_do_not_keep_the_engine_from_others() -> None:
    """24 parts of 4 requests on 4 slots; one request in each sixth part takes as long as 50."""
    runtime = Runtime()
    times_s = [[0.01] * 4 for _ in range(24)]
    for index in range(0, 24, 6):
        times_s[index][0] = 0.5
    with engine_of(4, runtime) as engine:
        maker = Maker(engine, times_s)
        started = time.monotonic()
        assert sorted(made_by(maker, 24, runtime)) == list(range(24))
        elapsed_s = time.monotonic() - started
    # in turn it would be 4 x 0.5 s for the stragglers alone; all slots full: 0.75 s
    assert elapsed_s < 1.5
    assert maker.most_preparing == 1
    assert maker.most_open >= 3


def test_an_engine_is_opened_once_and_in_the_main_thread() -> None:
    runtime = Runtime()
    opened_in: list[int] = []

    def open_engine() -> SlottedEngine:
        opened_in.append(threading.get_ident())
        return SlottedEngine(2)

    with LazyEngine(open_engine, runtime) as engine:
        made_by(Maker(engine, [[0.001]] * 6), 6, runtime)
        assert engine.opened is not None
        assert not engine.opened.closed
    assert opened_in == [threading.get_ident()]
    assert engine.opened.closed


def test_an_engine_that_cannot_be_opened_is_the_error_of_the_first_part() -> None:
    runtime = Runtime()

    def open_engine() -> SlottedEngine:
        raise RuntimeError("no such model")

    with LazyEngine(open_engine, runtime) as engine:
        maker = Maker(engine, [[0.001]] * 6)
        with pytest.raises(RuntimeError, match="no such model"):
            made_by(maker, 6, runtime)
    assert maker.most_open == 1


@pytest.mark.parametrize("error", [EngineDeadError("killed by signal 15"), ValueError("a bug")])
@pytest.mark.parametrize("is_asked_to_stop", [False, True])
def test_an_engine_that_a_stop_ended_leaves_its_parts_to_the_next_run(
    error: Exception, is_asked_to_stop: bool
) -> None:
    """A signal to the whole job reaches the engine's process, too: that is no failure."""
    lines: list[str] = []
    maker_has_failed = threading.Event()
    runtime = Runtime(
        log=lines.append, should_stop=lambda: is_asked_to_stop and maker_has_failed.is_set()
    )
    with engine_of(2, runtime) as engine:
        maker = Maker(engine, [[0.001]] * 6)
        maker.fails = {2: error}
        complete = maker.complete

        def noting(index: int, prepared: list[float]) -> Tally:
            try:
                return complete(index, prepared)
            except type(error):
                maker_has_failed.set()
                raise

        maker.complete = noting  # type: ignore[method-assign]
        if is_asked_to_stop and isinstance(error, EngineDeadError):
            assert 2 not in made_by(maker, 6, runtime)
            assert lines == ["part 2 is given up: killed by signal 15"]
        else:
            with pytest.raises(type(error)):
                made_by(maker, 6, runtime)


def test_a_part_that_fails_ends_the_run_behind_those_that_are_open() -> None:
    runtime = Runtime()
    with engine_of(8, runtime) as engine:
        maker = Maker(engine, [[0.02]] * 12)
        maker.fails = {5: ValueError("five"), 3: ValueError("three")}
        with pytest.raises(ValueError, match=r"three|five"):
            made_by(maker, 12, runtime)
    assert maker.n_open == 0


def stops_after(n_questions: int) -> Callable[[], bool]:
    """Return what says no so often, and yes from then on."""
    n_asked = 0

    def should_stop() -> bool:
        nonlocal n_asked
        n_asked += 1
        return n_asked > n_questions

    return should_stop


def test_a_stop_opens_nothing_more_and_finishes_what_is_open() -> None:
    runtime = Runtime(should_stop=stops_after(3))
    with engine_of(2, runtime) as engine:
        maker = Maker(engine, [[0.05]] * 12)
        made = made_by(maker, 12, runtime)
    assert 1 <= len(made) <= 3
    assert maker.n_open == 0
