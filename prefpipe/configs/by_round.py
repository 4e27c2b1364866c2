"""The flags of ``prefpipe eval by-round``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.answers import json_option, strict_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option


@dataclass(frozen=True, kw_only=True)
class ByRoundConfig(CommandConfig):
    """Show how evaluations change from round to round.

    Reports held-out reward, length, KL divergence and diversity with paired intervals. Several runs
    count as seeds of one recipe: their intervals are over seeds and prompts.
    """

    command: ClassVar[str] = "eval by-round"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe eval by-round runs/seed-0 runs/seed-1",)
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "Intervals": ("confidence", "bootstrap_draws", "bootstrap_seed"),
    }

    runs: tuple[Location, ...] = option(
        positional=True,
        metavar="RUN...",
        help="folders of runs whose policies were evaluated after each round, one per seed",
    )
    markdown: bool = option(False, help="print Markdown tables")
    confidence: float = option(0.95, above=0, below=1, metavar="X", help="level of the intervals")
    bootstrap_draws: int = option(
        10_000, minimum=1, maximum=10_000_000, metavar="N", help="resamples of the bootstrap"
    )
    bootstrap_seed: int = option(0, minimum=0, metavar="N", help="seed of the bootstrap")
    strict: bool = strict_option()
    as_json: bool = json_option()

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.markdown and self.as_json:
            problems.append("--markdown and --json exclude each other")
        places = [path.resolve() for path in self.runs]
        if len(set(places)) < len(places):
            problems.append("a run is given twice: it would count as two seeds")
        return problems
