"""The flags of ``prefpipe eval study``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class StudyFiguresConfig(CommandConfig):
    """The tables of a study: its arms and its declared contrasts, paired by prompt and seed.

    Intervals are over seeds and prompts; runs that failed or wait are counted. A contrast that was
    not declared before the first run was judged is marked, and not corrected for.
    """

    command: ClassVar[str] = "eval study"
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "Intervals": ("confidence", "bootstrap_draws", "bootstrap_seed"),
    }

    folder: Path = option(
        positional=True,
        metavar="FOLDER",
        help="what `prefpipe study PLAN -o FOLDER` wrote, or a copy of its study.json, "
        "results.parquet and runs.parquet",
    )
    markdown: bool = option(False, help="print Markdown tables, for a document")
    confidence: float = option(
        0.95,
        above=0.5,
        below=1,
        metavar="X",
        help="level of the intervals; tests are at 1 - X",
    )
    bootstrap_draws: int = option(
        10_000, minimum=1, maximum=10_000_000, metavar="N", help="resamples of the bootstrap"
    )
    bootstrap_seed: int = option(0, minimum=0, metavar="N", help="seed of the bootstrap")
    as_json: bool = json_option()

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.markdown and self.as_json:
            problems.append("--markdown and --json exclude each other")
        return problems
