"""All figures of calibration of one set of pairs: over all, by score gap, and after temperature scaling on a split."""

from typing import Any

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.calibration import (
    ReliabilityCurve,
    Values,
    both_orders,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    pair_accuracy,
    preference_log_loss,
    preference_probabilities,
    reliability_curve,
    roc_auc,
)


def measure_calibration(
    differences: Values,
    outcomes: Values | float = 1.0,
    *,
    n_bins: int = 10,
    temperature: float = 1.0,
) -> dict[str, float]:
    """Return ``n_pairs``, ``accuracy``, ``auc``, ``ece`` (equal widths), ``ece_mass`` (equal masses), ``brier``, ``log_loss``.

    Args:
        differences: (N,) ``s_w - s_l``, one a pair; both orders are taken here.
        outcomes: (N,) in [0, 1], or one number for all.
        n_bins: of both ECEs, even.
        temperature: scores are divided by it.

    Raises:
        InputError, UsageError: as in `prefpipe.maths.statistics.calibration`.
    """
    pairs = both_orders(differences, outcomes)
    p = preference_probabilities(pairs.differences, temperature=temperature)
    curves = {
        kind: reliability_curve(p, pairs.outcomes, n_bins=n_bins, binning=kind)
        for kind in ("width", "mass")
    }
    return {
        "n_pairs": len(p) // 2,
        "accuracy": pair_accuracy(*pairs),
        "auc": roc_auc(*pairs),
        "ece": expected_calibration_error(curves["width"]),
        "ece_mass": expected_calibration_error(curves["mass"]),
        "brier": brier_score(p, pairs.outcomes),
        "log_loss": preference_log_loss(*pairs, temperature=temperature),
    }


def preference_curve(
    differences: Values, outcomes: Values | float = 1.0, *, n_bins: int = 10, binning: str = "width"
) -> ReliabilityCurve:
    """Return the reliability curve of pairs, both orders taken; arguments as in `measure_calibration`, `reliability_curve`."""
    pairs = both_orders(differences, outcomes)
    return reliability_curve(
        preference_probabilities(pairs.differences), pairs.outcomes, n_bins=n_bins, binning=binning
    )


def curve_rows(curve: ReliabilityCurve) -> list[dict[str, float]]:
    """Return a curve bin by bin: ``lower``, ``upper``, ``n``, ``predicted`` and ``observed`` of each."""
    return [
        dict(zip(curve._fields, map(float, row), strict=True)) for row in zip(*curve, strict=True)
    ]


def calibration_by_gap(
    differences: Values,
    outcomes: Values | float = 1.0,
    gaps: Values | None = None,
    *,
    n_gap_bins: int = 4,
    n_bins: int = 10,
    with_curves: bool = False,
) -> list[dict[str, Any]]:
    """Return the figures of `measure_calibration` for pairs of like gaps, from the closest pairs to the farthest apart.

    Each has ``gap_lower`` and ``gap_upper``, the smallest and the largest gap in the bin, and ``confidence``, the mean of
    ``max(p, 1 - p)``.

    Args:
        differences: (N,).
        outcomes: (N,), or one number for all.
        gaps: (N,) what is binned, at least 0: the raters' gap, say; default ``|d|``.
        n_gap_bins: bins of about equal numbers of pairs; equal gaps stay together, so they may be fewer. No more distinct gaps
            than bins: one bin each.
        n_bins: of the ECEs.
        with_curves: add ``reliability``, the curve of equal widths as `curve_rows` has it.

    Raises:
        InputError: gaps of another length, or not finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    y = np.broadcast_to(np.asarray(outcomes, dtype=np.float64), d.shape)
    sizes = np.abs(d) if gaps is None else np.asarray(gaps, dtype=np.float64)
    if sizes.shape != d.shape or not np.isfinite(sizes).all():
        raise InputError(
            f"gaps {sizes.shape} and differences {d.shape}: one finite number of each a pair is expected"
        )
    edges = np.unique(sizes)
    if len(edges) > n_gap_bins:
        edges = np.unique(
            np.quantile(sizes, np.linspace(0.0, 1.0, n_gap_bins + 1)[1:-1], method="lower")
        )
    places = np.searchsorted(edges, sizes, side="left")
    rows = []
    for place in np.unique(places):
        here = places == place
        p = preference_probabilities(d[here])
        row = {
            "gap_lower": float(sizes[here].min()),
            "gap_upper": float(sizes[here].max()),
            "confidence": float(np.maximum(p, 1.0 - p).mean()),
        }
        curve = (
            {"reliability": curve_rows(preference_curve(d[here], y[here], n_bins=n_bins))}
            if with_curves
            else {}
        )
        rows.append(row | measure_calibration(d[here], y[here], n_bins=n_bins) | curve)
    return rows


def scale_temperature(
    differences: Values,
    outcomes: Values | float,
    prompts: np.ndarray,
    *,
    fit_share: float = 0.5,
    seed: int = 0,
    n_bins: int = 10,
) -> dict[str, Any]:
    """Fit a temperature on some prompts, and measure the others before and after.

    Prompts are split, not pairs: the pairs of a prompt share responses, and a split between them would tell too fine a tale.

    Args:
        differences: (N,).
        outcomes: (N,), or one number for all.
        prompts: (N,) which prompt each pair is of.
        fit_share: share of the prompts that the temperature is fitted on, strictly between 0 and 1.
        seed: of the split.
        n_bins: of the ECEs.

    Returns:
        ``temperature``, ``n_fitted`` pairs, and the figures of `measure_calibration` ``before`` and ``after``.

    Raises:
        UsageError: a share that leaves no prompt on one side.
    """
    d = np.asarray(differences, dtype=np.float64)
    y = np.broadcast_to(np.asarray(outcomes, dtype=np.float64), d.shape)
    names = np.unique(prompts)
    n_fitted = round(fit_share * len(names))
    if not 0 < n_fitted < len(names):
        raise UsageError(
            f"fit_share {fit_share} of {len(names)} prompts leaves one side of the split empty",
            hint="a temperature needs at least 2 prompts",
        )
    chosen = np.random.default_rng(seed).permutation(names)[:n_fitted]
    fits = np.isin(prompts, chosen)
    temperature = fit_temperature(d[fits], y[fits])
    before, after = (
        measure_calibration(d[~fits], y[~fits], n_bins=n_bins, temperature=each)
        for each in (1.0, temperature)
    )
    return {
        "temperature": temperature,
        "n_fitted": int(fits.sum()),
        "before": before,
        "after": after,
    }
