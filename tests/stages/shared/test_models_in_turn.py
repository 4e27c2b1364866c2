"""Several models for one run: how often each is opened, never two at once, and how it ends."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from prefpipe.backends.fake import SimulatedSlots
from prefpipe.errors import EngineDeadError, ModelError
from prefpipe.execution.part_loop import PartLoop
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.part_source import ListedParts
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.shared import models_in_turn
from prefpipe.stages.shared.models_in_turn import Models, ModelsInTurn, ModelsTogether, open_models

LOAD_S = 0.02
PART_S = 0.005
"""What a part takes with one model."""


class Engine:
    """A generator of which only the time counts."""

    max_model_len = 100

    def __init__(self, number: int, world: "World") -> None:
        self.number, self.world = number, world
        self.slots = SimulatedSlots(1)

    def has_room(self) -> bool:
        return self.slots.n_waiting() < 2

    def ask(self, part: int) -> str:
        assert self.number in self.world.open, "asked while it is open"
        if self.number in self.world.dead:
            raise EngineDeadError(f"model {self.number} has died")
        self.slots.sleep([PART_S])
        assert self.number in self.world.open, "and until it has answered"
        return f"part {part} of model {self.number}"

    def close(self) -> None:
        self.world.open.discard(self.number)


class Model(NamedTuple):
    name: str
    open: Callable[[], Any]
    runs_here: bool = True


class World:
    """Models that share a device: it notes which are open and which were opened, in order."""

    def __init__(self, n: int, *, runs_here: bool = True, load_s: float = LOAD_S) -> None:
        self.open: set[int] = set()
        self.opened: list[int] = []
        self.dead: set[int] = set()
        self.broken: set[int] = set()
        self.load_s, self.runs_here = load_s, runs_here
        self.models = [Model(f"m{i}", lambda i=i: self.load(i), runs_here) for i in range(n)]

    def load(self, number: int) -> Engine:
        if self.runs_here:
            assert not self.open, "one at a time"
        self.opened.append(number)
        time.sleep(self.load_s)
        if number in self.broken:
            raise ModelError(f"model {number} is broken")
        self.open.add(number)
        return Engine(number, self)


class Maker:
    """Asks each model for each part, and may write slowly."""

    def __init__(self, models: Models, needs: Sequence[Sequence[int]], *, n_rows: int = 1) -> None:
        self.models, self.needs, self.n_rows = models, needs, n_rows
        self.write_s = 0.0
        self.answers: dict[int, dict[int, str]] = {}
        self.n_open = self.most_open = 0
        self.lock = threading.Lock()

    def has_room(self, n_open: int) -> bool:
        return self.models.has_room(n_open)

    def prepare(self, index: int) -> int:
        with self.lock:
            self.n_open += 1
            self.most_open = max(self.most_open, self.n_open)
        self.models.announce_part()
        return index

    def complete(self, index: int, prepared: int) -> Tally:
        answers = self.models.ask_each(
            self.needs[index],
            self.n_rows,
            lambda _number, _engine: prepared,
            lambda _number, engine, part: engine.ask(part),
        )
        time.sleep(self.write_s)
        with self.lock:
            self.n_open -= 1
            self.answers[index] = dict(answers)
        return {}


@pytest.fixture(autouse=True)
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_in_turn, "IDLE_S", 0.3)
    monkeypatch.setattr(models_in_turn, "POLL_S", 0.01)


def made(maker: Maker, runtime: Runtime) -> Iterator[int]:
    for part in PartLoop(ListedParts(range(len(maker.needs))), maker, runtime).run():
        yield part.index


def expected(needs: Sequence[Sequence[int]]) -> dict[int, dict[int, str]]:
    return {
        part: {number: f"part {part} of model {number}" for number in numbers}
        for part, numbers in enumerate(needs)
    }


def run(world: World, needs: Sequence[Sequence[int]], *, n_rows: int = 1) -> Maker:
    runtime = Runtime()
    with open_models(world.models, runtime) as models:
        maker = Maker(models, needs, n_rows=n_rows)
        assert sorted(made(maker, runtime)) == list(range(len(needs)))
    assert not world.open, "closed at the end"
    assert maker.answers == expected(needs)
    return maker


@pytest.mark.parametrize("n_models", [2, 3])
def test_parts_few_enough_for_one_window_open_each_model_once(n_models: int) -> None:
    world = World(n_models)
    run(world, [range(n_models)] * 12)
    assert world.opened == list(range(n_models))


def test_the_next_window_begins_with_the_model_that_is_open() -> None:
    """A window takes parts for 10 x 0.02 s, which is some 40 parts of 0.005 s."""
    world = World(2)
    maker = run(world, [(0, 1)] * 100)
    n_opened = len(world.opened)
    assert world.opened == [0, 1, 0, 1, 0, 1, 0, 1, 0][:n_opened]
    assert 3 <= n_opened <= 9
    assert maker.most_open <= 60


def test_three_models_take_turns_too() -> None:
    world = World(3)
    run(world, [(0, 1, 2)] * 60)
    assert len(world.opened) >= 5
    assert all(one != other for one, other in zip(world.opened, world.opened[1:], strict=False))
    assert world.opened[:5] == [0, 1, 2, 0, 1]


def test_loading_does_not_dominate() -> None:
    world = World(2)
    started = time.monotonic()
    run(world, [(0, 1)] * 100)
    elapsed_s = time.monotonic() - started
    assert len(world.opened) * LOAD_S < 0.2 * elapsed_s


def test_parts_that_need_only_some_of_the_models_wait_for_no_other() -> None:
    """Rows of an earlier run are kept: of some parts all, of others those of one model."""
    world = World(2)
    run(world, [(1,), (), (0, 1), (1,), (), (0,), (0, 1)] * 4)
    assert len(world.opened) <= 3
    world = World(2)
    run(world, [()] * 5)
    assert world.opened == []
    world = World(2)
    run(world, [(1,)] * 5)
    assert world.opened == [1]


def test_rows_that_wait_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_in_turn, "MOST_ROWS", 40)
    world = World(2, load_s=0.1)
    maker = run(world, [(0, 1)] * 30, n_rows=8)
    # 5 parts of 8 rows, and those that are written
    assert maker.most_open <= 5 + models_in_turn.MOST_WRITTEN


def test_a_slow_disk_holds_parts_back() -> None:
    world = World(1)
    runtime = Runtime()
    with open_models(world.models, runtime) as models:
        maker = Maker(models, [(0,)] * 20)
        maker.write_s = 0.03
        assert sorted(made(maker, runtime)) == list(range(20))
    # one waits for the engine, one is read
    assert maker.most_open <= models_in_turn.MOST_WRITTEN + 4


def test_a_model_that_cannot_be_opened_is_tried_once_and_ends_the_run() -> None:
    world = World(2)
    world.broken = {1}
    with pytest.raises(ModelError, match="model 1 is broken"):
        run(world, [(0, 1)] * 12)
    assert world.opened == [0, 1]
    assert not world.open


def test_a_model_that_dies_ends_the_run_and_parts_that_do_without_it_are_finished() -> None:
    world = World(2)
    world.dead = {1}
    runtime = Runtime()
    with open_models(world.models, runtime) as models:
        maker = Maker(models, [(0, 1), (0, 1), (0,), (0, 1)])
        with pytest.raises(EngineDeadError, match="model 1 has died"):
            list(made(maker, runtime))
    assert maker.answers == {2: {0: "part 2 of model 0"}}
    assert not world.open


def test_a_stop_opens_no_other_model() -> None:
    world = World(2, load_s=0.1)
    stop = threading.Event()
    lines: list[str] = []
    runtime = Runtime(should_stop=stop.is_set, log=lines.append)
    with open_models(world.models, runtime) as models:
        maker = Maker(models, [(0, 1)] * 200)
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        # The stage says how many parts are made and how many are left.
        assert list(made(maker, runtime)) == []
        assert time.monotonic() - started < 2
    [line] = [line for line in lines if "given up" in line]
    assert re.fullmatch(
        r"\d+ open parts are given up: stopped on request between two models", line
    ), "one line, however many"
    assert world.opened == [0]
    assert maker.answers == {}


def test_closing_ends_parts_that_wait_for_a_model() -> None:
    """As after an interrupt in the main thread, while part threads wait."""
    world = World(2)
    models = ModelsInTurn(world.models, Runtime())
    is_asked, go_on = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def sample(_number: int, _engine: Any, _requests: int) -> None:
        is_asked.set()
        assert go_on.wait(60)

    def ask() -> None:
        models.announce_part()
        try:
            models.ask_each([0, 1], 1, lambda _number, _engine: 0, sample)
        except EngineDeadError as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    while not is_asked.is_set():
        models._runtime.main_thread.do_what_waits()
    models.close()
    go_on.set()
    thread.join(60)
    assert [str(error) for error in errors] == ["the models were closed"]
    assert world.opened == [0]
    assert not world.open


def test_served_models_stay_open_and_are_asked_at_once() -> None:
    world = World(2, runs_here=False)
    runtime = Runtime()
    models = open_models(world.models, runtime)
    assert isinstance(models, ModelsTogether)
    both = threading.Barrier(2, timeout=60)

    def sample(number: int, _engine: Any, requests: int) -> int:
        both.wait()
        return 10 * requests + number

    with models:
        models.announce_part()
        assert models.ask_each([0, 1], 2, lambda number, _engine: number + 1, sample) == {
            0: 10,
            1: 21,
        }
        assert sorted(world.opened) == [0, 1]
        assert world.open == {0, 1}
    assert not world.open


def test_what_one_of_several_calls_raises_is_raised_when_all_have_ended() -> None:
    world = World(3, runs_here=False)
    ended = []

    def sample(number: int, _engine: Any, _requests: int) -> int:
        if number == 1:
            raise EngineDeadError("one has died")
        time.sleep(0.05)
        ended.append(number)
        return number

    with open_models(world.models, Runtime()) as models:
        models.announce_part()
        with pytest.raises(EngineDeadError, match="one has died"):
            models.ask_each([0, 1, 2], 3, lambda _n, _e: 0, sample)
        assert sorted(ended) == [0, 2]
        assert models.has_room(0), "a part that failed is no longer on its way"
