r"""Figures other than means, over seeds and prompts: lowest deciles, win rates at equal lengths.

Such a figure is computed from the prompts of one seed, T_s, and the study's figure is the mean over
seeds. To first order T_s is also a mean over prompts, of each prompt's contribution (its influence,
plus T_s)::

    T_s = 1/P sum_p y_sp,      y_sp = T_s + influence of prompt p

So the error is that of a mean, of y (`prefpipe.maths.statistics.two_errors`). The interval
resamples the figure itself: a resample draws P prompts, the same for all seeds, and the figure of
each seed is computed again from them. Seeds are not drawn **(ours)**: three seeds have only ten
different resamples, whose skewness is noise, and stretched to the width that three seeds need it
moves the interval off the truth (92 % instead of 95 %, simulated). With d the distance of a
percentile of the resamples from their centre, an end is off the figure by::

    h^2 = A t_(S-1)^2 + (d sqrt(B) / sd of the resamples)^2 (t_(P-1) / z)^2

which is the half width of the two errors where resampled figures are normal, so that the interval
holds 0 exactly where `prefpipe.maths.statistics.t_tests` does not reject it.

Two arms are compared by the differences of their contributions and of their resamples, in which
the same prompts were drawn.

Axes: S seeds, P prompts, B resamples.
"""

from typing import NamedTuple, Self

import numpy as np
from scipy.special import ndtri, stdtrit

from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import BOOTSTRAP, Bootstrap
from prefpipe.maths.statistics.intervals import bootstrap_interval
from prefpipe.maths.statistics.length_control import (
    LC_BOOTSTRAP,
    WEAK_PENALTY_C,
    length_controlled_win_rate,
)
from prefpipe.maths.statistics.two_errors import TwoErrors, two_errors
from prefpipe.maths.statistics.two_level import resampled_means


class SeedFigures(NamedTuple):
    """A figure of each seed.

    Attributes:
        contributions: (S, P), whose mean over prompts is the figure of a seed.
        resampled: (S, B) the figure of each seed in each resample of prompts; None for a figure
            that is the mean of the contributions in each resample too.
    """

    contributions: np.ndarray
    resampled: np.ndarray | None = None

    @property
    def by_seed(self) -> np.ndarray:
        """The figure of each seed, (S,)."""
        return np.asarray(self.contributions.mean(axis=1))

    def of_seeds(self, places: np.ndarray) -> Self:
        """Return the figures of some of the seeds."""
        resampled_SB = None if self.resampled is None else self.resampled[places]
        return self._replace(contributions=self.contributions[places], resampled=resampled_SB)

    def minus(self, other: "SeedFigures") -> "SeedFigures":
        """Return the difference to another arm of the same seeds, prompts and resamples.

        Raises:
            InputError: their shapes differ, or only one of them is a mean.
        """
        ours, theirs = self.resampled, other.resampled
        if self.contributions.shape != other.contributions.shape:
            raise InputError(
                f"figures of {self.contributions.shape} and {other.contributions.shape} "
                "seeds and prompts are not paired"
            )
        if (ours is None) != (theirs is None):
            raise InputError("a mean cannot be compared with a figure that is not a mean")
        contributions_SP = self.contributions - other.contributions
        if ours is None or theirs is None:
            return SeedFigures(contributions_SP)
        if ours.shape != theirs.shape:
            raise InputError(f"{ours.shape[1]} and {theirs.shape[1]} resamples are not paired")
        return SeedFigures(contributions_SP, ours - theirs)


class TwoLevelFigure(NamedTuple):
    """A figure over seeds and prompts, its interval and its errors.

    Error and interval are NaN if the spread is unknown; for one seed they are those over prompts.
    """

    mean: float
    low: float
    high: float
    errors: TwoErrors

    @property
    def se(self) -> float:
        """The standard error."""
        return self.errors.se


def two_level_figure(figures: SeedFigures, bootstrap: Bootstrap = BOOTSTRAP) -> TwoLevelFigure:
    """Return the mean of a figure over seeds, with errors and interval over seeds and prompts.

    For one seed the interval is that of prompts' percentiles. For a figure that is not a mean they
    are shifted by the distance of the resamples' mean from the figure, with one seed or several:
    resampled prompts have a longer tail than the prompts themselves.

    Args:
        figures: every value known; differences of two arms are those of `SeedFigures.minus`.
        bootstrap: level, resamples and seed; figures other than means bring their resamples.

    Raises:
        InputError: a value that is not finite.
    """
    errors = two_errors(figures.contributions)
    mean, se = float(figures.contributions.mean()), errors.se
    if np.isnan(se) or se == 0.0:
        end = mean if se == 0.0 else np.nan
        return TwoLevelFigure(mean, end, end, errors)

    if errors.n_seeds == 1:
        if figures.resampled is None:
            low, high, _ = bootstrap_interval(figures.contributions[0], bootstrap)
        else:
            resampled_B = figures.resampled[0]
            low, high = np.array(bootstrap.ends(resampled_B)) - resampled_B.mean() + mean
        return TwoLevelFigure(mean, float(low), float(high), errors)

    if figures.resampled is None:
        of_prompts_1P = figures.contributions.mean(axis=0, keepdims=True)
        resampled_B, centre = resampled_means(of_prompts_1P, bootstrap), mean
    else:
        resampled_B = figures.resampled.mean(axis=0)
        centre = float(resampled_B.mean())
    upper_tail = bootstrap.tails[1]
    in_seeds = np.sqrt(errors.of_seeds) * stdtrit(errors.n_seeds - 1, upper_tail)
    in_prompts = np.sqrt(errors.of_prompts) * stdtrit(errors.n_prompts - 1, upper_tail)
    in_prompts_2 = np.array([in_prompts, in_prompts])
    # Prompts may all be equal, and so may a few resamples.
    spread = float(resampled_B.std())
    if spread > 0.0:
        ends = np.array(bootstrap.ends(resampled_B))
        in_prompts_2 = np.abs(ends - centre) / spread * (in_prompts / ndtri(upper_tail))
    below, above = np.hypot(in_seeds, in_prompts_2)
    return TwoLevelFigure(mean, float(mean - below), float(mean + above), errors)


