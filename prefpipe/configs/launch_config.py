"""The flags of ``prefpipe launch-config``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class LaunchFileConfig(CommandConfig):
    """Print the path of a file for ``accelerate launch`` of train on several GPUs, or list them."""

    command: ClassVar[str] = "launch-config"

    name: str | None = option(
        None, positional=True, metavar="[NAME]", help="ddp, fsdp2, zero2 or zero3"
    )
