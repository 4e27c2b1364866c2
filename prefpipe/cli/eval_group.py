"""``prefpipe eval``: the stage, and beside it commands that evaluate what is there already.

``prefpipe eval --policy A --baseline B`` runs the stage, as every stage's command does.
``prefpipe eval win-rate FILE`` and the others are commands of the same group, so that they are
found where one looks for them. A group takes no arguments of its own and the stage has none, so
that a first word after ``eval`` can only be a command.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import typer

from prefpipe.cli.by_round import by_round
from prefpipe.cli.dataclass_commands import add_command, add_stage, stage_command_of
from prefpipe.cli.help_commands import DocumentedGroup
from prefpipe.cli.lm_eval import lm_eval
from prefpipe.cli.study_figures import study_figures
from prefpipe.cli.win_rate import win_rate
from prefpipe.configs.by_round import ByRoundConfig
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.lm_eval import LmEvalConfig
from prefpipe.configs.options import flag_named
from prefpipe.configs.stages import EVALUATIONS
from prefpipe.configs.study_figures import StudyFiguresConfig
from prefpipe.configs.win_rate import WinRateConfig
from prefpipe.errors import UsageError


class EvalGroup(DocumentedGroup):
    """``prefpipe eval``."""

    config_class = EvalConfig
    headings: ClassVar[Mapping[str, Sequence[str]]] = {
        "Other evaluations": (
            "win-rate",
            "by-round",
            "study",
            "rewardbench",
            "calibration",
            "lm-eval",
        )
    }


def eval_group(run_stage: Callable[[Any, bool], None]) -> typer.Typer:
    """Return the group.

    Args:
        run_stage: runs a stage with its config and whether stdout is to carry JSON.
    """
    stage = stage_command_of(EvalConfig, run_stage)

    def evaluate(context: typer.Context, **values: Any) -> None:
        given = [name for name, value in values.items() if value not in (None, False, [])]
        command = context.invoked_subcommand
        if command is not None:
            if given:
                raise UsageError(
                    f"{flag_named(given[0])} is a flag of `prefpipe eval`, not of `{command}`",
                    hint=f"run `prefpipe eval {command} --help` for what that command takes",
                )
            return

        if not given:
            from prefpipe.cli.stdout import pipe

            pipe(context.get_help())  # what it needs, and the commands beside it
            raise typer.Exit(2)
        stage(**values)

    context_parameter = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    stage_parameters = inspect.signature(stage).parameters.values()
    evaluate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [context_parameter, *stage_parameters]
    )
    evaluate.__doc__ = EvalConfig.__doc__

    group = typer.Typer(invoke_without_command=True, cls=EvalGroup)
    group.callback()(evaluate)
    add_command(group, WinRateConfig, win_rate)
    add_command(group, ByRoundConfig, by_round)
    add_command(group, StudyFiguresConfig, study_figures)
    add_command(group, LmEvalConfig, lm_eval)
    for config_class in EVALUATIONS:
        add_stage(group, config_class, run_stage)
    return group
