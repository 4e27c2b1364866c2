"""From the flags of ``prefpipe slurm`` and a stage's command to the array that makes its parts."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts import run_record
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, Shard
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.score import ScoreConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.slurm import PARTWISE, SlurmConfig
from prefpipe.configs.stage import ShardedConfig, StageConfig
from prefpipe.configs.workers import AUTO, WorkersConfig
from prefpipe.errors import FingerprintError, InputError, UsageError
from prefpipe.execution.slurm_script import SlurmArray
from prefpipe.status.artifact_status import ArtifactStatus, Effect, ranges
from prefpipe.status.checker import StatusChecker
from prefpipe.text.untrusted import visible_line
from prefpipe.wiring.executors import runs_a_model_here
from prefpipe.wiring.open_settings import settled

DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own, of clusters that do not say another."""
SCONTROL_TIMEOUT_S = 30


class PartsToMake(NamedTuple):
    """The parts of an output: their number, and those left to make."""

    n_parts: int
    to_make: Sequence[int]


def slurm_array(
    config: SlurmConfig, stage: StageConfig, log: Callable[[str], None]
) -> SlurmArray | None:
    """Return the array that makes the missing parts; None if nothing is missing.

    Args:
        config: the flags of ``prefpipe slurm``.
        stage: the command behind ``--``.
        log: where to say what is worth knowing.

    Raises:
        UsageError: a command that no array can run, or more shards than parts or than one array
            may have.
        FingerprintError: the output is of another configuration.
    """
    # the tasks settle it themselves, where their GPUs are: the command stays as it was typed
    stage = _partwise(settled(stage, lambda _line: None))
    parts = _parts_to_make(stage, log, quick=config.quick)
    if config.array > parts.n_parts:
        noun = "part" if parts.n_parts == 1 else "parts"
        raise UsageError(
            f"--array {config.array} is more than the {parts.n_parts} {noun} of {stage.output}: "
            f"{config.array - parts.n_parts} would have nothing to do",
            hint=f"pass --array {parts.n_parts} or less, or make smaller parts with --part-size "
            "of the command that reads the prompts",
        )
    if not parts.to_make:
        return None

    if stage.claim:
        # copies of one command; more than there are parts would find nothing
        shards = list(range(min(config.array, len(parts.to_make))))
    else:
        shards = _unfinished_shards(config.array, parts)
    window = _window(config, shards)
    tasks = [shard - window.start for shard in shards if shard in window]
    return SlurmArray(
        words=config.stage_words,
        program=_program(config),
        activation=config.activate,
        folder=_folder(),
        tasks=ranges(tasks),
        first_shard=window.start,
        num_shards=None if stage.claim else config.array,
        directives=_directives(config, stage),
        max_requeues=config.max_requeues,
        comment=visible_line(
            f"{len(parts.to_make)} of {parts.n_parts} parts of {stage.output} to make, by "
            f"{len(tasks)} of {config.array} workers",
            400,
        ),
    )


def _unfinished_shards(count: int, parts: PartsToMake) -> list[int]:
    """Return the shards with parts left to make."""
    to_make = set(parts.to_make)
    return [
        index
        for index in range(count)
        if not to_make.isdisjoint(Shard(index, count).parts(parts.n_parts))
    ]


def _partwise(stage: StageConfig) -> ShardedConfig:
    """Return the command if tasks of an array can divide its parts, and may be run again.

    Raises:
        UsageError: it says already which parts it makes, or throws away what is made.
    """
    assert isinstance(stage, PARTWISE)
    if stage.shard_index is not None or not stage.shards:
        flag = "--no-shards" if not stage.shards else "--shard-index and --num-shards"
        raise UsageError(
            f"the command has {flag}, but the script assigns parts to tasks",
            hint=f"remove {flag} from the command and from its --config file",
        )

    if getattr(stage, "emit_batch", None) is not None:
        raise UsageError(
            "the command has --emit-batch: every task would write the same file of questions",
            hint="run the command without an array: it loads no model",
        )

    if stage.overwrite.replaces_this_run:
        raise UsageError(
            "the command has --overwrite: a requeued task would delete the parts it already made",
            hint=f"pass --overwrite=stale, or remove {stage.output} first",
        )
    return stage


