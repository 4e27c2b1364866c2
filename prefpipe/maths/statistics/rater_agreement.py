"""How often raters order the same responses alike, and the MMPO gamma that fits this.

Axes: R responses of a prompt, K raters, N pairs of a response, each once for every rater.
"""

from typing import NamedTuple

import numpy as np

from prefpipe.errors import UsageError
from prefpipe.maths.statistics.calibration import TEMPERATURES, fit_temperature, pair_accuracy


class RatedPairs(NamedTuple):
    """Pairs of one prompt's responses, seen by one rater and by all others, (N,) each.

    ``gaps``: of the others' mean rating, the first response's less the second's. ``outcomes``: 1
    where the rater prefers the first, 1/2 where the two tie, 0 else.
    """

    gaps: np.ndarray
    outcomes: np.ndarray


class AgreedGamma(NamedTuple):
    """The fitted gamma, the number of pairs, and the share of pairs on which raters agree."""

    gamma: float
    n_pairs: int
    agreement: float


def rated_pairs(ratings_RK: np.ndarray) -> RatedPairs:
    """Return every pair of a prompt's responses, once for each rater who rated both.

    A rater is compared with the mean of the others, without the rater's own rating. A pair that no
    other rater has rated on both sides is left out.

    Args:
        ratings_RK: NaN where a rater has not rated a response.
    """
    first, second = np.triu_indices(len(ratings_RK), k=1)
    gaps: list[np.ndarray] = [np.empty(0)]
    outcomes: list[np.ndarray] = [np.empty(0)]
    for rater in range(ratings_RK.shape[1]):
        others_RK = np.delete(ratings_RK, rater, axis=1)
        n_others = np.isfinite(others_RK).sum(axis=1)
        mean = np.where(n_others > 0, np.nansum(others_RK, axis=1), np.nan)
        mean = mean / np.maximum(n_others, 1)

        gap = mean[first] - mean[second]
        rater_gap = ratings_RK[first, rater] - ratings_RK[second, rater]
        is_rated = np.isfinite(gap) & np.isfinite(rater_gap)
        gaps.append(gap[is_rated])
        outcomes.append(0.5 * (1.0 + np.sign(rater_gap[is_rated])))
    return RatedPairs(np.concatenate(gaps), np.concatenate(outcomes))


def gamma_of_agreement(pairs: RatedPairs) -> AgreedGamma:
    r"""Return the gamma whose targets best fit the decisions of one more rater **(ours)**.

    ::

        gamma = argmin  - sum [ y * log sigma(gamma * g) + (1 - y) * log sigma(-gamma * g) ]

    g the gap of the others' mean rating, y the rater's preference: MMPO's target
    ``sigma(gamma * (q_w - q_l))`` as the probability that one more rater prefers w. It is a
    logistic regression of y on g without an intercept, and the inverse of Guo's temperature.

    Args:
        pairs: of all prompts.

    Raises:
        UsageError: no pair; raters who agree on every pair, whose gamma is infinite, or no more
            than chance, whose gamma is 0 or below.

    Source: the target arXiv 2410.03145; the fit Guo et al., arXiv 1706.04599.
    """
    hint = "set the worth of a point with --point-wins, or pass --gamma as a number"
    if not len(pairs.gaps) or not pairs.gaps.any():
        raise UsageError("no two raters rated the same two responses differently", hint=hint)

    temperature = fit_temperature(pairs.gaps, pairs.outcomes)
    agreement = pair_accuracy(pairs.gaps, pairs.outcomes)
    lowest, highest = TEMPERATURES
    if temperature <= lowest:
        raise UsageError("the raters agree on every pair, so no gamma is large enough", hint=hint)
    if temperature >= highest:
        raise UsageError(
            f"the raters agree on {agreement:.1%} of the pairs, no more than chance: their "
            "ratings do not predict each other",
            hint=hint,
        )
    return AgreedGamma(1.0 / temperature, len(pairs.gaps), agreement)


def gamma_of_point(probability: float) -> float:
    """Return the gamma at which a response rated one point higher wins with probability p.

    ``log(p / (1 - p))``: 0.75 gives log 3 = 1.1.
    """
    return float(np.log(probability) - np.log1p(-probability))