def ratio_figures(above_SP: np.ndarray, below_SP: np.ndarray) -> SeedFigures:
    """Return each seed's and prompt's contribution to ``sum above / sum below`` over all of them.

    The contributions are those of `prefpipe.maths.statistics.two_level.two_level_ratio`::

        y_sp = r + (a_sp - r b_sp) / mean(b),      r = sum a / sum b

    Args:
        above_SP: (S, P), every value known.
        below_SP: the same, 0 or more.

    Raises:
        InputError: shapes differ, or denominators are below 0 or sum to 0.
    """
    if above_SP.shape != below_SP.shape:
        raise InputError(
            f"a ratio of {above_SP.shape} and {below_SP.shape} values; expected the same shape"
        )
    if (below_SP < 0).any() or not below_SP.sum() > 0:
        raise InputError(
            f"a ratio to {below_SP.sum():g} in all; denominators must be counts, 0 or more"
        )
    ratio = above_SP.sum() / below_SP.sum()
    return SeedFigures(ratio + (above_SP - ratio * below_SP) / below_SP.mean())


def lowest_share_figures(
    values_SP: np.ndarray, share: float = 0.1, bootstrap: Bootstrap = BOOTSTRAP
) -> SeedFigures:
    """Return the mean over the lowest share of prompts, for each seed.

    They are the lowest prompts of that seed, and in a resample the lowest of that resample. Of P
    prompts they are ``share P``; if that is not a whole number, the last one counts for the
    remainder. With v the value of that last one, a prompt contributes (Rockafellar and Uryasev
    2000, "Optimization of conditional value-at-risk")::

        y_sp = v - max(v - x_sp, 0) / share

    Args:
        values_SP: (S, P), every value known.
        share: of the prompts, above 0 and at most 1.
        bootstrap: resamples and seed.

    Raises:
        InputError: a share out of range, or no prompt.
    """
    n_prompts = values_SP.shape[1]
    if not 0.0 < share <= 1.0 or not n_prompts:
        raise InputError(
            f"a share of {share} of {n_prompts} prompts; it must be above 0 and at most 1"
        )
    weights_P = _weights_of_lowest(n_prompts, share)
    last = int(np.flatnonzero(weights_P)[-1])
    threshold_S = np.sort(values_SP, axis=1)[:, last]
    below_SP = np.maximum(threshold_S[:, None] - values_SP, 0.0)
    contributions_SP = threshold_S[:, None] - below_SP / share

    resampled_SB = []
    for values_P in values_SP:

        def lowest(drawn_bP: np.ndarray, values_P: np.ndarray = values_P) -> np.ndarray:
            ascending_bP = np.sort(values_P[drawn_bP], axis=1)
            return np.asarray(ascending_bP[:, : last + 1] @ weights_P[: last + 1])

        resampled_SB.append(bootstrap.resample(lowest, n_prompts))
    return SeedFigures(contributions_SP, np.stack(resampled_SB))


def length_controlled_figures(
    preferences_SP: np.ndarray,
    lengths_SP: np.ndarray,
    baseline_lengths_SP: np.ndarray,
    bootstrap: Bootstrap = LC_BOOTSTRAP,
) -> SeedFigures:
    """Return the win rate at equal lengths of each seed, fitted by `length_controlled_win_rate`.

    Contributions are the fit's influences, and each resample is a separate fit.

    Args:
        preferences_SP: in [0, 1], every one known.
        lengths_SP: of the policy's responses.
        baseline_lengths_SP: of the baseline's.
        bootstrap: resamples and seed.

    Raises:
        InputError: as `length_controlled_win_rate`: fewer than two prompts, or the same difference
            of lengths in a whole seed.
    """
    contributions, resampled = [], []
    for preferences_P, lengths_P, baseline_P in zip(
        preferences_SP, lengths_SP, baseline_lengths_SP, strict=True
    ):
        fit = length_controlled_win_rate(
            preferences_P, lengths_P, baseline_P, penalty_c=WEAK_PENALTY_C, bootstrap=bootstrap
        )
        # The penalty leaves a difference of a millionth between the mean and the figure.
        contributions.append(fit.mean + fit.influences - fit.influences.mean())
        resampled.append(fit.draws)
    return SeedFigures(np.stack(contributions), np.stack(resampled))


def _weights_of_lowest(n_prompts: int, share: float) -> np.ndarray:
    """Return the weight of each prompt in ascending order, (P,); the sum is 1."""
    # 0.1 times 30 is above 3 in its last digit.
    n_lowest = round(share * n_prompts, 9)
    return np.asarray(np.clip(n_lowest - np.arange(n_prompts), 0.0, 1.0) / n_lowest)
