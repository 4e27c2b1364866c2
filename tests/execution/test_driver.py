"""What the driver makes of losses, with workers that are only said to be there."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefpipe.configs.embed import EmbedConfig
from prefpipe.errors import PrefpipeError
from prefpipe.execution.channel import Failure, Message, Order
from prefpipe.execution.driver import Driver, Inbox
from prefpipe.execution.part_maker import OneAtATime
from prefpipe.execution.runtime import Job, Runtime

N_PARTS = 30
MADE = "made"
DIES = "dies"
UNOPENED = Failure("no memory on this GPU", None, 1, is_engine_dead=True)
DISK_FULL = Failure("no space left on the disk", "make room", 1, is_engine_dead=False)

Outcome = str | Failure
"""What becomes of a part: it is made, its worker dies, or a failure is said."""


class ScriptedLink:
    """A worker that answers at once, as a script says."""

    def __init__(self, number: int, inbox: Inbox, script: Callable[[int, int], Outcome]) -> None:
        self.name, self._number, self._inbox, self._script = (
            f"worker {number}",
            number,
            inbox,
            script,
        )
        self._is_gone = False
        self._say({"type": "ready"}, {"type": "pull"})

    def send(self, message: Message) -> None:
        if self._is_gone:
            return
        if message["type"] in ("over", "stop"):
            self._leave({"type": "end"})
            return
        index = message["index"]
        outcome = self._script(self._number, index)
        if outcome == DIES:
            self._leave()
        elif outcome is UNOPENED:
            error = {"type": "error", **UNOPENED.as_fields()}
            self._leave({"type": "returned", "index": index}, error)
        elif isinstance(outcome, Failure):
            failed = {"type": "failed", "index": index, **outcome.as_fields()}
            self._say(failed, {"type": "pull"})
        else:
            made = {"type": "made", "index": index, "tally": {}, "elapsed_s": 0.0}
            self._say(made, {"type": "pull"})

    def end(self) -> str:
        return "ended"

    def _leave(self, *messages: Message) -> None:
        self._is_gone = True
        self._say(*messages, None)

    def _say(self, *messages: Message | None) -> None:
        for message in messages:
            self._inbox.put((self, message))


class ScriptedCrew:
    """Workers that follow one script; counts how often each place was filled."""

    def __init__(self, n_workers: int, script: Callable[[int, int], Outcome]) -> None:
        self.n_workers, self._script = n_workers, script
        self.n_started: Counter[int] = Counter()

    def open(self, job: Job) -> None:
        pass

    def start(self, order: Order, inbox: Inbox) -> ScriptedLink:
        self.n_started[order.number] += 1
        return ScriptedLink(order.number, inbox, self._script)

    def close(self) -> None:
        pass


class PathOnly:
    """An output of which the driver asks no more than this."""

    path, n_parts = Path("out"), N_PARTS

    def sweep(self) -> None:
        """Remove nothing: there are no files."""


def drive(crew: ScriptedCrew) -> list[int]:
    """Return the parts that were made, in their order."""
    output: Any = PathOnly()
    config = EmbedConfig(candidates=Path("candidates"), output=Path("out"), model="fake")
    job = Job(
        config,
        output,
        OneAtATime(lambda _index: {}),
        range(N_PARTS),
        lambda _index: False,
        Runtime(),
    )
    return [part.index for part in Driver(crew).make_parts(job)]


@pytest.mark.parametrize("outcome", [DIES, UNOPENED])
def test_a_place_that_makes_nothing_costs_no_part(outcome: Outcome) -> None:
    """Of a GPU that is broken: three workers in its place, and the others make all parts."""
    crew = ScriptedCrew(3, lambda number, _index: outcome if number == 2 else MADE)
    assert sorted(drive(crew)) == list(range(N_PARTS))
    assert crew.n_started == {1: 1, 2: 3, 3: 1}


@pytest.mark.parametrize("n_workers", [1, 3])
def test_parts_that_kill_their_workers_come_last_and_are_all_named(n_workers: int) -> None:
    """Five of them, more than a place may lose workers in a row."""
    crew = ScriptedCrew(n_workers, lambda _number, index: DIES if index % 6 == 2 else MADE)
    with pytest.raises(
        PrefpipeError, match=r"5 parts were lost 3 times .*: part 2, 8, 14, 20, 26;"
    ):
        drive(crew)
    assert sum(crew.n_started.values()) <= n_workers + 5 * 3


def test_a_full_disk_ends_the_workers_with_its_own_error() -> None:
    """Five parts a worker, and not three times each of all."""
    tried: Counter[int] = Counter()

    def fails(_number: int, index: int) -> Outcome:
        tried[index] += 1
        return DISK_FULL

    with pytest.raises(PrefpipeError, match="no space left on the disk") as caught:
        drive(ScriptedCrew(2, fails))
    assert caught.value.hint == "make room"
    assert sum(tried.values()) == 10


def test_an_engine_that_nobody_can_open_is_one_error() -> None:
    crew = ScriptedCrew(2, lambda _number, _index: UNOPENED)
    with pytest.raises(PrefpipeError, match="no memory on this GPU"):
        drive(crew)
    assert crew.n_started == {1: 3, 2: 3}