def _parts_to_make(stage: ShardedConfig, log: Callable[[str], None], *, quick: bool) -> PartsToMake:
    """Compare the command with its output on disk.

    Raises:
        FingerprintError: the output is of another configuration, and is not to be replaced.
        InputError: it cannot be read.
    """
    if not files.is_file(stage.output / run_record.FILE_NAME):
        n_parts = _count_parts(stage, log)
        return PartsToMake(n_parts, range(n_parts))

    status = StatusChecker().check(stage.output, quick=quick)
    if Effect.CORRUPT in status.effects:
        raise InputError(
            status.reasons[0],
            hint=f"to see why, run: {_status_of(stage.output)}",
        )
    if _is_replaced(stage, status):
        n_parts = _count_parts(stage, log)
        return PartsToMake(n_parts, range(n_parts))
    if Effect.BEHIND in status.effects:
        log(f"warning: the inputs of {stage.output} are stale; run {_status_of(stage.output)}")
    if getattr(stage, "retry_errors", False):
        # which of them hold rows to ask for again is seen by the tasks
        return PartsToMake(status.n_parts, range(status.n_parts))
    return PartsToMake(status.n_parts, status.to_make)


def _is_replaced(stage: ShardedConfig, status: ArtifactStatus) -> bool:
    """Return whether the command makes all parts again.

    Raises:
        FingerprintError: it would have to, but ``--overwrite=stale`` was not given. Each task would
        fail later.
    """
    on_disk = run_record.read_run_record(stage.output)
    asked_for = {"stage": stage.stage, "version": stage.VERSION, **stage.identity()}
    # what only one of them has, models and parents above all, is for the tasks to compare
    shared = asked_for.keys() & on_disk.identity.keys()
    differences = field_differences(
        {name: on_disk.identity[name] for name in shared},
        {name: asked_for[name] for name in shared},
    )

    extends = isinstance(stage, GenerateConfig) and stage.extend
    if extends and all(each.key == "n" for each in differences):
        return bool(differences)
    reasons = [each.worded("on disk", "requested") for each in differences]
    if not reasons and Effect.OTHER_RUN in status.effects:
        reasons = [line.strip() for line in status.reasons]
    if reasons and stage.overwrite is Overwrite.NO:
        raise FingerprintError(
            f"{stage.output} holds the result of another configuration:\n  " + "\n  ".join(reasons),
            hint="choose another folder with -o, restore the old values, or make everything "
            "again with --overwrite=stale",
        )
    return bool(reasons)


def _count_parts(stage: ShardedConfig, log: Callable[[str], None]) -> int:
    """Return the number of parts of a command that has not been run yet."""
    if isinstance(stage, GenerateConfig):
        from prefpipe.stages.generate import count_parts

        return count_parts(stage)

    parent = _parent_of(stage)
    n_present = len(parent.present(range(parent.n_parts), allow_partial=True))
    if n_present < parent.n_parts:
        log(
            f"warning: {parent.path} has {n_present} of its {parent.n_parts} parts; a task whose "
            "input is missing exits with 4"
        )
    return parent.n_parts


def _parent_of(stage: ShardedConfig) -> Artifact:
    """Return the artifact whose parts correspond one to one to the stage's parts."""
    from prefpipe.artifacts.schemas import CANDIDATES
    from prefpipe.artifacts.store import open_input

    if isinstance(stage, LogprobsConfig):
        from prefpipe.stages.logprobs import open_responses  # brings in torch

        return open_responses(stage.groups)
    if isinstance(stage, JudgeConfig):
        return open_input(stage.a, schema=CANDIDATES.name, name="A")
    assert isinstance(stage, ScoreConfig | EmbedConfig | SelectConfig)
    return open_input(stage.candidates, schema=CANDIDATES.name, name="CANDIDATES")


