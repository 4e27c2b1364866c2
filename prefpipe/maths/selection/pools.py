"""The input of a strategy, many prompts at once, and its output."""

from typing import NamedTuple

import numpy as np

from prefpipe.maths.selection.samplers import Samplers


class Evidence(NamedTuple):
    """What some strategies read beside rewards and distances.

    ``spreads`` (P, R): the spread of several scorers, on the scale of the rewards, finite where
        there is a candidate. ``samplers``: the sampler of each candidate.
    """

    spreads: np.ndarray | None = None
    samplers: Samplers | None = None

    def of_prompts(self, rows: slice) -> "Evidence":
        """Return the evidence of some of the prompts."""
        spreads = None if self.spreads is None else self.spreads[rows]
        samplers = self.samplers
        if samplers is not None:
            samplers = Samplers(samplers.chosen[rows], samplers.rejected[rows])
        return Evidence(spreads, samplers)


NO_EVIDENCE = Evidence()
"""The evidence of strategies that read nothing more."""


class Pools(NamedTuple):
    """The checked input of a strategy: P prompts with up to R candidates.

    ``negatives`` (P, R): the candidate negatives by ascending reward, equal rewards by ascending
    index, -1 after the last; ``n_negatives`` (P,). ``positives`` (P, p): best first, -1 behind the
    last; ``n_positives`` (P,). ``distances`` (P, R, R), or None without embeddings. ``rewards`` (P,
    R), 0 where there is no candidate. ``weights`` (P, R): see
    `prefpipe.maths.selection.weights.pool_weights`; ``temperatures`` (P,): their T. ``seeds`` (P,)
    uint64. ``k``: negatives that may be chosen. ``position``: c of ``reward-position``. ``decided``
    (P, k): the negatives if the strategy decided them with the positives, else None.
    """

    negatives: np.ndarray
    n_negatives: np.ndarray
    positives: np.ndarray
    n_positives: np.ndarray
    distances: np.ndarray | None
    rewards: np.ndarray
    weights: np.ndarray
    temperatures: np.ndarray
    seeds: np.ndarray
    k: int
    covers_all: bool
    n_init: int
    work_limit: int
    position: float = -2.0
    decided: np.ndarray | None = None

    def clients(self) -> np.ndarray:
        """Return (P, C) the candidates that Opt-Select's objective covers, -1 after the last.

        The candidate negatives, or with ``covers_all`` all candidates.
        """
        if not self.covers_all:
            return self.negatives
        both = np.concatenate([self.negatives, self.positives], axis=1)
        padding_last = np.argsort(both < 0, axis=1, kind="stable")
        return np.asarray(np.take_along_axis(both, padding_last, axis=1))

    def weighting(self) -> "PoolWeights":
        """Return the weights with the rewards and temperatures that they come from."""
        return PoolWeights(self.rewards, self.weights, self.temperatures)


class PoolWeights(NamedTuple):
    """Opt-Select's weights (P, R), and the rewards (P, R) and temperatures (P,) they come from."""

    rewards: np.ndarray
    weights: np.ndarray
    temperatures: np.ndarray


class Choice(NamedTuple):
    """The chosen negatives, and what the strategy knows about the choice.

    ``negatives`` (P, K) ascending, -1 after the last. ``bound_share`` (P,), the lower bound as a
    share of the choice's cost, and ``is_optimal`` (P,) are of ``opt-select``, ``clusters`` (P, R)
    of ``coreset``; NaN, False and -1 elsewhere.
    """

    negatives: np.ndarray
    bound_share: np.ndarray
    is_optimal: np.ndarray
    clusters: np.ndarray
