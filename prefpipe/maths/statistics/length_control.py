"""Length-controlled win rate: the predicted win rate if all responses were equally long.

AlpacaEval 2's recipe (Dubois, Galambosi, Liang and Hashimoto 2024, arXiv 2404.04475): the
preference of row i is modelled as::

    P(y_i = 1) = sigmoid(theta_len t_i + theta_diff d_i + theta_0),
    t_i = tanh(delta_i / std(delta)),  delta_i = baseline length - policy length,  std with ddof 1
    theta = argmin sum_i w_i CE(y_i, P_i) + ||theta||_1 / C,  over the rows that have a preference

and the figure is the mean over prompts of ``sigmoid(theta_diff d_i + theta_0)``, the prediction at
equal lengths. d_i is the difficulty of the instruction, a table that exists for a published set of
prompts; without it the term is left out, and the result says so. Rows without a preference are
treated as in AlpacaEval: not in the fit, but in the standard deviation and in the mean, because a
prediction needs no preference. Regularising rows (AlpacaEval's two gamed baselines) pull theta_len
and theta_diff, not theta_0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from prefpipe.errors import InputError, UsageError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import PairedDifference
from prefpipe.maths.statistics.penalised_logistic import cross_entropy, fit_penalised_logistic
from prefpipe.maths.statistics.prompt_rows import PromptRows, rows_of_prompts
from prefpipe.maths.statistics.winrate import as_numbers, checked_preferences

PENALTY_GRID = np.logspace(-4, 4, 10)
"""Values of C between which cross-validation chooses."""
N_FOLDS = 5
WEAK_PENALTY_C = 1e4
"""C without a difficulty table. Cross-validation between few prompts may choose a penalty that sets
the model's own term to zero and the figure to 50 %; two coefficients need none. This C is within
0.12 points of AlpacaEval's figures."""
LC_BOOTSTRAP = Bootstrap(n_draws=1_000)
"""Each resample is a fit, so there are fewer than for means."""
REGULARISING_WEIGHT = 0.1


class RegularisingRows(NamedTuple):
    """Rows that regularise the coefficients of length and difficulty, (M,) each.

    AlpacaEval has them in its file ``df_gamed.csv``.

    ``preferences`` in [0, 1]; ``std_length_difference`` is delta over its standard deviation,
    before the tanh; ``difficulty`` may be None if the fit has no such term. Each row has
    ``weight``, 0.1 in AlpacaEval.
    """

    preferences: Any
    std_length_difference: Any
    difficulty: Any = None
    weight: float = REGULARISING_WEIGHT


@dataclass(frozen=True)
class PartlyJudged:
    """Preferences (N,) in [0, 1]; NaN marks rows that intentionally have no preference.

    `length_controlled_win_rate` then does as AlpacaEval: such a row is not in the fit, but counts
    in std(delta) and in the mean.
    """

    preferences: Any


