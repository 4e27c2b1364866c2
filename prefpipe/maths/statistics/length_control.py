"""Length-controlled win rate: what the win rate would be if both sides' responses were equally long.

AlpacaEval 2's recipe (Dubois, Galambosi, Liang and Hashimoto 2024, arXiv 2404.04475): the preference of row i is modelled as::

    P(y_i = 1) = sigmoid(theta_len t_i + theta_diff d_i + theta_0),
    t_i = tanh(delta_i / std(delta)),  delta_i = baseline length - policy length,  std with ddof 1
    theta = argmin sum_i w_i CE(y_i, P_i) + ||theta||_1 / C,  over the rows that have a preference

and the figure is the mean over prompts of ``sigmoid(theta_diff d_i + theta_0)``, the prediction at equal lengths. d_i is the
difficulty of the instruction, a table that exists for a published set of prompts; without it the term is left out, and the
result says so. Rows without a preference count as in AlpacaEval: not in the fit, but in the standard deviation and in the mean,
for a prediction needs no preference. Regularising rows (AlpacaEval's two gamed baselines) pull theta_len and theta_diff, not
theta_0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.intervals import Bootstrap, PairedDifference
from prefpipe.maths.statistics.penalised_logistic import (
    cross_entropy,
    fit_penalised_logistic,
    sigmoid,
)
from prefpipe.maths.statistics.prompt_rows import PromptRows, rows_of_prompts
from prefpipe.maths.statistics.winrate import as_numbers, checked_preferences

PENALTY_GRID = np.logspace(-4, 4, 10)
"""Values of C between which cross-validation chooses."""
N_FOLDS = 5
WEAK_PENALTY_C = 1e4
"""C where there is no difficulty table. Cross-validation between few prompts may choose a penalty that sets the model's own
term to zero and the figure to 50 %; two coefficients need none. This C is within 0.12 points of AlpacaEval's figures."""
LC_BOOTSTRAP = Bootstrap(n_draws=1_000)
"""Each resample is a fit, so that there are fewer than of means."""
REGULARISING_WEIGHT = 0.1
_N_WEIGHTS_AT_ONCE = 2_000_000


class RegularisingRows(NamedTuple):
    """Rows that hold the coefficients of length and difficulty, (M,) each: AlpacaEval's file ``df_gamed.csv``.

    ``preferences`` in [0, 1]; ``std_length_difference`` is delta over its standard deviation, before the tanh; ``difficulty``
    may be None where the fit has no such term. Each row weighs ``weight``, 0.1 in AlpacaEval.
    """

    preferences: Any
    std_length_difference: Any
    difficulty: Any = None
    weight: float = REGULARISING_WEIGHT


@dataclass(frozen=True)
class PartlyJudged:
    """Preferences (N,) in [0, 1] of which some are NaN, and are to be: these rows have no preference.

    `length_controlled_win_rate` then does as AlpacaEval: such a row is not fitted to, but counts in std(delta) and in the mean.
    """

    preferences: Any


class LengthControlled(NamedTuple):
    """A length-controlled win rate in [0, 1] over ``n`` prompts, its error and interval, and the fit that it comes from.

    ``se`` is that of the fitted figure, clustered by prompt (delta method), the penalty and the regularising rows taken as
    given; NaN where the penalty left no coefficient. ``prediction_se`` is what AlpacaEval publishes as ``lc_standard_error``:
    the standard error over prompts of the predictions, as if theta were known; it is about half of ``se``. The coefficients
    are those of t, d (None without a table) and 1. ``share_longer`` and ``share_shorter`` say on how many rows the policy's
    response is the longer or the shorter one: where one of them is near zero the figure is an extrapolation. ``n_missing`` rows
    have no preference and are predicted. ``influences`` (P,)
    and ``draws`` (B,) are each prompt's influence and the bootstrap's figures, for paired differences.
    """

    mean: float
    se: float
    prediction_se: float
    low: float
    high: float
    level: float
    n: int
    n_regularising: int
    n_missing: int
    penalty_c: float
    penalty_from: str
    length_coefficient: float
    difficulty_coefficient: float | None
    model_coefficient: float
    mean_length: float
    mean_baseline_length: float
    share_longer: float
    share_shorter: float
    influences: np.ndarray
    draws: np.ndarray

    @property
    def name(self) -> str:
        """What the figure is called: a fit without the difficulty term is not AlpacaEval's."""
        without = [] if self.difficulty_coefficient is not None else ["difficulty term"]
        without += [] if self.n_regularising else ["regularising rows"]
        return "length-controlled win rate" + (
            f" without {' and '.join(without)}" if without else ""
        )

    def figures(self) -> dict[str, Any]:
        """Return the name and all numbers, for a file."""
        return {"name": self.name} | {
            key: value for key, value in self._asdict().items() if not isinstance(value, np.ndarray)
        }


