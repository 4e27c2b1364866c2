"""``prefpipe status``: what is done, what is left and why, with the command that goes on."""

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from prefpipe.status.artifact_status import ArtifactStatus

STYLES = {"done": "green", "partial": "yellow", "stale": "magenta", "corrupt": "bold red"}
INDENT = " " * 9
REASONS_SHOWN = 12
SHARDS_SHOWN = 8


def status(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="artifacts, or folders that hold several"),
    ],
    num_shards: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="workers that the missing shards are for; default one a part"
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="read the parts' footers only, not every byte")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON to stdout")] = False,
) -> None:
    """Say for each artifact whether it is done, partial, stale or corrupt, and why.

    Exits with 0 when all are done, 4 when one is partial or stale, 1 when one is corrupt.
    """
    from prefpipe.cli import pages

    reports = _reports(paths, quick=quick)
    if as_json:
        pages.pipe_json([report.to_json(num_shards) for report in reports])
    else:
        pages.show(_page(reports, num_shards))
    states = {report.state for report in reports}
    raise typer.Exit(1 if "corrupt" in states else 4 if states & {"partial", "stale"} else 0)


def _reports(paths: Sequence[Path], *, quick: bool) -> "list[ArtifactStatus]":
    from prefpipe.status.checker import StatusChecker
    from prefpipe.status.folders import find_artifacts

    checker = StatusChecker()
    # a folder without artifacts is handed on, so that the error says what it lacks
    found = dict.fromkeys(
        artifact for path in paths for artifact in (find_artifacts(path) or [path])
    )
    return [checker.check(path, quick=quick) for path in found]


def _page(reports: "Sequence[ArtifactStatus]", num_shards: int | None) -> "Iterator[Text]":
    from prefpipe.cli import pages

    longest = max(len(str(report.path)) for report in reports)
    for report in reports:
        yield _block(report, longest, num_shards, pages.width())


def _block(report: "ArtifactStatus", longest: int, num_shards: int | None, width: int) -> "Text":
    from rich.text import Text

    from prefpipe.text.untrusted import visible, visible_line

    text = Text()
    text.append(f"{report.state:<7}  ", style=STYLES[report.state])
    text.append(f"{visible_line(str(report.path), 400):<{longest}}", style="bold")
    text.append(f"  {report.stage:<8}")
    if report.n_parts:
        n_good = report.n_parts - len(report.to_make)
        text.append(f"  {n_good} of {report.n_parts} parts  {report.n_rows:,} rows")
    shown = [(reason, "") for reason in report.reasons[:REASONS_SHOWN]]
    if len(report.reasons) > REASONS_SHOWN:
        shown.append((f"and {len(report.reasons) - REASONS_SHOWN} more; --json has them all", ""))
    shown += [(f"note: {note}", "dim") for note in report.notes]
    for line, style in shown:
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


def _next_steps(report: "ArtifactStatus", num_shards: int | None) -> Iterator[str]:
    """Yield the lines to paste: what to delete, the command, and the shards of an array."""
    from prefpipe.artifacts.parts import part_name
    from prefpipe.status.artifact_status import ranges

    if report.state == "done" or not report.command:
        return
    if report.corrupt_parts:
        names = [
            str(report.path / part_name(index, report.n_parts)) for index in report.corrupt_parts
        ]
        yield f"delete:  rm {shlex.join(names)}"
    lines = report.again(num_shards)
    for words in lines[:SHARDS_SHOWN]:
        yield f"again:   {shlex.join(words)}"
    if len(lines) > SHARDS_SHOWN:
        yield f"         and {len(lines) - SHARDS_SHOWN} more, a shard each; --json has them all"
    shards = report.shards(num_shards)
    if report.n_parts > 1 and shards and report.takes_shards:
        count = num_shards or report.n_parts
        # Slurm counts the tasks of the list, not the shards, so the job must say both itself
        yield f"shards:  --array={ranges(shards)}, in the job: --shard-index $SLURM_ARRAY_TASK_ID --num-shards {count}"
