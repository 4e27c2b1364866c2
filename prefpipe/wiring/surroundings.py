"""The surroundings of a stage: its shard, its log, and what ``run.json`` records about the run."""

import os
import platform
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from prefpipe import __version__
from prefpipe.artifacts.store import Shard
from prefpipe.configs.stage import GraceConfig, ShardedConfig, StageConfig
from prefpipe.execution.runtime import Advance, Runtime, Task
from prefpipe.wiring.batch_job import end_of_job, worker_of
from prefpipe.wiring.executors import executor_for

VERSIONED = (
    "torch",
    "transformers",
    "vllm",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "peft",
    "accelerate",
)


class StopSource(Protocol):
    """The source of stop requests, which can be delayed: see `Runtime`."""

    def __call__(self) -> bool:
        """Return whether to stop."""
        ...

    grace_s: float
    """What is being finished may take so long after SIGTERM."""

    def when_asked(self) -> float | None:
        """Return when the request came, in seconds since the epoch."""
        ...

    def is_hurried(self) -> bool:
        """Return whether a second request came, or the grace is over."""
        ...

    def finishing(self, *, however_long: bool = False) -> AbstractContextManager[None]:
        """Return a section in which a request waits."""
        ...

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a section in which it does not."""
        ...


class View(Protocol):
    """The display of the command's progress: see `Runtime`."""

    def progress(self, task: Task, /) -> AbstractContextManager[Advance]:
        """Show a task's progress until the context is left."""
        ...

    def loading(self) -> AbstractContextManager[None]:
        """Return a section in which a model is loaded."""
        ...


def runtime_for(
    config: StageConfig,
    *,
    log: Callable[[str], None],
    stop: StopSource,
    view: View,
    argv: Sequence[str],
) -> Runtime:
    """Return the stage's surroundings; the shard comes from the flags, or from the environment."""
    # the flag would throw away what is finished
    without = ", without --overwrite," if config.overwrite.replaces_this_run else ""
    how_to_go_on = f"run the same command again{without} to go on"

    set_grace(config, stop)
    shard = Shard()
    if isinstance(config, ShardedConfig):
        worker = worker_of(config, os.environ)
        shard = worker.shard
        for line in worker.describe(config.output):
            log(line)

    return Runtime(
        log=log,
        should_stop=stop,
        finishing=stop.finishing,
        interruptible=stop.interruptible,
        when_asked=stop.when_asked,
        is_hurried=stop.is_hurried,
        grace_s=stop.grace_s,
        ends_at=end_of_job(os.environ),
        progress=view.progress,
        loading=view.loading,
        context=context_of(argv),
        shard=shard,
        how_to_go_on=how_to_go_on,
        executor=executor_for(config),
    )


def set_grace(config: StageConfig, stop: StopSource) -> None:
    """Tell the signal handler how long open parts may take, now that the config is known."""
    if isinstance(config, GraceConfig):
        stop.grace_s = config.grace_seconds


def context_of(argv: Sequence[str]) -> dict[str, Any]:
    """Return the context in ``run.json`` beside the identity: command line, host, versions."""
    versions = {"prefpipe": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": ["prefpipe", *argv[1:]],
        "host": socket.gethostname(),
        "folder": str(Path.cwd()),
        "versions": versions,
    }
