"""The flags of ``prefpipe status``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class StatusConfig(CommandConfig):
    """Say for each artifact whether it is done, partial, stale or corrupt, and why.

    Exits with 0 when all are done, 4 when one is partial or stale, 1 when one is corrupt.
    """

    command: ClassVar[str] = "status"

    paths: tuple[Path, ...] = option(
        positional=True, metavar="PATH...", help="artifacts, or folders that hold several"
    )
    num_shards: int | None = option(
        None,
        minimum=1,
        metavar="N",
        help="workers that the missing shards are for; default one a part",
    )
    quick: bool = option(False, help="read the parts' footers only, not every byte")
    as_json: bool = json_option()
