"""The flags of ``prefpipe report``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.answers import json_option, strict_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option

DEFAULT_SIZE = "8B"
"""The model of the savings calculator where the folder has no policy."""
DEFAULT_NAME = "report.html"
DEFAULT_MAPS = 12


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandConfig):
    """Write a run or a study as one HTML page, readable offline.

    A run's page shows rows, rewards, coverage, training, evaluation and savings; a study's page
    contrasts, arms, costs and runs. The same artifacts give the same file. A new report replaces an
    old one; other files are replaced only with --overwrite.
    """

    command: ClassVar[str] = "report"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe report run -o report.html",)

    workdir: Path = option(
        positional=True,
        metavar="WORKDIR",
        help="folder of a run's artifacts; or of a study, or of its study.json, "
        "results.parquet and runs.parquet",
    )
    output: Path | None = option(
        None,
        flag="-o",
        metavar="FILE",
        help=f"the HTML file to write [default: WORKDIR/{DEFAULT_NAME}]",
    )
    prompts: int = option(
        DEFAULT_MAPS,
        minimum=0,
        maximum=200,
        metavar="N",
        help="prompts to draw a map of the candidates for, with their texts",
    )
    model: str | None = option(
        None,
        metavar="MODEL",
        help="model for the savings calculator: a folder, org/name, bundled:NAME, or a size "
        f"such as 8B [default: the policy in WORKDIR, else {DEFAULT_SIZE}]",
    )
    overwrite: bool = option(False, help="replace FILE even if it is not a prefpipe report")
    strict: bool = strict_option()
    as_json: bool = json_option("print what the report is made of as JSON to stdout")

    @property
    def place(self) -> Path:
        """Where the file is written."""
        return self.workdir / DEFAULT_NAME if self.output is None else self.output