def _window(config: SlurmConfig, shards: Sequence[int]) -> range:
    """Return the shards that one array can have: Slurm numbers tasks below MaxArraySize.

    Raises:
        UsageError: the unfinished shards are of several windows, and none is chosen.
    """
    size = config.max_array_size or (_max_array_size() if config.array > 1 else 1)
    windows = sorted({shard // size for shard in shards})
    number = config.window
    if number is None and len(windows) > 1:
        loop = " ".join(map(str, windows))
        raise UsageError(
            f"--array {config.array} exceeds the size of one array on this cluster (MaxArraySize "
            f"{size}): it takes {len(windows)} arrays",
            hint=f"for window in {loop}; do prefpipe slurm --window $window ... | sbatch; done",
        )

    if number is None:
        number = windows[0]
    if number not in windows:
        raise UsageError(
            f"--window {number} has no shard with parts left to make",
            hint=f"windows with parts left: {', '.join(map(str, windows))}",
        )
    return range(number * size, (number + 1) * size)


def _max_array_size() -> int:
    """Return the cluster's MaxArraySize, Slurm's default if there is no cluster to ask."""
    try:
        answer = subprocess.run(
            ["scontrol", "show", "config"],
            capture_output=True,
            text=True,
            check=True,
            timeout=SCONTROL_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return DEFAULT_MAX_ARRAY_SIZE

    for line in answer.stdout.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and value.strip().isdecimal():
            return int(value)
    return DEFAULT_MAX_ARRAY_SIZE


def _folder() -> Path:
    """Return the current folder as the shell names it.

    With links and automounters, another node may know only that name.
    """
    name = os.environ.get("PWD", "")
    is_this = Path(name).is_absolute() and Path(name).exists() and Path(name).samefile(Path.cwd())
    return Path(name) if is_this else Path.cwd()


def _program(config: SlurmConfig) -> list[str]:
    """Return the program that runs prefpipe in a task."""
    if config.activate:
        return ["prefpipe"]
    # not `python -m prefpipe`, which would take a module of the user's folder for Python's own
    beside_python = Path(sys.executable).with_name("prefpipe")
    return [str(beside_python)] if beside_python.exists() else [sys.executable, "-Pm", "prefpipe"]


def _directives(config: SlurmConfig, stage: ShardedConfig) -> list[tuple[str, str | None]]:
    """Return the ``#SBATCH`` lines beside ``--array``."""
    n_gpus = _gpus_of_a_task(config, stage)
    log_file = None
    if config.log_folder is not None:
        folder = str(_folder() / config.log_folder).replace("%", "%%")
        log_file = f"{folder}/%x-%A_%a.log"

    further = config.further_directives
    lines: list[tuple[str, Any]] = [
        ("job-name", f"prefpipe-{stage.stage}"),
        ("nodes", 1),
        ("ntasks", 1),
        ("cpus-per-task", config.cpus_per_worker),
        ("gres", f"gpu:{n_gpus}" if n_gpus else None),
        ("mem", config.mem),
        ("time", config.time),
        ("partition", config.partition),
        ("account", config.account),
        ("output", log_file),
        ("signal", f"B:USR1@{config.signal_seconds}"),
        ("open-mode", "append"),
    ]
    names = [name for name, _ in further]
    given = [(name, str(value)) for name, value in lines if value is not None and name not in names]
    return [*given, ("requeue", None), *further]


def _gpus_of_a_task(config: SlurmConfig, stage: ShardedConfig) -> int:
    """Return the GPUs that ``--gres`` requests.

    Raises:
        UsageError: it is less than the command is going to look for.
    """
    asked_for = config.gpus_per_worker
    if asked_for is None:
        return gpus_needed(stage)
    # none: another directive asks for them, or the model runs without
    is_counted = isinstance(stage, WorkersConfig) and stage.workers != AUTO
    if is_counted and 0 < asked_for < gpus_needed(stage):
        raise UsageError(
            f"--gpus-per-worker {asked_for} of a task is less than the {gpus_needed(stage)} GPUs "
            "that the command needs: its --workers times --gpus-per-worker or "
            "--tensor-parallel-size",
            hint=f"pass --gpus-per-worker {gpus_needed(stage)} before `--`, or use fewer GPUs in "
            "the command after it",
        )
    return asked_for


def gpus_needed(stage: ShardedConfig) -> int:
    """Return the GPUs that one task of the array needs.

    Raises:
        UsageError: the task itself has a worker for each GPU, however many these are.
    """
    if not isinstance(stage, WorkersConfig) or stage.on is not None:
        return 0
    if not runs_a_model_here(stage):
        return 0
    if stage.workers is not None and stage.n_workers is None:
        raise UsageError(
            "the command has --workers auto, one worker for each GPU of a task",
            hint="pass the number of GPUs of a task: prefpipe slurm --gpus-per-worker 8 ...",
        )
    n_each: int = getattr(stage, "tensor_parallel_size", 1)
    if stage.gpus_per_worker is not None:
        n_each = stage.gpus_per_worker
    return n_each * (stage.n_workers or 1)


def _status_of(path: Location) -> str:
    return f"prefpipe status {shlex.quote(str(path))}"
