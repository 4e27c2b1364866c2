"""The flags of ``prefpipe reference``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(CommandConfig):
    """Write the reference pages of the documentation, or check them."""

    command: ClassVar[str] = "reference"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe reference docs/reference --check",)

    folder: Path = option(
        Path("docs/reference"), positional=True, metavar="DIR", help="folder of the pages"
    )
    check: bool = option(False, help="write nothing; fail if a page differs from the code")
