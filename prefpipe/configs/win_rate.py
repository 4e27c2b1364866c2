"""The flags of ``prefpipe eval win-rate``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefpipe.artifacts.storage.location import Location
from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option

SCALES = ("0-1", "1-2")


@dataclass(frozen=True, kw_only=True)
class WinRateConfig(CommandConfig):
    """Compute win rates from the preferences of a judge or rater.

    Reports raw and length-controlled win rates with errors and intervals. For AlpacaEval's and
    Arena-Hard's files they match the leaderboards. Your own prompts have no known difficulty; the
    name of the length-controlled figure says so.
    """

    command: ClassVar[str] = "eval win-rate"
    examples: ClassVar[tuple[str, ...]] = ("prefpipe eval win-rate annotations.json",)
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "Length control": ("difficulty", "regularising_rows", "baseline_outputs", "penalty_c"),
        "Intervals": ("confidence", "bootstrap_draws", "bootstrap_fits", "bootstrap_seed"),
    }

    annotations: tuple[Location, ...] = option(
        positional=True,
        metavar="ANNOTATIONS",
        common=True,
        help="AlpacaEval's annotations.json, Arena-Hard's model_judgment, a JSONL, JSON, CSV "
        "or Parquet file, or a folder of `prefpipe eval` or `judge`; several: each "
        "against the first",
    )
    difficulty: Location | None = option(
        None,
        metavar="FILE",
        common=True,
        help="difficulty of each instruction; default: leave the term out",
    )
    regularising_rows: Location | None = option(
        None,
        metavar="FILE",
        help="rows that constrain the fit's coefficients: AlpacaEval's df_gamed.csv",
    )
    baseline_outputs: Location | None = option(
        None,
        metavar="FILE",
        common=True,
        help="the baseline's responses, model_outputs.json, if ANNOTATIONS do not hold them",
    )
    penalty_c: float | None = option(
        None,
        above=0,
        metavar="C",
        help="C of the L1 penalty; default: by 5-fold cross-validation with --difficulty, else "
        "10000",
    )
    scale: str | None = option(
        None,
        choices=SCALES,
        common=True,
        help="how preferences are written [default: 1-2 of AlpacaEval's files, else 0-1]",
    )
    category: str | None = option(
        None,
        metavar="NAME",
        common=True,
        help="Arena-Hard: category of prompts to read if a file has several: hard_prompt, "
        "creative_writing",
    )
    allow_missing: bool = option(
        False,
        common=True,
        help="skip and count rows without a preference, instead of refusing the file",
    )
    confidence: float = option(
        0.95, above=0, below=1, metavar="X", common=True, help="level of the intervals"
    )
    bootstrap_draws: int = option(
        10_000, minimum=1, maximum=10_000_000, metavar="N", help="resamples of the win rate"
    )
    bootstrap_fits: int = option(
        1_000,
        minimum=1,
        maximum=1_000_000,
        metavar="N",
        help="resamples of the length-controlled fit",
    )
    bootstrap_seed: int = option(0, minimum=0, metavar="N", help="seed of the resamples")
    force: bool = option(
        False,
        help="compare files even if their prompts, baselines or judges differ",
    )
    as_json: bool = json_option()
