"""Several models for one run: all open, or one after another where they would share a device.

A part needs samples of each model. Served models are asked all at once. Of models that run here one
is open at a time: many parts are sampled with it, then it is closed and the next one opened, and
the parts that wait for that one are finished. New parts begin with whichever model is open.

How many parts: loading is not to dominate, so a model takes new ones for `WORK_PER_LOAD` times as
long as a model takes to load. They wait in memory, so there is a limit to them, too.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self, TypeVar

from prefpipe.backends.protocol import Generator
from prefpipe.errors import EngineDeadError, StoppedEarly
from prefpipe.execution.lazy_engine import LazyEngine
from prefpipe.execution.runtime import Runtime

WORK_PER_LOAD = 10.0
"""How many times as long as it takes to load a model one model takes new parts."""
MOST_PARTS = 400
"""Parts that are open at a time: each is a thread."""
MOST_ROWS = 50_000
"""Samples of the parts that are open, about 1 GB of 500 tokens each; one part may have more."""
MOST_WRITTEN = 3
"""Parts that are being written at a time, so that a slow disk does not fill the memory."""
IDLE_S = 1.0
"""After so long without a new part the open model makes room for the next one."""
POLL_S = 0.1

Requests = TypeVar("Requests")
Rows = TypeVar("Rows")


class Openable(Protocol):
    """A model that can be opened."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def open(self) -> Callable[[], Generator]:
        """Load it."""
        ...

    @property
    def runs_here(self) -> bool:
        """Whether it uses memory of this machine's device."""
        ...


def open_models(models: Sequence[Openable], runtime: Runtime) -> "Models":
    """Return the models of a run, of which none is loaded yet."""
    if len(models) > 1 and any(model.runs_here for model in models):
        return ModelsInTurn(models, runtime)
    return ModelsTogether(models, runtime)


class Models(ABC):
    """Engines by number, which the threads of several parts share."""

    finish_parts_in_bunches = False
    """Whether many parts end together, after a long time without one."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._changed = threading.Condition()
        """Held by who reads or changes what follows; notified of every change."""
        self._n_coming = 0
        """Parts that are read and whose requests no engine has yet."""
        self._n_asking = 0
        """Parts that wait for answers."""

    def announce_part(self) -> None:
        """Announce the requests of a part: until then it is unknown if there is room."""
        with self._changed:
            self._n_coming += 1

    def has_room(self, n_open: int) -> bool:
        """Return whether another part should be opened, because an engine may be idle."""
        with self._changed:
            if self._n_coming or n_open - self._n_asking >= MOST_WRITTEN:
                return False
        return self._have_room(n_open)

    def ask_each(
        self,
        numbers: Sequence[int],
        n_rows: int,
        encode: Callable[[int, Generator], Requests],
        sample: Callable[[int, Generator, Requests], Rows],
    ) -> Mapping[int, Rows]:
        """Ask several models for their samples of one part, which was announced.

        Args:
            numbers: of the models.
            n_rows: how many samples that are in all.
            encode: makes the requests for one model.
            sample: has them answered.

        Returns:
            What ``sample`` returned for each model.

        Raises:
            Exception: what one of the two, or loading a model, raised.
            StoppedEarly: a stop was requested, and a model that is not open is needed.
        """
        part = _Part(numbers, n_rows)
        with self._changed:
            self._n_asking += 1
        try:
            return self._ask_each(part, encode, sample)
        finally:
            with self._changed:
                self._n_asking -= 1
            self._note_arrival(part)

    def _note_arrival(self, part: "_Part") -> None:
        """Note that the first requests of a part are made, or that none will be."""
        with self._changed:
            self._n_coming -= part.is_coming
            part.is_coming = False
            self._changed.notify_all()
        # At the start an engine has room for many parts: each opens the next one at once.
        self._runtime.main_thread.look_again()

    @abstractmethod
    def _have_room(self, n_open: int) -> bool: ...

    @abstractmethod
    def _ask_each(
        self,
        part: "_Part",
        encode: Callable[[int, Generator], Requests],
        sample: Callable[[int, Generator, Requests], Rows],
    ) -> Mapping[int, Rows]: ...

    @abstractmethod
    def close(self) -> None:
        """Close all open models."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


