"""The bootstrap of every figure: how many resamples, of what, and the interval they give.

Means, ratios, win rates, fits and benchmarks' figures all resample here, so that the same options
give the same resamples everywhere. Own code, because SciPy's ``bootstrap`` draws in another order
and does not support prompts with several rows: the draws are part of every published figure.

Axes: P units (prompts), B resamples, b resamples of a batch, K sums.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from prefpipe.errors import UsageError

UNITS_AT_ONCE = 2_000_000
"""Drawn units kept in memory at a time (16 MB); the draws do not depend on it."""


class Bootstrap(NamedTuple):
    """How intervals are drawn; the same three give the same interval.

    Attributes:
        level: share of resamples within the interval, between 0 and 1.
        n_draws: resamples, at least 1.
        seed: of the generator.
    """

    level: float = 0.95
    n_draws: int = 10_000
    seed: int = 0

    def check(self) -> None:
        """Refuse options that cannot give an interval.

        Raises:
            UsageError: names the option and its value.
        """
        if not 0.0 < self.level < 1.0:
            raise UsageError(f"the interval's level is {self.level}; it must be between 0 and 1")
        if self.n_draws < 1:
            raise UsageError(f"n_draws is {self.n_draws}; at least 1 resample is needed")

    @property
    def tails(self) -> tuple[float, float]:
        """The quantiles that hold the level: ``(1 - level) / 2`` and ``(1 + level) / 2``."""
        return (1.0 - self.level) / 2.0, (1.0 + self.level) / 2.0

    def resample(
        self, figures: Callable[[np.ndarray], np.ndarray], n_units: int, *, size: int | None = None
    ) -> np.ndarray:
        """Return the figures of all resamples with replacement, (B, ...).

        Args:
            figures: computes figures (b, ...) from drawn units (b, P), one resample a row.
            n_units: P, at least 1.
            size: numbers that ``figures`` holds per resample, if more than P.

        Raises:
            UsageError: as in `check`.
        """
        self.check()
        rng = np.random.default_rng(self.seed)
        batches = []
        for draws in self._batches(size or n_units):
            drawn = rng.integers(n_units, size=(draws.stop - draws.start, n_units))
            batches.append(figures(drawn))
        return np.concatenate(batches)

    def resample_sums(self, values_PK: np.ndarray, strata: Sequence[np.ndarray]) -> np.ndarray:
        """Return the sums of all resamples (B, K), each stratum drawn separately.

        Args:
            values_PK: the summed values of each unit.
            strata: the units of each; every resample has as many of them.

        Raises:
            UsageError: as in `check`.
        """
        self.check()
        rng = np.random.default_rng(self.seed)
        sums_BK = np.zeros((self.n_draws, values_PK.shape[1]))
        for members in strata:
            n_members = len(members)
            shares = np.full(n_members, 1.0 / n_members)
            for draws in self._batches(n_members):
                # A sum only needs to know how often each unit was drawn.
                counts = rng.multinomial(n_members, shares, size=draws.stop - draws.start)
                sums_BK[draws] += counts @ values_PK[members]
        return sums_BK

    def ends(self, figures_B: np.ndarray) -> tuple[float, float]:
        """Return the percentile interval of the figures of all resamples (B,)."""
        low, high = np.quantile(figures_B, self.tails)
        return float(low), float(high)

    def _batches(self, size: int) -> Iterator[slice]:
        step = max(1, UNITS_AT_ONCE // size)
        for start in range(0, self.n_draws, step):
            yield slice(start, min(start + step, self.n_draws))


BOOTSTRAP = Bootstrap()
