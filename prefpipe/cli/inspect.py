"""``prefpipe inspect``: what an artifact holds, or one of its prompts with every candidate."""

from pathlib import Path
from typing import Annotated, Any

import typer


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="folder of an artifact", show_default=False)],
    prompt_id: Annotated[
        str | None, typer.Option(metavar="ID", help="show this prompt with all its candidates; the beginning of the id is enough")
    ] = None,
    scores: Annotated[Path | None, typer.Option(metavar="DIR", help="scores to rank by; default those of the groups")] = None,
    groups: Annotated[Path | None, typer.Option(metavar="DIR", help="groups to take the roles from")] = None,
    reward: Annotated[
        str | None,
        typer.Option(metavar="EXPRESSION", help="rank by this expression; default what the groups were selected with"),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="show whole texts instead of their first lines")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON to stdout")] = False,
) -> None:
    """Show what an artifact holds: columns, counts, distributions; or one prompt with its candidates, ranked."""
    from prefpipe.cli import pages
    from prefpipe.errors import UsageError

    given = {"--scores": scores, "--groups": groups, "--reward": reward, "--full": full or None}
    stray = [name for name, value in given.items() if value is not None]
    if prompt_id is None and stray:
        raise UsageError(f"{stray[0]} goes together with --prompt-id", hint="run `prefpipe inspect --help`")
    if prompt_id is None:
        found = _overview(path)
        from prefpipe.reports.overview_page import overview_page

        page = overview_page(found, width=pages.width())
    else:
        found = _one_prompt(path, prompt_id, scores=scores, groups=groups, reward=reward)
        from prefpipe.reports.one_prompt_page import one_prompt_page

        page = one_prompt_page(found, width=pages.width(), full=full)
    if as_json:
        pages.pipe_json(found)
    else:
        pages.show(page)


def _overview(path: Path) -> dict[str, Any]:
    from prefpipe.reports.overview import overview

    return overview(_open(path))


def _one_prompt(path: Path, prompt_id: str, *, scores: Path | None, groups: Path | None, reward: str | None) -> dict[str, Any]:
    from prefpipe.reports.one_prompt import one_prompt

    return one_prompt(_sources(_open(path), scores=scores, groups=groups), prompt_id, reward)


def _open(path: Path) -> Any:
    """Return the artifact of a folder; of a folder that holds several, an error that names them."""
    from prefpipe.artifacts.run_record import read_run_record
    from prefpipe.artifacts.store import Artifact
    from prefpipe.errors import InputError
    from prefpipe.plan import find_artifacts

    inside = find_artifacts(path)
    if inside and path not in inside:
        raise InputError(f"{path} is not an artifact, it holds {len(inside)}",
                         hint=f"inspect one of them: {', '.join(map(str, inside[:6]))}")  # fmt: skip
    return Artifact(path, read_run_record(path))


def _sources(artifact: Any, *, scores: Path | None, groups: Path | None) -> Any:
    """Return the artifacts that belong together: those named, and those found through the parents."""
    from prefpipe.artifacts.store import open_input
    from prefpipe.errors import UsageError
    from prefpipe.plan import locate_parent
    from prefpipe.reports.one_prompt import Sources

    kind = artifact.record.schema.split("/")[0]
    if kind not in ("candidates", "scores", "embeddings", "groups"):
        raise UsageError(f"--prompt-id needs candidates, scores, embeddings or groups, and {artifact.path} holds {kind}")
    found = {kind: artifact}
    if groups is not None:
        found["groups"] = open_input(groups, schema="groups", name="--groups")
    if scores is not None:
        found["scores"] = open_input(scores, schema="scores", name="--scores")
    for child in list(found.values()):
        for name in ("candidates", "scores"):
            parent = locate_parent(child, name) if name not in found else None
            if parent is not None:
                found[name] = open_input(parent, schema=name, name=f"the {name} of {child.path}")
    if "candidates" not in found and "groups" not in found:
        raise UsageError(f"the candidates of {artifact.path} are not at {artifact.record.parents.get('candidates')}",
                         hint="inspect the candidates folder itself, with --scores and --groups")  # fmt: skip
    return Sources(found.get("candidates"), found.get("groups"), found.get("scores"))
