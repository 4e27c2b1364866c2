"""A stage that makes parts: the parts left to make, their results, and the stage's summary."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from shlex import quote
from typing import Any

from prefpipe.artifacts.claims import remove_claims
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.protocol import FileVersion
from prefpipe.artifacts.store import (
    Output,
    Shard,
    add_tallies,
    join_output,
    open_output,
)
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import CorruptPartError, ErrorRateError, StoppedEarly
from prefpipe.execution.part_maker import KnowsSizes, PartMaker, Prepared
from prefpipe.execution.runtime import Job, Runtime, Task
from prefpipe.execution.this_process import ThisProcess


@dataclass
class Summary:
    """What a stage did.

    Rows by status, ``tally``, the sums that parts recorded, and ``engines`` are over this shard's
    parts; ``counted_now`` sums what was counted while parts were made now. Notes are lines for the
    reader.
    """

    stage: str
    path: Location
    counts: Counter[str] = field(default_factory=Counter)
    n_parts_made: int = 0
    n_parts_kept: int = 0
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tally: dict[str, float] = field(default_factory=dict)
    engines: list[str] = field(default_factory=list)
    counted_now: dict[str, float] = field(default_factory=dict)
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


def open_stage_output(
    config: StageConfig, record: RunRecord, runtime: Runtime, *, extends: bool = False
) -> Output:
    """Open a stage's output, as `open_output`; a worker joins what its driver opened.

    Raises:
        FingerprintError, InputError: see there.
    """
    if runtime.is_worker:
        return join_output(config.output, record)
    return open_output(
        config.output,
        record,
        shard=runtime.shard,
        overwrite=Overwrite.of(config.overwrite),
        extends=extends,
    )


def loop_over_parts(
    config: StageConfig,
    output: Output,
    maker: PartMaker[Prepared],
    runtime: Runtime,
    summary: Summary,
    *,
    indices: Sequence[int],
    parents_of: Callable[[int], Mapping[str, str]] = lambda _index: {},
    redo: Callable[[int], bool] = lambda _index: False,
) -> None:
    """Make the parts of this shard that are not finished and count the rows of all.

    Args:
        config: says another process all that it needs to make parts.
        output: the artifact being made.
        maker: makes and writes one part, in two steps.
        runtime: where to log, whether to stop, and who makes the parts.
        summary: filled in.
        indices: the parts this call is to see to.
        parents_of: digests of the parent parts that a part is made from.
        redo: parts to make again although they are finished.

    Raises:
        StoppedEarly: a stop was requested and parts are left.
        WorkerIsDone: this process is a worker. What follows is its driver's.
        Exception: what ``maker`` raised, once the parts begun beside it are finished.
    """
    executor = runtime.executor or ThisProcess()
    files = _PartFiles(output, parents_of)
    # The driver has looked which parts are left.
    to_do = [] if runtime.is_worker else files.left_to_make(indices, redo)
    if not runtime.is_worker:
        summary.n_parts_kept = len(indices) - len(to_do)
    if summary.n_parts_kept:
        runtime.log(
            f"{output.path}: {summary.n_parts_kept} of {len(indices)} parts are finished and kept"
        )
    if not indices and runtime.shard.count > 1:
        runtime.log(_nothing_to_do(runtime.shard, output))

    clock = PartClock(runtime)
    made: set[int] = set()
    counted: list[Mapping[str, float]] = []
    if to_do or runtime.is_worker:
        task = Task(
            summary.stage,
            "part",
            len(to_do),
            output=str(output.path),
            n_kept=summary.n_parts_kept,
            first_is_slow=executor.has_workers,
            last_share=_last_share(to_do, maker),
            answered=runtime.engines.answered,
        )
        with runtime.progress(task) as advance:
            job = Job(config, output, maker, to_do, files.is_made, runtime, made_by_others=advance)
            for part in executor.make_parts(job):
                made.add(part.index)
                counted.append(part.tally)
                clock.look(part.elapsed_s, is_last=len(made) == len(to_do))
                advance(1, part.tally, rows=_rows_of(output, part.index))
    summary.n_parts_made = len(made)
    summary.counted_now = add_tallies(counted)

    # Others may have made parts meanwhile, where nobody has a fixed share.
    n_left = sum(index not in made and not files.is_made(index) for index in to_do)
    if n_left:
        raise StoppedEarly(
            f"{summary.stage} stopped on request: {summary.n_parts_made} parts made now, "
            f"{n_left} left",
            hint=runtime.how_to_go_on,
        )

    # A worker that was killed behind a part has left its claim.
    remove_claims(output.path, output.record.fingerprint, indices)

    # Rows are counted from the footers, so that parts of earlier runs count as those made now.
    output.keep_footers()
    footers = output.footers(indices)
    summary.tally = add_tallies(footer.tally for footer in footers)
    summary.engines = sorted({engine for footer in footers for engine in footer.engines})
    for footer in footers:
        summary.counts.update(footer.counts)


def _last_share(to_do: Sequence[int], maker: PartMaker[Prepared]) -> float:
    """Return the size of the last part to make, the first one being 1; 1 where nobody knows."""
    if len(to_do) < 2 or not isinstance(maker, KnowsSizes):
        return 1.0
    first, last = maker.size_of(to_do[0]), maker.size_of(to_do[-1])
    return min(1.0, last / first) if first else 1.0


def _rows_of(output: Output, index: int) -> Mapping[str, int]:
    """Return the rows of a new part by status, to be shown; the sum at the end says what fails."""
    try:
        return output.footer_as_written(index).counts
    except CorruptPartError:
        return {}


class _PartFiles:
    """The files of the parts that a call makes: which are left, and which have come since."""

    def __init__(self, output: Output, parents_of: Callable[[int], Mapping[str, str]]) -> None:
        self._output, self._parents_of = output, parents_of
        self._before: dict[int, FileVersion | None] = {}
        """A part that is made again was finished before: only its file shows that it was made."""

    def left_to_make(self, indices: Sequence[int], redo: Callable[[int], bool]) -> list[int]:
        """Return the parts that are not finished, or must be made again."""
        # before the parts themselves, which another worker may write between the two
        self._before = self._output.file_versions(indices)
        verify = self._output.part_verifier()
        # A part of an earlier run counts only where its parents are the ones on disk now.
        return [
            index
            for index in indices
            if not self._output.is_done(index, self._parents_of(index), verify) or redo(index)
        ]

    def is_made(self, index: int) -> bool:
        """Return whether a part was made since `left_to_make` looked."""
        is_written = self._output.file_version(index) != self._before.get(index)
        return is_written and self._output.footer_fits(index, self._parents_of(index))


def _nothing_to_do(shard: Shard, output: Output) -> str:
    """Log that a worker has no part, and how to get more parts."""
    return (
        f"shard {shard.index} of {shard.count} has no part to make: {output.path} has "
        f"{output.n_parts} in all. For more parts, pass a smaller --part-size to the command "
        "that reads the prompts (generate or import)"
    )


class PartClock:
    """Compares the time that parts take with the time that the batch system leaves.

    Warns once about the loss: a part that is begun too late is cut off and made again.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.times_s: list[float] = []
        self._has_warned = False

    @property
    def longest_s(self) -> float:
        """The longest part so far, without the first, which also loads a model."""
        return max(self.times_s[1:] or self.times_s, default=0.0)

    def look(self, elapsed_s: float, *, is_last: bool) -> None:
        """Check the clock after a part that was open for ``elapsed_s``."""
        self.times_s.append(elapsed_s)
        ends_at, asked_at = self.runtime.ends_at, self.runtime.when_asked()
        if ends_at is None:
            return

        # The notice that the signal gives is not to be seen before it comes.
        if asked_at is not None and ends_at - asked_at < self.longest_s:
            self._warn(
                f"the signal came {ends_at - asked_at:.0f} s before the job ends",
                "a part begun just before it would be lost",
            )
        left_s = ends_at - time.time()
        if not is_last and 0 < left_s < self.longest_s:
            self._warn(f"the job ends in {left_s:.0f} s", "the next part may be lost")

    def _warn(self, fact: str, loss: str) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        notice_s = ceil(self.longest_s * 1.2 / 60) * 60
        self.runtime.log(
            f"warning: a part takes {self.longest_s:.0f} s and {fact}: {loss}. Request the "
            f"signal earlier with --signal=B:USR1@{notice_s}, or make smaller parts with "
            "--part-size"
        )


def begin_retry(
    output: Output,
    indices: Sequence[int],
    runtime: Runtime,
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
) -> tuple[Output, set[int]]:
    """Find the parts with rows to retry, and record the retry in ``run.json``.

    A row is retried if its status is not in ``keep``, or is in ``only``. A worker finds none: its
    driver has already done this.

    Returns:
        The output with the operation in its record, and the parts to make again.
    """
    n_failed: dict[int, int] = {}
    for index in () if runtime.is_worker else indices:
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
        f"({n_failed / summary.n_rows:.1%}, the limit is {limit:.1%}): {reasons}; the rows that "
        f"succeeded are in {summary.path}",
        hint=f"run `prefpipe inspect {quote(str(summary.path))}` for the reasons, or raise "
        "--max-error-rate",
        summary=summary,
    )
