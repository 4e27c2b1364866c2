"""Whether a mean over seeds and prompts differs from 0, and whether it lies within a margin of it.

Both by Student's t with the standard error and degrees of freedom of
`prefpipe.maths.statistics.two_level`.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from prefpipe.errors import UsageError
from prefpipe.maths.statistics.two_level import TwoLevelMean


class Equivalence(NamedTuple):
    """Two one-sided tests: ``p`` of both, and the interval that is within the margin at ``p``.

    ``low`` and ``high`` are the ends of the t interval of level ``1 - 2 alpha``, 90 % at 5 %.
    """

    margin: float
    low: float
    high: float
    p: float


def p_of_difference(difference: TwoLevelMean) -> float:
    """Return the two-sided p value of ``mean / se`` with ``df``; NaN where there is no error.

    A difference that is the same for all seeds and prompts has no spread: its p is 0, and 1 where
    it is 0.
    """
    if np.isnan(difference.se):
        return np.nan
    if difference.se == 0.0:
        return 1.0 if difference.mean == 0.0 else 0.0
    return float(2.0 * stdtr(_finite(difference.df), -abs(difference.mean) / difference.se))


def equivalence(difference: TwoLevelMean, margin: float, *, alpha: float = 0.05) -> Equivalence:
    r"""Return whether a difference lies within ``+-margin``, by two one-sided tests.

    Schuirmann 1987. Both of these are rejected at level alpha where ``p <= alpha``::

        difference <= -margin        p_low  = P(T_df >= (mean + margin) / se)
        difference >=  margin        p_high = P(T_df <= (mean - margin) / se)

    and ``p = max(p_low, p_high)``. So two arms are called equivalent in alpha of all cases at most
    where they differ by the margin or more.

    Args:
        difference: of two arms.
        margin: above 0, in the unit of the measure.
        alpha: level of each test.

    Raises:
        UsageError: a margin or a level that tests nothing.
    """
    # not `<= 0`, which NaN passes
    if not (margin > 0.0 and np.isfinite(margin)):
        raise UsageError(f"the margin is {margin}; it is a finite number above 0")
    if not 0.0 < alpha < 0.5:
        raise UsageError(f"the level of the one-sided tests is {alpha}; it is between 0 and 0.5")
    mean, se = difference.mean, difference.se
    if np.isnan(se):
        return Equivalence(margin, np.nan, np.nan, np.nan)
    if se == 0.0:
        return Equivalence(margin, mean, mean, 0.0 if abs(mean) < margin else 1.0)

    df = _finite(difference.df)
    half = float(stdtrit(df, 1.0 - alpha)) * se
    # P(T <= (|mean| - margin) / se): the nearer end of the margin
    p = float(stdtr(df, (abs(mean) - margin) / se))
    return Equivalence(margin, mean - half, mean + half, p)


def _finite(df: float) -> float:
    """Return degrees of freedom for scipy, which takes no infinity."""
    return min(df, 1e12)