class _Design(NamedTuple):
    """The fit's rows, regularising ones behind the others: x (N + M, D), y, w; and x at equal lengths (N, D)."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    at_equal_lengths: np.ndarray
    rows: PromptRows


def length_controlled_win_rate(
    preferences: Any,
    lengths: Any,
    baseline_lengths: Any,
    difficulty: Any = None,
    *,
    prompt_ids: Sequence[Any] | None = None,
    regularising_rows: RegularisingRows | None = None,
    penalty_c: float | None = None,
    bootstrap: Bootstrap = LC_BOOTSTRAP,
) -> LengthControlled:
    """Return the win rate at equal lengths; formula and source stand at the top of the module.

    Rows of one prompt weigh 1 together, resample together and are one cluster of the standard error. The interval is a percentile
    bootstrap over prompts in which theta is fitted again; C and std(delta) stay.

    Cross-validation: 5 folds; prompt p, in order of first appearance, and regularising row j are in fold p mod 5 and j mod 5, so
    that AlpacaEval's rows of one instruction fall together; C is that of 10 from 1e-4 to 1e4, even in the logarithm, with the
    lowest mean over folds of the weighted mean cross-entropy of the rows left out; the smaller one where they tie.

    Args:
        preferences: y (N,) in [0, 1], 1 where the policy's response is the better one. NaN is refused, unless the
            array comes in a `PartlyJudged`, which says that these rows have no preference and are to be predicted.
        lengths: of the policy's responses (N,), characters in AlpacaEval; any unit, the same for both.
        baseline_lengths: of the baseline's responses, (N,).
        difficulty: of the prompts, d (N,), by row; None leaves the term out.
        prompt_ids: the prompt of each row, (N,); None where each row is a prompt of its own.
        regularising_rows: rows that hold the coefficients, or None.
        penalty_c: C; None is cross-validation where there is a difficulty, and else 1e4, which is hardly a penalty.
        bootstrap: level, resamples and seed of the interval.

    Raises:
        InputError: other numbers of values than rows, values that are not finite, preferences outside [0, 1],
            a preference that is missing and not said to be, fewer than two prompts with a preference,
            or one and the same length difference in all rows.
    """
    is_partly = isinstance(preferences, PartlyJudged)
    labels_N = checked_preferences(
        preferences.preferences if is_partly else preferences,
        allow_missing=is_partly,
        hint="judge these rows again, or pass PartlyJudged(preferences) to have them predicted as AlpacaEval does",
    )
    design, (lengths_N, baseline_N) = _design(
        labels_N, (lengths, baseline_lengths), difficulty, prompt_ids, regularising_rows
    )
    if penalty_c is not None and not (np.isfinite(penalty_c) and penalty_c > 0):
        raise UsageError(f"penalty_c is {penalty_c}; it is a finite number above 0")
    penalty_from = (
        "given"
        if penalty_c is not None
        else "default"
        if difficulty is None
        else "cross-validation"
    )
    if penalty_c is None:
        penalty_c = WEAK_PENALTY_C if difficulty is None else _cross_validated(design)
    theta_D = fit_penalised_logistic(
        design.features, design.labels, design.weights[None], 1.0 / penalty_c
    )[0]
    mean, influence_P, predicted_P = _prediction(design, theta_D)
    n_prompts = design.rows.n_prompts
    se = (
        float(np.sqrt((influence_P**2).sum() / (n_prompts * (n_prompts - 1))))
        if theta_D.any()
        else np.nan
    )
    draws_B = _bootstrapped(design, theta_D, penalty_c, bootstrap)
    low, high = np.quantile(draws_B, [(1.0 - bootstrap.level) / 2.0, (1.0 + bootstrap.level) / 2.0])
    return LengthControlled(
        mean,
        se,
        float(predicted_P.std(ddof=1) / np.sqrt(n_prompts)),
        float(low),
        float(high),
        bootstrap.level,
        n_prompts,
        len(design.labels) - len(lengths_N),
        int(np.isnan(labels_N).sum()),
        float(penalty_c),
        penalty_from,
        float(theta_D[0]),
        None if difficulty is None else float(theta_D[1]),
        float(theta_D[-1]),
        float(lengths_N.mean()),
        float(baseline_N.mean()),
        float((lengths_N > baseline_N).mean()),
        float((lengths_N < baseline_N).mean()),
        influence_P,
        draws_B,
    )


def length_controlled_difference(
    first: LengthControlled, second: LengthControlled
) -> PairedDifference:
    """Return by how much the second figure is higher, paired by prompt.

    Both are of the same prompts in the same order, with the same bootstrap: resample b holds the same prompts in both.

    Raises:
        InputError: other numbers of prompts, resamples, or levels.
    """
    for what, ours, theirs in (
        ("prompts", first.n, second.n),
        ("resamples", len(first.draws), len(second.draws)),
        ("level", first.level, second.level),
    ):
        if ours != theirs:
            raise InputError(
                f"{what}: {ours} and {theirs}; a paired difference needs the same of both"
            )
    influence_P = second.influences - first.influences
    se = float(np.sqrt((influence_P**2).sum() / (first.n * (first.n - 1))))
    ends = [(1.0 - first.level) / 2.0, (1.0 + first.level) / 2.0]
    low, high = np.quantile(second.draws - first.draws, ends)
    return PairedDifference(second.mean - first.mean, se, float(low), float(high), first.n, 0)


def _design(
    labels_N: np.ndarray,
    lengths: tuple[Any, Any],
    difficulty: Any,
    prompt_ids: Sequence[Any] | None,
    regularising: RegularisingRows | None,
) -> tuple[_Design, tuple[np.ndarray, np.ndarray]]:
    """Return the fit's rows, and the two sides' lengths (N,)."""
    rows = rows_of_prompts(prompt_ids, len(labels_N))
    is_known_N = ~np.isnan(labels_N)
    n_known_P = np.bincount(rows.prompt_of_row[is_known_N], minlength=rows.n_prompts)
    if (n_known_P > 0).sum() < 2:
        n_prompts = int((n_known_P > 0).sum())
        raise InputError(
            f"{n_prompts} prompts have a preference; a length-controlled win rate needs at least 2"
        )
    lengths_N = _column(lengths[0], "lengths", labels_N)
    baseline_N = _column(lengths[1], "baseline lengths", labels_N)
    columns = [np.tanh(_standardised(baseline_N - lengths_N)), np.ones(len(labels_N))]
    if difficulty is not None:
        columns.insert(1, _column(difficulty, "difficulties", labels_N))
    features_ND = np.stack(columns, axis=1)
    # The rows with a preference share their prompt's weight; those without have none in the fit.
    weights = np.where(is_known_N, 1.0 / np.maximum(n_known_P, 1)[rows.prompt_of_row], 0.0)
    labels_N = np.where(is_known_N, labels_N, 0.5)
    at_equal_ND = features_ND.copy()
    at_equal_ND[:, 0] = 0.0
    if regularising is None:
        return _Design(features_ND, labels_N, weights, at_equal_ND, rows), (lengths_N, baseline_N)
    extra, labels_M = _regularising(regularising, has_difficulty=difficulty is not None)
    features = np.concatenate([features_ND, extra])
    labels, weights = (
        np.concatenate([labels_N, labels_M]),
        np.append(weights, np.full(len(labels_M), regularising.weight)),
    )
    return _Design(features, labels, weights, at_equal_ND, rows), (lengths_N, baseline_N)


def _regularising(
    given: RegularisingRows, *, has_difficulty: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return their x, (M, D), and y, (M,): the column of the model is zero."""
    labels_M = checked_preferences(given.preferences, hint="leave these regularising rows out")
    columns = [
        np.tanh(_column(given.std_length_difference, "regularising length differences", labels_M)),
        np.zeros(len(labels_M)),
    ]
    if has_difficulty:
        if given.difficulty is None:
            raise InputError(
                "the regularising rows have no difficulty, and the prompts have",
                hint="give both or neither",
            )
        columns.insert(1, _column(given.difficulty, "regularising difficulties", labels_M))
    return np.stack(columns, axis=1), labels_M


