"""The driver of several workers: it hands out parts on request and handles lost workers.

Workers pull, so that a slow one does not keep the others waiting at the end. Workers write whole
parts to disk; only part numbers and counts travel.

When a worker ends before its parts are on disk, they are lost and another worker takes its place. A
lost part is suspect: it is handed out again last, alone to one worker, so that a part that kills
its worker takes no other part with it the second time. After three losses it is set aside and
named; the other parts go on, and the command exits with 1.

The fault may also be the worker's or the disk's. So a place is closed after several workers in a
row that ended without a part, or after several parts in a row that failed there.
"""

import queue
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.errors import PrefpipeError, UsageError, error_with_code
from prefpipe.execution.channel import Failure, Message, Order, json_values
from prefpipe.execution.part_maker import PartMade
from prefpipe.execution.part_source import PartSource
from prefpipe.execution.runtime import Job
from prefpipe.execution.this_process import OpenSource, listed

MOST_LOSSES = 3
"""Losses after which a part is set aside."""
MOST_FRUITLESS = 3
"""Workers in a row that end without a part before their place stays empty."""
MOST_FAILED = 5
"""Parts in a row that fail, none lost before, until the worker's place stays empty."""
POLL_S = 0.1
CLOSING_S = 30.0
"""Time for workers to close their engines once no part is left."""


class Link(Protocol):
    """A worker, as its driver sees it."""

    name: str
    """For messages: ``worker 2 (pid 4711)``, ``worker 2 (10.0.0.7)``."""

    def send(self, message: Message) -> None:
        """Send a message; it is silently dropped if the worker is gone."""
        ...

    def end(self) -> str:
        """End the worker and its children, and return in words how it ended."""
        ...


Inbox = queue.SimpleQueue[tuple[Link, Message | None]]
"""Messages from workers; None, the last one from a worker, means that it is gone."""


class Crew(Protocol):
    """Starts workers: on this node, or on a cluster."""

    n_workers: int
    """The number of workers to start."""

    def open(self, job: Job) -> None:
        """Prepare.

        Raises:
            PrefpipeError: no worker could be started.
        """
        ...

    def start(self, order: Order, inbox: "Inbox") -> Link:
        """Start a worker; its messages arrive in ``inbox``."""
        ...

    def close(self) -> None:
        """End everything that the crew itself has started."""
        ...


class Driver:
    """Makes the parts of a job with several workers.

    Args:
        crew: starts them.
        open_source: opens the source of the parts.
    """

    is_worker = False
    has_workers = True

    def __init__(self, crew: Crew, open_source: OpenSource = listed) -> None:
        self._crew, self._open_source = crew, open_source

    def make_parts(self, job: Job) -> Iterator[PartMade]:
        """Yield parts as they are made, until all are made or a stop is requested.

        Raises:
            UsageError: there are more workers than parts.
            PrefpipeError: parts were set aside, or no worker can make any.
        """
        n_parts = len(job.runtime.shard.parts(job.output.n_parts))
        if self._crew.n_workers > n_parts:
            raise UsageError(
                f"--workers {self._crew.n_workers} is more than the {n_parts} parts of "
                f"{job.output.path}",
                hint=f"use --workers {max(1, n_parts)} or fewer, or make more parts with a "
                "smaller --part-size in the command that reads the prompts (generate, import)",
            )
        yield from _DrivenJob(job, self._crew, self._open_source(job)).run()


