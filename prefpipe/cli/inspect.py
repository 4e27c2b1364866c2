"""``prefpipe inspect``: what an artifact holds, or one of its prompts with every candidate."""

from typing import TYPE_CHECKING, Any

from prefpipe.cli.not_done import not_done
from prefpipe.configs.inspect import InspectConfig

if TYPE_CHECKING:
    from prefpipe.artifacts.store import Artifact
    from prefpipe.stages.inspect.one_prompt import PromptSources


def inspect(config: InspectConfig) -> None:
    """Print the page of the artifact, of a prompt, or of a prompt as a map."""
    from prefpipe.wiring.extras import require_extras

    require_extras(config)

    from prefpipe.cli import stdout

    if config.prompt_id is None:
        from prefpipe.pages.overview import overview_page
        from prefpipe.stages.inspect.overview import overview
        from prefpipe.status.folders import open_artifact

        artifact = open_artifact(config.path, verb="inspect")
        unfinished = not_done([artifact.path], strict=config.strict)
        facts = overview(artifact, gamma=config.gamma, n_bins=config.bins)
        page = overview_page(facts, width=stdout.width())
    else:
        related = _related(config)
        unfinished = not_done(
            [artifact.path for artifact in related.values()], strict=config.strict
        )
        if config.draw_map:
            from prefpipe.pages.candidate_map import candidate_map_page

            facts = _mapped(config, related, config.prompt_id)
            page = candidate_map_page(facts, width=stdout.width())
        else:
            from prefpipe.pages.one_prompt import one_prompt_page
            from prefpipe.stages.inspect.one_prompt import one_prompt

            facts = one_prompt(_sources(related), config.prompt_id, config.reward)
            page = one_prompt_page(facts, width=stdout.width(), full=config.full)

    if config.as_json:
        stdout.pipe_json({**facts, "not_done": unfinished})
    else:
        stdout.show(page, not_done=unfinished)


def _mapped(
    config: InspectConfig, related: "dict[str, Artifact]", prompt_id: str
) -> dict[str, Any]:
    """Return the prompt with the coordinates of its candidates."""
    from prefpipe.errors import UsageError
    from prefpipe.stages.inspect.candidate_map import with_coordinates
    from prefpipe.stages.inspect.one_prompt import one_prompt

    if "embeddings" not in related:
        raise UsageError(
            f"--map needs embeddings, and {config.path} leads to none",
            hint="pass the folder that embed wrote with --embeddings",
        )
    sources = _sources(related)
    facts = one_prompt(sources, prompt_id, config.reward)
    return with_coordinates(facts, related["embeddings"], sources)


def _related(config: InspectConfig) -> "dict[str, Artifact]":
    """Return the artifacts that belong together, by kind: those named, and their parents."""
    from prefpipe.artifacts.store import open_input
    from prefpipe.errors import UsageError
    from prefpipe.status.folders import open_artifact
    from prefpipe.status.origins import locate_parent

    artifact = open_artifact(config.path, verb="inspect")
    kind = artifact.record.schema.split("/")[0]
    if kind not in ("candidates", "scores", "embeddings", "groups"):
        raise UsageError(
            "--prompt-id needs candidates, scores, embeddings or groups, and "
            f"{config.path} holds {kind}"
        )

    related = {kind: open_input(config.path, schema=kind, name="PATH")}
    for name in ("groups", "scores", "embeddings"):
        path = getattr(config, name)
        if path is not None:
            related[name] = open_input(path, schema=name, name=f"--{name}")

    # what was not named is looked for where the parents of what was named are
    wanted = ["candidates", "scores"]
    if config.draw_map:
        wanted.append("embeddings")
    for child in list(related.values()):
        for name in wanted:
            parent = None if name in related else locate_parent(child, name)
            if parent is not None:
                related[name] = open_input(parent, schema=name, name=f"the {name} of {child.path}")
    related = _with_earlier_rounds(related)

    if "candidates" not in related and "groups" not in related:
        raise UsageError(
            f"the candidates of {artifact.path} are not at "
            f"{artifact.record.parents.get('candidates')}",
            hint="inspect the candidates folder itself, with --scores and --groups",
        )
    return related


def _with_earlier_rounds(related: "dict[str, Artifact]") -> "dict[str, Artifact]":
    """Return the artifacts so that they are read with the earlier rounds of the groups, if any."""
    from prefpipe.artifacts.store import open_input
    from prefpipe.stages.shared.earlier_rounds import KINDS, earlier_rounds_of, joined
    from prefpipe.status.origins import locate_parent

    groups = related.get("groups")
    if groups is None:
        return related

    def locate(name: str) -> "Artifact | None":
        place = locate_parent(groups, name)
        kind = name.rpartition("_")[2]
        return None if place is None else open_input(place, schema=kind, name=f"the {name}")

    pool = {kind: related[kind] for kind in KINDS if kind in related}
    return related | joined(pool, earlier_rounds_of(groups, locate))


def _sources(related: "dict[str, Artifact]") -> "PromptSources":
    from prefpipe.stages.inspect.one_prompt import PromptSources

    return PromptSources(related.get("candidates"), related.get("groups"), related.get("scores"))
