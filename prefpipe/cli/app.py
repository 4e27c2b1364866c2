"""The commands of ``prefpipe``, registered in the order in which a pipeline runs them."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from prefpipe.artifacts.storage.location import local_path
from prefpipe.cli.check import check
from prefpipe.cli.completion import install_option, show_option
from prefpipe.cli.dataclass_commands import add_command, add_stage
from prefpipe.cli.eval_group import eval_group
from prefpipe.cli.help_commands import DocumentedGroup, help_all_option
from prefpipe.cli.init import init
from prefpipe.cli.inspect import inspect
from prefpipe.cli.launch_config import launch_config
from prefpipe.cli.launched_processes import speaks_for_the_run
from prefpipe.cli.merge import merge
from prefpipe.cli.models import models
from prefpipe.cli.objectives import objectives
from prefpipe.cli.reference import reference
from prefpipe.cli.report import report
from prefpipe.cli.rounds import rounds
from prefpipe.cli.savings import savings
from prefpipe.cli.signals import stop_request
from prefpipe.cli.slurm import slurm
from prefpipe.cli.status import status
from prefpipe.cli.study import study
from prefpipe.cli.worker import worker
from prefpipe.configs.check import CheckConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.init import InitConfig
from prefpipe.configs.inspect import InspectConfig
from prefpipe.configs.launch_config import LaunchFileConfig
from prefpipe.configs.merge import MergeConfig
from prefpipe.configs.objectives import ObjectivesConfig
from prefpipe.configs.reference import ReferenceConfig
from prefpipe.configs.report import ReportConfig
from prefpipe.configs.rounds import RoundsConfig
from prefpipe.configs.savings import SavingsConfig
from prefpipe.configs.slurm import SlurmConfig
from prefpipe.configs.stage import StageConfig
from prefpipe.configs.stages import STAGES
from prefpipe.configs.status import StatusConfig
from prefpipe.configs.study import StudyConfig
from prefpipe.errors import ErrorRateError, PrefpipeError

if TYPE_CHECKING:
    from prefpipe.stages.shared.partwise import Summary

HEADINGS = {
    "Start": ("init",),
    "The pipeline": ("generate", "score", "embed", "select", "train", "eval"),
    "Data in and out": ("import", "export"),
    "Compare and measure": ("judge", "logprobs", "check", "savings"),
    "Look at a run": ("status", "inspect", "report"),
    "Several rounds, and studies": ("rounds", "study"),
    "Machines": ("slurm", "launch-config"),
    "Models and objectives": ("models", "merge", "objectives"),
}
"""Commands by task, as `--help` shows them."""
EXAMPLES = (
    "prefpipe init -o my-run --prompts prompts.jsonl",
    "prefpipe generate prompts.jsonl -o run/candidates --model Qwen/Qwen3-4B --n 8",
    "prefpipe score run/candidates -o run/scores --scorer checks",
    "prefpipe select run/candidates --scores run/scores -o run/groups --strategy best-worst",
    "prefpipe train run/groups -o run/policy --model Qwen/Qwen3-4B --lora-r 16",
    (
        "prefpipe eval --policy run/policy --baseline Qwen/Qwen3-4B --prompts heldout.jsonl "
        "--scorer checks -o run/eval"
    ),
    "prefpipe status run",
)


class InPipelineOrder(DocumentedGroup):
    """Commands in the order of a pipeline; typer would put those that are groups, as eval, last."""

    headings: ClassVar[Mapping[str, Sequence[str]]] = HEADINGS
    examples: ClassVar[Sequence[str]] = EXAMPLES

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names: stages first, the others as they were registered."""
        stages = [config_class.stage for config_class in STAGES]
        others = [name for name in self.commands if name not in stages]
        return [*(name for name in stages if name in self.commands), *others]


def _run_stage(config: StageConfig, as_json: bool) -> None:
    from prefpipe.cli import stderr
    from prefpipe.wiring.open_settings import settled
    from prefpipe.wiring.stages import run_stage
    from prefpipe.wiring.surroundings import runtime_for

    speaks = speaks_for_the_run(config.stage)
    log = stderr.log if speaks else lambda _line: None
    stop_request.live_height = lambda: stderr.live_view.height
    config = settled(config, log)
    runtime = runtime_for(config, log=log, stop=stop_request, view=stderr.live_view, argv=sys.argv)
    try:
        summary = run_stage(config, runtime)
    except ErrorRateError as error:
        # what is good is on disk and finished: its summary is shown, and the exit code is 3
        if speaks and error.summary is not None:
            _show(error.summary, as_json)
        raise
    except Exception as error:
        named = _naming_the_output(error, config)
        if named is None:
            raise
        raise named from error
    if speaks:
        _show(summary, as_json)


def _show(summary: "Summary", as_json: bool) -> None:
    """Print what a finished stage did; stdout carries what a script reads, whatever the code."""
    from prefpipe.artifacts.finite_json import finite_values
    from prefpipe.cli import stderr, stdout

    with stop_request.finishing():  # the stage is done, and its exit code known
        stderr.show_summary(summary)
        if as_json:
            stdout.pipe(json.dumps(finite_values(summary.to_json())))
        else:
            stdout.pipe(str(summary.path))


def _naming_the_output(error: Exception, config: StageConfig) -> PrefpipeError | None:
    """Return an error that names the output, for a disk that failed a library, else None.

    What torch or transformers write, into checkpoints above all, fails without the name of a file.
    """
    from prefpipe.artifacts.atomic import disk_error, disk_failure

    if isinstance(error, PrefpipeError):
        return None
    failure = disk_failure(error)
    if failure is None or failure.filename is not None:
        return None
    return disk_error(local_path(config.output, "-o"), failure)


def _reference(config: ReferenceConfig) -> None:
    reference(config, typer.main.get_command(app))


app = typer.Typer(
    name="prefpipe",
    cls=InPipelineOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Preference optimisation of language models as a pipeline of commands. Each command "
    "reads and writes folders of Parquet files. Run a command again to resume it.",
)
for _config_class in STAGES:
    if _config_class is EvalConfig:
        app.add_typer(eval_group(_run_stage), name=EvalConfig.stage)
    else:
        add_stage(app, _config_class, _run_stage)

add_command(app, InitConfig, init)
add_command(app, RoundsConfig, rounds)
add_command(app, StudyConfig, study)
add_command(app, StatusConfig, status)
# what follows the first word is the command of a stage, with flags of its own
add_command(app, SlurmConfig, slurm, context_settings={"allow_interspersed_args": False})
add_command(app, InspectConfig, inspect)
add_command(app, ReportConfig, report)
add_command(app, SavingsConfig, savings)
add_command(app, CheckConfig, check)
add_command(app, MergeConfig, merge)
app.add_typer(models, name="models")
add_command(app, ObjectivesConfig, objectives)
add_command(app, LaunchFileConfig, launch_config)
app.command("worker", hidden=True)(worker)
add_command(app, ReferenceConfig, _reference, hidden=True)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
    _install_completion: Annotated[str | None, install_option()] = None,
    _show_completion: Annotated[str | None, show_option()] = None,
    _help_all: Annotated[bool, help_all_option()] = False,
) -> None:
    if version:
        from prefpipe import __version__

        print(__version__)  # noqa: T201 - stdout is what --version is for
        raise typer.Exit
