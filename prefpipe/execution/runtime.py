"""What every stage receives beside its config, including who makes its parts.

A stage never prints and never looks at signals: it receives a log, a progress bar and a way to
check for stop requests.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from prefpipe.artifacts.store import Output, Shard
from prefpipe.backends.open_calls import NONE_OPEN, Answered
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import EngineNotOpenedError
from prefpipe.execution.main_thread import MainThread
from prefpipe.execution.open_engines import OpenEngines
from prefpipe.execution.part_maker import PartMade, PartMaker, Tally

NO_TALLY: Tally = {}
NO_ROWS: Mapping[str, int] = {}
NO_FIGURES: Mapping[str, str] = {}


@dataclass(frozen=True)
class Task:
    """What a command shows the progress of.

    ``stage`` writes ``output``. ``unit`` is what is counted, ``part``, ``step`` or ``byte``:
    ``total`` of them are left to do, and ``n_kept`` were finished before. ``in_bunches``: many
    units end together after a long time without one, so that their pace says nothing about the time
    left.
    ``first_is_slow``: the first unit takes the time of what comes once, too, such as models that
    workers load. ``last_share``: the size of the last unit in units, below 1 where the last part
    holds the prompts that were left. ``answered``: how far the units under way are, in rows.
    """

    stage: str
    unit: str
    total: int
    output: str = ""
    n_kept: int = 0
    in_bunches: bool = False
    first_is_slow: bool = False
    last_share: float = 1.0
    answered: Callable[[], Answered] = lambda: NONE_OPEN


class Advance(Protocol):
    """Moves the progress of a task on."""

    def __call__(
        self,
        n: int,
        tally: Tally = ...,
        /,
        *,
        rows: Mapping[str, int] = ...,
        figures: Mapping[str, str] = ...,
    ) -> None:
        """Count units as done.

        Args:
            n: how many more.
            tally: what was counted in them, ``n_tokens`` among it.
            rows: how many rows of each status they have.
            figures: the newest figures to show, by name: ``{"loss": "0.412"}``.
        """
        ...


class ShowProgress(Protocol):
    """Shows how far a task is."""

    def __call__(self, task: Task, /) -> AbstractContextManager[Advance]:
        """Show progress until the context is left."""
        ...


@contextmanager
def no_progress(_task: Task, /) -> Iterator[Advance]:
    """Show nothing."""

    def advance(
        _n: int,
        _tally: Tally = NO_TALLY,
        /,
        *,
        rows: Mapping[str, int] = NO_ROWS,  # noqa: ARG001
        figures: Mapping[str, str] = NO_FIGURES,  # noqa: ARG001
    ) -> None:
        return

    yield advance


def no_section(*, however_long: bool = False) -> AbstractContextManager[None]:  # noqa: ARG001
    """Stand in for a section of `Runtime` if nothing can request a stop."""
    return nullcontext()


class Job(NamedTuple):
    """The parts of one stage that must be made.

    ``config`` holds everything that another process needs to make them. ``is_done`` checks the disk
    for a part that anyone has made since the command began; ``made_by_others`` is called with the
    number of parts that other commands made.
    """

    config: StageConfig
    output: Output
    maker: PartMaker[Any]
    to_do: Sequence[int]
    is_done: Callable[[int], bool]
    runtime: "Runtime"
    made_by_others: Callable[[int], None] = lambda _n: None


class Executor(Protocol):
    """Decides who makes which part. Rows depend only on configuration and keys.

    ``has_workers``: other processes make the parts, and this one hands them out.
    """

    has_workers: bool

    @property
    def is_worker(self) -> bool:
        """Whether this process makes parts for a driver, which does the rest of the command."""
        ...

    def make_parts(self, job: Job) -> Iterator[PartMade]:
        """Yield parts as they are made, until all are made or a stop is requested.

        Raises:
            Exception: some parts could not be made; the others are on disk.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """The world outside.

    It says where to log, whether to stop, how to show progress, and what to record in ``run.json``.

    A stop request ends the command at once, unless it comes in a ``finishing()`` section, which
    checks ``should_stop()`` instead. ``interruptible()`` is a section within a finishing one that
    has nothing to finish, such as loading a model.

    ``when_asked()`` is the time of the stop request and ``ends_at`` the time at which the batch
    system ends the job, both in seconds since the epoch. ``started``: when the command began, on
    the monotonic clock.

    ``grace_s``: how long unfinished work may take after SIGTERM. ``is_hurried()``: a second signal
        came or the grace is over, so nothing waits any more.

    ``progress`` shows how far a task is; what runs within ``loading()`` says nothing about its
    pace.

    ``executor``: who makes the parts, None for this process. ``main_thread`` opens engines on
    behalf of the threads that make parts, and ``engines`` are those that are open.
    """

    log: Callable[[str], None] = lambda _line: None
    should_stop: Callable[[], bool] = lambda: False
    finishing: Callable[..., AbstractContextManager[None]] = no_section
    interruptible: Callable[[], AbstractContextManager[None]] = no_section
    when_asked: Callable[[], float | None] = lambda: None
    is_hurried: Callable[[], bool] = lambda: False
    grace_s: float = 20.0
    ends_at: float | None = None
    progress: ShowProgress = no_progress
    loading: Callable[[], AbstractContextManager[None]] = nullcontext
    context: Mapping[str, Any] = field(default_factory=dict)
    shard: Shard = Shard()
    how_to_go_on: str = "run the same command again to go on"
    started: float = field(default_factory=time.monotonic)
    executor: Executor | None = None
    main_thread: MainThread = field(default_factory=MainThread)
    engines: OpenEngines = field(default_factory=OpenEngines)

    @property
    def is_worker(self) -> bool:
        """Whether a driver process opened the output and hands out the parts."""
        return self.executor is not None and self.executor.is_worker

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Return a section that opens an engine and has nothing to finish.

        Raises:
            EngineNotOpenedError: in a worker, wraps the error of the block, so that the driver does
                not blame a part.
        """
        try:
            with self.interruptible(), self.loading():
                yield
        except Exception as error:
            if self.is_worker:
                raise EngineNotOpenedError(error) from error
            raise
