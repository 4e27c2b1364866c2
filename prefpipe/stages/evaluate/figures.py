"""The figures of an evaluation's per-prompt table.

They are means, paired differences, standard errors and intervals.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import (
    bootstrap_interval,
    estimate_mean,
    paired_difference,
)
from prefpipe.maths.statistics.winrate import win_rate
from prefpipe.stages.evaluate.health import HEALTH
from prefpipe.stages.evaluate.length_control import length_controlled
from prefpipe.text.refusals import RULE

MEASURES = ("reward", "n_tokens", "length_chars", "repetition", "truncated")


def figures_of(table: pa.Table, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the win rate, and every measure's means and paired difference.

    Only prompts with a reward on both sides count; each figure has its standard error over prompts
    and a percentile bootstrap interval that resamples prompts.
    """
    both = table.filter(pc.equal(table["status"], "ok"))
    preferences_P = _column(both, "preference")
    figures: dict[str, Any] = {
        "n_prompts": table.num_rows,
        "n_compared": both.num_rows,
        "win_rate": win_rate(preferences_P, bootstrap=bootstrap)._asdict(),
        "length_controlled": length_controlled(
            preferences_P,
            _column(both, "policy_length_chars"),
            _column(both, "baseline_length_chars"),
            bootstrap,
        ),
    }

    for measure in MEASURES:
        policy_P, baseline_P = _columns_of(both, measure)
        figures[measure] = paired_figures(policy_P, baseline_P, bootstrap)
    return figures


def health_figures(table: pa.Table, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return each measure of `HEALTH`: both sides and their paired difference.

    They are over the prompts where both sides have a value.

    Prompts without a reward count too. ``n_prompts``: how many have both values; ``reason``: why
    there is no figure.
    """
    figures: dict[str, Any] = {}
    for name, measure in HEALTH.items():
        policy_P, baseline_P = _columns_of(table, name)
        is_known = ~(np.isnan(policy_P) | np.isnan(baseline_P))
        paired = paired_figures(policy_P[is_known], baseline_P[is_known], bootstrap)
        figures[name] = {**paired, "n_prompts": int(is_known.sum())}
        if not is_known.any():
            figures[name]["reason"] = measure.no_value
    figures["refused"]["rule"] = RULE
    return figures


def paired_figures(
    policy_P: np.ndarray, baseline_P: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return ``difference``, ``policy`` and ``baseline``, each with error and interval.

    The values are a measure's by prompt, (P,) each. All intervals draw the same prompts.
    """
    difference = paired_difference(policy_P, baseline_P, bootstrap)
    figures: dict[str, Any] = {"difference": difference._asdict()}
    for name, values_P in (("policy", policy_P), ("baseline", baseline_P)):
        low, high, _ = bootstrap_interval(values_P, bootstrap)
        figures[name] = estimate_mean(values_P)._asdict() | {"low": low, "high": high}
    return figures


def _columns_of(table: pa.Table, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a measure of the policy and of the baseline by prompt.

    Both are (P,), NaN if there is no value.
    """
    return _column(table, f"policy_{measure}"), _column(table, f"baseline_{measure}")


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].cast(pa.float64()).to_numpy())
