"""What every stage is handed beside its config, who makes its parts included.

A stage never prints and never looks at signals; it is given a place to log, a progress bar and a
question to ask.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from prefpipe.artifacts.store import Output, Shard
from prefpipe.configs.stage import StageConfig
from prefpipe.errors import EngineNotOpenedError
from prefpipe.execution.main_thread import MainThread
from prefpipe.execution.part_maker import PartMade, PartMaker, Tally

NO_TALLY: Tally = {}
NO_ROWS: Mapping[str, int] = {}
NO_FIGURES: Mapping[str, str] = {}


@dataclass(frozen=True)
class Task:
    """What a command shows the progress of.

    ``stage`` writes ``output``. ``unit`` is what is counted, ``part`` or ``step``: ``total`` of
    them are left to do, and ``n_kept`` were finished before. ``in_bunches``: many units end
    together after a long time without one, so that their pace says nothing about the time left.
    ``first_is_slow``: the first unit takes the time of what comes once, too, such as models that
    workers load.
    """

    stage: str
    unit: str
    total: int
    output: str = ""
    n_kept: int = 0
    in_bunches: bool = False
    first_is_slow: bool = False


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
    """Stand in for a section of `Runtime` where nothing asks to stop."""
    return nullcontext()


class Job(NamedTuple):
    """The parts of one stage that are to be made.

    ``config`` says another process all that it needs to make them. ``is_done`` looks at the disk
    whether anybody has made a part since the command began; ``made_by_others`` is called with the
    number of parts that were made behind this command's back.
    """

    config: StageConfig
    output: Output
    maker: PartMaker[Any]
    to_do: Sequence[int]
    is_done: Callable[[int], bool]
    runtime: "Runtime"
    made_by_others: Callable[[int], None] = lambda _n: None


class Executor(Protocol):
    """Decides who makes which part. Rows depend on configuration and keys alone.

    ``has_workers``: other processes make the parts, and this one hands them out.
    """

    has_workers: bool

    @property
    def is_worker(self) -> bool:
        """Whether this process makes parts for a driver, which does the rest of the command."""
        ...

    def make_parts(self, job: Job) -> Iterator[PartMade]:
        """Yield the parts as they are made, until all are or a stop is asked for.

        Raises:
            Exception: parts could not be made; those that could are on disk.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """The world outside.

    It is where to log, whether to stop, how to show progress, and what to record in ``run.json``.

    A request to stop ends the command there and then, unless it comes in a section that is
    ``finishing()`` something; there one asks ``should_stop()``. ``interruptible()`` is a section
    within such a one that has nothing to finish: a model is loaded.

    ``when_asked()`` is when the request came and ``ends_at`` when the batch system ends the job,
    both in seconds since the epoch. ``started``: when the command began, on the monotonic clock.

    ``grace_s``: how long what is being finished may take after SIGTERM. ``is_hurried()``: a second
    signal came, or the grace is over, and nothing is waited for any more.

    ``progress`` shows how far a task is; what runs within ``loading()`` says nothing about its
    pace.

    ``executor``: who makes the parts, None for this process. ``main_thread`` opens engines on
    behalf of the threads that make parts.
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

    @property
    def is_worker(self) -> bool:
        """Whether another process, the driver, opened the output and hands out the parts."""
        return self.executor is not None and self.executor.is_worker

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Return a section in which an engine is opened, with nothing to finish.

        Raises:
            EngineNotOpenedError: in a worker, what the block raised: its driver must not take it
                for the fault of a part.
        """
        try:
            with self.interruptible(), self.loading():
                yield
        except Exception as error:
            if self.is_worker:
                raise EngineNotOpenedError(error) from error
            raise
