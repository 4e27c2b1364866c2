"""The flags of ``prefpipe objectives``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig(CommandConfig):
    """List the objectives with score, comparison, knobs, formula and paper, or explain one.

    The last ones, with score reward_head, are those of train --target reward, where mmpo-reward is
    called mmpo.
    """

    command: ClassVar[str] = "objectives"

    name: str | None = option(
        None,
        positional=True,
        metavar="[NAME]",
        help="one of them, with all that is known of it",
    )
    as_json: bool = json_option()
