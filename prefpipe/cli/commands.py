"""The commands of ``prefpipe``: each is imported when it runs, or when its own help is shown.

``prefpipe --help`` and ``prefpipe X`` import no command but their own, so that every start is fast.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import typer


class Listed(NamedTuple):
    """A command before it is imported.

    ``summary``: the first sentence of its help. ``add``: imports it and adds it to an application.
    ``commands``: those of a group.
    """

    summary: str
    add: Callable[[typer.Typer], None]
    commands: tuple[str, ...] = ()
    is_hidden: bool = False
    is_stage: bool = False


class LazyCommands(dict[str, Any]):
    """Commands by name, as click looks them up: each is made at its first use."""

    def __init__(self, listed: Mapping[str, Listed]) -> None:
        """List them.

        Args:
            listed: by name, in the order of `--help`.
        """
        super().__init__(listed)

    def __getitem__(self, name: str) -> Any:
        """Return a command as click has it."""
        found = super().__getitem__(name)
        if isinstance(found, Listed):
            found = self[name] = _made(found)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """Return a command, ``default`` if there is none of that name."""
        if name not in self:
            return default
        return self[name]

    def items(self) -> Any:
        """Return all commands with their names; all are made."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """Return all commands; all are made."""
        return [self[name] for name in self]


def _made(listed: Listed) -> Any:
    """Return a listed command as click has it."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    listed.add(app)
    (command,) = typer.main.get_group(app).commands.values()
    return command


def _generate(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.generate import GenerateConfig

    add_stage(app, GenerateConfig, run_stage)


def _score(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.score import ScoreConfig

    add_stage(app, ScoreConfig, run_stage)


def _embed(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.embed import EmbedConfig

    add_stage(app, EmbedConfig, run_stage)


def _select(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.select import SelectConfig

    add_stage(app, SelectConfig, run_stage)


def _train(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.train import TrainConfig

    add_stage(app, TrainConfig, run_stage)


def _judge(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.judge import JudgeConfig

    add_stage(app, JudgeConfig, run_stage)


def _logprobs(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.logprobs import LogprobsConfig

    add_stage(app, LogprobsConfig, run_stage)


def _import_files(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.import_files import ImportConfig

    add_stage(app, ImportConfig, run_stage)


def _export(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_stage
    from prefpipe.cli.run_stage import run_stage
    from prefpipe.configs.export import ExportConfig

    add_stage(app, ExportConfig, run_stage)


def _eval(app: typer.Typer) -> None:
    from prefpipe.cli.eval_group import eval_group
    from prefpipe.cli.run_stage import run_stage

    app.add_typer(eval_group(run_stage), name="eval")


def _init(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.init import init
    from prefpipe.configs.init import InitConfig

    add_command(app, InitConfig, init)


def _rounds(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.rounds import rounds
    from prefpipe.configs.rounds import RoundsConfig

    add_command(app, RoundsConfig, rounds)


def _study(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.study import study
    from prefpipe.configs.study import StudyConfig

    add_command(app, StudyConfig, study)


def _status(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.status import status
    from prefpipe.configs.status import StatusConfig

    add_command(app, StatusConfig, status)


def _inspect(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.inspect import inspect
    from prefpipe.configs.inspect import InspectConfig

    add_command(app, InspectConfig, inspect)


def _report(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.report import report
    from prefpipe.configs.report import ReportConfig

    add_command(app, ReportConfig, report)


def _savings(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.savings import savings
    from prefpipe.configs.savings import SavingsConfig

    add_command(app, SavingsConfig, savings)


def _check(app: typer.Typer) -> None:
    from prefpipe.cli.check import check
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.configs.check import CheckConfig

    add_command(app, CheckConfig, check)


def _merge(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.merge import merge
    from prefpipe.configs.merge import MergeConfig

    add_command(app, MergeConfig, merge)


def _push(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.push import push
    from prefpipe.configs.push import PushConfig

    add_command(app, PushConfig, push)


def _pull(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.push import pull
    from prefpipe.configs.push import PullConfig

    add_command(app, PullConfig, pull)


def _objectives(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.objectives import objectives
    from prefpipe.configs.objectives import ObjectivesConfig

    add_command(app, ObjectivesConfig, objectives)


def _launch_config(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.launch_config import launch_config
    from prefpipe.configs.launch_config import LaunchFileConfig

    add_command(app, LaunchFileConfig, launch_config)


def _slurm(app: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.slurm import slurm
    from prefpipe.configs.slurm import SlurmConfig

    # what follows the first word is the command of a stage, with flags of its own
    add_command(app, SlurmConfig, slurm, context_settings={"allow_interspersed_args": False})


def _models(app: typer.Typer) -> None:
    from prefpipe.cli.models import models

    app.add_typer(models, name="models")


def _worker(app: typer.Typer) -> None:
    from prefpipe.cli.worker import worker

    app.command("worker", hidden=True)(worker)


COMMANDS: dict[str, Listed] = {
    "generate": Listed("Sample several responses to every prompt", _generate, is_stage=True),
    "score": Listed("Rate every response with one or more scorers", _score, is_stage=True),
    "embed": Listed("Turn every response into a vector", _embed, is_stage=True),
    "select": Listed(
        "Keep a small, informative group of each prompt's responses", _select, is_stage=True
    ),
    "train": Listed("Train a policy or a reward model on the groups", _train, is_stage=True),
    "eval": Listed(
        "Compare a policy with a baseline on held-out prompts",
        _eval,
        commands=("win-rate", "by-round", "study", "lm-eval", "rewardbench", "calibration"),
        is_stage=True,
    ),
    "judge": Listed(
        "Compare two folders of candidates, pair by pair, with a judge", _judge, is_stage=True
    ),
    "logprobs": Listed(
        "Precompute reference log-probabilities of responses", _logprobs, is_stage=True
    ),
    "import": Listed(
        "Read responses and scores from another tool's file", _import_files, is_stage=True
    ),
    "export": Listed("Write groups or candidates for another tool", _export, is_stage=True),
    "init": Listed("Write commented settings for a stage or a whole run", _init),
    "rounds": Listed("Run the pipeline several times, each from the last policy", _rounds),
    "study": Listed("Compare ways to select and to train, over several seeds", _study),
    "status": Listed("Show what is done, partial, stale or corrupt, and why", _status),
    "slurm": Listed("Print an sbatch script that runs a stage as a Slurm array", _slurm),
    "inspect": Listed("Show what an artifact holds, or one of its prompts", _inspect),
    "report": Listed("Write a run or a study as one HTML page, readable offline", _report),
    "savings": Listed("Estimate the training compute that selection saves", _savings),
    "check": Listed("Find problems in groups before training on them", _check),
    "merge": Listed("Merge a LoRA adapter into its base model", _merge),
    "push": Listed("Copy an artifact, a model or a whole run to a bucket or the hub", _push),
    "pull": Listed("Copy what was pushed to a bucket or the hub into a folder", _pull),
    "objectives": Listed("List the training objectives, or explain one", _objectives),
    "launch-config": Listed(
        "Print the path of a config for training on several GPUs", _launch_config
    ),
    "worker": Listed(
        "Make the parts that the driver at the other end of an inherited socket hands out",
        _worker,
        is_hidden=True,
    ),
    "models": Listed(
        "Convert, list and show the models that `--model` takes",
        _models,
        commands=("convert", "list", "show"),
    ),
}
"""By name: stages in the order in which a pipeline runs them, then the others."""
