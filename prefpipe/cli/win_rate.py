"""``prefpipe eval win-rate``: win rates from preferences that a judge or a rater gave, raw beside length-controlled."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from prefpipe.cli.commands import command_from

LENGTH_PANEL = "Length control"
DRAW_PANEL = "Intervals"
HINT = "run `prefpipe eval win-rate --help`"
SCALES = ("0-1", "1-2")


def _flag(text: str, metavar: str | None, panel: str | None, *names: str) -> Any:
    return typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=panel, show_default=False
    )


@dataclass(frozen=True, kw_only=True)
class WinRateFlags:
    """What can be given to ``prefpipe eval win-rate``."""

    annotations: Annotated[
        list[Path],
        typer.Argument(
            metavar="ANNOTATIONS",
            show_default=False,
            help="AlpacaEval's annotations.json, Arena-Hard's model_judgment, a JSONL, JSON, CSV or Parquet file, or a folder "
            "written by `prefpipe eval` or `judge`; of several, each is compared with the first",
        ),
    ]
    difficulty: Annotated[
        Path | None,
        _flag(
            "difficulty of each instruction; without it the term is left out", "FILE", LENGTH_PANEL
        ),
    ] = None
    regularising_rows: Annotated[
        Path | None,
        _flag(
            "rows that hold the fit's coefficients: AlpacaEval's df_gamed.csv", "FILE", LENGTH_PANEL
        ),
    ] = None
    baseline_outputs: Annotated[
        Path | None,
        _flag(
            "the baseline's responses, where ANNOTATIONS do not hold them: model_outputs.json",
            "FILE",
            LENGTH_PANEL,
        ),
    ] = None
    penalty_c: Annotated[
        float | None,
        _flag(
            "C of the L1 penalty; default 5-fold cross-validation with --difficulty, else 10000",
            "C",
            LENGTH_PANEL,
        ),
    ] = None
    scale: Annotated[
        str | None,
        _flag(
            "how preferences are written \\[default: 1-2 of AlpacaEval's files, else 0-1]",
            "|".join(SCALES),
            None,
        ),
    ] = None
    category: Annotated[
        str | None,
        _flag(
            "of Arena-Hard's prompts, where a file has several: hard_prompt, creative_writing",
            "NAME",
            None,
        ),
    ] = None
    allow_missing: Annotated[
        bool,
        _flag(
            "leave rows without a preference out and count them, instead of refusing",
            None,
            None,
            "--allow-missing",
        ),
    ] = False
    confidence: Annotated[
        float, _flag("level of the intervals \\[default: 0.95]", "X", DRAW_PANEL)
    ] = 0.95
    bootstrap_draws: Annotated[
        int, _flag("resamples of the win rate \\[default: 10000]", "N", DRAW_PANEL)
    ] = 10_000
    bootstrap_fits: Annotated[
        int, _flag("resamples of the length-controlled fit \\[default: 1000]", "N", DRAW_PANEL)
    ] = 1_000
    bootstrap_seed: Annotated[int, _flag("seed of both \\[default: 0]", "N", DRAW_PANEL)] = 0
    force: Annotated[
        bool,
        _flag(
            "compare files of other prompts, another baseline or another judge all the same",
            None,
            None,
            "--force",
        ),
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="print JSON to stdout")] = False


def _win_rate(flags: WinRateFlags) -> None:
    """Win rates from preferences of a judge or a rater, raw beside length-controlled, with errors and intervals.

    On AlpacaEval's and Arena-Hard's files the figures are those of their leaderboards. On your own prompts no difficulty of the
    instructions is known, and the length-controlled figure is named so.
    """
    from prefpipe.errors import UsageError

    problems = _problems(flags)
    if problems:
        raise UsageError("; ".join(problems), hint=HINT)
    from prefpipe.cli import pages
    from prefpipe.maths.statistics.bootstrap import Bootstrap
    from prefpipe.pages.win_rates import win_rates_page
    from prefpipe.stages.evaluate.win_rate_recipes import WinRateSources
    from prefpipe.stages.evaluate.win_rates import Drawing, win_rates

    beside = (flags.baseline_outputs, flags.difficulty, flags.regularising_rows)
    outputs, difficulty, rows = (None if path is None else str(path) for path in beside)
    sources = WinRateSources(
        outputs, difficulty, rows, flags.scale, flags.category, flags.allow_missing
    )
    drawing = Drawing(
        flags.penalty_c,
        Bootstrap(flags.confidence, flags.bootstrap_draws, flags.bootstrap_seed),
        Bootstrap(flags.confidence, flags.bootstrap_fits, flags.bootstrap_seed),
    )
    found = win_rates(
        [str(path) for path in flags.annotations], sources, drawing, force=flags.force
    )
    if flags.as_json:
        pages.pipe_json(found)
    else:
        pages.show(win_rates_page(found))


win_rate = command_from(WinRateFlags, _win_rate)


def _problems(flags: WinRateFlags) -> list[str]:
    """Return everything wrong with the flags, in sentences."""
    checks = (
        (
            flags.scale is None or flags.scale in SCALES,
            f"--scale must be one of {', '.join(SCALES)}, not {flags.scale!r}",
        ),
        (
            flags.penalty_c is None or (isfinite(flags.penalty_c) and flags.penalty_c > 0),
            f"--penalty-c must be above 0, not {flags.penalty_c}",
        ),
        (0 < flags.confidence < 1, f"--confidence must be within 0 and 1, not {flags.confidence}"),
        (
            1 <= flags.bootstrap_draws <= 10_000_000,
            f"--bootstrap-draws must be within 1 and 10000000, not {flags.bootstrap_draws}",
        ),
        (
            1 <= flags.bootstrap_fits <= 1_000_000,
            f"--bootstrap-fits must be within 1 and 1000000, not {flags.bootstrap_fits}",
        ),
        (
            flags.bootstrap_seed >= 0,
            f"--bootstrap-seed must be 0 or more, not {flags.bootstrap_seed}",
        ),
    )
    return [sentence for holds, sentence in checks if not holds]
