"""What every stage is handed beside its config, and what it hands back.

A stage never prints and never looks at signals; it is given a place to log, a progress bar and a
question to ask.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from shlex import quote
from typing import Any

from prefpipe.artifacts.store import Output, Shard, add_tallies
from prefpipe.errors import CorruptPartError, ErrorRateError, StoppedEarly

Advance = Callable[[int], None]


@contextmanager
def no_progress(_description: str, _total: int) -> Iterator[Advance]:
    """Stand in for a progress bar where there is no terminal."""
    yield lambda _n: None


def no_section(*, however_long: bool = False) -> AbstractContextManager[None]:  # noqa: ARG001
    """Stand in for a section of `Runtime` where nothing asks to stop."""
    return nullcontext()


@dataclass(frozen=True)
class Runtime:
    """The world outside.

    It is where to log, whether to stop, how to show progress, and what to record in ``run.json``.

    A request to stop ends the command there and then, unless it comes in a section that is
    ``finishing()`` something; there one asks ``should_stop()``. ``interruptible()`` is a section
    within such a one that has nothing to finish: a model is loaded.

    ``when_asked()`` is when the request came and ``ends_at`` when the batch system ends the job,
    both in seconds since the epoch. ``started``: when the command began, on the monotonic clock.
    """

    log: Callable[[str], None] = lambda _line: None
    should_stop: Callable[[], bool] = lambda: False
    finishing: Callable[..., AbstractContextManager[None]] = no_section
    interruptible: Callable[[], AbstractContextManager[None]] = no_section
    when_asked: Callable[[], float | None] = lambda: None
    ends_at: float | None = None
    progress: Callable[[str, int], AbstractContextManager[Advance]] = no_progress
    context: Mapping[str, Any] = field(default_factory=dict)
    shard: Shard = Shard()
    how_to_go_on: str = "run the same command again to go on"
    started: float = field(default_factory=time.monotonic)


@dataclass
class Summary:
    """What a stage did.

    Rows by status and recorded sums are over this shard's parts; notes are lines worth reading.
    """

    stage: str
    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    n_parts_made: int = 0
    n_parts_kept: int = 0
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tally: dict[str, float] = field(default_factory=dict)
    table: Any = None

    @property
    def n_rows(self) -> int:
        """Rows of this shard."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the summary for ``--json``."""
        return {
            "stage": self.stage,
            "path": str(self.path),
            "n_rows": self.n_rows,
            "counts": dict(sorted(self.counts.items())),
            "n_parts_made": self.n_parts_made,
            "n_parts_kept": self.n_parts_kept,
            **self.facts,
        }


def loop_over_parts(
    output: Output,
    parents_of: Callable[[int], Mapping[str, str]],
    make: Callable[[int], None],
    runtime: Runtime,
    summary: Summary,
    *,
    indices: Sequence[int],
    redo: Callable[[int], bool] = lambda _index: False,
    workers: int = 1,
) -> None:
    """Make the parts of this shard that are not finished and count the rows of all.

    Args:
        output: the artifact being made.
        parents_of: digests of the parent parts that a part is made from.
        make: makes and writes one part.
        runtime: where to log and whether to stop.
        summary: filled in.
        indices: the parts this call is to see to.
        redo: parts to make again although they are finished.
        workers: threads that make parts at the same time; ``make`` must then share nothing between
            parts.

    Raises:
        StoppedEarly: a stop was asked for and parts are left.
        Exception: what ``make`` raised, once the parts begun beside it are finished.
    """
    # A part of an earlier run counts only where its parents are the ones on disk now.
    parents = {index: parents_of(index) for index in indices}
    to_do = [index for index in indices if not output.is_done(index, parents[index]) or redo(index)]
    summary.n_parts_kept = len(indices) - len(to_do)
    if summary.n_parts_kept:
        runtime.log(
            f"{output.path}: {summary.n_parts_kept} of {len(indices)} parts are finished and kept"
        )
    if not indices and runtime.shard.count > 1:
        runtime.log(_nothing_to_do(runtime.shard, output))

    clock = PartClock(runtime)
    with runtime.progress(f"{summary.stage}: part", len(to_do)) as advance:
        for _ in _made(to_do, clock.timed(make), runtime, min(workers, len(to_do))):
            summary.n_parts_made += 1
            advance(1)
    n_left = len(to_do) - summary.n_parts_made
    if n_left:
        raise StoppedEarly(
            f"{summary.stage} stopped as asked: {summary.n_parts_made} parts made now, "
            f"{n_left} left",
            hint=runtime.how_to_go_on,
        )

    # Rows are counted from the footers, so that parts of earlier runs count as those made now.
    footers = [output.footer(index) for index in indices]
    summary.tally = add_tallies(footer.tally for footer in footers)
    for footer in footers:
        summary.counts.update(footer.counts)


def _nothing_to_do(shard: Shard, output: Output) -> str:
    """Say that a worker has no part, and what would give it one."""
    return (
        f"shard {shard.index} of {shard.count} has no part to make: {output.path} has "
        f"{output.n_parts} in all. More workers need more parts: a smaller --part-size where the "
        "prompts are read (generate, import)"
    )


