"""The commands of ``prefpipe``, registered in the order in which a pipeline runs them."""

import json
import sys
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from prefpipe.cli.check import check
from prefpipe.cli.dataclass_commands import command_of, stage_command_of
from prefpipe.cli.eval_group import eval_group
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


class InPipelineOrder(typer.core.TyperGroup):
    """Commands in the order of a pipeline; typer would put those that are groups, as eval, last."""

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
    return disk_error(config.output, failure)


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
    help="On-policy preference optimisation as a pipeline of Parquet folders: "
    "generate, score, embed, select, train, eval. Each command resumes by itself. "
    "judge compares two candidates folders pair by pair. "
    "rounds runs all of them several times, by a plan; study compares ways to run them. "
    "logprobs keeps a reference for train, merge makes a model of an adapter. "
    "import and export exchange data with other tools.",
)
for _config_class in STAGES:
    if _config_class is EvalConfig:
        app.add_typer(eval_group(_run_stage), name=EvalConfig.stage)
    else:
        app.command(_config_class.stage)(stage_command_of(_config_class, _run_stage))

app.command("rounds")(command_of(RoundsConfig, rounds))
app.command("study")(command_of(StudyConfig, study))
app.command("status")(command_of(StatusConfig, status))
# what follows the first word is the command of a stage, with flags of its own
app.command("slurm", context_settings={"allow_interspersed_args": False})(
    command_of(SlurmConfig, slurm)
)
app.command("inspect")(command_of(InspectConfig, inspect))
app.command("report")(command_of(ReportConfig, report))
app.command("savings")(command_of(SavingsConfig, savings))
app.command("check")(command_of(CheckConfig, check))
app.command("merge")(command_of(MergeConfig, merge))
app.add_typer(models, name="models")
app.command("objectives")(command_of(ObjectivesConfig, objectives))
app.command("launch-config")(command_of(LaunchFileConfig, launch_config))
app.command("worker", hidden=True)(worker)
app.command("reference", hidden=True)(command_of(ReferenceConfig, _reference))


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="print the version and exit"),
) -> None:
    if version:
        from prefpipe import __version__

        print(__version__)  # noqa: T201 - stdout is what --version is for
        raise typer.Exit
