"""What surrounds a stage: its shard, its log, and what ``run.json`` records beside the configuration."""

import os
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

from prefpipe import __version__
from prefpipe.artifacts.store import Shard
from prefpipe.configs.options import ShardedConfig, StageConfig
from prefpipe.errors import UsageError
from prefpipe.stages.runtime import Advance, Runtime

VERSIONED = ("torch", "transformers", "vllm", "pyarrow", "numpy", "scikit-learn", "peft", "accelerate")


def runtime_for(
    config: StageConfig, *, log: Callable[[str], None], should_stop: Callable[[], bool],
    progress: Callable[[str, int], AbstractContextManager[Advance]], argv: Sequence[str],
) -> Runtime:  # fmt: skip
    """Return the stage's surroundings; the shard comes from the flags, or from the Slurm array variables."""
    without = ", without --overwrite," if config.overwrite.replaces_this_run else ""  # which would throw away what is finished
    how_to_go_on = f"run the same command again{without} to go on"
    shard = shard_of(config, os.environ) if isinstance(config, ShardedConfig) else Shard()
    if shard.count > 1:
        log(f"shard {shard.index} of {shard.count}")
    return Runtime(
        log=log, should_stop=should_stop, progress=progress, context=context_of(argv), shard=shard, how_to_go_on=how_to_go_on
    )


def shard_of(config: ShardedConfig, environment: Mapping[str, str]) -> Shard:
    """Return this worker's share: flags, else PREFPIPE_SHARD_INDEX / _NUM_SHARDS, else the Slurm array variables.

    Errors:
        UsageError: one variable of a pair is set without the other, or the index does not fit the count.
    """
    if config.shard_index is not None and config.num_shards is not None:
        return Shard(config.shard_index, config.num_shards)
    for index_name, count_name in (
        ("PREFPIPE_SHARD_INDEX", "PREFPIPE_NUM_SHARDS"),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ):
        index, count = environment.get(index_name), environment.get(count_name)
        if (index is None) != (count is None):
            raise UsageError(
                f"only one of {index_name} and {count_name} is set", hint="set both, or pass --shard-index and --num-shards"
            )
        if index is not None and count is not None:
            if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
                raise UsageError(
                    f"{index_name}={index} does not fit {count_name}={count}: shards are numbered from 0",
                    hint="when only some tasks of an array are run again, pass --shard-index and --num-shards yourself",
                )
            return Shard(int(index), int(count))
    return Shard()


def context_of(argv: Sequence[str]) -> dict[str, Any]:
    """Return what ``run.json`` records beside the identity: command line, host, versions."""
    versions = {"prefpipe": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"command": ["prefpipe", *argv[1:]], "host": socket.gethostname(), "folder": str(Path.cwd()), "versions": versions}