class LengthControlled(NamedTuple):
    """A length-controlled win rate in [0, 1] over ``n`` prompts, and the fit that it comes from.

    ``se`` is that of the fitted figure, clustered by prompt (delta method), given the penalty and
    the regularising rows; NaN if the penalty left no coefficient. ``prediction_se`` is what
    AlpacaEval publishes as ``lc_standard_error``: the standard error over prompts of the
    predictions, as if theta were known; it is about half of ``se``.

    The coefficients are those of t, d (None without a table) and 1. ``share_longer`` and
    ``share_shorter`` give the share of rows in which the policy's response is longer or shorter: if
    one is near zero, the figure is an extrapolation. ``n_missing`` rows have no preference and are
    predicted. ``influences`` (P,) and ``draws`` (B,) are each prompt's influence and the
    bootstrap's figures, for paired differences.
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
        """The figure's name: a fit without the difficulty term is not AlpacaEval's."""
        without = []
        if self.difficulty_coefficient is None:
            without.append("difficulty term")
        if not self.n_regularising:
            without.append("regularising rows")

        name = "length-controlled win rate"
        return f"{name} without {' and '.join(without)}" if without else name

    def figures(self) -> dict[str, Any]:
        """Return the name and all numbers, for a file."""
        figures = {"name": self.name, **self._asdict()}
        del figures["influences"], figures["draws"]
        return figures


class _Design(NamedTuple):
    """The rows of the fit: N of the policy, then M regularising ones.

    ``features`` x (N + M, D), ``labels`` y and ``weights`` w (N + M,); ``at_equal_lengths``: x of
    the N rows with t = 0; ``rows``: which of them are of one prompt.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    at_equal_lengths: np.ndarray
    rows: PromptRows

    @property
    def n_rows(self) -> int:
        """N, the rows that are not regularising."""
        return len(self.at_equal_lengths)


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
    """Return the win rate at equal lengths; formula and source are at the top of the module.

    Rows of one prompt weigh 1 together, resample together and are one cluster of the standard
    error. The interval is a percentile bootstrap over prompts in which theta is fitted again; C and
    std(delta) stay.

    Cross-validation: 5 folds; prompt p, in order of first appearance, and regularising row j are in
    fold p mod 5 and j mod 5, so that AlpacaEval's rows of one instruction fall together; C is that
    of 10 from 1e-4 to 1e4, even in the logarithm, with the lowest mean over folds of the weighted
    mean cross-entropy of the rows left out; the smaller one where they tie.

    Args:
        preferences: y (N,) in [0, 1], 1 if the policy's response is better. NaN is refused unless
            the array is a `PartlyJudged`, whose rows without a preference are predicted.
        lengths: of the policy's responses (N,), characters in AlpacaEval; any unit, the same for
            both.
        baseline_lengths: of the baseline's responses, (N,).
        difficulty: of the prompts, d (N,), by row; None leaves the term out.
        prompt_ids: the prompt of each row, (N,); None if each row is its own prompt.
        regularising_rows: rows that regularise the coefficients, or None.
        penalty_c: C; None uses cross-validation if there is a difficulty, else 1e4, which is almost
            no penalty.
        bootstrap: level, resamples and seed of the interval.

    Raises:
        InputError: numbers of values and rows differ, values that are not finite, preferences
            outside [0, 1], an undeclared missing preference, fewer than two prompts with a
            preference, or the same length difference in all rows.
    """
    is_partly = isinstance(preferences, PartlyJudged)
    labels_N = checked_preferences(
        preferences.preferences if is_partly else preferences,
        allow_missing=is_partly,
        hint="judge these rows again, or pass PartlyJudged(preferences) to predict them as "
        "AlpacaEval does",
    )
    rows = rows_of_prompts(prompt_ids, len(labels_N))
    _require_two_prompts(labels_N, rows)
    lengths_N = _column(lengths, "lengths", labels_N)
    baseline_N = _column(baseline_lengths, "baseline lengths", labels_N)
    design = _design(labels_N, baseline_N - lengths_N, difficulty, rows, regularising_rows)

    if penalty_c is not None:
        penalty_from = "given"
        if not (np.isfinite(penalty_c) and penalty_c > 0):
            raise UsageError(f"penalty_c is {penalty_c}; it must be a finite number above 0")
    elif difficulty is None:
        penalty_c, penalty_from = WEAK_PENALTY_C, "default"
    else:
        penalty_c, penalty_from = _cross_validated(design), "cross-validation"

    [theta_D] = fit_penalised_logistic(
        design.features, design.labels, design.weights[None], 1.0 / penalty_c
    )
    mean, influence_P, predicted_P = _prediction(design, theta_D)
    n_prompts = rows.n_prompts
    se = np.nan
    if theta_D.any():
        se = float(np.sqrt((influence_P**2).sum() / (n_prompts * (n_prompts - 1))))

    draws_B = _bootstrapped(design, theta_D, penalty_c, bootstrap)
    low, high = bootstrap.ends(draws_B)
    return LengthControlled(
        mean=mean,
        se=se,
        prediction_se=float(predicted_P.std(ddof=1) / np.sqrt(n_prompts)),
        low=low,
        high=high,
        level=bootstrap.level,
        n=n_prompts,
        n_regularising=len(design.labels) - design.n_rows,
        n_missing=int(np.isnan(labels_N).sum()),
        penalty_c=float(penalty_c),
        penalty_from=penalty_from,
        length_coefficient=float(theta_D[0]),
        difficulty_coefficient=None if difficulty is None else float(theta_D[1]),
        model_coefficient=float(theta_D[-1]),
        mean_length=float(lengths_N.mean()),
        mean_baseline_length=float(baseline_N.mean()),
        share_longer=float((lengths_N > baseline_N).mean()),
        share_shorter=float((lengths_N < baseline_N).mean()),
        influences=influence_P,
        draws=draws_B,
    )


