"""What the verdicts of a run come to: win rate, ties, position bias, what could not be read, tokens and cost."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa

from prefpipe.configs.judge import JudgeConfig
from prefpipe.maths.statistics.intervals import bootstrap_interval, estimate_mean
from prefpipe.stages.judge.rows import IDENTICAL, ORDERS


class Tally:
    """Reads the parts of ``verdicts`` in turn."""

    def __init__(self) -> None:
        self.by_prompt: dict[str, list[float]] = {}
        self.n_wins: Counter[str] = Counter()
        self.first_shown: list[float] = []
        self.n_both, self.n_disagree = 0, 0
        self.statuses: Counter[str] = Counter()
        self.n_prompt_tokens, self.n_completion_tokens = 0, 0

    def add(self, table: pa.Table) -> None:
        """Take in one part."""
        for row in table.to_pylist():
            preferences = self.by_prompt.setdefault(row["prompt_id"], [])
            if row["preference"] is not None:
                preferences.append(row["preference"])
                self.n_wins[
                    "a" if row["preference"] > 0.5 else "b" if row["preference"] < 0.5 else "tie"
                ] += 1
            if row["disagree"] is not None and row["a_first_verdict"] != IDENTICAL:
                self.n_both += 1
                self.n_disagree += row["disagree"]
            for order in ORDERS:
                self._add_order(row, order)

    def _add_order(self, row: Mapping[str, Any], order: str) -> None:
        status, preference = row[f"{order}_status"], row[f"{order}_preference"]
        if status is None or row[f"{order}_verdict"] == IDENTICAL:
            return
        self.statuses[status] += 1
        self.n_prompt_tokens += row[f"{order}_prompt_tokens"] or 0
        self.n_completion_tokens += row[f"{order}_completion_tokens"] or 0
        if preference is not None:
            self.first_shown.append(preference if order == "a_first" else 1.0 - preference)

    def figures(self, config: JudgeConfig) -> dict[str, Any]:
        """Return the figures as JSON values; a prompt's pairs are averaged before anything else, for they are not independent."""
        per_prompt = np.array(
            [np.mean(values) if values else np.nan for values in self.by_prompt.values()]
        )
        estimate = estimate_mean(per_prompt)
        interval = bootstrap_interval(
            per_prompt,
            np.random.default_rng(config.bootstrap_seed),
            level=config.confidence,
            n_draws=config.bootstrap_draws,
        )
        n_asked = sum(self.statuses.values())
        figures: dict[str, Any] = {
            "win_rate_a": estimate.mean,
            "win_rate_se": estimate.se,
            "win_rate_low": interval.low,
            "win_rate_high": interval.high,
            "confidence": config.confidence,
            "n_prompts_judged": estimate.n,
            "n_prompts_without_verdict": estimate.n_missing,
            "n_pairs_won_by_a": self.n_wins["a"],
            "n_pairs_tied": self.n_wins["tie"],
            "n_pairs_won_by_b": self.n_wins["b"],
            "n_verdicts_asked": n_asked,
            "share_unparsable": _share(self.statuses["parse_error"], n_asked),
            "share_without_verdict": _share(n_asked - self.statuses["ok"], n_asked),
            "n_pairs_in_both_orders": self.n_both,
            "share_orders_disagree": _share(self.n_disagree, self.n_both),
            "preference_for_first_shown": float(np.mean(self.first_shown))
            if self.first_shown
            else None,
            "n_prompt_tokens": self.n_prompt_tokens,
            "n_completion_tokens": self.n_completion_tokens,
        }
        if config.price_in is not None and config.price_out is not None:
            figures["cost"] = (
                self.n_prompt_tokens * config.price_in + self.n_completion_tokens * config.price_out
            ) / 1e6
        return {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in figures.items()
        }


def tally_of(tables: Iterable[pa.Table]) -> Tally:
    """Return the tally over parts."""
    tally = Tally()
    for table in tables:
        tally.add(table)
    return tally


def notes_of(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures in sentences."""
    if figures["win_rate_a"] is None:
        return [
            "no pair has a verdict, so there is no win rate",
            *([_line_on_missing(figures)] if figures["n_verdicts_asked"] else []),
        ]
    interval = ""
    if figures["win_rate_low"] is not None:
        low, high, level = (
            figures[name] for name in ("win_rate_low", "win_rate_high", "confidence")
        )
        interval = f", {level:.0%} interval {low:.1%} to {high:.1%} over prompts, standard error {figures['win_rate_se']:.1%}"
    lines = [
        f"A wins {figures['win_rate_a']:.1%} of {figures['n_prompts_judged']:,} prompts{interval}",
        f"pairs: {figures['n_pairs_won_by_a']:,} for A, {figures['n_pairs_tied']:,} tied, {figures['n_pairs_won_by_b']:,} for B",
    ]
    if figures["n_pairs_in_both_orders"]:
        first = figures["preference_for_first_shown"]
        lines.append(
            f"the two orders name different winners in {figures['share_orders_disagree']:.1%} of "
            f"{figures['n_pairs_in_both_orders']:,} pairs; the response shown first is preferred {first:.1%} of the time "
            "(50% without position bias)"
        )
    if figures["n_verdicts_asked"]:
        lines.append(_line_on_missing(figures))
    return lines


def _line_on_missing(figures: Mapping[str, Any]) -> str:
    """Return how many verdicts are unclear, and how many are missing for another reason, such as a server that failed."""
    line = f"{figures['share_unparsable']:.1%} of {figures['n_verdicts_asked']:,} verdicts could not be read"
    others = figures["share_without_verdict"] - figures["share_unparsable"]
    return line + (f", {others:.1%} are missing for other reasons" if others > 1e-12 else "")


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