def _column(values: Any, what: str, like: np.ndarray) -> np.ndarray:
    """Return values (N,) as float64, one a row and all finite."""
    column = as_numbers(values, what)
    if column.shape != like.shape:
        raise InputError(
            f"{what} of shape {column.shape} for {len(like)} preferences; each row has one of each"
        )
    if not np.isfinite(column).all():
        row = int(np.flatnonzero(~np.isfinite(column))[0])
        raise InputError(f"{what}: row {row} holds {column[row]}, which is no finite number")
    return column


def _standardised(difference_N: np.ndarray) -> np.ndarray:
    """Return delta over its standard deviation; zeros where both sides are equally long everywhere."""
    if not difference_N.any():
        return difference_N
    spread = float(difference_N.std(ddof=1))
    if spread <= 1e-12 * float(np.abs(difference_N).max()):
        raise InputError(
            f"the policy's responses differ from the baseline's by {-difference_N[0]:g} in every row: what is length and what is "
            "the model cannot be told apart"
        )
    return difference_N / spread


def _cross_validated(design: _Design) -> float:
    """Return C."""
    n_rows = len(design.rows.prompt_of_row)
    # Prompts are dealt out in order, those without a preference skipped: they are not fitted to.
    has_preference_P = design.rows.sums(design.weights[:n_rows]) > 0.0
    n_prompts = int(has_preference_P.sum())
    if n_prompts < N_FOLDS:
        raise InputError(
            f"{n_prompts} prompts are too few for {N_FOLDS} folds",
            hint="give the penalty, penalty_c=1e4",
        )
    number_P = np.maximum(np.cumsum(has_preference_P) - 1, 0)
    fold = (
        np.append(number_P[design.rows.prompt_of_row], np.arange(len(design.labels) - n_rows))
        % N_FOLDS
    )
    is_out_FN = fold == np.arange(N_FOLDS)[:, None]
    losses = []
    for penalty_c in PENALTY_GRID:
        theta_FD = fit_penalised_logistic(
            design.features, design.labels, design.weights * ~is_out_FN, 1.0 / penalty_c
        )
        loss_FN = design.weights * cross_entropy(theta_FD @ design.features.T, design.labels)
        losses.append(
            float(
                (
                    (loss_FN * is_out_FN).sum(axis=1)
                    / (is_out_FN & (design.weights > 0.0)).sum(axis=1)
                ).mean()
            )
        )
    return float(PENALTY_GRID[int(np.argmin(losses))])


