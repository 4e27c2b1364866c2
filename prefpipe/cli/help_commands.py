"""Typer's commands and groups with prefpipe's own page of help, and ``--help-all``."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import typer
import typer.core

from prefpipe.cli.help_page import (
    ALL_FLAGS,
    Page,
    Summary,
    command_page,
    first_sentence,
    group_page,
    render,
)
from prefpipe.configs.command import CommandConfig


class DocumentedCommand(typer.core.TyperCommand):
    """A command whose help is made of its config."""

    config_class: ClassVar[type[CommandConfig]]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page of ``--help``."""
        formatter.write(render(self.page(ctx, is_all=False)))

    def page(self, ctx: Any, *, is_all: bool) -> Page:
        """Return the page, with every flag or with the common ones."""
        return command_page(ctx.command_path, self, self.config_class, is_all=is_all)


class DocumentedGroup(typer.core.TyperGroup):
    """A group of commands, with headings over them, that may run something itself."""

    headings: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Headings, with the names of the commands under each."""
    examples: ClassVar[Sequence[str]] = ()
    config_class: ClassVar[type[CommandConfig] | None] = None
    """What the group takes where it runs something itself."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page of ``--help``."""
        formatter.write(render(self.page(ctx, is_all=False)))

    def page(self, ctx: Any, *, is_all: bool) -> Page:
        """Return the page, with every flag or with the common ones."""
        own = None
        if self.config_class is not None:
            own = command_page(ctx.command_path, self, self.config_class, is_all=is_all)
        return group_page(ctx, self, self.headings, self.examples, own)

    def summaries(self, ctx: Any) -> list[Summary]:
        """Return what the page says of each command that it shows."""
        summaries = []
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if not command.hidden:
                names = tuple(getattr(command, "commands", ()))
                summaries.append(Summary(name, first_sentence(command.help), names))
        return summaries


def documented_command(config_class: type[CommandConfig]) -> type[DocumentedCommand]:
    """Return the class of a command that takes what a config says."""
    return type("Command", (DocumentedCommand,), {"config_class": config_class})


def help_all_option() -> Any:
    """Return the option ``--help-all``, whose value no command gets."""
    return typer.Option(
        ALL_FLAGS,
        is_eager=True,
        expose_value=False,
        callback=_show_all,
        help="show every flag and exit",
    )


def help_all_parameter() -> inspect.Parameter:
    """Return the parameter ``--help-all`` for the signature of a command."""
    return inspect.Parameter(
        "help_all",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, help_all_option()],
    )


def _show_all(context: typer.Context, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    command: Any = context.command
    typer.echo(render(command.page(context, is_all=True)))
    raise typer.Exit
