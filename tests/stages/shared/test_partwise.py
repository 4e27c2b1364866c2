"""The loop over parts: what it says of workers and of time, and what becomes of it when it is interrupted."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

import pyarrow as pa
import pytest

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Output, Shard, open_output
from prefpipe.cli.signals import StopNow
from prefpipe.configs.generate import GenerateConfig
from prefpipe.errors import StoppedEarly
from prefpipe.execution.part_maker import OneAtATime
from prefpipe.execution.runtime import Advance, Runtime, Task, no_progress
from prefpipe.stages.shared.partwise import PartClock, Summary, loop_over_parts

N_PARTS = 6


@pytest.fixture
def output(tmp_path: Path) -> Output:
    record = RunRecord("generate", CANDIDATES.tag, N_PARTS, {"stage": "generate"})
    return open_output(tmp_path / "out", record, shard=Shard(), overwrite=False)


def writes(output: Output, seconds: float = 0.0) -> Callable[[int], None]:
    """Return what makes a part, empty, in so many seconds."""

    def make(index: int) -> None:
        time.sleep(seconds)
        output.write(
            index, pa.Table.from_pylist([], schema=CANDIDATES.arrow()), counts={}, parents={}
        )

    return make


class InThreads(OneAtATime):
    """Makes so many parts at a time."""

    def __init__(self, make: Callable[[int], None], n_threads: int) -> None:
        super().__init__(make)
        self.n_threads = n_threads

    def has_room(self, n_open: int) -> bool:
        return n_open < self.n_threads


def loop(
    output: Output, make: Callable[[int], None], runtime: Runtime, n_threads: int = 1
) -> Summary:
    summary = Summary("generate", output.path)
    indices = runtime.shard.parts(output.n_parts)
    config = GenerateConfig(prompts="p.jsonl", output=output.path, model=("fake",), backend="fake")
    maker = InThreads(make, n_threads)
    loop_over_parts(config, output, maker, runtime, summary, indices=indices)
    return summary


def test_the_last_part_counts_for_the_time_left_as_large_as_it_is(output: Output) -> None:
    """Six parts of 32 prompts, of which the last one has 8; then one of them alone is missing."""

    class Sized(InThreads):
        def size_of(self, index: int) -> int:
            return 8 if index == N_PARTS - 1 else 32

    tasks: list[Task] = []

    @contextmanager
    def progress(task: Task) -> Iterator[Advance]:
        tasks.append(task)
        with no_progress(task) as advance:
            yield advance

    runtime = Runtime(progress=progress)
    config = GenerateConfig(prompts="p.jsonl", output=output.path, model=("fake",), backend="fake")
    for indices in (range(N_PARTS - 1, N_PARTS), range(N_PARTS)):
        summary = Summary("generate", output.path)
        maker = Sized(writes(output), 1)
        loop_over_parts(config, output, maker, runtime, summary, indices=indices)
        for made in indices[:-1]:
            output.part_path(made).unlink()
        output.part_path(N_PARTS - 1).unlink()
    loop(output, writes(output), runtime)
    assert [task.last_share for task in tasks] == [1.0, 0.25, 1.0]


def test_a_worker_without_a_part_says_so_and_what_would_give_it_one(output: Output) -> None:
    said: list[str] = []
    loop(output, writes(output), Runtime(log=said.append, shard=Shard(6, 7)))
    (line,) = said
    assert line == (
        f"shard 6 of 7 has no part to make: {output.path} has 6 in all. For more parts, pass a "
        "smaller --part-size to the command that reads the prompts (generate or import)"
    )


def test_one_whose_parts_are_finished_is_not_told_that_it_has_none(output: Output) -> None:
    loop(output, writes(output), Runtime())
    said: list[str] = []
    loop(output, writes(output), Runtime(log=said.append, shard=Shard(1, 3)))
    assert said == [f"{output.path}: 2 of 2 parts are finished and kept"]


@pytest.mark.parametrize(("left_s", "is_warned"), [(50.0, True), (3600.0, False)])
def test_a_part_that_is_begun_too_late_is_warned_about_once(left_s: float, is_warned: bool) -> None:
    """Parts of 100 s: with 50 s left, the next may not be finished."""
    said: list[str] = []
    clock = PartClock(Runtime(log=said.append, ends_at=time.time() + left_s))
    clock.look(100.0, is_last=False)
    clock.look(100.0, is_last=False)
    assert len(said) == is_warned
    for line in said:
        assert line.startswith("warning: a part takes 100 s and the job ends in ")
        assert line.endswith(
            "the next part may be lost. Request the signal earlier with --signal=B:USR1@120, or "
            "make smaller parts with --part-size"
        )


@pytest.mark.parametrize(("notice_s", "is_warned"), [(0.05, True), (3600.0, False)])
def test_a_signal_with_less_notice_than_a_part_takes_is_warned_about(
    output: Output, notice_s: float, is_warned: bool
) -> None:
    said: list[str] = []
    ends_at = time.time() + 36_000  # so that no part is begun too late
    asked = chain([False], repeat(True))
    runtime = Runtime(
        log=said.append,
        should_stop=lambda: next(asked),
        ends_at=ends_at,
        when_asked=lambda: ends_at - notice_s,
    )
    with pytest.raises(StoppedEarly, match="1 parts made now, 5 left"):
        loop(output, writes(output, 0.1), runtime)
    wanted = "warning: a part takes 0 s and the signal came 0 s before the job ends: a part begun just before it would be lost."
    assert any(line.startswith(wanted) for line in said) == is_warned


def test_without_a_batch_system_nothing_is_said_of_time(output: Output) -> None:
    said: list[str] = []
    loop(output, writes(output, 0.02), Runtime(log=said.append, when_asked=time.time))
    assert said == []


@pytest.mark.parametrize("interrupt", [StopNow, KeyboardInterrupt, SystemExit])
def test_an_interrupt_does_not_wait_for_parts_in_other_threads(
    output: Output, interrupt: type[BaseException]
) -> None:
    """The main thread is interrupted while it waits; two threads are at parts that would take for ever."""
    may_end = threading.Event()
    begun: list[int] = []

    def make(index: int) -> None:
        begun.append(index)
        assert may_end.wait(60)

    n_asked = 0

    def asked() -> bool:
        nonlocal n_asked
        n_asked += 1
        if n_asked < 3:
            return False
        while len(begun) < 2:
            time.sleep(0.01)
        raise interrupt

    started = time.monotonic()
    with pytest.raises(interrupt):
        loop(output, make, Runtime(should_stop=asked), n_threads=3)
    assert time.monotonic() - started < 30
    assert sorted(begun) == [0, 1]
    may_end.set()


def test_a_stop_in_other_threads_finishes_what_is_begun(output: Output) -> None:
    asked = chain([False, False], repeat(True))
    with pytest.raises(StoppedEarly, match="2 parts made now, 4 left"):
        loop(output, writes(output, 0.05), Runtime(should_stop=lambda: next(asked)), n_threads=2)
    assert sorted(path.name[5:10] for path in output.path.glob("part-*")) == ["00000", "00001"]
