"""The flags of ``prefpipe objectives``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig(CommandConfig):
    """List the training objectives, or explain one.

    Shows score, comparison, settings, formula and paper. Objectives with score reward_head are for
    `train --target reward`, where mmpo-reward is called mmpo.
    """

    command: ClassVar[str] = "objectives"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe objectives",
        "prefpipe objectives ampo",
    )

    name: str | None = option(
        None,
        positional=True,
        metavar="[NAME]",
        help="the objective to explain; without it, list all",
    )
    as_json: bool = json_option()