class ModelsTogether(Models):
    """All of them are open, and a part's requests go to all at once."""

    def __init__(self, models: Sequence[Openable], runtime: Runtime) -> None:
        super().__init__(runtime)
        self._stack = ExitStack()
        self._engines = [
            self._stack.enter_context(LazyEngine(model.open, runtime, f"loading {model.name}"))
            for model in models
        ]

    def _have_room(self, n_open: int) -> bool:
        return all(engine.has_room(n_open) for engine in self._engines)

    def _ask_each(
        self,
        part: "_Part",
        encode: Callable[[int, Generator], Requests],
        sample: Callable[[int, Generator, Requests], Rows],
    ) -> Mapping[int, Rows]:
        engines = {number: self._engines[number].get() for number in part.needs}
        requests = {number: encode(number, engine) for number, engine in engines.items()}
        self._note_arrival(part)

        def sample_one(number: int) -> Rows:
            return sample(number, engines[number], requests[number])

        return _for_each_at_once(sample_one, list(engines))

    def close(self) -> None:
        """Close all open models."""
        self._stack.close()


class ModelsInTurn(Models):
    """One model is open at a time, and many parts are sampled with it before the next one opens."""

    finish_parts_in_bunches = True

    def __init__(self, models: Sequence[Openable], runtime: Runtime) -> None:
        super().__init__(runtime)
        self._models = models
        self._parts: list[_Part] = []
        self._open: int | None = None
        """The number of the open model."""
        self._engine: LazyEngine[Generator] | None = None
        self._is_changing = False
        self._turn = 0
        """How many models have been opened."""
        self._load_s = 0.0
        """The longest time that one took."""
        self._takes_parts_since: float | None = None
        """When the open model took its first new part."""
        self._idle_since = time.monotonic()
        self._end: Exception | None = None
        """Why no model is opened any more."""

    def _have_room(self, n_open: int) -> bool:
        with self._changed:
            if self._end is not None or self._open is None or self._engine is None:
                # The first part opens a model, or says why there is none.
                return n_open == 0
            if not self._parts:
                self._takes_parts_since = None
            n_working = sum(part.is_working for part in self._parts)
            takes_parts = not self._is_changing and self._takes_parts()
            engine = self._engine
        return takes_parts and engine.has_room(n_working)

    def _takes_parts(self) -> bool:
        """Return whether parts may begin with the open model."""
        # Parts of an earlier turn that need a third model go first.
        if any(part.turn != self._turn and part.needs != {self._open} for part in self._parts):
            return False
        if len(self._parts) >= MOST_PARTS or sum(part.n_rows for part in self._parts) >= MOST_ROWS:
            return False
        since = self._takes_parts_since
        return since is None or time.monotonic() - since < WORK_PER_LOAD * self._load_s

    def _ask_each(
        self,
        part: "_Part",
        encode: Callable[[int, Generator], Requests],
        sample: Callable[[int, Generator, Requests], Rows],
    ) -> Mapping[int, Rows]:
        with self._changed:
            self._parts.append(part)
            part.turn = self._turn
            needs_open = self._open is None or self._open in part.needs
        if not needs_open:
            # Kept rows are all that the open model would have made.
            self._note_arrival(part)
        rows: dict[int, Rows] = {}
        try:
            while part.needs:
                number = self._wait_for_a_turn(part)
                try:
                    rows[number] = self._ask_open(number, part, encode, sample)
                finally:
                    self._end_work(part, number)
        finally:
            with self._changed:
                self._parts.remove(part)
                self._changed.notify_all()

        return rows

    def _ask_open(
        self,
        number: int,
        part: "_Part",
        encode: Callable[[int, Generator], Requests],
        sample: Callable[[int, Generator, Requests], Rows],
    ) -> Rows:
        # Here alone: whoever kept the engine would keep its memory when it is closed.
        assert self._engine is not None
        engine = self._engine.get()
        requests = encode(number, engine)
        self._note_arrival(part)
        return sample(number, engine, requests)

    def _wait_for_a_turn(self, part: "_Part") -> int:
        """Return the number of the open model, once it is one that the part needs.

        Raises:
            StoppedEarly: another would have to be opened, and a stop was requested.
        """
        while True:
            with self._changed:
                if self._end is not None:
                    raise self._end
                if self._open in part.needs and not self._is_changing:
                    self._begin_work(part)
                    return self._open
                if self._runtime.should_stop():
                    raise StoppedEarly(
                        "stopped on request between two models",
                        hint=self._runtime.how_to_go_on,
                    )
                following = self._following_model()
                if following is None:
                    # One thread looks at the clock, the others are woken by changes.
                    self._changed.wait(POLL_S if part is self._parts[0] else None)
                    continue
                self._is_changing = True
            self._change_to(following)

    def _begin_work(self, part: "_Part") -> None:
        part.is_working = True
        if part.is_coming:
            # Models change between reading a part and its first request.
            part.turn = self._turn
            if self._takes_parts_since is None:
                self._takes_parts_since = time.monotonic()

    def _end_work(self, part: "_Part", number: int) -> None:
        with self._changed:
            part.is_working = False
            part.needs.discard(number)
            self._idle_since = time.monotonic()
            self._changed.notify_all()

    def _following_model(self) -> int | None:
        """Return the model to open now, None while the open one is or may be needed."""
        if self._is_changing:
            return None
        if self._open is not None:
            if any(part.is_working or self._open in part.needs for part in self._parts):
                return None
            is_idle = time.monotonic() - self._idle_since >= IDLE_S
            if self._takes_parts() and not is_idle:
                return None

        needed: set[int] = set().union(*(part.needs for part in self._parts))
        if not needed:
            return None
        after = -1 if self._open is None else self._open
        return min(needed, key=lambda number: (number - after - 1) % len(self._models))

    def _change_to(self, number: int) -> None:
        """Close the open model and open another; if that fails, the models of all parts end."""
        try:
            self._runtime.main_thread.do(lambda: self._close_and_open(number))
        except Exception as error:
            with self._changed:
                self._end = self._end or error
            raise
        finally:
            with self._changed:
                self._is_changing = False
                self._changed.notify_all()

    def _close_and_open(self, number: int) -> None:
        started = time.monotonic()
        self._close_open()
        model = self._models[number]
        engine = LazyEngine(model.open, self._runtime, f"loading {model.name}")
        engine.get()

        with self._changed:
            self._open, self._engine = number, engine
            self._turn += 1
            self._takes_parts_since = None
            self._idle_since = time.monotonic()
            self._load_s = max(self._load_s, time.monotonic() - started)

    def close(self) -> None:
        """Close the model that is open; parts that wait for one end."""
        with self._changed:
            self._end = self._end or EngineDeadError("the models were closed")
            self._changed.notify_all()
        self._close_open()

    def _close_open(self) -> None:
        with self._changed:
            engine, self._engine, self._open = self._engine, None, None
        if engine is not None:
            engine.close()


class _Part:
    """A part whose samples are being drawn.

    ``needs``: the models that it has no samples of yet. ``turn``: the turn of the model that it
    began with.
    """

    def __init__(self, numbers: Sequence[int], n_rows: int) -> None:
        self.needs = set(numbers)
        self.n_rows = n_rows
        self.turn = 0
        self.is_coming = True
        self.is_working = False


def _for_each_at_once(call: Callable[[int], Rows], numbers: Sequence[int]) -> Mapping[int, Rows]:
    """Return the result of ``call`` for each number; one runs in this thread, others beside it.

    Raises:
        BaseException: what a call raised, that of the smallest number, when all have ended.
    """
    results: dict[int, Rows] = {}
    errors: dict[int, BaseException] = {}

    def call_one(number: int) -> None:
        try:
            results[number] = call(number)
        except BaseException as error:  # noqa: BLE001 - raised again by who asked
            errors[number] = error

    threads = [
        threading.Thread(target=call_one, args=(number,), daemon=True) for number in numbers[1:]
    ]
    for thread in threads:
        thread.start()
    for number in numbers[:1]:
        call_one(number)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return results
