"""A training with ``--keep-step``, in a process of its own, that kills itself while it writes a kept step."""

import os
import signal
from pathlib import Path

from prefpipe.configs.train import TrainConfig
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import inspect_model
from prefpipe.stages.train import result, run
from support.training_job import FORK

FLAGS = {
    "objective": "dpo",
    "max_steps": 6,
    "keep_step": (3, 4),
    "save_steps": 2,
    "learning_rate": 1e-2,
    "global_batch_size": 4,
    "report_to": ("none",),
}
write_summary = result.write_summary


def train(groups: Path, model: Path, output: Path, die_at: int | None) -> None:
    """Train; with ``die_at`` SIGKILL comes when all of that step is written but its summary."""

    def dying(folder, figures):
        if ".step-" in str(folder) and figures["n_steps"] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        write_summary(folder, figures)

    result.write_summary = dying
    config = TrainConfig(groups=groups, output=output, model=str(model), **FLAGS)
    run.run(config, inspect_model(model, str(model)), Runtime(log=lambda _line: None))


def run_job(groups: Path, model: Path, output: Path, die_at: int | None = None) -> int:
    """Run ``train`` in a process of its own and return its exit code, negative for a signal."""
    process = FORK.Process(target=train, args=(groups, model, output, die_at))
    process.start()
    process.join(timeout=120)
    assert process.exitcode is not None
    return process.exitcode
