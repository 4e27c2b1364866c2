"""``prefpipe inspect``: what an artifact holds, or one of its prompts with every candidate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.cli.commands import command_from
from prefpipe.cli.standings import STRICT_HELP, not_done


@dataclass(frozen=True, kw_only=True)
class InspectFlags:
    """What can be given to ``prefpipe inspect``."""

    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="folder of an artifact", show_default=False)
    ]
    prompt_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="show this prompt with all its candidates; the beginning of the id is enough",
        ),
    ] = None
    scores: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="scores to rank by; default those of the groups"),
    ] = None
    groups: Annotated[
        Path | None, typer.Option(metavar="DIR", help="groups to take the roles from")
    ] = None
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION",
            help="rank by this expression; default what the groups were selected with",
        ),
    ] = None
    full: Annotated[
        bool, typer.Option("--full", help="show whole texts instead of their first lines")
    ] = False
    draw_map: Annotated[
        bool,
        typer.Option(
            "--map",
            help="draw the prompt's candidates by their embeddings, in two dimensions, with what was chosen",
        ),
    ] = False
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="embeddings to draw with --map; default those of the groups"
        ),
    ] = None
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False
    as_json: Annotated[bool, typer.Option("--json", help="print JSON to stdout")] = False


def _inspect(flags: InspectFlags) -> None:
    """Show what an artifact holds: columns, counts, distributions; or one prompt with its candidates, ranked or as a map."""
    from prefpipe.cli import pages

    _refuse_stray(flags)
    if flags.prompt_id is None:
        from prefpipe.pages.overview import overview_page
        from prefpipe.stages.inspect.overview import overview

        artifact = _open(flags.path)
        unfinished = not_done([artifact.path], strict=flags.strict)
        found = overview(artifact)
        page = overview_page(found, width=pages.width())
    else:
        related = _related(flags)
        unfinished = not_done([artifact.path for artifact in related.values()], strict=flags.strict)
        if flags.draw_map:
            from prefpipe.pages.candidate_map import candidate_map_page

            found = _mapped(flags, related, flags.prompt_id)
            page = candidate_map_page(found, width=pages.width())
        else:
            from prefpipe.pages.one_prompt import one_prompt_page
            from prefpipe.stages.inspect.one_prompt import one_prompt

            found = one_prompt(_sources(related), flags.prompt_id, flags.reward)
            page = one_prompt_page(found, width=pages.width(), full=flags.full)

    if flags.as_json:
        pages.pipe_json({**found, "not_done": unfinished})
    else:
        pages.show(page, not_done=unfinished)


inspect = command_from(InspectFlags, _inspect)


def _refuse_stray(flags: InspectFlags) -> None:
    """Refuse flags that need another one, or exclude it."""
    from prefpipe.errors import UsageError

    given = {
        "--scores": flags.scores,
        "--groups": flags.groups,
        "--reward": flags.reward,
        "--full": flags.full or None,
        "--map": flags.draw_map or None,
        "--embeddings": flags.embeddings,
    }
    stray = [name for name, value in given.items() if value is not None]
    if flags.prompt_id is None and stray:
        raise UsageError(
            f"{stray[0]} goes together with --prompt-id", hint="run `prefpipe inspect --help`"
        )
    if flags.embeddings is not None and not flags.draw_map:
        raise UsageError(
            "--embeddings goes together with --map", hint="run `prefpipe inspect --help`"
        )
    if flags.draw_map and flags.full:
        raise UsageError(
            "--map shows how texts begin, so --full does not go with it",
            hint="leave one of them out",
        )


def _mapped(flags: InspectFlags, related: dict[str, Any], prompt_id: str) -> dict[str, Any]:
    """Return the prompt with the coordinates of its candidates."""
    from prefpipe.errors import UsageError
    from prefpipe.stages.inspect.candidate_map import with_coordinates
    from prefpipe.stages.inspect.one_prompt import one_prompt

    if "embeddings" not in related:
        raise UsageError(
            f"--map needs embeddings, and none are to be found through {flags.path}",
            hint="pass the folder that embed wrote with --embeddings",
        )
    sources = _sources(related)
    return with_coordinates(
        one_prompt(sources, prompt_id, flags.reward), related["embeddings"], sources
    )


def _open(path: Path) -> Any:
    """Return the artifact of a folder; of a folder that holds several, an error that names them."""
    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.store import Artifact
    from prefpipe.errors import InputError
    from prefpipe.status.folders import find_artifacts

    inside = find_artifacts(path)
    if inside and path not in inside:
        raise InputError(
            f"{path} is not an artifact, it holds {len(inside)}",
            hint=f"inspect one of them: {', '.join(map(str, inside[:6]))}",
        )
    return Artifact(path, read_run_record(path))


def _related(flags: InspectFlags) -> dict[str, Any]:
    """Return the artifacts that belong together by kind: those named, and those found through the parents."""
    from prefpipe.artifacts.store import open_input
    from prefpipe.errors import UsageError
    from prefpipe.status.origins import locate_parent

    artifact = _open(flags.path)
    kind = artifact.record.schema.split("/")[0]
    if kind not in ("candidates", "scores", "embeddings", "groups"):
        raise UsageError(
            f"--prompt-id needs candidates, scores, embeddings or groups, and {flags.path} holds {kind}"
        )
    found = {kind: open_input(flags.path, schema=kind, name="PATH")}
    for name, path in (
        ("groups", flags.groups),
        ("scores", flags.scores),
        ("embeddings", flags.embeddings),
    ):
        if path is not None:
            found[name] = open_input(path, schema=name, name=f"--{name}")
    wanted = ("candidates", "scores", "embeddings") if flags.draw_map else ("candidates", "scores")
    for child in list(found.values()):
        for name in wanted:
            parent = locate_parent(child, name) if name not in found else None
            if parent is not None:
                found[name] = open_input(parent, schema=name, name=f"the {name} of {child.path}")
    if "candidates" not in found and "groups" not in found:
        raise UsageError(
            f"the candidates of {artifact.path} are not at {artifact.record.parents.get('candidates')}",
            hint="inspect the candidates folder itself, with --scores and --groups",
        )
    return found


def _sources(related: dict[str, Any]) -> Any:
    from prefpipe.stages.inspect.one_prompt import PromptSources

    return PromptSources(related.get("candidates"), related.get("groups"), related.get("scores"))