def length_controlled_difference(
    first: LengthControlled, second: LengthControlled
) -> PairedDifference:
    """Return by how much the second figure is higher, paired by prompt.

    Both are of the same prompts in the same order, with the same bootstrap: resample b holds the
    same prompts in both.

    Raises:
        InputError: numbers of prompts, resamples, or levels differ.
    """
    must_agree = (
        ("prompts", first.n, second.n),
        ("resamples", len(first.draws), len(second.draws)),
        ("level", first.level, second.level),
    )
    for name, one, other in must_agree:
        if one != other:
            raise InputError(
                f"{name}: {one} and {other}; a paired difference needs the same on both sides"
            )

    influence_P = second.influences - first.influences
    se = float(np.sqrt((influence_P**2).sum() / (first.n * (first.n - 1))))
    low, high = Bootstrap(first.level).ends(second.draws - first.draws)
    return PairedDifference(second.mean - first.mean, se, low, high, first.n, 0)


def _require_two_prompts(labels_N: np.ndarray, rows: PromptRows) -> None:
    n_prompts = len(np.unique(rows.prompt_of_row[~np.isnan(labels_N)]))
    if n_prompts < 2:
        raise InputError(
            f"{n_prompts} prompts have a preference; a length-controlled win rate needs at least 2"
        )


def _design(
    labels_N: np.ndarray,
    difference_N: np.ndarray,
    difficulty: Any,
    rows: PromptRows,
    regularising: RegularisingRows | None,
) -> _Design:
    """Return the fit's rows.

    Args:
        labels_N: preferences (N,), NaN if missing.
        difference_N: baseline length minus policy length, (N,).
        difficulty: of the prompts, by row (N,), or None.
        rows: which rows are of one prompt.
        regularising: rows after the others, or None.
    """
    columns = [np.tanh(_standardised(difference_N)), np.ones(len(labels_N))]
    if difficulty is not None:
        columns.insert(1, _column(difficulty, "difficulties", labels_N))
    features_ND = np.stack(columns, axis=1)
    at_equal_ND = features_ND.copy()
    at_equal_ND[:, 0] = 0.0

    # The rows with a preference share their prompt's weight; those without have none in the fit.
    is_known_N = ~np.isnan(labels_N)
    n_known_P = np.bincount(rows.prompt_of_row[is_known_N], minlength=rows.n_prompts)
    n_known_N = np.maximum(n_known_P, 1)[rows.prompt_of_row]
    weights_N = np.where(is_known_N, 1.0 / n_known_N, 0.0)
    # Any number works where the weight is 0, except NaN, which stays NaN.
    labels_N = np.where(is_known_N, labels_N, 0.5)
    if regularising is None:
        return _Design(features_ND, labels_N, weights_N, at_equal_ND, rows)

    extra_MD, labels_M = _regularising(regularising, has_difficulty=difficulty is not None)
    weights_M = np.full(len(labels_M), regularising.weight)
    return _Design(
        features=np.concatenate([features_ND, extra_MD]),
        labels=np.concatenate([labels_N, labels_M]),
        weights=np.append(weights_N, weights_M),
        at_equal_lengths=at_equal_ND,
        rows=rows,
    )


