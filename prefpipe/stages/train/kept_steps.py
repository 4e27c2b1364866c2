"""Models of intermediate steps (``--keep-step``), and which of them can no longer be made.

A training passes each step once. A step that has already passed is refused before anything is
loaded: training everything again unasked may cost days.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from prefpipe.artifacts import run_record
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.artifacts.training_folders import kept_step_folder
from prefpipe.errors import UsageError
from prefpipe.models.files import holds_config
from prefpipe.training.checkpoints import (
    CHECKPOINT_NAME,
    checkpoint_problem,
    find_last_checkpoint,
    step_of_checkpoint,
    weights_problem,
)
from prefpipe.training.ranks import from_first
from prefpipe.training.settings import TrainSettings


def steps_gone_by(output: Path, settings: TrainSettings, reached: int) -> list[int]:
    """Return the steps to keep that are not on disk and lie before the current step.

    Args:
        output: of the run.
        settings: with the steps to keep.
        reached: the step after which it goes on, or that it ended with.
    """
    passed = [step for step in settings.keep_steps if step <= reached]
    return [step for step in passed if not _is_kept(output, step)]


def refuse_steps_gone_by(output: Path, settings: TrainSettings, reached: int) -> None:
    """Refuse what `steps_gone_by` returns.

    Raises:
        UsageError: there is one; the hint says how it can still be had.
    """
    # All processes go the way of the first: another may see the folder a moment later.
    gone = from_first(steps_gone_by(output, settings, reached))
    if not gone:
        return

    hint = "start again with --overwrite, or with -o in another folder"
    earlier = _last_checkpoint_before(output, gone[0])
    if earlier is not None:
        hint += (
            "; or continue from the last checkpoint before it: -o NEW --resume-from "
            f"{quote(str(earlier))}"
        )
    raise UsageError(
        f"--keep-step {gone[0]}: {output} has trained {reached} steps, and the model of step "
        f"{gone[0]} was not kept",
        hint=hint,
    )


def step_reached(output: Path) -> int:
    """Return the current step of a run: the last one, or that of its last checkpoint."""
    if (output / SUMMARY_FILE).is_file():
        return steps_of_finished_run(output)
    checkpoint = find_last_checkpoint(output)
    return 0 if checkpoint is None else step_of_checkpoint(checkpoint)


def steps_of_finished_run(output: Path) -> int:
    """Return the step that a finished run ended with."""
    figures: Mapping[str, int] = json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))
    return figures["n_steps"]


def _is_kept(output: Path, step: int) -> bool:
    """Return whether the model of a step is on disk and complete."""
    folder = kept_step_folder(output, step)
    if not (folder / run_record.FILE_NAME).is_file():
        return False
    return holds_config(folder) and weights_problem(folder) is None


def _last_checkpoint_before(output: Path, step: int) -> Path | None:
    """Return the last complete checkpoint before a step."""
    named = [path for path in output.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)]
    whole = [path for path in named if checkpoint_problem(path) is None]
    before = [path for path in whole if step_of_checkpoint(path) < step]
    return max(before, key=step_of_checkpoint, default=None)
