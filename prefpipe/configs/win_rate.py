"""The flags of ``prefpipe eval win-rate``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefpipe.configs.answers import json_option
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import option

SCALES = ("0-1", "1-2")


@dataclass(frozen=True, kw_only=True)
class WinRateConfig(CommandConfig):
    """Win rates from preferences of a judge or a rater, raw beside length-controlled.

    With errors and intervals. On AlpacaEval's and Arena-Hard's files the figures are those of their
    leaderboards. On your own prompts no difficulty of the instructions is known, and the
    length-controlled figure is named so.
    """

    command: ClassVar[str] = "eval win-rate"
    panels: ClassVar[Mapping[str, Sequence[str]]] = {
        "Length control": ("difficulty", "regularising_rows", "baseline_outputs", "penalty_c"),
        "Intervals": ("confidence", "bootstrap_draws", "bootstrap_fits", "bootstrap_seed"),
    }

    annotations: tuple[Path, ...] = option(
        positional=True,
        metavar="ANNOTATIONS",
        help="AlpacaEval's annotations.json, Arena-Hard's model_judgment, a JSONL, JSON, CSV or "
        "Parquet file, or a folder written by `prefpipe eval` or `judge`; of several, each is "
        "compared with the first",
    )
    difficulty: Path | None = option(
        None,
        metavar="FILE",
        help="difficulty of each instruction; without it the term is left out",
    )
    regularising_rows: Path | None = option(
        None,
        metavar="FILE",
        help="rows that hold the fit's coefficients: AlpacaEval's df_gamed.csv",
    )
    baseline_outputs: Path | None = option(
        None,
        metavar="FILE",
        help="the baseline's responses, where ANNOTATIONS do not hold them: model_outputs.json",
    )
    penalty_c: float | None = option(
        None,
        above=0,
        metavar="C",
        help="C of the L1 penalty; default 5-fold cross-validation with --difficulty, else 10000",
    )
    scale: str | None = option(
        None,
        choices=SCALES,
        help="how preferences are written [default: 1-2 of AlpacaEval's files, else 0-1]",
    )
    category: str | None = option(
        None,
        metavar="NAME",
        help="of Arena-Hard's prompts, where a file has several: hard_prompt, creative_writing",
    )
    allow_missing: bool = option(
        False, help="leave rows without a preference out and count them, instead of refusing"
    )
    confidence: float = option(0.95, above=0, below=1, metavar="X", help="level of the intervals")
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
    bootstrap_seed: int = option(0, minimum=0, metavar="N", help="seed of both")
    force: bool = option(
        False,
        help="compare files of other prompts, another baseline or another judge all the same",
    )
    as_json: bool = json_option()