class PartClock:
    """Compares the time that parts take with the time that the batch system leaves.

    Says once what would be lost: a part that is begun too late is cut off and made again.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.times_s: list[float] = []
        self._has_warned = False

    @property
    def longest_s(self) -> float:
        """The longest part so far: of those behind the first, which also loads a model."""
        return max(self.times_s[1:] or self.times_s, default=0.0)

    def timed(self, make: Callable[[int], None]) -> Callable[[int], None]:
        """Return ``make`` with a look at the clock before and after."""

        def make_timed(index: int) -> None:
            self._before_a_part()
            started = time.monotonic()
            make(index)
            self.times_s.append(time.monotonic() - started)
            self._after_a_part()

        return make_timed

    def _before_a_part(self) -> None:
        ends_at = self.runtime.ends_at
        if ends_at is not None and 0 < ends_at - time.time() < self.longest_s:
            self._warn(f"the job ends in {ends_at - time.time():.0f} s", "the next one may be lost")

    def _after_a_part(self) -> None:
        """Compare with the notice that the signal gave; it is not to be seen before it comes."""
        ends_at, asked_at = self.runtime.ends_at, self.runtime.when_asked()
        if ends_at is not None and asked_at is not None and ends_at - asked_at < self.longest_s:
            self._warn(
                f"the signal came {ends_at - asked_at:.0f} s before the job ends",
                "one begun just before it would be lost",
            )

    def _warn(self, fact: str, loss: str) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        notice_s = ceil(self.longest_s * 1.2 / 60) * 60
        self.runtime.log(
            f"warning: a part takes {self.longest_s:.0f} s and {fact}: {loss}. Ask for the signal "
            f"earlier, --signal=B:USR1@{notice_s}, or for smaller parts, --part-size"
        )


def _made(
    to_do: Sequence[int], make: Callable[[int], None], runtime: Runtime, workers: int
) -> Iterator[int]:
    """Yield the parts as they are made, until all are or a stop is asked for.

    Parts that are begun are finished, unless this is left by an exception.
    """
    if workers <= 1:
        for index in to_do:
            if runtime.should_stop():
                return
            with runtime.finishing():
                make(index)
            yield index
        return

    waiting = iter(to_do)
    running: dict[Future[None], int] = {}
    failed: dict[int, BaseException] = {}
    threads = ThreadPoolExecutor(workers)
    try:
        with runtime.finishing():  # all of it: while there is a loop, parts are being made
            while True:
                # After a failure or a request to stop nothing new is begun; what runs is finished.
                while len(running) < workers and not failed and not runtime.should_stop():
                    following = next(waiting, None)
                    if following is None:
                        break
                    running[threads.submit(make, following)] = following
                if not running:
                    break

                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    index, error = running.pop(future), future.exception()
                    if error is None:
                        yield index
                    else:
                        failed[index] = error
    except BaseException:
        # An interrupt. Parts appear whole or not at all, so nobody need wait for them.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()

    # The error of the first part, whichever thread was the first to fail.
    if failed:
        raise failed[min(failed)]


def begin_retry(
    output: Output, indices: Sequence[int], *, keep: Sequence[str] = (), only: Sequence[str] = ()
) -> tuple[Output, set[int]]:
    """Find the parts with rows to retry, and record that in ``run.json``.

    A row is to be retried whose status is not in ``keep``, or is in ``only``.

    Returns:
        The output with the operation in its record, and the parts to make again.
    """
    n_failed: dict[int, int] = {}
    for index in indices:
        try:
            counts = output.footer(index).counts
        except CorruptPartError:  # missing or damaged: made again anyway
            continue
        for status, n_rows in counts.items():
            is_to_retry = status in only if only else status not in keep
            if is_to_retry and n_rows:
                n_failed[index] = n_failed.get(index, 0) + n_rows
    if not n_failed:
        return output, set()

    step = {
        "operation": "retry_errors",
        "n_rows": sum(n_failed.values()),
        "parts": sorted(n_failed),
    }
    return output.with_step(step), set(n_failed)


def check_error_rate(summary: Summary, failing: Sequence[str], limit: float) -> None:
    """Refuse a finished stage in which too many rows failed.

    Raises:
        ErrorRateError: rows whose status is in ``failing`` are a larger share than ``limit``.
    """
    n_failed = sum(summary.counts[status] for status in failing)
    if n_failed <= limit * summary.n_rows:
        return
    reasons = ", ".join(
        f"{count:,} {status}" for status, count in summary.counts.most_common() if status in failing
    )

    raise ErrorRateError(
        f"{summary.stage} finished, but {n_failed} of {summary.n_rows} rows failed "
        f"({n_failed / summary.n_rows:.1%}, the limit is {limit:.1%}): {reasons}; everything good "
        f"is in {summary.path}",
        hint=f"run `prefpipe inspect {quote(str(summary.path))}` for the reasons, or raise "
        "--max-error-rate",
        summary=summary,
    )
