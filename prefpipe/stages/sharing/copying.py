"""Several files at a time, with progress, and an end when one is asked for."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from prefpipe.artifacts.storage.protocol import CountBytes
from prefpipe.errors import StoppedEarly
from prefpipe.execution.runtime import Runtime, Task

FILES_AT_ONCE = 8
LOOK_S = 0.2
"""Between two looks whether to stop."""


class CopyJob(NamedTuple):
    """Some files to copy or read, and what does it."""

    n_files: int
    n_bytes: int
    copy: Callable[[CountBytes], object]


def run_jobs(
    jobs: Sequence[CopyJob],
    runtime: Runtime,
    *,
    stage: str,
    place: str,
    n_bytes_kept: int = 0,
) -> None:
    """Run jobs in threads, showing bytes, files and the time left.

    Args:
        jobs: what to do, in this order.
        runtime: see `Runtime`.
        stage: what is done, in a word.
        place: where.
        n_bytes_kept: so much more was there before.

    Raises:
        StoppedEarly: a stop was requested; what is under way leaves nothing half.
        Exception: the first of a job; the others are ended.
    """
    if not jobs:
        return
    total = sum(job.n_bytes for job in jobs)
    n_files = sum(job.n_files for job in jobs)
    task = Task(stage, "byte", total, output=place, n_kept=n_bytes_kept)
    ended, lock = threading.Event(), threading.Lock()
    n_done = 0

    with runtime.progress(task) as advance, runtime.finishing():

        def count(n_bytes: int) -> None:
            if ended.is_set() or runtime.should_stop():
                raise StoppedEarly(
                    f"{stage} stopped on request; whole files are kept",
                    hint="run the same command again: it copies what is missing",
                )
            with lock:
                advance(n_bytes)

        def run(job: CopyJob) -> None:
            nonlocal n_done
            count(0)
            job.copy(count)
            with lock:
                n_done += job.n_files
                advance(0, figures={"files": f"{n_done:,} of {n_files:,}"})

        pool = ThreadPoolExecutor(FILES_AT_ONCE)
        try:
            _wait_for([pool.submit(run, job) for job in jobs], ended, runtime)
        finally:
            # what still runs ends at its next piece, and aborts what it has begun
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _wait_for(running: Sequence["Future[None]"], ended: threading.Event, runtime: Runtime) -> None:
    """Wait for all, or for the first that fails and those that it ends."""
    left = set(running)
    failure: BaseException | None = None
    while left:
        done, left = wait(left, timeout=LOOK_S)
        if runtime.should_stop():
            ended.set()
        for future in done:
            if future.cancelled():
                continue
            error = future.exception()
            if error is not None and (failure is None or isinstance(failure, StoppedEarly)):
                failure = error
                ended.set()
                for each in left:
                    each.cancel()
    if failure is not None:
        raise failure
