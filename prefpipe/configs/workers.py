"""Who makes the parts of a stage: workers on this node, or on a cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Url
from prefpipe.configs.options import option
from prefpipe.configs.stage import MACHINES_HEADING, StageConfig

AUTO = "auto"
RAY = "ray"


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(StageConfig):
    """What the stages share whose parts several processes can make at the same time."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        MACHINES_HEADING: ("workers", "gpus_per_worker", "on"),
    }

    workers: str | None = option(
        None,
        identity=False,
        metavar="N|auto",
        common=True,
        help="processes on this node, each with its own engine and GPUs; auto: one per visible "
        "GPU; default: this process alone",
    )
    gpus_per_worker: int | None = option(
        None,
        identity=False,
        minimum=1,
        help="visible GPUs of each worker; default: as many as its engine uses",
    )
    on: str | None = option(
        None,
        identity=False,
        metavar="ray[:ADDRESS]",
        help="start the workers on a Ray cluster: ray for the local one or RAY_ADDRESS, "
        "ray:HOST:PORT for another",
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        workers = self.workers
        if workers is not None and workers != AUTO:
            is_number = workers.isascii() and workers.isdecimal()
            if not is_number or int(workers) < 1:
                problems.append(f"--workers must be 1 or more, or {AUTO}, not {workers}")
        if self.gpus_per_worker is not None and workers is None:
            problems.append("--gpus-per-worker needs --workers")

        if self.on is not None:
            if self.on.partition(":")[0] != RAY:
                problems.append(f"--on must be {RAY} or {RAY}:ADDRESS, not {self.on}")
            if workers in (None, AUTO):
                problems.append("--on needs --workers N, how many are to run on the cluster")
            if isinstance(self.output, Url):
                problems.append(
                    f"--on {self.on} needs a folder that all nodes share, not {self.output}: start "
                    "a copy of the command with --claim on each node instead"
                )
        return problems

    @property
    def n_workers(self) -> int | None:
        """How many workers are asked for; None for one a visible GPU."""
        return None if self.workers in (None, AUTO) else int(str(self.workers))
