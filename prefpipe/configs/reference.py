"""The flags of ``prefpipe reference``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(CommandConfig):
    """Write the reference pages, or compare them with the code."""

    command: ClassVar[str] = "reference"

    folder: Path = option(
        Path("docs/reference"), positional=True, metavar="DIR", help="where the pages are"
    )
    check: bool = option(False, help="write nothing; fail when a page differs from the code")