class _Place:
    """A worker's place: its current worker and the parts that it holds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None
        self.parts: set[int] = set()
        self.is_waiting = False
        self.is_ready = False
        self.has_ended = False
        self.n_fruitless = 0
        self.n_failed = 0
        self.failure: Failure | None = None


class _DrivenJob:
    """One job, from the first worker's start to the last one's end."""

    def __init__(self, job: Job, crew: Crew, source: PartSource) -> None:
        self._job, self._crew, self._source = job, crew, source
        self._log = job.runtime.log
        self._inbox: Inbox = queue.SimpleQueue()
        # No more workers than parts left: each further one would load a model for nothing.
        n_places = min(crew.n_workers, len(job.to_do))
        self._places = [_Place(number) for number in range(1, n_places + 1)]
        self._again: deque[int] = deque()
        """Parts that were lost or given back."""
        self._losses: Counter[int] = Counter()
        self._set_aside: dict[int, str] = {}
        self._is_stopping = False
        self._is_ending = False

    def run(self) -> Iterator[PartMade]:
        self._source.attach(lambda: None)
        try:
            with self._job.runtime.finishing():
                self._crew.open(self._job)
                for place in self._places:
                    self._start(place)
                yield from self._serve()
        finally:
            # After an interrupt some workers still run: parts appear whole or not at all.
            for place in self._places:
                if place.link is not None:
                    place.link.end()
            self._crew.close()
            self._source.close()
            # A worker may have been killed in the middle of a file.
            self._job.output.sweep()

        self._raise_what_failed()

    def _serve(self) -> Iterator[PartMade]:
        closes_by_s = float("inf")
        while any(place.link is not None for place in self._places):
            if self._job.runtime.should_stop() and not self._is_stopping:
                self._is_stopping = True
                self._tell_all({"type": "stop"})
            if not self._is_stopping and not self._is_ending:
                self._hand_out()
                if self._has_nothing_left():
                    self._is_ending = True
                    closes_by_s = time.monotonic() + CLOSING_S
                    self._tell_all({"type": "over"})
            if time.monotonic() > closes_by_s:
                return

            try:
                link, message = self._inbox.get(timeout=POLL_S)
            except queue.Empty:
                continue
            place = next((each for each in self._places if each.link is link), None)
            if place is not None:
                yield from self._hear(place, message)

    def _start(self, place: _Place) -> None:
        shard = self._job.runtime.shard
        order = Order(
            stage=self._job.config.stage,
            # The driver has already deleted what --overwrite deletes.
            values=json_values(self._job.config) | {"overwrite": Overwrite.NO.value},
            folder=str(Path.cwd()),
            number=place.number,
            shard_index=shard.index,
            num_shards=shard.count,
        )
        place.link = self._crew.start(order, self._inbox)
        place.parts.clear()
        place.is_waiting = place.is_ready = place.has_ended = False
        place.failure = None

    def _tell_all(self, message: Message) -> None:
        for place in self._places:
            if place.link is not None:
                place.link.send(message)

    def _has_nothing_left(self) -> bool:
        """Return whether every part is made or set aside, so that none can be handed out again."""
        in_hands = any(place.parts for place in self._places)
        return not in_hands and not self._again and self._source.is_over()

    def _hand_out(self) -> None:
        """Give a part to every waiting worker."""
        for place in self._places:
            if place.link is None or not place.is_waiting or place.n_failed >= MOST_FAILED:
                continue
            # A suspect part is alone with its worker.
            if any(self._losses[index] for index in place.parts):
                continue
            index = self._next_part(is_idle=not place.parts)
            if index is None:
                continue
            place.parts.add(index)
            place.is_waiting = False
            place.link.send({"type": "part", "index": index})

    def _next_part(self, *, is_idle: bool) -> int | None:
        index = self._source.next_part()
        if index is None and is_idle and self._again:
            return self._again.popleft()
        return index

    def _hear(self, place: _Place, message: Message | None) -> Iterator[PartMade]:
        """Act on a worker's message."""
        if message is None:
            yield from self._see_end(place)
            return

        kind = message["type"]
        if kind == "ready":
            place.is_ready = True
        elif kind == "pull":
            place.is_waiting = True
        elif kind == "log":
            assert place.link is not None
            self._log(f"{place.link.name}: {message['line']}")
        elif kind == "made":
            place.n_fruitless = place.n_failed = 0
            part = PartMade(message["index"], message["tally"], message["elapsed_s"])
            yield from self._note_made(place, part)
        elif kind == "failed":
            self._note_failure(place, message["index"], Failure.in_message(message))
        elif kind == "returned":
            place.parts.discard(message["index"])
            self._again.append(message["index"])
        elif kind == "error":
            place.failure = Failure.in_message(message)
        elif kind == "end":
            place.has_ended = True

    def _note_made(self, place: _Place, part: PartMade) -> Iterator[PartMade]:
        place.parts.discard(part.index)
        self._source.made(part)
        yield part

    def _note_failure(self, place: _Place, index: int, failure: Failure) -> None:
        """Put back a part that a worker could not make; end a worker that can make none."""
        place.parts.discard(index)
        place.n_failed += not self._losses[index]
        self._note_loss(index, failure.message)
        if place.n_failed >= MOST_FAILED and place.link is not None:
            place.failure = failure
            place.link.send({"type": "stop"})

    def _note_loss(self, index: int, reason: str) -> None:
        """Put a lost part back, or set it aside."""
        self._losses[index] += 1
        if self._losses[index] < MOST_LOSSES:
            self._again.append(index)
            return
        self._set_aside[index] = reason
        self._source.failed(index, PrefpipeError(reason))
        self._log(
            f"warning: part {index} was lost {MOST_LOSSES} times and is set aside; the last "
            f"time: {reason}"
        )

    def _see_end(self, place: _Place) -> Iterator[PartMade]:
        """Handle the end of a worker: put back its parts and fill its place."""
        link, place.link = place.link, None
        assert link is not None
        how = link.end()
        place.is_waiting = False
        reason = place.failure.message if place.failure is not None else f"{link.name} {how}"

        held = sorted(place.parts)
        for index in held:
            # It may have died after writing the part and before saying so.
            if self._job.is_done(index):
                yield from self._note_made(place, PartMade(index, {}, 0.0))
        if place.has_ended:
            # Handed out while the worker was ending, and never begun.
            self._again.extend(sorted(place.parts))
            place.parts.clear()
        lost = sorted(place.parts)
        # Such a part is lost three times at most, whichever worker has it.
        is_parts_fault = any(self._losses[index] for index in lost)
        if not self._is_stopping:
            for index in lost:
                self._note_loss(index, reason)
        place.parts.clear()

        if self._is_stopping or self._is_ending:
            return
        if not place.has_ended or place.failure is not None:
            again = ", ".join(str(index) for index in lost if index not in self._set_aside)
            parts = f"; its open parts are made again: {again}" if again else ""
            why = f": {place.failure.message}" if place.failure is not None else ""
            self._log(f"warning: {link.name} {how}{why}{parts}")
        place.n_fruitless += not is_parts_fault
        self._fill(place)

    def _fill(self, place: _Place) -> None:
        """Replace a worker that is gone, unless the next one would fail, too."""
        failure = place.failure
        # A fault in flags or files would hit the next worker, too.
        is_hopeless = failure is not None and not place.is_ready and not failure.is_engine_dead
        is_fruitless = place.n_fruitless >= MOST_FRUITLESS or place.n_failed >= MOST_FAILED
        if is_hopeless or is_fruitless or self._has_nothing_left():
            return
        self._start(place)

    def _raise_what_failed(self) -> None:
        """Raise for parts that are set aside, or if no worker could make a part.

        Raises:
            PrefpipeError: names the parts and their failures.
        """
        if self._is_stopping:
            return
        if self._has_nothing_left():
            self._raise_what_is_set_aside()
            return
        for place in self._places:
            failure = place.failure
            if failure is not None:
                raise error_with_code(failure.exit_code, failure.message, hint=failure.hint)
        raise PrefpipeError(
            "no worker is left: each ended before it made a part",
            hint="read their messages above, or run the same command without --workers",
        )

    def _raise_what_is_set_aside(self) -> None:
        if not self._set_aside:
            return
        shown = ", ".join(str(index) for index in sorted(self._set_aside)[:8])
        more = ", ..." if len(self._set_aside) > 8 else ""
        first = self._set_aside[min(self._set_aside)]
        count = len(self._set_aside)
        are = "1 part was" if count == 1 else f"{count} parts were"

        raise PrefpipeError(
            f"{are} lost {MOST_LOSSES} times and set aside: part {shown}{more}; the first "
            f"failed with: {first}",
            hint="all other parts are finished; run the same command without --workers and --on to "
            "see the error of these",
        )
