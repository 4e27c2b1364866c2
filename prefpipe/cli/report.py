"""``prefpipe report``: the story of a run as one HTML file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from prefpipe.cli.commands import command_from
from prefpipe.cli.standings import STRICT_HELP

DEFAULT_SIZE = "8B"
MESSAGES = ("error", "hint", "reasons", "trouble")
"""Keys of a story that hold messages."""


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """What can be given to ``prefpipe report``."""

    workdir: Annotated[
        Path,
        typer.Argument(
            metavar="WORKDIR", show_default=False, help="folder that holds the artifacts of a run"
        ),
    ]
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default=False, help="the HTML file to write"
        ),
    ]
    prompts: Annotated[
        int,
        typer.Option(
            metavar="N", help="prompts whose candidates are drawn as a map, with their texts"
        ),
    ] = 12
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            show_default=False,
            help="the model of the savings calculator: a folder, org/name, bundled:NAME, or its size, 8B \\[default: the policy "
            f"in WORKDIR, else {DEFAULT_SIZE}]",
        ),
    ] = None
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="replace FILE also where it is no report of prefpipe"),
    ] = False
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="print what the report is made of as JSON to stdout")
    ] = False


def _report(flags: ReportFlags) -> None:
    """Tell the story of a run in one HTML file that needs no network: rows, rewards, coverage, training, evaluation, savings.

    The same artifacts give the same file. A report is replaced by the next one; any other file is not, without --overwrite.
    """
    from prefpipe.cli import console, pages
    from prefpipe.errors import UsageError
    from prefpipe.report.page import refuse_other_file, render, write_report
    from prefpipe.report.story import tell

    if not 0 <= flags.prompts <= 200:
        raise UsageError(
            f"--prompts must be within 0 and 200, not {flags.prompts}",
            hint="run `prefpipe report --help`",
        )
    refuse_other_file(flags.output, overwrite=flags.overwrite)  # before the work, not after it
    found, unreadable = _found(flags.workdir, strict=flags.strict)
    _say_what_is_not_done(found, unreadable, strict=flags.strict)
    story = tell(
        flags.workdir.resolve().name, found, _model(flags.model, found), n_maps=flags.prompts
    )
    story["not_done"] = [*unreadable, *story["not_done"]]
    for line in _errors(story):
        console.log(line)
    story = _with_names(story, found)
    write_report(flags.output, render(story), overwrite=flags.overwrite)
    if flags.as_json:
        pages.pipe_json(story)
    else:
        pages.pipe(str(flags.output))


report = command_from(ReportFlags, _report)


def _found(workdir: Path, *, strict: bool) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the artifacts of the folder by their names in it, each with its state and its parents.

    Args:
        workdir: the folder.
        strict: verify every byte of every part, and not the footers alone.

    Returns:
        The artifacts, and those whose ``run.json`` cannot be read, which nothing can be told of: as entries of ``not_done``.
    """
    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.store import Artifact
    from prefpipe.errors import PrefpipeError
    from prefpipe.report.sources import ReportedArtifact
    from prefpipe.status.checker import StatusChecker, standing_of
    from prefpipe.status.folders import find_artifacts
    from prefpipe.status.origins import locate_parent

    opened, unreadable = {}, []
    all_paths = find_artifacts(workdir)
    names = {
        path: str(path.relative_to(workdir)) if path != workdir else workdir.resolve().name
        for path in all_paths
    }
    for path in all_paths:
        try:
            opened[path] = Artifact(path, read_run_record(path))
        except PrefpipeError:
            standing = standing_of(path)
            unreadable.append(
                {"name": names[path], "state": standing.state, "reasons": list(standing.reasons)}
            )
    places = {path.resolve(): names[path] for path in opened}
    by_name = {names[path]: artifact for path, artifact in opened.items()}
    checker, found = StatusChecker(), []
    for path, artifact in opened.items():
        state = checker.check(path, quick=not strict)
        parents = {}
        for kind in artifact.record.parents:
            place = locate_parent(artifact, kind)
            inside = places.get(place.resolve()) if place is not None else None
            parents[kind] = (
                inside
                or _twin(artifact, names[path], kind, by_name)
                or _outside(artifact, kind, by_name)
            )
        found.append(
            ReportedArtifact(
                names[path], artifact, parents, state.state, tuple(state.reasons), state.command
            )
        )
    return found, unreadable


