"""``prefpipe eval``: the stage, and beside it the commands that evaluate something that is there already.

``prefpipe eval --policy A --baseline B`` runs the stage, as every stage's command does; ``prefpipe eval win-rate FILE`` and the
others are commands of the same group, so that they are found where one looks for them. A group takes no arguments of its own
and the stage has none, so that a first word after ``eval`` can only be a command.
"""

import inspect
from collections.abc import Callable
from typing import Any

import typer

from prefpipe.cli.flags import command_of
from prefpipe.cli.lm_eval import lm_eval
from prefpipe.cli.local_paths import Commands, with_local_paths
from prefpipe.cli.win_rate import win_rate
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.options import StageConfig
from prefpipe.configs.pairs import CalibrationConfig, RewardBenchConfig
from prefpipe.errors import UsageError

EVALUATIONS: tuple[type[StageConfig], ...] = (RewardBenchConfig, CalibrationConfig)
"""Commands of the group that are stages themselves: they write a folder and resume."""


def evaluation_of(handler: Callable[[Any, bool], None]) -> typer.Typer:
    """Return the group.

    Args:
        handler: runs a stage with its config and whether stdout is to carry JSON.
    """
    stage = command_of(EvalConfig, handler)

    def evaluate(context: typer.Context, **values: Any) -> None:
        if context.invoked_subcommand is None:
            if all(value in (None, False, []) for value in values.values()):
                from prefpipe.cli.console import pipe

                pipe(context.get_help())  # what it needs, and the commands beside it
                raise typer.Exit(2)
            stage(**values)
            return
        given = [name for name, value in values.items() if value not in (None, False, [])]
        if given:
            flag = "--" + given[0].replace("_", "-")
            raise UsageError(
                f"{flag} stands before `{context.invoked_subcommand}`, and belongs to `prefpipe eval` itself",
                hint=f"run `prefpipe eval {context.invoked_subcommand} --help` for what that command takes",
            )

    first = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    theirs = inspect.signature(stage).parameters.values()
    evaluate.__signature__ = inspect.Signature([first, *theirs])  # type: ignore[attr-defined]
    evaluate.__doc__ = EvalConfig.__doc__
    group = Commands(invoke_without_command=True)
    group.callback()(with_local_paths(evaluate))
    group.command("win-rate")(win_rate)
    group.command("lm-eval")(lm_eval)
    for config_class in EVALUATIONS:
        group.command(config_class.stage.removeprefix("eval "))(command_of(config_class, handler))
    return group
