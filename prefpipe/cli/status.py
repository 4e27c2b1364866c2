"""``prefpipe status``: what is done, what is left and why, with the command that goes on."""

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from prefpipe.artifacts.storage.location import Location, is_within
from prefpipe.configs.status import StatusConfig

if TYPE_CHECKING:
    from rich.text import Text

    from prefpipe.status.artifact_status import ArtifactStatus
    from prefpipe.status.claimed_parts import ClaimedPart
    from prefpipe.status.run_rounds import RunRounds
    from prefpipe.status.run_study import StudyStatus

STYLES = {"done": "green", "partial": "yellow", "stale": "magenta", "corrupt": "bold red"}
INDENT = " " * 9
REASONS_SHOWN = 12
SHARDS_SHOWN = 8
CLAIMS_SHOWN = 12


def status(config: StatusConfig) -> None:
    """Print studies and rounds, then the state of each artifact; exit with that of the worst."""
    from prefpipe.artifacts.seen_footers import SeenFooters
    from prefpipe.cli import stdout
    from prefpipe.configs.study_steps import ARMS
    from prefpipe.pages.run_rounds import rounds_page
    from prefpipe.pages.run_study import run_study_page
    from prefpipe.status.checker import StatusChecker
    from prefpipe.status.folders import find_artifacts, studies_in
    from prefpipe.status.run_rounds import rounds_of_run, runs_in

    paths: list[Location] = []
    studies: list[StudyStatus] = []
    rounds: list[RunRounds] = []
    footers = SeenFooters()
    checker = StatusChecker(footers)
    for path in config.paths:
        artifacts = find_artifacts(path, footers)
        of_studies = list(_statuses_of_studies(studies_in(path)))
        studies += of_studies
        runs = runs_in(path, artifacts)
        rounds += [rounds_of_run(run, artifacts, checker, quick=config.quick) for run in runs]
        # a folder without artifacts is handed on, so that the error says what it lacks
        paths += artifacts or ([] if runs or of_studies else [path])
    statuses = [checker.check(path, quick=config.quick) for path in dict.fromkeys(paths)]

    if config.as_json:
        of_runs = [study.to_json() for study in studies] + [run.to_json() for run in rounds]
        stdout.pipe_json([*of_runs, *(status.to_json(config.num_shards) for status in statuses)])
    else:
        for study in studies:
            stdout.show(run_study_page(study.to_json(), width=stdout.width()))
        for run in rounds:
            stdout.show(rounds_page(run.to_json()))
        # of what is done in a study, its table says enough
        for study in studies:
            arms = study.folder / ARMS
            done = [each for each in statuses if _is_done_in(each, arms)]
            statuses = [each for each in statuses if not _is_done_in(each, arms)]
            if done:
                stdout.show([_done_in(arms, len(done))])
        longest = max((len(str(status.path)) for status in statuses), default=0)
        stdout.show(
            _block(status, longest, config.num_shards, stdout.width()) for status in statuses
        )

    states = {study.state for study in studies} | {run.state for run in rounds}
    states |= {status.state for status in statuses}
    if "corrupt" in states:
        raise typer.Exit(1)
    raise typer.Exit(4 if states & {"partial", "stale"} else 0)


def _statuses_of_studies(folders: "Sequence[Path]") -> "Iterator[StudyStatus]":
    """Yield the runs of each study; a training counts its tokens as `train` does, with PyTorch."""
    from prefpipe.wiring.extras import TRAIN, require

    for folder in folders:
        require(TRAIN, f"`prefpipe status` of the study {folder}")
        from prefpipe.status.run_study import status_of_study

        yield status_of_study(folder)


def _is_done_in(status: "ArtifactStatus", folder: "Path") -> bool:
    return status.state == "done" and is_within(status.path, folder)


def _done_in(folder: "Path", n_artifacts: int) -> "Text":
    from rich.text import Text

    from prefpipe.text.untrusted import visible_line

    text = Text()
    text.append("done     ", style=STYLES["done"])
    text.append(visible_line(str(folder), 400), style="bold")
    count = "1 artifact" if n_artifacts == 1 else f"{n_artifacts:,} artifacts"
    text.append(f"  {count}; `prefpipe status` of the folder lists them")
    return text


def _block(status: "ArtifactStatus", longest: int, num_shards: int | None, width: int) -> "Text":
    """Return the lines of one artifact.

    Args:
        status: its state.
        longest: characters of the longest path, so that what follows stands in columns.
        num_shards: workers that the missing shards are for.
        width: columns of the terminal.
    """
    from rich.text import Text

    from prefpipe.text.untrusted import visible, visible_line

    text = Text()
    text.append(f"{status.state:<7}  ", style=STYLES[status.state])
    text.append(f"{visible_line(str(status.path), 400):<{longest}}", style="bold")
    text.append(f"  {status.stage:<8}")
    if status.n_parts:
        n_good = status.n_parts - len(status.to_make)
        text.append(f"  {n_good} of {status.n_parts} parts  {status.n_rows:,} rows")
    if status.round is not None:
        text.append(f"  round {status.round}")

    lines = [(reason, "") for reason in status.reasons[:REASONS_SHOWN]]
    n_more = len(status.reasons) - REASONS_SHOWN
    if n_more > 0:
        lines.append((f"and {n_more} more; --json has them all", ""))
    lines += _claim_lines(status.claims)
    lines += [(f"note: {note}", "dim") for note in status.notes]
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

    for line in _next_steps(status, num_shards):
        text.append(f"\n{INDENT}{visible(line)}")
    return text


def _claim_lines(claims: "Sequence[ClaimedPart]") -> Iterator[tuple[str, str]]:
    """Yield who is making which part, each line with its style."""
    for claim in claims[:CLAIMS_SHOWN]:
        renewed = f"{_duration(claim.renewed_s_ago)} ago"
        if claim.is_left_behind:
            line = f"part {claim.part}: left behind by {claim.worker}, last renewed {renewed}"
            yield line, "yellow"
        else:
            begun = _duration(claim.begun_s_ago)
            yield (
                f"part {claim.part}: {claim.worker} is making it for {begun}, renewed {renewed}",
                "",
            )
    n_more = len(claims) - CLAIMS_SHOWN
    if n_more > 0:
        yield f"and {n_more} more parts that workers have claimed; --json has them all", ""


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _next_steps(status: "ArtifactStatus", num_shards: int | None) -> Iterator[str]:
    """Yield the lines to paste: what to delete, the command, and the shards of an array."""
    from prefpipe.artifacts.parts import part_name
    from prefpipe.status.artifact_status import ranges

    if status.state == "done" or not status.command:
        return
    # the command makes a damaged part again in any case; no shell removes what is in a bucket
    if status.corrupt_parts and isinstance(status.path, Path):
        names = [
            str(status.path / part_name(index, status.n_parts)) for index in status.corrupt_parts
        ]
        yield f"delete:  rm {shlex.join(names)}"

    commands = status.again(num_shards)
    for words in commands[:SHARDS_SHOWN]:
        yield f"again:   {shlex.join(words)}"
    n_more = len(commands) - SHARDS_SHOWN
    if n_more > 0:
        yield f"         and {n_more} more, a shard each; --json has them all"

    shards = status.shards(num_shards)
    if status.n_parts > 1 and shards and status.takes_shards:
        count = num_shards or status.n_parts
        # Slurm counts the tasks of the list, not the shards, so the job must say both itself
        yield (
            f"shards:  --array={ranges(shards)}, in the job: "
            f"--shard-index $SLURM_ARRAY_TASK_ID --num-shards {count}"
        )