def _say_what_is_not_done(
    found: list[Any], unreadable: list[dict[str, Any]], *, strict: bool
) -> None:
    """Say in the first lines whose figures will be marked.

    Raises:
        InputError: with ``strict``, naming the first that is partial, stale or corrupt.
    """
    from prefpipe.cli import console
    from prefpipe.errors import InputError

    for entry in unreadable:
        line = f"{entry['name']} is {entry['state']}: {entry['reasons'][0]}"
        if strict:
            raise InputError(f"--strict: {line}", hint="repair it, or move it out of the folder")
        console.log(f"warning: {line}; it is left out of the report")

    for item in found:
        if item.state == "done":
            continue
        reason = f": {item.reasons[0].rstrip(':')}" if item.reasons else ""
        if strict:
            raise InputError(
                f"--strict: {item.name} is {item.state}{reason}",
                hint=f"prefpipe status {quote(str(item.artifact.path))}",
            )
        console.log(f"warning: {item.name} is {item.state}{reason}; its figures are marked")


def _twin(artifact: Any, name: str, kind: str, by_name: Mapping[str, Any]) -> str | None:
    """Return the artifact of the folder that is what this one was made from: of a copied run the original may still be there."""
    identity = artifact.record.identity.get(kind)
    alike = [
        each
        for each, other in by_name.items()
        if other.record.identity == identity and each != name
    ]
    beside = str(Path(name).parent / Path(artifact.record.parents[kind]).name)
    return min(alike, key=lambda each: each != beside, default=None)


def _outside(artifact: Any, kind: str, by_name: Mapping[str, Any]) -> str:
    """Return where a parent outside the folder was when this was made: where it is now depends on where one stands."""
    from prefpipe.status.origins import FILES

    recorded, folder = artifact.record.parents[kind], artifact.record.context.get("folder")
    told = recorded if kind in FILES or not isinstance(folder, str) else str(Path(folder, recorded))
    return told if told not in by_name else f"{told}, elsewhere"


def _with_names(story: Mapping[str, Any], found: list[Any]) -> dict[str, Any]:
    """Return the story with artifacts named as the report names them in every message: paths depend on where one stands."""
    spelled: dict[str, str] = {}
    for item in found:
        path = item.artifact.path
        place = path.resolve()
        near = [str(place.relative_to(Path.cwd()))] if place.is_relative_to(Path.cwd()) else []
        spelled |= {each: item.name for each in (str(path), str(place), *near) if each != "."}
    told = re.compile(
        r"(?<![\w/.-])(?:"
        + "|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))
        + r")(?=[/\s,:;)]|$)"
    )

    def named(value: Any, *, is_message: bool = False) -> Any:
        if isinstance(value, str):
            return told.sub(lambda match: spelled[match[0]], value) if is_message else value
        if isinstance(value, Mapping):
            return {key: named(item, is_message=key in MESSAGES) for key, item in value.items()}
        return (
            [named(item, is_message=is_message) for item in value]
            if isinstance(value, list)
            else value
        )

    renamed: dict[str, Any] = named(story)
    return renamed


def _model(named: str | None, found: list[Any]) -> Any:
    """Return the model of the calculator: the one named, else the first policy of the folder, else a size."""
    from prefpipe.errors import PrefpipeError
    from prefpipe.maths.compute.training_compute import ModelShape, parse_size
    from prefpipe.report.story import TrainedShape

    size = parse_size(named) if named is not None and not Path(named).is_dir() else None
    if size is not None:
        return TrainedShape(str(named), ModelShape(size))
    policies = [item for item in found if item.kind == "policy"]
    if named is not None or policies:
        from prefpipe.models.shape import named_shape  # brings in transformers: seconds

        if named is not None:
            return TrainedShape(named, named_shape(named).shape)
        for item in policies:
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
                look(
                    item,
                    f"{where} {item['name']}"
                    if isinstance(item, Mapping) and "name" in item
                    else where,
                )

    for section in ("pools", "maps", "win_rates"):
        look(story[section], section)
    lines += [f"maps: {each['error']}" for each in story["maps_left_out"]]
    for entry in story["lineage"]:
        lines += [f"{entry['name']}: {each}" for each in entry["trouble"]]
        if entry["state"] == "corrupt":
            lines += [f"{entry['name']} is corrupt: {each}" for each in entry["reasons"][:1]]
    return lines
