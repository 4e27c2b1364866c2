"""The flags of ``prefpipe status``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class StatusConfig(CommandConfig):
    """Show what is done, partial, stale or corrupt, and why.

    Prints the command that continues each unfinished artifact. Exits with 0 if all are done, 4 if
    one is partial or stale, 1 if one is corrupt.
    """

    command: ClassVar[str] = "status"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe status run",)

    paths: tuple[Location, ...] = option(
        positional=True, metavar="PATH...", help="artifacts, or folders that hold several"
    )
    num_shards: int | None = option(
        None,
        minimum=1,
        metavar="N",
        help="workers to divide the missing parts among; default: one per part",
    )
    quick: bool = option(False, help="read only the parts' footers, not every byte")
    as_json: bool = json_option()
