"""Settings that a command leaves open: taken from the run on disk, or else from this machine.

``--part-size`` without a value and ``--backend auto`` are settled before anything else, so that
every process that makes parts gets the same values, and ``run.json`` records them. A resumed run,
on this machine or another, keeps the values it was made with.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.storage.location import Location, parse_location
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig
from prefpipe.configs.sampling import AUTO, BACKENDS
from prefpipe.configs.stage import PART_SIZE, StageConfig
from prefpipe.configs.workers import WorkersConfig
from prefpipe.errors import ModelError, PrefpipeError

SIDES = ("policy", "baseline")
RUN_HERE = ("vllm", "transformers")
Log = Callable[[str], None]


class RunOnDisk(NamedTuple):
    """A run whose settings a command may reuse: its folder and its identity."""

    folder: Location
    identity: Mapping[str, Any]


def settled(config: StageConfig, log: Log) -> StageConfig:
    """Return a config without open settings.

    Args:
        config: of any stage.
        log: what the back-end came to, and why.
    """
    if isinstance(config, ImportConfig):
        runs = _runs_on_disk(config, [config.output / CANDIDATES.name])
        return replace(config, part_size=_part_size(config.part_size, runs))

    if isinstance(config, GenerateConfig):
        runs = _runs_on_disk(config, [config.output])
        part_size = _part_size(config.part_size, runs)
        return replace(config, part_size=part_size, backend=_backend(config, runs, log))

    if isinstance(config, EvalConfig):
        sampled = [config.output / name / CANDIDATES.name for name in SIDES]
        runs = _runs_on_disk(config, sampled)
        part_size = _part_size(config.part_size, runs)

        # Both sides are of one engine, so a given one decides. It never chooses a server: prompts
        # go to a server only if the user names one.
        given = _runs([parse_location(config.policy), parse_location(config.baseline)])
        local = [run for run in given if run.identity.get("backend") in RUN_HERE]
        samples_nothing = len(given) == len(SIDES)
        backend = _backend(config, [*runs, *local], _silent if samples_nothing else log)
        return replace(config, part_size=part_size, backend=backend)
    return config


def _runs_on_disk(config: StageConfig, folders: Sequence[Location]) -> list[RunOnDisk]:
    """Return the runs that the command continues; none if it starts again."""
    return [] if config.overwrite.replaces_this_run else _runs(folders)


def _runs(folders: Sequence[Location]) -> list[RunOnDisk]:
    """Return the existing candidates."""
    runs = []
    for folder in folders:
        record = _record_or_none(folder)
        if record is not None and record.kind == CANDIDATES.name:
            runs.append(RunOnDisk(folder, record.identity))
    return runs


def _record_or_none(folder: Location) -> RunRecord | None:
    try:
        return read_run_record(folder)
    except PrefpipeError:
        return None  # no run is there yet, or none that can be read, which its own stage says


def _part_size(given: int | None, runs: Sequence[RunOnDisk]) -> int:
    if given is not None:
        return given
    for run in runs:
        on_disk = run.identity.get("part_size")
        # a boolean is a whole number to Python
        if isinstance(on_disk, int) and not isinstance(on_disk, bool) and on_disk >= 1:
            return on_disk
    return PART_SIZE


def _backend(config: GenerateConfig | EvalConfig, runs: Sequence[RunOnDisk], log: Log) -> str:
    if config.backend != AUTO:
        return config.backend

    for run in runs:
        on_disk = run.identity.get("backend")
        if on_disk in BACKENDS and on_disk != AUTO:
            log(f"backend: {on_disk}, as recorded for {run.folder}")
            return str(on_disk)

    lack = _why_not_vllm(config)
    if lack is None:
        has_gpu = "each worker has a GPU" if _reserves_gpus(config) else "a GPU is visible"
        log(f"backend: vllm, because it is installed and {has_gpu}")
        return "vllm"
    log(f"backend: transformers, because {lack}")
    return "transformers"


def _reserves_gpus(config: WorkersConfig) -> bool:
    """Return whether workers run on a cluster and get GPUs there; this machine may have none."""
    return config.on is not None and config.gpus_per_worker is not None


def _why_not_vllm(config: GenerateConfig | EvalConfig) -> str | None:
    """Return why vLLM cannot be used, None if it can."""
    from prefpipe.backends.generators.vllm_support import find_version
    from prefpipe.backends.visible_gpus import n_installed_gpus, visible_gpus

    if config.device != "auto":
        return f"--device {config.device} is a setting of transformers"
    try:
        find_version()
    except ModelError as error:
        return error.message.partition(", and --backend")[0]

    if _reserves_gpus(config):
        return None
    n_installed = n_installed_gpus()
    if n_installed and visible_gpus(os.environ, n_installed).names:
        return None
    if config.on is not None:
        return "no NVIDIA GPU is visible here, and --gpus-per-worker is not set"
    return "no NVIDIA GPU is visible"


def _silent(_line: str) -> None:
    """Log nothing about an engine that samples nothing."""
