"""The flags of ``prefpipe report``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location, Url, local_path
from prefpipe.configs.answers import json_option, strict_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option

DEFAULT_SIZE = "8B"
"""The model of the savings calculator where the folder has no policy."""
DEFAULT_NAME = "report.html"
DEFAULT_MAPS = 12
MOST_RUNS = 2


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandConfig):
    """Write a run or a study as one HTML page, readable offline.

    A run's page says first whether it got better, by how much, at what cost and what got worse. It
    then shows rows, rewards, coverage, training, evaluation and savings; a study's page contrasts,
    arms, costs and runs. Two runs stand side by side, with paired differences. The same artifacts
    give the same file. A new report replaces an old one; other files are replaced only with
    --overwrite.
    """

    command: ClassVar[str] = "report"
    examples: ClassVar[tuple[str, ...]] = (
        "prefpipe report run -o report.html",
        "prefpipe report run-a run-b -o both.html",
    )

    runs: tuple[Location, ...] = option(
        positional=True,
        metavar="RUN...",
        help="folder of a run's artifacts; or of a study, or of its study.json, "
        "results.parquet and runs.parquet; or the folders of two runs, which are compared",
    )
    output: Path | None = option(
        None,
        flag="-o",
        metavar="FILE",
        help=f"the HTML file to write [default: RUN/{DEFAULT_NAME}; of two runs it is needed]",
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
        f"such as 8B [default: the policy in RUN, else {DEFAULT_SIZE}]",
    )
    overwrite: bool = option(False, help="replace FILE even if it is not a prefpipe report")
    strict: bool = strict_option()
    as_json: bool = json_option("print what the report is made of as JSON to stdout")

    def problems(self) -> list[str]:
        problems = super().problems()
        if len(self.runs) > MOST_RUNS:
            problems.append(
                f"{len(self.runs)} runs are given, and a report compares {MOST_RUNS}; "
                "seeds of rounds are compared by prefpipe eval by-round"
            )
        if len({path.resolve() for path in self.runs}) < len(self.runs):
            problems.append("a run is given twice: it would be compared with itself")
        if len(self.runs) == MOST_RUNS and self.output is None:
            problems.append("-o FILE is needed for two runs: the page belongs to neither folder")
        if self.output is None and any(isinstance(path, Url) for path in self.runs):
            problems.append("-o FILE is needed for a run in a bucket: the page is a file of a disk")
        if len(self.runs) == MOST_RUNS and self.prompts != DEFAULT_MAPS:
            problems.append("--prompts is for the report of one run: two have no maps")
        return problems

    @property
    def workdir(self) -> Location:
        """The folder of the run, or of the first of two."""
        return self.runs[0]

    @property
    def place(self) -> Path:
        """Where the file is written."""
        if self.output is not None:
            return self.output
        return local_path(self.workdir, "RUN") / DEFAULT_NAME
