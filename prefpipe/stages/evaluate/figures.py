"""The figures of an evaluation's per-prompt table: means, paired differences, standard errors and intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import (
    bootstrap_interval,
    estimate_mean,
    paired_difference,
)
from prefpipe.maths.statistics.length_control import length_controlled_win_rate
from prefpipe.maths.statistics.winrate import win_rate
from prefpipe.stages.evaluate.comparison import length_notes
from prefpipe.text.refusals import RULE

MAX_FITS = 1_000
"""Resamples of the length-controlled fit, at most: each is a fit of its own."""
MEASURES = ("reward", "n_tokens", "length_chars", "repetition", "truncated")
HEALTH = {
    "refused": "no response on both sides",
    "empty": "no response on both sides",
    "copied": "no prompt has two responses on both sides; sample with --n 2 or more",
    "distinct_1": "no prompt has a word on both sides",
    "distinct_2": "no prompt has two words in a row on both sides",
    "distinct_2_equal": "no prompt has two words in a row on both sides",
    "self_bleu": "no prompt has two responses with words on both sides; sample with --n 2 or more",
    "embedding_diversity": "no prompt has two embeddings on both sides; give --policy-embeddings and --baseline-embeddings",
}
"""Measures of policy health, and why one would have no value."""


def figures_of(table: pa.Table, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the win rate and the mean of every measure on both sides and of their paired difference.

    Only prompts with a reward on both sides count; each figure has its standard error over prompts and a percentile
    bootstrap interval that resamples prompts.
    """
    both = table.filter(pc.equal(table["status"], "ok"))
    preferences = _column(both, "preference")
    ours, theirs = _column(both, "policy_length_chars"), _column(both, "baseline_length_chars")
    figures: dict[str, Any] = {
        "n_prompts": table.num_rows,
        "n_compared": both.num_rows,
        "win_rate": win_rate(preferences, bootstrap=bootstrap)._asdict(),
        "length_controlled": length_controlled(preferences, ours, theirs, bootstrap),
    }
    for measure in MEASURES:
        figures[measure] = paired_figures(
            _column(both, f"policy_{measure}"), _column(both, f"baseline_{measure}"), bootstrap
        )
    return figures


def health_figures(table: pa.Table, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return for each measure of `HEALTH` both sides and their paired difference, over the prompts where both have a value.

    Prompts without a reward count too. ``n_prompts``: how many have both values; ``reason``: why there is no figure.
    """
    figures: dict[str, Any] = {}
    for measure, reason in HEALTH.items():
        ours, theirs = _column(table, f"policy_{measure}"), _column(table, f"baseline_{measure}")
        is_known = ~(np.isnan(ours) | np.isnan(theirs))
        figures[measure] = paired_figures(ours[is_known], theirs[is_known], bootstrap) | {
            "n_prompts": int(is_known.sum())
        }
        if not is_known.any():
            figures[measure]["reason"] = reason
    figures["refused"]["rule"] = RULE
    return figures


def paired_figures(
    ours_P: np.ndarray, theirs_P: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return ``difference``, ``policy`` and ``baseline`` of a measure's values by prompt (P,), each with error and interval."""
    figures: dict[str, Any] = {
        "difference": paired_difference(ours_P, theirs_P, bootstrap)._asdict()
    }
    for name, values in (("policy", ours_P), ("baseline", theirs_P)):
        low, high, _ = bootstrap_interval(values, bootstrap)
        figures[name] = estimate_mean(values)._asdict() | {"low": low, "high": high}
    return figures


def length_controlled(
    preferences: np.ndarray, lengths: np.ndarray, baseline_lengths: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the figures at equal lengths, without a difficulty term; where there are none, their ``reason``.

    Lengths are each side's mean characters a response, by prompt (P,), as the preferences are.
    """
    fits = bootstrap._replace(n_draws=min(bootstrap.n_draws, MAX_FITS))
    try:
        return length_controlled_win_rate(
            preferences, lengths, baseline_lengths, bootstrap=fits
        ).figures()
    except InputError as error:
        return {"mean": None, "se": None, "low": None, "high": None, "reason": error.message}


def notes_on_length(controlled: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know about the length-controlled figure."""
    if "reason" in controlled:
        return [f"no length-controlled win rate: {controlled['reason']}"]
    return length_notes(controlled)


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), dtype=np.float64)
