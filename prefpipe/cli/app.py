"""The command ``prefpipe``, with all others below it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import typer

from prefpipe.cli.commands import COMMANDS, LazyCommands, Listed
from prefpipe.cli.completion import install_option, show_option
from prefpipe.cli.help_commands import DocumentedGroup, help_all_option
from prefpipe.cli.help_page import Summary

HEADINGS = {
    "Start": ("init",),
    "The pipeline": ("generate", "score", "embed", "select", "train", "eval"),
    "Data in and out": ("import", "export"),
    "Compare and measure": ("judge", "logprobs", "check", "savings"),
    "Look at a run": ("status", "inspect", "report"),
    "Several rounds, and studies": ("rounds", "study"),
    "Machines": ("slurm", "launch-config"),
    "Buckets and the hub": ("push", "pull"),
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


def _reference(to: typer.Typer) -> None:
    from prefpipe.cli.dataclass_commands import add_command
    from prefpipe.cli.reference import reference
    from prefpipe.configs.reference import ReferenceConfig

    def write(config: ReferenceConfig) -> None:
        reference(config, typer.main.get_command(app))

    add_command(to, ReferenceConfig, write, hidden=True)


ALL_COMMANDS = {
    **COMMANDS,
    # here, because it writes about all of them
    "reference": Listed(
        "Write the reference pages of the documentation, or check them", _reference, is_hidden=True
    ),
}


class InPipelineOrder(DocumentedGroup):
    """Commands in the order of a pipeline, each imported when it is looked up."""

    headings: ClassVar[Mapping[str, Sequence[str]]] = HEADINGS
    examples: ClassVar[Sequence[str]] = EXAMPLES

    def __init__(self, **settings: Any) -> None:
        """Make the group as typer does, with all commands of `ALL_COMMANDS`."""
        super().__init__(**settings)
        self.commands = LazyCommands(ALL_COMMANDS)

    def summaries(self, ctx: Any) -> list[Summary]:  # noqa: ARG002
        """Return what `--help` says of each command, without importing it."""
        return [
            Summary(name, listed.summary, listed.commands)
            for name, listed in ALL_COMMANDS.items()
            if not listed.is_hidden
        ]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of `ALL_COMMANDS`."""
        return list(self.commands)


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
