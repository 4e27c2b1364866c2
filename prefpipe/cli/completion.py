"""Shell completion: its script, its installation, and what a shell asks for on TAB.

typer has the scripts for bash, zsh and fish. A shell calls ``prefpipe`` again with the words so far
in the environment. Where no word is known, the shell completes paths.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import typer

from prefpipe.errors import UsageError

VARIABLE = "_PREFPIPE_COMPLETE"
"""Set by a shell that asks for completions."""
INSTALL, SHOW = "--install-completion", "--show-completion"
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
AUTO = "auto"
"""The shell that runs the command."""


def is_asked() -> bool:
    """Return whether a shell asks for completions, in place of a command."""
    return VARIABLE in os.environ


def prepare() -> None:
    """Let typer answer a shell's question."""
    from typer._completion_classes import completion_init

    completion_init()


def with_shell(arguments: Sequence[str]) -> list[str]:
    """Return the words with a shell behind a bare ``--install-completion``."""
    words = list(arguments)
    return [*words, AUTO] if words[-1:] in ([INSTALL], [SHOW]) else words


def completions_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a function that completes one of several words, as typer takes it."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def install_option() -> Any:
    """Return the option ``--install-completion``."""
    return typer.Option(
        INSTALL,
        metavar="[SHELL]",
        is_eager=True,
        expose_value=False,
        callback=_install,
        autocompletion=completions_of(SHELLS),
        help="complete commands, flags and values on TAB, from the next shell on: bash, zsh or "
        "fish; default: your shell",
    )


def show_option() -> Any:
    """Return the option ``--show-completion``."""
    return typer.Option(
        SHOW,
        metavar="[SHELL]",
        is_eager=True,
        expose_value=False,
        callback=_show,
        autocompletion=completions_of(SHELLS),
        help="print the completion script, to install it yourself",
    )


def _install(context: typer.Context, value: str | None) -> None:
    if value is None or context.resilient_parsing:
        return
    from typer._completion_shared import install

    shell, path = install(shell=_known(value, INSTALL), prog_name="prefpipe", complete_var=VARIABLE)
    typer.echo(f"{path}")
    typer.echo(f"completion for {shell} is installed; open a new shell to use it", err=True)
    raise typer.Exit


def _show(context: typer.Context, value: str | None) -> None:
    if value is None or context.resilient_parsing:
        return
    from typer._completion_shared import get_completion_script

    shell = _known(value, SHOW)
    typer.echo(get_completion_script(prog_name="prefpipe", complete_var=VARIABLE, shell=shell))
    raise typer.Exit


def _known(shell: str, flag: str) -> str:
    """Return a shell's name, that of the running shell for ``auto``.

    Raises:
        UsageError: it has no completion, or is not recognised.
    """
    if shell == AUTO:
        from typer._completion_shared import _get_shell_name

        shell = _get_shell_name() or "this shell"
    if shell not in SHELLS:
        raise UsageError(
            f"{flag} does not support {shell}", hint=f"name your shell: prefpipe {flag} bash"
        )
    return shell
