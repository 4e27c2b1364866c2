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
    """Tell the story of a run, or of a study, in one HTML file that needs no network.

    Of a run it shows rows, rewards, coverage, training, evaluation and savings; of a study the
    contrasts, the arms, what they cost, and every run. The same artifacts give the same file. A
    report is replaced by the next one; any other file is not, without --overwrite.
    """

    command: ClassVar[str] = "report"

    workdir: Path = option(
        positional=True,
        metavar="WORKDIR",
        help="folder that holds the artifacts of a run; or of a study, or of its study.json, "
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
        help="prompts whose candidates are drawn as a map, with their texts",
    )
    model: str | None = option(
        None,
        metavar="MODEL",
        help="the model of the savings calculator: a folder, org/name, bundled:NAME, or its size, "
        f"8B [default: the policy in WORKDIR, else {DEFAULT_SIZE}]",
    )
    overwrite: bool = option(False, help="replace FILE also where it is no report of prefpipe")
    strict: bool = strict_option()
    as_json: bool = json_option("print what the report is made of as JSON to stdout")

    @property
    def place(self) -> Path:
        """Where the file is written."""
        return self.workdir / DEFAULT_NAME if self.output is None else self.output