def _prediction(design: _Design, theta_D: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the figure, each prompt's influence on it, (P,), and each prompt's prediction, (P,).

    Influence of prompt p, whose rows' mean prediction is f_p: ``f_p - f - P g . H^-1 sum_{i in p} w_i (P_i - y_i) x_i``, with g
    the figure's gradient and H the Hessian of the fit, both over the coefficients that are not zero.
    """
    rows, n_rows = design.rows, len(design.rows.prompt_of_row)
    predicted_N = sigmoid(design.at_equal_lengths @ theta_D)
    mean_P = rows.means(predicted_N)
    figure = float(mean_P.mean())
    kept = np.flatnonzero(theta_D)
    if not len(kept):
        return figure, np.zeros(rows.n_prompts), mean_P
    fitted = sigmoid(design.features @ theta_D)
    used = design.features[:, kept]
    hessian = (used * (design.weights * fitted * (1.0 - fitted))[:, None]).T @ used
    slope_N = rows.weights * predicted_N * (1.0 - predicted_N) / rows.n_prompts
    gradient = slope_N @ design.at_equal_lengths[:, kept]
    direction = np.linalg.pinv(hessian) @ gradient
    residual_N = (design.weights * (fitted - design.labels))[:n_rows]
    moved_P = rows.sums(residual_N * (used[:n_rows] @ direction))
    return figure, mean_P - figure - rows.n_prompts * moved_P, mean_P


def _bootstrapped(
    design: _Design, theta_D: np.ndarray, penalty_c: float, bootstrap: Bootstrap
) -> np.ndarray:
    """Return the figure of each resample of prompts, (B,)."""
    if not 0.0 < bootstrap.level < 1.0 or bootstrap.n_draws < 1:
        raise UsageError(
            f"{bootstrap}: the level is between 0 and 1, and there is at least 1 resample"
        )
    rng = np.random.default_rng(bootstrap.seed)
    rows, n_rows, n_prompts = design.rows, len(design.rows.prompt_of_row), design.rows.n_prompts
    step = max(1, _N_WEIGHTS_AT_ONCE // len(design.labels))
    draws = []
    for start in range(0, bootstrap.n_draws, step):
        n_here = min(step, bootstrap.n_draws - start)
        drawn_BP = rng.integers(n_prompts, size=(n_here, n_prompts))
        count_BP = np.stack([np.bincount(drawn, minlength=n_prompts) for drawn in drawn_BP])
        weights = np.repeat(design.weights[None], n_here, axis=0)
        weights[:, :n_rows] *= count_BP[:, rows.prompt_of_row]
        theta_BD = fit_penalised_logistic(
            design.features, design.labels, weights, 1.0 / penalty_c, theta_D
        )
        predicted_BN = sigmoid(theta_BD @ design.at_equal_lengths.T)
        share_BN = count_BP[:, rows.prompt_of_row] * rows.weights / n_prompts
        draws.append((share_BN * predicted_BN).sum(axis=1))
    return np.concatenate(draws)
