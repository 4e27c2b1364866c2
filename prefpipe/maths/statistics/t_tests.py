"""Tests whether a mean over seeds and prompts differs from 0, or lies within a margin of 0.

Both use the half widths of `prefpipe.maths.statistics.two_errors`: they are wide for few seeds, and
wrong in at most alpha of all cases, at any level that Holm's correction needs.
"""

from typing import NamedTuple

import numpy as np

from prefpipe.errors import UsageError
from prefpipe.maths.statistics.two_errors import TwoErrors


class Equivalence(NamedTuple):
    """Two one-sided tests: ``p`` of both, and the interval that is within the margin at ``p``.

    ``low`` and ``high`` are the ends of the interval of level ``1 - 2 alpha``, 90 % at 5 %.
    """

    margin: float
    low: float
    high: float
    p: float


def p_of_difference(mean: float, errors: TwoErrors) -> float:
    """Return the two-sided p value of a mean difference; NaN without an error."""
    return errors.p_of(abs(mean))


def equivalence(
    mean: float, errors: TwoErrors, margin: float, *, alpha: float = 0.05
) -> Equivalence:
    r"""Return whether a mean difference lies within ``+-margin``, by two one-sided tests.

    Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach".
    Both of these are rejected at level alpha where ``p <= alpha``::

        difference <= -margin        difference >= margin

    which holds if ``mean +- h(2 alpha)`` lies within the margin. So two arms that differ by the
    margin or more are called equivalent in at most alpha of all cases.

    Args:
        mean: of the differences of two arms.
        errors: the errors of that mean.
        margin: above 0, in the unit of the measure.
        alpha: level of each test.

    Raises:
        UsageError: a margin or a level out of range.
    """
    # Not `<= 0`, which would accept NaN.
    if not (margin > 0.0 and np.isfinite(margin)):
        raise UsageError(f"the margin is {margin}; it must be a finite number above 0")
    if not 0.0 < alpha < 0.5:
        raise UsageError(
            f"the level of the one-sided tests is {alpha}; it must be between 0 and 0.5"
        )
    half = errors.half_width(2.0 * alpha)

    # For the nearer end: half the two-sided p of its distance, beyond it the other half.
    distance = margin - abs(mean)
    one_sided = errors.p_of(abs(distance)) / 2.0
    p = one_sided if distance > 0.0 else 1.0 - one_sided
    return Equivalence(margin, mean - half, mean + half, p)
