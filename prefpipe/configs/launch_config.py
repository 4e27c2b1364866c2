"""The flags of ``prefpipe launch-config``."""

from dataclasses import dataclass
from typing import ClassVar

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class LaunchFileConfig(CommandConfig):
    """Print the path of a config for training on several GPUs.

    The config is for `accelerate launch`. Without NAME, list all configs.
    """

    command: ClassVar[str] = "launch-config"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe launch-config",
        "prefpipe launch-config fsdp2",
    )

    name: str | None = option(
        None, positional=True, metavar="[NAME]", help="ddp, fsdp2, zero2 or zero3"
    )
