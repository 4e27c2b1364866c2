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
    """Print the tables of a study: arms and declared contrasts.

    Contrasts are paired by prompt and seed, and intervals are over both. Failed and waiting runs
    are counted. Contrasts declared after the first evaluation are marked and not corrected for.
    """

    command: ClassVar[str] = "eval study"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe eval study study --markdown",)
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "Intervals": ("confidence", "bootstrap_draws", "bootstrap_seed"),
    }

    folder: Path = option(
        positional=True,
        metavar="FOLDER",
        help="what `prefpipe study PLAN -o FOLDER` wrote, or a copy of its study.json, "
        "results.parquet and runs.parquet",
    )
    markdown: bool = option(False, help="print Markdown tables")
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
