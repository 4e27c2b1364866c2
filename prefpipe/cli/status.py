"""``prefpipe status``: what is done, what is left and why, with the command that goes on."""

import shlex
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from prefpipe.configs.status import StatusConfig

if TYPE_CHECKING:
    from rich.text import Text

    from prefpipe.status import Report

STYLES = {"done": "green", "partial": "yellow", "stale": "magenta", "corrupt": "bold red"}
INDENT = " " * 9
REASONS_SHOWN = 12
SHARDS_SHOWN = 8


def status(config: StatusConfig) -> None:
    """Print the state of each artifact, and exit with that of the worst."""
    from prefpipe.cli import stdout
    from prefpipe.status import Inspector, find_artifacts

    paths = []
    for path in config.paths:
        # a folder without artifacts is handed on, so that the error says what it lacks
        paths += find_artifacts(path) or [path]
    inspector = Inspector()
    reports = [inspector.report(path, quick=config.quick) for path in dict.fromkeys(paths)]

    if config.as_json:
        stdout.pipe_json([report.to_json(config.num_shards) for report in reports])
    else:
        longest = max(len(str(report.path)) for report in reports)
        stdout.show(
            _block(report, longest, config.num_shards, stdout.width()) for report in reports
        )

    states = {report.state for report in reports}
    if "corrupt" in states:
        raise typer.Exit(1)
    raise typer.Exit(4 if states & {"partial", "stale"} else 0)


def _block(report: "Report", longest: int, num_shards: int | None, width: int) -> "Text":
    """Return the lines of one artifact.

    Args:
        report: its state.
        longest: characters of the longest path, so that what follows stands in columns.
        num_shards: workers that the missing shards are for.
        width: columns of the terminal.
    """
    from rich.text import Text

    from prefpipe.text.untrusted import visible, visible_line

    text = Text()
    text.append(f"{report.state:<7}  ", style=STYLES[report.state])
    text.append(f"{visible_line(str(report.path), 400):<{longest}}", style="bold")
    text.append(f"  {report.stage:<8}")
    if report.n_parts:
        n_good = report.n_parts - len(report.to_make)
        text.append(f"  {n_good} of {report.n_parts} parts  {report.n_rows:,} rows")

    lines = [(reason, "") for reason in report.reasons[:REASONS_SHOWN]]
    n_more = len(report.reasons) - REASONS_SHOWN
    if n_more > 0:
        lines.append((f"and {n_more} more; --json has them all", ""))
    lines += [(f"note: {note}", "dim") for note in report.notes]
    for line, style in lines:
        # a reason that belongs to the one above it comes indented
        indent = INDENT + " " * (len(line) - len(line.lstrip()))
        wrapped = textwrap.fill(
            visible_line(line, 400),
            max(width, 60),
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
        )
        text.append(f"\n{wrapped}", style=style)

    for line in _next_steps(report, num_shards):
        text.append(f"\n{INDENT}{visible(line)}")
    return text


def _next_steps(report: "Report", num_shards: int | None) -> Iterator[str]:
    """Yield the lines to paste: what to delete, the command, and the shards of an array."""
    from prefpipe.artifacts.parts import part_name
    from prefpipe.status import ranges

    if report.state == "done" or not report.command:
        return
    if report.corrupt_parts:
        names = [
            str(report.path / part_name(index, report.n_parts)) for index in report.corrupt_parts
        ]
        yield f"delete:  rm {shlex.join(names)}"

    commands = report.again(num_shards)
    for words in commands[:SHARDS_SHOWN]:
        yield f"again:   {shlex.join(words)}"
    n_more = len(commands) - SHARDS_SHOWN
    if n_more > 0:
        yield f"         and {n_more} more, a shard each; --json has them all"

    shards = report.shards(num_shards)
    if report.n_parts > 1 and shards and report.takes_shards:
        count = num_shards or report.n_parts
        # Slurm counts the tasks of the list, not the shards, so the job must say both itself
        yield (
            f"shards:  --array={ranges(shards)}, in the job: "
            f"--shard-index $SLURM_ARRAY_TASK_ID --num-shards {count}"
        )