def _regularising(
    given: RegularisingRows, *, has_difficulty: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return their x, (M, D), and y, (M,): the column of the model is zero."""
    labels_M = checked_preferences(given.preferences, hint="leave these regularising rows out")
    lengths_M = _column(given.std_length_difference, "regularising length differences", labels_M)
    columns = [np.tanh(lengths_M), np.zeros(len(labels_M))]
    if has_difficulty:
        if given.difficulty is None:
            raise InputError(
                "the prompts have a difficulty and the regularising rows do not",
                hint="pass difficulties for both or for neither",
            )
        columns.insert(1, _column(given.difficulty, "regularising difficulties", labels_M))
    return np.stack(columns, axis=1), labels_M


def _column(values: Any, name: str, like: np.ndarray) -> np.ndarray:
    """Return values (N,) as float64, one a row and all finite."""
    column = as_numbers(values, name)
    if column.shape != like.shape:
        raise InputError(
            f"{name} of shape {column.shape} for {len(like)} preferences; expected one of "
            "each per row"
        )
    is_finite = np.isfinite(column)
    if not is_finite.all():
        row = int(np.argmin(is_finite))
        raise InputError(f"{name}: row {row} holds {column[row]}, which is not a finite number")
    return column


def _standardised(difference_N: np.ndarray) -> np.ndarray:
    """Return delta over its standard deviation; zeros where all lengths are equal."""
    if not difference_N.any():
        return difference_N
    spread = float(difference_N.std(ddof=1))
    if spread <= 1e-12 * float(np.abs(difference_N).max()):
        raise InputError(
            f"the policy's responses differ from the baseline's by {-difference_N[0]:g} in every "
            "row: the effects of length and of the model cannot be separated"
        )
    return difference_N / spread


def _cross_validated(design: _Design) -> float:
    """Return C, chosen as described in `length_controlled_win_rate`."""
    # Prompts are dealt to folds in order; those without a preference are not in the fit.
    has_preference_P = design.rows.sums(design.weights[: design.n_rows]) > 0.0
    n_prompts = int(has_preference_P.sum())
    if n_prompts < N_FOLDS:
        raise InputError(
            f"{n_prompts} prompts are too few for {N_FOLDS} folds",
            hint="pass the penalty, such as penalty_c=1e4",
        )
    number_P = np.maximum(np.cumsum(has_preference_P) - 1, 0)
    number_N = number_P[design.rows.prompt_of_row]
    number_M = np.arange(len(design.labels) - design.n_rows)
    fold = np.append(number_N, number_M) % N_FOLDS

    is_out_FN = fold == np.arange(N_FOLDS)[:, None]
    n_counted_F = (is_out_FN & (design.weights > 0.0)).sum(axis=1)
    losses = []
    for penalty_c in PENALTY_GRID:
        theta_FD = fit_penalised_logistic(
            design.features, design.labels, design.weights * ~is_out_FN, 1.0 / penalty_c
        )
        loss_FN = design.weights * cross_entropy(theta_FD @ design.features.T, design.labels)
        losses.append(float(((loss_FN * is_out_FN).sum(axis=1) / n_counted_F).mean()))
    return float(PENALTY_GRID[int(np.argmin(losses))])


def _prediction(design: _Design, theta_D: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the figure, each prompt's influence on it, (P,), and each prompt's prediction, (P,).

    The influence of prompt p, whose rows' mean prediction is f_p, with g the figure's gradient and
    H the Hessian of the fit, both over the coefficients that are not zero::

        f_p - f - P g . H^-1 sum_{i in p} w_i (P_i - y_i) x_i
    """
    rows, n_rows = design.rows, design.n_rows
    predicted_N = expit(design.at_equal_lengths @ theta_D)
    predicted_P = rows.means(predicted_N)
    figure = float(predicted_P.mean())
    kept = np.flatnonzero(theta_D)
    if not len(kept):
        return figure, np.zeros(rows.n_prompts), predicted_P

    fitted = expit(design.features @ theta_D)
    used = design.features[:, kept]
    curvature = design.weights * fitted * (1.0 - fitted)
    hessian = (used * curvature[:, None]).T @ used

    slope_N = rows.weights * predicted_N * (1.0 - predicted_N) / rows.n_prompts
    gradient = slope_N @ design.at_equal_lengths[:, kept]
    # Not `inv`: if columns are identical, the Hessian has no inverse.
    direction = np.linalg.pinv(hessian) @ gradient

    residual_N = (design.weights * (fitted - design.labels))[:n_rows]
    moved_P = rows.sums(residual_N * (used[:n_rows] @ direction))
    return figure, predicted_P - figure - rows.n_prompts * moved_P, predicted_P


def _bootstrapped(
    design: _Design, theta_D: np.ndarray, penalty_c: float, bootstrap: Bootstrap
) -> np.ndarray:
    """Return the figure of each resample of prompts, (B,)."""
    rows, n_rows, n_prompts = design.rows, design.n_rows, design.rows.n_prompts

    def figures(drawn_BP: np.ndarray) -> np.ndarray:
        # How often each row's prompt was drawn multiplies its weight.
        count_BP = np.stack([np.bincount(drawn, minlength=n_prompts) for drawn in drawn_BP])
        count_BN = count_BP[:, rows.prompt_of_row]
        weights_BN = np.repeat(design.weights[None], len(drawn_BP), axis=0)
        weights_BN[:, :n_rows] *= count_BN

        theta_BD = fit_penalised_logistic(
            design.features, design.labels, weights_BN, 1.0 / penalty_c, theta_D
        )
        predicted_BN = expit(theta_BD @ design.at_equal_lengths.T)
        share_BN = count_BN * rows.weights / n_prompts
        return np.asarray((share_BN * predicted_BN).sum(axis=1))

    return bootstrap.resample(figures, n_prompts, size=len(design.labels))
