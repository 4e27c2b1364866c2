"""The figures of a run's verdicts.

They are win rate, ties, position bias, unparsable verdicts, tokens and cost.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.finite_json import finite_values
from prefpipe.artifacts.schemas import VERDICTS
from prefpipe.configs.judge import JudgeConfig
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import bootstrap_interval, estimate_mean
from prefpipe.maths.statistics.prompt_rows import rows_of_prompts
from prefpipe.stages.judge.rows import IDENTICAL, ORDERS

FIELDS_OF_ORDER = ("status", "verdict", "preference", "prompt_tokens", "completion_tokens")
COLUMNS = [
    "prompt_id",
    "preference",
    "disagree",
    *(f"{order}_{name}" for order in ORDERS for name in FIELDS_OF_ORDER),
]
"""What the figures are made of."""


def figures_of(tables: Iterable[pa.Table], config: JudgeConfig) -> dict[str, Any]:
    """Return the figures of parts of ``verdicts`` as JSON values.

    Args:
        tables: with `COLUMNS`.
        config: interval, draws, seed and prices.
    """
    import polars as pl

    empty = VERDICTS.arrow().empty_table()  # a shard may have no part
    table = pa.concat_tables([part.select(COLUMNS) for part in (empty, *tables)])
    verdicts = pl.DataFrame(table).with_row_index("row")

    # What the judge was asked, a row an order, with its preference for the response shown first.
    orders = []
    for order in ORDERS:
        columns = [pl.col(f"{order}_{name}").alias(name) for name in FIELDS_OF_ORDER]
        for_a = pl.col(f"{order}_preference")
        for_first = for_a if order == "a_first" else 1.0 - for_a
        orders.append(verdicts.select("row", *columns, for_first.alias("preference_for_first")))
    was_asked = pl.col("status").is_not_null() & pl.col("verdict").ne_missing(IDENTICAL)
    asked = pl.concat(orders).filter(was_asked).sort("row", maintain_order=True)
    for_first_shown = asked["preference_for_first"].drop_nulls().to_numpy()
    preference_for_first = None
    if len(for_first_shown):
        preference_for_first = float(np.mean(for_first_shown))

    # A prompt's pairs are averaged before anything else, for they are not independent.
    rows = rows_of_prompts(verdicts["prompt_id"].to_list(), verdicts.height)
    preferences_P = rows.means(verdicts["preference"].fill_null(np.nan).to_numpy())
    estimate = estimate_mean(preferences_P)
    bootstrap = Bootstrap(config.confidence, config.bootstrap_draws, config.bootstrap_seed)
    interval = bootstrap_interval(preferences_P, bootstrap)

    preference = verdicts["preference"]
    in_both_orders = verdicts.filter(
        pl.col("disagree").is_not_null() & pl.col("a_first_verdict").ne_missing(IDENTICAL)
    )
    n_asked = asked.height
    n_prompt_tokens = int(asked["prompt_tokens"].sum())
    n_completion_tokens = int(asked["completion_tokens"].sum())

    figures: dict[str, Any] = {
        "win_rate_a": estimate.mean,
        "win_rate_se": estimate.se,
        "win_rate_low": interval.low,
        "win_rate_high": interval.high,
        "confidence": config.confidence,
        "n_prompts_judged": estimate.n,
        "n_prompts_without_verdict": estimate.n_missing,
        "n_pairs_won_by_a": int((preference > 0.5).sum()),
        "n_pairs_tied": int((preference == 0.5).sum()),
        "n_pairs_won_by_b": int((preference < 0.5).sum()),
        "n_verdicts_asked": n_asked,
        "share_unparsable": _share(int((asked["status"] == "parse_error").sum()), n_asked),
        "share_without_verdict": _share(int((asked["status"] != "ok").sum()), n_asked),
        "n_pairs_in_both_orders": in_both_orders.height,
        "share_orders_disagree": _share(
            int(in_both_orders["disagree"].sum()), in_both_orders.height
        ),
        "preference_for_first_shown": preference_for_first,
        "n_prompt_tokens": n_prompt_tokens,
        "n_completion_tokens": n_completion_tokens,
    }

    if config.price_in is not None and config.price_out is not None:
        cost = n_prompt_tokens * config.price_in + n_completion_tokens * config.price_out
        figures["cost"] = cost / 1e6
    return dict(finite_values(figures))


def notes_of(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures in sentences."""
    n_asked = figures["n_verdicts_asked"]
    if figures["win_rate_a"] is None:
        lines = ["no pair has a verdict, so there is no win rate"]
        if n_asked:
            lines.append(_line_on_missing(figures))
        return lines

    interval = ""
    if figures["win_rate_low"] is not None:
        interval = (
            f", {figures['confidence']:.0%} interval {figures['win_rate_low']:.1%} to "
            f"{figures['win_rate_high']:.1%} over prompts, standard error "
            f"{figures['win_rate_se']:.1%}"
        )
    lines = [
        f"A wins {figures['win_rate_a']:.1%} of {figures['n_prompts_judged']:,} prompts{interval}"
    ]
    lines.append(
        f"pairs: {figures['n_pairs_won_by_a']:,} for A, {figures['n_pairs_tied']:,} tied, "
        f"{figures['n_pairs_won_by_b']:,} for B"
    )

    if figures["n_pairs_in_both_orders"]:
        lines.append(
            "the two orders name different winners in "
            f"{figures['share_orders_disagree']:.1%} of "
            f"{figures['n_pairs_in_both_orders']:,} pairs; the response shown first is preferred "
            f"{figures['preference_for_first_shown']:.1%} of the time (50% without position bias)"
        )
    if n_asked:
        lines.append(_line_on_missing(figures))
    return lines


def _line_on_missing(figures: Mapping[str, Any]) -> str:
    """Return how many verdicts are unclear, and how many are missing.

    Verdicts can be missing for other reasons, such as a failed server.
    """
    line = (
        f"{figures['share_unparsable']:.1%} of {figures['n_verdicts_asked']:,} verdicts could "
        "not be parsed"
    )
    others = figures["share_without_verdict"] - figures["share_unparsable"]
    if others > 1e-12:
        line += f", {others:.1%} are missing for other reasons"
    return line


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
