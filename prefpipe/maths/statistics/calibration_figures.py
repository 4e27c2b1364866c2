"""All that an evaluation tells of the calibration of scored pairs: figures with intervals, curves, gaps, temperature."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prefpipe.maths.statistics.calibration_measures import (
    calibration_by_gap,
    curve_rows,
    measure_calibration,
    preference_curve,
    scale_temperature,
)
from prefpipe.maths.statistics.intervals import BOOTSTRAP, Bootstrap
from prefpipe.maths.statistics.prompt_rows import rows_of_prompts

FIGURES = ("accuracy", "auc", "ece", "ece_mass", "brier", "log_loss")
BIASED = ("ece", "ece_mass")
"""A resample holds pairs twice, so its bins are noisier and its error larger than that of what it was drawn from."""
MAX_DRAWS, MIN_DRAWS, MAX_DRAWN_PAIRS = 1_000, 100, 4_000_000


class Binning(NamedTuple):
    """How pairs are binned and split: bins of the curves (even), bins by gap, and the share that the temperature is fitted on."""

    n_bins: int = 10
    n_gap_bins: int = 4
    fit_share: float = 0.5


BINNING = Binning()


def calibration_figures(
    differences: Sequence[float] | np.ndarray,
    outcomes: Sequence[float] | np.ndarray | float = 1.0,
    prompt_ids: Sequence[Any] | None = None,
    *,
    rater_gaps: Sequence[float] | np.ndarray | None = None,
    binning: Binning = BINNING,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> dict[str, Any]:
    """Return everything that is told of predicted preferences ``sigma(d)``, ``d = s_w - s_l``.

    Args:
        differences: (N,) finite.
        outcomes: (N,) in [0, 1], or one number for all.
        prompt_ids: the prompt of each pair, (N,); None where each pair has a prompt of its own. Resamples and the split of the
            temperature keep the pairs of a prompt together.
        rater_gaps: (N,) by how much the raters' scores differ, in size or with a sign; NaN where it is not known.
        binning: bins and split.
        bootstrap: level, seed and resamples of the intervals; at most 1,000, and fewer of many pairs.

    Returns:
        The figures of `measure_calibration`; ``intervals``: ``se``, ``low`` and ``high`` of each of `FIGURES`; ``reliability``
        (equal widths) and ``reliability_mass`` as `curve_rows`; ``by_gap``: `calibration_by_gap` of ``|d|``, with curves;
        ``by_rater_gap``: the same of ``|rater_gaps|``, None without them; ``temperature``: `scale_temperature`, or ``reason``
        where one prompt is too few.

    Raises:
        InputError, UsageError: as in `prefpipe.maths.statistics.calibration`.
    """
    d = np.asarray(differences, dtype=np.float64)
    y = np.broadcast_to(np.asarray(outcomes, dtype=np.float64), d.shape)
    rows = rows_of_prompts(prompt_ids, len(d))
    how: dict[str, Any] = {
        "n_gap_bins": binning.n_gap_bins,
        "n_bins": binning.n_bins,
        "with_curves": True,
    }
    found: dict[str, Any] = measure_calibration(d, y, n_bins=binning.n_bins)
    found["n_prompts"] = rows.n_prompts
    found |= _intervals(d, y, rows.prompt_of_row, found, binning, bootstrap)
    for name, kind in (("reliability", "width"), ("reliability_mass", "mass")):
        found[name] = curve_rows(preference_curve(d, y, n_bins=binning.n_bins, binning=kind))
    found["by_gap"] = calibration_by_gap(d, y, **how)
    found["by_rater_gap"] = None
    if rater_gaps is not None:
        sizes = np.abs(np.asarray(rater_gaps, dtype=np.float64)).round(
            5
        )  # 2/3 is one gap, however its ends were rounded
        known = np.isfinite(sizes)
        if known.any():
            found["by_rater_gap"] = calibration_by_gap(d[known], y[known], sizes[known], **how)
    found["temperature"] = _temperature(d, y, rows.prompt_of_row, binning, bootstrap.seed)
    return found


def _temperature(
    d: np.ndarray, y: np.ndarray, prompt_N: np.ndarray, binning: Binning, seed: int
) -> dict[str, Any]:
    n_prompts = int(prompt_N.max()) + 1
    n_fitted = round(binning.fit_share * n_prompts)
    if not 0 < n_fitted < n_prompts:
        return {
            "temperature": None,
            "reason": f"a share of {binning.fit_share:g} of {n_prompts} prompts leaves one side empty",
        }
    return scale_temperature(
        d, y, prompt_N, fit_share=binning.fit_share, seed=seed, n_bins=binning.n_bins
    )


def _intervals(
    d: np.ndarray,
    y: np.ndarray,
    prompt_N: np.ndarray,
    found: dict[str, float],
    binning: Binning,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return ``intervals`` and ``n_draws``; the ends of ECEs are turned round the figure, which takes their bias out."""
    n_draws = min(bootstrap.n_draws, MAX_DRAWS, max(MIN_DRAWS, MAX_DRAWN_PAIRS // len(d)))
    order = np.argsort(prompt_N, kind="stable")
    sizes = np.bincount(prompt_N)
    if len(sizes) < 2:
        return {
            "intervals": {name: {"se": np.nan, "low": np.nan, "high": np.nan} for name in FIGURES},
            "n_draws": 0,
        }
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(bootstrap.seed)
    drawn_BF = np.empty((n_draws, len(FIGURES)))
    for draw in range(n_draws):
        prompts = rng.integers(len(sizes), size=len(sizes))
        ends = np.cumsum(sizes[prompts])
        within = np.arange(ends[-1]) - np.repeat(ends - sizes[prompts], sizes[prompts])
        rows = order[np.repeat(starts[prompts], sizes[prompts]) + within]
        figures = measure_calibration(d[rows], y[rows], n_bins=binning.n_bins)
        drawn_BF[draw] = [figures[name] for name in FIGURES]
    tail = (1.0 - bootstrap.level) / 2.0
    intervals = {}
    for name, values in zip(FIGURES, drawn_BF.T, strict=True):
        low, high = map(float, np.quantile(values, [tail, 1.0 - tail]))
        if name in BIASED:
            low, high = max(0.0, 2.0 * found[name] - high), max(0.0, 2.0 * found[name] - low)
        intervals[name] = {
            "se": float(values.std(ddof=1)) if n_draws > 1 else np.nan,
            "low": low,
            "high": high,
        }
    return {"intervals": intervals, "n_draws": n_draws}
