"""``prefpipe report``: the story of a run as one HTML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.cli.commands import command_from

DEFAULT_SIZE = "8B"


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """What can be given to ``prefpipe report``."""

    workdir: Annotated[
        Path, typer.Argument(metavar="WORKDIR", show_default=False, help="folder that holds the artifacts of a run")
    ]
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="the HTML file to write")
    ]  # fmt: skip
    prompts: Annotated[int, typer.Option(metavar="N", help="prompts whose candidates are drawn as a map, with their texts")] = 12
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", show_default=False,
            help="the model of the savings calculator: a folder, org/name, bundled:NAME, or its size, 8B \\[default: the policy "
            f"in WORKDIR, else {DEFAULT_SIZE}]",
        ),
    ] = None  # fmt: skip
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace FILE also where it is no report of prefpipe")] = False
    as_json: Annotated[bool, typer.Option("--json", help="print what the report is made of as JSON to stdout")] = False


def _report(flags: ReportFlags) -> None:
    """Tell the story of a run in one HTML file that needs no network: rows, rewards, coverage, training, evaluation, savings.

    The same artifacts give the same file. A report is replaced by the next one; any other file is not, without --overwrite.
    """
    from prefpipe.cli import console, pages
    from prefpipe.errors import UsageError
    from prefpipe.reports.html.page import render, write_report
    from prefpipe.stages.report import tell

    if not 0 <= flags.prompts <= 200:
        raise UsageError(f"--prompts must be within 0 and 200, not {flags.prompts}", hint="run `prefpipe report --help`")
    found = _found(flags.workdir)
    story = tell(flags.workdir.resolve().name, found, _model(flags.model, found), n_maps=flags.prompts)
    write_report(flags.output, render(story), overwrite=flags.overwrite)
    for line in _errors(story):
        console.log(line)
    if flags.as_json:
        pages.pipe_json(story)
    else:
        pages.pipe(str(flags.output))


report = command_from(ReportFlags, _report)


def _found(workdir: Path) -> list[Any]:
    """Return the artifacts of the folder by their names in it, each with its state and its parents."""
    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.store import Artifact
    from prefpipe.cli import console
    from prefpipe.errors import PrefpipeError
    from prefpipe.plan import Inspector, find_artifacts, locate_parent
    from prefpipe.stages.report_sources import Found

    opened = {}
    for path in find_artifacts(workdir):
        try:
            opened[path] = Artifact(path, read_run_record(path))
        except PrefpipeError as error:
            console.log(f"left out of the report: {error.message}")
    names = {path.resolve(): str(path.relative_to(workdir)) for path in opened}
    inspector, found = Inspector(), []
    for path, artifact in opened.items():
        state = inspector.report(path, quick=True)
        parents = {}
        for kind, recorded in artifact.record.parents.items():
            place = locate_parent(artifact, kind)
            # of what lies outside, what was written down: where it is now depends on where one stands
            parents[kind] = names.get(place.resolve(), recorded) if place is not None else recorded
        found.append(Found(names[path.resolve()], artifact, parents, state.state, tuple(state.reasons), state.command))
    return found


def _model(named: str | None, found: list[Any]) -> Any:
    """Return the model of the calculator: the one named, else the first policy of the folder, else a size."""
    from prefpipe.backends.model_shape import named_shape
    from prefpipe.errors import PrefpipeError
    from prefpipe.maths.training_compute import ModelShape, parse_size
    from prefpipe.stages.report import TrainedShape

    size = parse_size(named) if named is not None and not Path(named).is_dir() else None
    if size is not None:
        return TrainedShape(str(named), ModelShape(size))
    if named is not None:
        return TrainedShape(named, named_shape(named).shape)
    for item in (item for item in found if item.kind == "policy"):
        try:
            return TrainedShape(item.name, named_shape(str(item.artifact.path)).shape)
        except PrefpipeError:
            continue  # not finished, a reward model, or its base is not on this machine
    size = parse_size(DEFAULT_SIZE)
    assert size is not None
    return TrainedShape(DEFAULT_SIZE, ModelShape(size))


def _errors(story: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that could not be told."""
    lines = []

    def look(value: Any, where: str) -> None:
        if isinstance(value, Mapping):
            if isinstance(value.get("error"), str):
                lines.append(f"{where}: {value['error']}")
            for name, item in value.items():
                look(item, f"{where} {name}".strip())
        elif isinstance(value, list):
            for item in value:
                look(item, f"{where} {item['name']}" if isinstance(item, Mapping) and "name" in item else where)

    for section in ("pools", "maps", "win_rates"):
        look(story[section], section)
    return lines
