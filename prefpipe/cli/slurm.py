"""``prefpipe slurm``: the sbatch script that makes what a stage's output lacks."""

import os
import shlex
from collections.abc import Sequence
from typing import Any

import typer

from prefpipe.cli.dataclass_commands import add_stage
from prefpipe.cli.overwrite_flag import spelled_out
from prefpipe.configs.slurm import PARTWISE, SlurmConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.stages import STAGES
from prefpipe.errors import UsageError
from prefpipe.spelling import did_you_mean

BEATEN_BY = {
    "SBATCH_ARRAY_INX": "--array",
    "SBATCH_SIGNAL": "--signal",
    "SBATCH_NO_REQUEUE": "--requeue",
    "SBATCH_OPEN_MODE": "--open-mode",
}
"""Variables that sbatch takes before the lines of a script which it cannot do without."""


def slurm(config: SlurmConfig) -> None:
    """Print the script; nothing where there is nothing to make."""
    from prefpipe.artifacts.atomic import make_folder
    from prefpipe.cli import stderr, stdout
    from prefpipe.wiring.slurm import slurm_array

    _refuse_variables()
    stage = stage_of(config.stage_words)
    array = slurm_array(config, stage, stderr.log)
    if array is None:
        stderr.log(f"{stage.output} has all its parts: nothing to submit")
        return

    # Slurm opens the log before the script runs, which can make no folder for it
    if config.log_folder is not None:
        make_folder(config.log_folder)
    stderr.log(array.comment)
    stdout.pipe_exactly(array.script())


def stage_of(words: Sequence[str]) -> StageConfig:
    """Return the config of a stage's command, read as the command line reads it.

    Raises:
        UsageError: it is no stage's, or its words cannot be used.
        typer.Exit: it asks for its help alone.
    """
    classes = {config_class.stage: config_class for config_class in STAGES}
    name, *rest = words
    if name not in classes:
        raise UsageError(
            f"`{name}` is not a stage{did_you_mean(name, classes)}",
            hint="after `--`, type a command without `prefpipe`: "
            "`generate prompts.jsonl -o run/candidates ...`",
        )

    if not issubclass(classes[name], PARTWISE):
        raise UsageError(
            f"`{name}` cannot be divided among the tasks of an array",
            hint=f"an array makes the parts of {', '.join(each.stage for each in PARTWISE)}; "
            "docs/guides/scaling.md has scripts for train",
        )

    read: list[StageConfig] = []
    app = typer.Typer(add_completion=False)
    add_stage(app, classes[name], lambda stage, _as_json: read.append(stage))
    try:
        typer.main.get_command(app)(spelled_out(rest), prog_name=name, standalone_mode=False)
    except Exception as error:
        # what typer raises for a wrong flag is known by what it can do
        if not hasattr(error, "format_message"):
            raise
        message: Any = error.format_message()
        raise UsageError(
            f"`{shlex.join(words[:3])} ...`: {message}", hint=f"run `prefpipe {name} --help`"
        ) from error
    if not read:
        raise typer.Exit
    return read[0]


def _refuse_variables() -> None:
    """Refuse variables that would change the script where it is submitted."""
    for name, flag in BEATEN_BY.items():
        if name in os.environ:
            raise UsageError(
                f"{name} is set, and sbatch takes it before the {flag} of the script",
                hint=f"run `unset {name}`",
            )
