"""The commands, and the one place where errors become exit codes.

0 done; 1 failed; 2 bad usage, config or fingerprint clash; 3 finished, error rate above the limit; 4 input
incomplete; 75 stopped early, safe to run again; 130 interrupted.
"""

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from prefpipe import __version__
from prefpipe.cli.check import check
from prefpipe.cli.evaluation import evaluation_of
from prefpipe.cli.flags import command_of, spelled_out, without_stale
from prefpipe.cli.inspect import inspect
from prefpipe.cli.launch_config import launch_config
from prefpipe.cli.local_paths import Commands
from prefpipe.cli.merge import merge
from prefpipe.cli.models import models
from prefpipe.cli.objectives import objectives
from prefpipe.cli.processes import is_first, tells_the_error
from prefpipe.cli.reference import reference
from prefpipe.cli.report import report
from prefpipe.cli.savings import savings
from prefpipe.cli.signals import stop_request
from prefpipe.cli.status import status
from prefpipe.configs.embed import EmbedConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.export_groups import ExportConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.import_files import ImportConfig
from prefpipe.configs.judge import JudgeConfig
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.options import StageConfig
from prefpipe.configs.score import ScoreConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import ErrorRateError, PrefpipeError

if TYPE_CHECKING:
    from prefpipe.stages.shared.runtime import Summary

STAGES: tuple[type[StageConfig], ...] = (
    GenerateConfig,
    ScoreConfig,
    EmbedConfig,
    SelectConfig,
    TrainConfig,
    EvalConfig,
    JudgeConfig,
    LogprobsConfig,
    ImportConfig,
    ExportConfig,
)


class InPipelineOrder(typer.core.TyperGroup):
    """Commands in the order in which a pipeline runs them; typer would put those that are groups, such as eval, last."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names: stages first, the others as they were registered."""
        stages = [config_class.stage for config_class in STAGES]
        return sorted(
            self.commands, key=lambda name: stages.index(name) if name in stages else len(stages)
        )


app = Commands(
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
    "logprobs keeps a reference for train, merge makes a model of an adapter. import and export exchange data with other tools.",
)
DISK_HINT = "look at the disk and its permissions, then run the same command again; what is finished is kept"


def _run_stage(config: StageConfig, as_json: bool) -> None:
    from prefpipe.cli import console
    from prefpipe.wiring.stages import run_stage
    from prefpipe.wiring.surroundings import runtime_for

    speaks = is_first(config.stage)
    log = console.log if speaks else lambda _line: None
    runtime = runtime_for(
        config, log=log, stop=stop_request, progress=console.progress, argv=sys.argv
    )
    try:
        summary = run_stage(config, runtime)
    except ErrorRateError as error:
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
    """Print what a finished stage did, whatever its exit code: stdout carries what a script reads."""
    from prefpipe.artifacts.finite_json import finite_values
    from prefpipe.cli import console

    with stop_request.finishing():  # the stage is done, and its exit code known
        console.show_summary(summary)
        console.pipe(json.dumps(finite_values(summary.to_json())) if as_json else str(summary.path))


def _naming_the_output(error: Exception, config: StageConfig) -> PrefpipeError | None:
    """Return an error that names the output for a disk that failed a library in the middle of a stage, else None.

    What torch or transformers write, into checkpoints above all, fails without the name of a file.
    """
    from prefpipe.artifacts.atomic import disk_error, disk_failure

    output = getattr(config, "output", None)
    failure = None if isinstance(error, PrefpipeError) else disk_failure(error)
    if failure is None or failure.filename is not None or output is None:
        return None
    return disk_error(output, failure)


for _config_class in STAGES:
    if _config_class is EvalConfig:
        app.add_typer(evaluation_of(_run_stage), name=EvalConfig.stage)  # with commands of its own
    else:
        app.command(_config_class.stage)(command_of(_config_class, _run_stage))
app.command("status")(status)
app.command("inspect")(inspect)
app.command("report")(report)
app.command("savings")(savings)
app.command("check")(check)
app.command("merge")(merge)
app.add_typer(models, name="models")
app.command("objectives")(objectives)
app.command("launch-config")(launch_config)
app.command("reference", hidden=True)(reference)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="print the version and exit"),
) -> None:
    if version:
        print(__version__)  # noqa: T201 - stdout is what --version is for
        raise typer.Exit


def main() -> None:
    """Run the command line in a process that has imported this already; `prefpipe.__main__` is the entry of one that has not."""
    stop_request.run(lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = app(_with_values(arguments), standalone_mode=False)
    except PrefpipeError as error:
        from prefpipe.cli import console

        if tells_the_error(arguments):
            console.show_error(error)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(
            error, "exit_code"
        ):  # what typer raises for a wrong flag
            message, help_command = error.format_message(), _help_command(arguments)
            if not message.strip():
                return int(
                    error.exit_code
                )  # a group without a command: its help is printed already
            if arguments and help_command.split()[1] not in (arguments[0], "--help"):
                message = message.partition(" Did you mean")[
                    0
                ]  # the hint knows better: it is a command of a group
            sys.stderr.write(f"error: {message}\n\nhint: run `{help_command}`\n")
            return int(error.exit_code)

        from prefpipe.artifacts.atomic import disk_failure
        from prefpipe.cli import console

        failure = disk_failure(error)
        if failure is not None:  # a disk or a permission that no message was written for
            place = f"{failure.filename}: " if failure.filename else ""
            if tells_the_error(arguments):
                console.show_error(
                    PrefpipeError(f"{place}{failure.strerror or failure}", hint=DISK_HINT)
                )
            return 1
        if not tells_the_error(arguments):
            return 1
        raise
    return code if isinstance(code, int) else 0


def _with_values(arguments: list[str]) -> list[str]:
    """Return the words of a stage's command with its flags spelled out; other commands have plain flags alone."""
    is_stage = arguments[:1] in [[config_class.stage] for config_class in STAGES]
    return spelled_out(arguments) if is_stage else without_stale(arguments)


def _help_command(arguments: list[str]) -> str:
    """Return the command whose help says what was wrong: ``prefpipe eval win-rate --help`` and not that of all."""
    words, command = ["prefpipe"], typer.main.get_command(app)
    for word in arguments:
        children = getattr(command, "commands", {})
        if word not in children:
            groups = [
                name for name, child in children.items() if word in getattr(child, "commands", {})
            ]
            words += [groups[0], word] if groups else []  # `prefpipe win-rate` is one of eval's
            break
        words, command = [*words, word], children[word]
    return " ".join([*words, "--help"])
