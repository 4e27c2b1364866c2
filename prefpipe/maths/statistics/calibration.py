r"""Whether predicted preferences are right and well calibrated.

A scorer that gives two responses of one prompt the scores ``s_w`` and ``s_l`` predicts that the
first is preferred with probability ``p = sigma(d)``, ``d = s_w - s_l``. An outcome ``y`` says
whether it was: 1, 0, or a share in between if there are several raters or the preference is itself
a probability.

Both orders. In preference data the winner comes first, so all outcomes are 1: a curve of them would
have one half, and the area under the ROC curve would not exist. The order carries no meaning, so
`both_orders` takes each pair as given and swapped, (d, y) and (-d, 1 - y): the mean of a random
order, without its noise. Accuracy, Brier score and log loss are the same in either order. Two
consequences: N pairs are 2 N items, but not 2 N observations; and the number of bins must be even,
so that 1/2 is an edge: in a bin around 1/2 a pair would meet its own mirror image, which hides
every error.

The figures are our own code, because scikit-learn's take labels of 0 and 1 but no shares; on such
labels the two agree (tests/maths/statistics/test_calibration.py).

From top to bottom: figures of items in given orders, the reliability curve, temperature, all
figures of a set of pairs, and those with intervals for an evaluation.

Axes: N items (pairs in some order), B bins. Natural logarithms.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import BOOTSTRAP, Bootstrap
from prefpipe.maths.statistics.prompt_rows import rows_of_prompts

BINNINGS = ("width", "mass")
EDGE_WIDTH = 1e-12
"""Tolerance above a bin's edge: ``p`` and ``1 - p`` differ in their last digits, but belong to one
bin."""
TEMPERATURES = (1e-3, 1e3)
"""Range of fitted temperatures: scores that separate all pairs would fit 0, uninformative scores
infinity."""
FIGURES = ("accuracy", "auc", "ece", "ece_mass", "brier", "log_loss")
BIASED = ("ece", "ece_mass")
"""A resample holds pairs twice, so its bins are noisier and its error larger than that of what it
was drawn from."""
MAX_DRAWS, MIN_DRAWS, MAX_DRAWN_PAIRS = 1_000, 100, 4_000_000

Values = Sequence[float] | np.ndarray


class Pairs(NamedTuple):
    """Score differences and outcomes, each (N,), of pairs in some order."""

    differences: np.ndarray
    outcomes: np.ndarray


def both_orders(differences: Values, outcomes: Values | float = 1.0) -> Pairs:
    """Return each pair as given and swapped: (2 N,) from (N,); see the module's text.

    Args:
        differences: (N,) ``s_w - s_l``.
        outcomes: (N,) in [0, 1], or one number for all.

    Raises:
        InputError: no pair, arrays of different lengths, a difference that is not finite, an
            outcome outside [0, 1].
    """
    d, y = _checked(differences, outcomes)
    return Pairs(np.concatenate([d, -d]), np.concatenate([y, 1.0 - y]))


def preference_probabilities(differences: Values, *, temperature: float = 1.0) -> np.ndarray:
    """Return ``sigma(d / temperature)`` (N,), without overflow.

    Raises:
        UsageError: a temperature that is not above 0.
    """
    if not temperature > 0.0:
        raise UsageError(f"temperature is {temperature}; it must be above 0")
    return np.asarray(expit(np.asarray(differences, dtype=np.float64) / temperature))


def pair_accuracy(differences: Values, outcomes: Values | float = 1.0) -> float:
    """Return the share of outcomes that the sign of the difference predicts.

    ``mean( y h(d) + (1 - y) h(-d) )``, where h is 1 above 0, 0 below and 1/2 at 0: equal scores are
    half right. (RewardBench v1 counts them as wrong.)
    """
    d, y = _checked(differences, outcomes)
    right = 0.5 * (1.0 + np.sign(d))
    return float(np.mean(y * right + (1.0 - y) * (1.0 - right)))


def roc_auc(differences: Values, outcomes: Values) -> float:
    """Return the area under the ROC curve, NaN where all outcomes are 1 or all are 0.

    ::

        AUC = sum_ij y_i (1 - y_j) h(d_i - d_j) / ( sum_i y_i * sum_j (1 - y_j) )

    An item with a share y is a positive of weight y and a negative of weight 1 - y. With outcomes
    of 0 and 1 it is the statistic of Mann and Whitney (Ann. Math. Stat. 18, 1947). Apply it to
    `both_orders`.
    """
    d, y = _checked(differences, outcomes)
    values, places = np.unique(d, return_inverse=True)
    positive = np.bincount(places, weights=y, minlength=len(values))
    negative = np.bincount(places, weights=1.0 - y, minlength=len(values))
    n_pairs = positive.sum() * negative.sum()
    if n_pairs <= 0.0:
        return float("nan")

    # For each value: the weight of negatives below it, plus half of those tied with it.
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + 0.5 * negative)) / n_pairs)


def brier_score(probabilities: Values, outcomes: Values | float = 1.0) -> float:
    """Return ``mean (p - y)^2``: 0 is perfect, p = 1/2 gives 1/4 with outcomes of 0 and 1.

    Source: Brier, Monthly Weather Review 78, 1950, in the form for two classes.
    """
    p, y = _checked_probabilities(probabilities, outcomes)
    return float(np.mean(np.square(p - y)))


def preference_log_loss(
    differences: Values, outcomes: Values | float = 1.0, *, temperature: float = 1.0
) -> float:
    """Return ``mean( -y log sigma(d/T) - (1 - y) log sigma(-d/T) )``; d = 0 gives log 2.

    It takes differences, not probabilities: at d = 40 ``sigma(d)`` is 1 in float64 and the
    logarithm of the rest would be lost.
    """
    d, y = _checked(differences, outcomes)
    if not temperature > 0.0:
        raise UsageError(f"temperature is {temperature}; it must be above 0")
    scaled = d / temperature
    return float(np.mean(y * np.logaddexp(0.0, -scaled) + (1.0 - y) * np.logaddexp(0.0, scaled)))


class ReliabilityCurve(NamedTuple):
    """Predictions against outcomes, bin by bin, each (B,); bins without an item are left out.

    ``lower``, ``upper``: the bin's edges. ``n``: items, of which half an item may be one at exactly
    1/2. ``predicted``: mean probability. ``observed``: mean outcome.
    """

    lower: np.ndarray
    upper: np.ndarray
    n: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray


def reliability_curve(
    probabilities: Values, outcomes: Values | float, *, n_bins: int = 10, binning: str = "width"
) -> ReliabilityCurve:
    """Return the reliability curve of probabilities in [0, 1].

    Bins are symmetric about 1/2: a swapped pair falls into the mirror image of its bin. An upper
    bin is (lower, upper], a lower one [lower, upper), and an item at exactly 1/2 belongs by halves
    to the two that meet there.

    Args:
        probabilities: (N,).
        outcomes: (N,) in [0, 1]; pairs in both orders, or the curve has one half.
        n_bins: B, even (see the module's text).
        binning: ``width``: equal widths; ``mass``: equal numbers of items by confidence
            ``max(p, 1 - p)``. Equal probabilities stay together, so there may be fewer bins.

    Raises:
        UsageError: an odd or small ``n_bins``, or an unknown binning.
        InputError: as in `both_orders`, or a probability outside [0, 1].
    """
    p, y = _checked_probabilities(probabilities, outcomes)
    if n_bins < 2 or n_bins % 2:
        raise UsageError(
            f"n_bins is {n_bins}; it must be even and at least 2",
            hint="pass an even number: with an odd one, errors near 1/2 vanish",
        )
    if binning not in BINNINGS:
        raise UsageError(
            f"unknown binning {binning!r}", hint=f"choose one of {', '.join(BINNINGS)}"
        )

    # The edges of the upper half, from 1/2 to 1, over the confidences.
    confidence = np.maximum(p, 1.0 - p)
    edges = np.linspace(0.5, 1.0, n_bins // 2 + 1)
    if binning == "mass":
        shares = np.linspace(0.0, 1.0, n_bins // 2 + 1)[1:-1]
        inner = np.quantile(confidence, shares, method="lower")
        edges = np.unique(np.concatenate([[0.5], inner, [1.0]]))
    half = len(edges) - 1
    steps = np.searchsorted(edges + EDGE_WIDTH, confidence, side="left") - 1
    steps = np.clip(steps, 0, half - 1)

    # Each item is once in the upper and once in the lower half, with weight where it belongs.
    places = np.concatenate([half + steps, half - 1 - steps])
    is_above = 0.5 * (1.0 + np.sign(p - 0.5))
    is_below = 0.5 * (1.0 - np.sign(p - 0.5))
    weights = np.concatenate([is_above, is_below])

    def sums_of(values: np.ndarray) -> np.ndarray:
        return np.bincount(places, weights=weights * np.tile(values, 2), minlength=2 * half)

    n, sums_p, sums_y = sums_of(np.ones_like(p)), sums_of(p), sums_of(y)
    kept = n > 0
    lower = np.concatenate([1.0 - edges[:0:-1], edges[:-1]])
    upper = np.concatenate([1.0 - edges[-2::-1], edges[1:]])
    return ReliabilityCurve(
        lower=lower[kept],
        upper=upper[kept],
        n=n[kept],
        predicted=sums_p[kept] / n[kept],
        observed=sums_y[kept] / n[kept],
    )


def curve_rows(curve: ReliabilityCurve) -> list[dict[str, float]]:
    """Return a curve bin by bin, with the fields of `ReliabilityCurve` for each."""
    rows = zip(*curve, strict=True)
    return [dict(zip(curve._fields, map(float, row), strict=True)) for row in rows]


def expected_calibration_error(curve: ReliabilityCurve) -> float:
    """Return ``sum_b n_b / N |observed_b - predicted_b|``.

    With equal widths it is the usual figure: of B bins over [0, 1] and pairs in both orders, the
    same as of B / 2 bins over the confidence ``max(p, 1 - p)`` in [1/2, 1].

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; equal widths as in Guo et al., arXiv
    1706.04599; equal masses as in Nixon et al., arXiv 1904.01685.
    """
    return float(np.sum(curve.n * np.abs(curve.observed - curve.predicted)) / np.sum(curve.n))


def fit_temperature(differences: Values, outcomes: Values | float = 1.0) -> float:
    """Return the temperature T whose ``sigma(d / T)`` has the smallest log loss.

    Above 1, scores are overconfident. The loss is convex in 1 / T, so T is where its derivative
    ``mean( (sigma(d/T) - y) d )`` changes sign. It is limited to `TEMPERATURES`: the lower end if
    scores separate every pair, the upper if they are uninformative or reversed.

    Source: Guo et al., arXiv 1706.04599, Platt's method with only the slope.
    """
    d, y = _checked(differences, outcomes)

    def slope(log_inverse: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.mean((expit(np.exp(log_inverse) * d) - y) * d))

    lowest, highest = TEMPERATURES
    if slope(-np.log(highest)) >= 0.0:
        return highest
    if slope(-np.log(lowest)) <= 0.0:
        return lowest
    root = brentq(slope, -np.log(highest), -np.log(lowest), xtol=1e-15, rtol=1e-15)
    return float(np.exp(-root))


def measure_calibration(
    differences: Values,
    outcomes: Values | float = 1.0,
    *,
    n_bins: int = 10,
    temperature: float = 1.0,
) -> dict[str, float]:
    """Return all figures of a set of pairs, both orders taken.

    Args:
        differences: (N,) ``s_w - s_l``, one a pair.
        outcomes: (N,) in [0, 1], or one number for all.
        n_bins: of both ECEs, even.
        temperature: scores are divided by it.

    Returns:
        ``n_pairs``, ``accuracy``, ``auc``, ``ece`` (equal widths), ``ece_mass`` (equal masses),
        ``brier`` and ``log_loss``.

    Raises:
        InputError: as in `both_orders`.
        UsageError: as in `reliability_curve`, or a temperature that is not above 0.
    """
    pairs = both_orders(differences, outcomes)
    p = preference_probabilities(pairs.differences, temperature=temperature)
    by_width = reliability_curve(p, pairs.outcomes, n_bins=n_bins, binning="width")
    by_mass = reliability_curve(p, pairs.outcomes, n_bins=n_bins, binning="mass")
    return {
        "n_pairs": len(p) // 2,
        "accuracy": pair_accuracy(*pairs),
        "auc": roc_auc(*pairs),
        "ece": expected_calibration_error(by_width),
        "ece_mass": expected_calibration_error(by_mass),
        "brier": brier_score(p, pairs.outcomes),
        "log_loss": preference_log_loss(*pairs, temperature=temperature),
    }


def preference_curve(
    differences: Values, outcomes: Values | float = 1.0, *, n_bins: int = 10, binning: str = "width"
) -> ReliabilityCurve:
    """Return the reliability curve of pairs, both orders taken.

    Arguments as in `measure_calibration` and `reliability_curve`.
    """
    pairs = both_orders(differences, outcomes)
    p = preference_probabilities(pairs.differences)
    return reliability_curve(p, pairs.outcomes, n_bins=n_bins, binning=binning)


def calibration_by_gap(
    differences: Values,
    outcomes: Values | float = 1.0,
    gaps: Values | None = None,
    *,
    n_gap_bins: int = 4,
    n_bins: int = 10,
    with_curves: bool = False,
) -> list[dict[str, Any]]:
    """Return the figures of `measure_calibration` for pairs of like gaps, the closest pairs first.

    Each has ``gap_lower`` and ``gap_upper``, the smallest and the largest gap in the bin, and
    ``confidence``, the mean of ``max(p, 1 - p)``.

    Args:
        differences: (N,).
        outcomes: (N,), or one number for all.
        gaps: (N,) the binned values, at least 0, such as the raters' gap; default ``|d|``.
        n_gap_bins: bins of about equal numbers of pairs; equal gaps stay together, so they may be
            fewer. No more distinct gaps than bins: one bin each.
        n_bins: of the ECEs.
        with_curves: add ``reliability``, the curve of equal widths as `curve_rows` has it.

    Raises:
        InputError: gaps of another length, or not finite.
    """
    d, y = _as_arrays(differences, outcomes)
    sizes = np.abs(d) if gaps is None else np.asarray(gaps, dtype=np.float64)
    if sizes.shape != d.shape or not np.isfinite(sizes).all():
        raise InputError(
            f"gaps {sizes.shape} and differences {d.shape}: expected one finite number of "
            "each per pair"
        )

    edges = np.unique(sizes)
    if len(edges) > n_gap_bins:
        shares = np.linspace(0.0, 1.0, n_gap_bins + 1)[1:-1]
        edges = np.unique(np.quantile(sizes, shares, method="lower"))
    places = np.searchsorted(edges, sizes, side="left")

    rows = []
    for place in np.unique(places):
        here = places == place
        p = preference_probabilities(d[here])
        row: dict[str, Any] = {
            "gap_lower": float(sizes[here].min()),
            "gap_upper": float(sizes[here].max()),
            "confidence": float(np.maximum(p, 1.0 - p).mean()),
        }
        row |= measure_calibration(d[here], y[here], n_bins=n_bins)
        if with_curves:
            row["reliability"] = curve_rows(preference_curve(d[here], y[here], n_bins=n_bins))
        rows.append(row)
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

    Prompts are split, not pairs: the pairs of a prompt share responses, so splitting them would
    give too good a result.

    Args:
        differences: (N,).
        outcomes: (N,), or one number for all.
        prompts: (N,) the prompt of each pair.
        fit_share: share of the prompts that the temperature is fitted on, strictly between 0 and 1.
        seed: of the split.
        n_bins: of the ECEs.

    Returns:
        ``temperature``, ``n_fitted`` pairs, and the figures of `measure_calibration` ``before`` and
        ``after``.

    Raises:
        UsageError: the share leaves no prompt to fit or none to measure.
    """
    d, y = _as_arrays(differences, outcomes)
    names = np.unique(prompts)
    n_fitted = round(fit_share * len(names))
    if not 0 < n_fitted < len(names):
        raise UsageError(
            f"fit_share {fit_share} of {len(names)} prompts leaves one side of the split empty",
            hint="choose another share; a temperature needs at least 2 prompts",
        )

    fitted = np.random.default_rng(seed).permutation(names)[:n_fitted]
    fits = np.isin(prompts, fitted)
    temperature = fit_temperature(d[fits], y[fits])

    d_rest, y_rest = d[~fits], y[~fits]
    return {
        "temperature": temperature,
        "n_fitted": int(fits.sum()),
        "before": measure_calibration(d_rest, y_rest, n_bins=n_bins),
        "after": measure_calibration(d_rest, y_rest, n_bins=n_bins, temperature=temperature),
    }


class Binning(NamedTuple):
    """How pairs are binned and split.

    ``n_bins`` of the curves (even), ``n_gap_bins`` by gap, and the share of the prompts that the
    temperature is fitted on.
    """

    n_bins: int = 10
    n_gap_bins: int = 4
    fit_share: float = 0.5


BINNING = Binning()


def calibration_figures(
    differences: Values,
    outcomes: Values | float = 1.0,
    prompt_ids: Sequence[Any] | None = None,
    *,
    rater_gaps: Values | None = None,
    binning: Binning = BINNING,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> dict[str, Any]:
    """Return all figures of predicted preferences ``sigma(d)``, with intervals.

    Args:
        differences: (N,) finite.
        outcomes: (N,) in [0, 1], or one number for all.
        prompt_ids: the prompt of each pair, (N,); None if each pair is its own prompt. Resamples
            and the split of the temperature keep the pairs of a prompt together.
        rater_gaps: (N,) difference of the raters' scores, absolute or signed; NaN if unknown.
        binning: bins and split.
        bootstrap: level, seed and resamples of the intervals; at most 1,000, and fewer for many
            pairs.

    Returns:
        The figures of `measure_calibration`; ``intervals``: ``se``, ``low`` and ``high`` of each of
        `FIGURES`; ``reliability`` (equal widths) and ``reliability_mass`` as `curve_rows`;
        ``by_gap``: `calibration_by_gap` of ``|d|``, with curves; ``by_rater_gap``: the same of
        ``|rater_gaps|``, None without them; ``temperature``: `scale_temperature`, or ``reason`` if
        there are too few prompts.

    Raises:
        InputError: as in `both_orders`.
        UsageError: as in `reliability_curve`.
    """
    d, y = _as_arrays(differences, outcomes)
    rows = rows_of_prompts(prompt_ids, len(d))
    n_bins, n_gap_bins = binning.n_bins, binning.n_gap_bins

    figures: dict[str, Any] = measure_calibration(d, y, n_bins=n_bins)
    figures["n_prompts"] = rows.n_prompts
    figures |= _intervals(d, y, rows.prompt_of_row, figures, n_bins, bootstrap)
    for name, kind in (("reliability", "width"), ("reliability_mass", "mass")):
        figures[name] = curve_rows(preference_curve(d, y, n_bins=n_bins, binning=kind))

    figures["by_gap"] = calibration_by_gap(
        d, y, n_gap_bins=n_gap_bins, n_bins=n_bins, with_curves=True
    )
    figures["by_rater_gap"] = None
    if rater_gaps is not None:
        # 2/3 counts as one gap, however its ends were rounded.
        gaps = np.abs(np.asarray(rater_gaps, dtype=np.float64)).round(5)
        known = np.isfinite(gaps)
        if known.any():
            figures["by_rater_gap"] = calibration_by_gap(
                d[known],
                y[known],
                gaps[known],
                n_gap_bins=n_gap_bins,
                n_bins=n_bins,
                with_curves=True,
            )

    share, n_prompts = binning.fit_share, rows.n_prompts
    if 0 < round(share * n_prompts) < n_prompts:
        figures["temperature"] = scale_temperature(
            d, y, rows.prompt_of_row, fit_share=share, seed=bootstrap.seed, n_bins=n_bins
        )
    else:
        reason = f"a share of {share:g} of {n_prompts} prompts leaves one side empty"
        figures["temperature"] = {"temperature": None, "reason": reason}
    return figures


def _intervals(
    d: np.ndarray,
    y: np.ndarray,
    prompt_N: np.ndarray,
    figures: dict[str, float],
    n_bins: int,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return ``intervals`` and ``n_draws``, over prompts.

    The ends of ECEs are mirrored about the figure, which removes their bias.
    """
    # The rows of each prompt are contiguous: from its start, as many as its size.
    order = np.argsort(prompt_N, kind="stable")
    sizes = np.bincount(prompt_N)
    starts = np.cumsum(sizes) - sizes
    n_prompts = len(sizes)
    if n_prompts < 2:
        unknown = {"se": np.nan, "low": np.nan, "high": np.nan}
        return {"intervals": {name: dict(unknown) for name in FIGURES}, "n_draws": 0}

    # Each resample sorts all pairs again, so many pairs get fewer resamples.
    n_affordable = max(MIN_DRAWS, MAX_DRAWN_PAIRS // len(d))
    n_draws = min(bootstrap.n_draws, MAX_DRAWS, n_affordable)

    def figures_of(drawn_BP: np.ndarray) -> np.ndarray:
        drawn_BF = np.empty((len(drawn_BP), len(FIGURES)))
        for draw, prompts in enumerate(drawn_BP):
            ends = np.cumsum(sizes[prompts])
            within = np.arange(ends[-1]) - np.repeat(ends - sizes[prompts], sizes[prompts])
            rows = order[np.repeat(starts[prompts], sizes[prompts]) + within]
            resampled = measure_calibration(d[rows], y[rows], n_bins=n_bins)
            drawn_BF[draw] = [resampled[name] for name in FIGURES]
        return drawn_BF

    resampled_BF = bootstrap._replace(n_draws=n_draws).resample(figures_of, n_prompts)
    intervals = {}
    for name, values in zip(FIGURES, resampled_BF.T, strict=True):
        low, high = bootstrap.ends(values)
        if name in BIASED:
            low, high = 2.0 * figures[name] - high, 2.0 * figures[name] - low
            low, high = max(0.0, low), max(0.0, high)
        se = float(values.std(ddof=1)) if n_draws > 1 else np.nan
        intervals[name] = {"se": se, "low": low, "high": high}
    return {"intervals": intervals, "n_draws": n_draws}


def _as_arrays(differences: Values, outcomes: Values | float) -> Pairs:
    """Return both as float64, (N,), one outcome for all spread over the pairs."""
    d = np.asarray(differences, dtype=np.float64)
    y = np.broadcast_to(np.asarray(outcomes, dtype=np.float64), d.shape)
    return Pairs(d, y)


def _checked(differences: Values, outcomes: Values | float) -> Pairs:
    d = np.atleast_1d(np.asarray(differences, dtype=np.float64))
    y = np.asarray(outcomes, dtype=np.float64)
    if y.ndim == 0:
        y = np.full(d.shape, float(y))
    if d.ndim != 1 or d.shape != y.shape:
        raise InputError(
            f"differences {d.shape} and outcomes {y.shape}: expected one of each per pair"
        )
    if not len(d):
        raise InputError("there is no pair to evaluate", hint="hold out more prompts")

    is_finite = np.isfinite(d)
    if not is_finite.all():
        place = int(np.argmin(is_finite))
        raise InputError(f"difference {place} is {d[place]}, not a finite number")
    _require_unit(y, "outcome")
    return Pairs(d, y)


def _checked_probabilities(probabilities: Values, outcomes: Values | float) -> Pairs:
    p, y = _checked(probabilities, outcomes)
    _require_unit(p, "probability")
    return Pairs(p, y)


def _require_unit(values: np.ndarray, name: str) -> None:
    is_bad = ~((values >= 0.0) & (values <= 1.0))
    if is_bad.any():
        place = int(np.argmax(is_bad))
        raise InputError(f"{name} {place} is {values[place]}, outside 0 to 1")
