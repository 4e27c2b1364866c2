"""The flags of ``prefpipe inspect``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.answers import json_option, strict_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class InspectConfig(CommandConfig):
    """Show what an artifact holds, or one of its prompts.

    Shows an artifact's columns, counts and distributions; with --prompt-id, one prompt with its
    ranked candidates, or a map of them.
    """

    command: ClassVar[str] = "inspect"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe inspect run/groups",
        "prefpipe inspect run/groups --prompt-id 4be0a1 --map",
    )

    path: Location = option(positional=True, metavar="PATH", help="folder of an artifact")
    gamma: float | None = option(
        None,
        minimum=0,
        metavar="X",
        help="groups: show the targets sigma(X * margin) that mmpo would train on",
    )
    bins: int | None = option(
        None, minimum=2, maximum=1000, metavar="N", help="bins of these targets [default: 10]"
    )
    prompt_id: str | None = option(
        None,
        metavar="ID",
        help="show this prompt with all its candidates; the first characters of the id are enough",
    )
    scores: Location | None = option(
        None, metavar="DIR", help="scores to rank by; default: those of the groups"
    )
    groups: Location | None = option(None, metavar="DIR", help="groups to read the roles from")
    reward: str | None = option(
        None,
        metavar="EXPRESSION",
        help="rank by this expression; default: the one the groups were selected with",
    )
    full: bool = option(False, help="show whole texts instead of their first lines")
    draw_map: bool = option(
        False,
        flag="--map",
        help="draw the prompt's candidates by their embeddings, in two dimensions, with their "
        "roles",
    )
    embeddings: Location | None = option(
        None, metavar="DIR", help="embeddings to draw with --map; default: those of the groups"
    )
    strict: bool = strict_option()
    as_json: bool = json_option()

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.bins is not None and self.gamma is None:
            problems.append("--bins goes together with --gamma")
        if self.gamma is not None and self.prompt_id is not None:
            problems.append("--gamma is for all pairs of the groups, not for --prompt-id")
        of_one_prompt = {
            "--scores": self.scores is not None,
            "--groups": self.groups is not None,
            "--reward": self.reward is not None,
            "--full": self.full,
            "--map": self.draw_map,
            "--embeddings": self.embeddings is not None,
        }
        if self.prompt_id is None:
            problems += [
                f"{flag} goes together with --prompt-id"
                for flag, is_given in of_one_prompt.items()
                if is_given
            ]
            return problems

        if self.embeddings is not None and not self.draw_map:
            problems.append("--embeddings goes together with --map")
        if self.draw_map and self.full:
            problems.append("--map shows how texts begin, so --full does not go with it")
        return problems
