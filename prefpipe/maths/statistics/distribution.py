"""A column of numbers as five figures and a small histogram."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

N_BINS = 10
NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)
"""Widths of a bin, times a power of ten; 10 and 20 for a power that rounding made too small."""
LARGEST_WHOLE = 2.0**50
"""Beyond it, float64 cannot represent halves between whole numbers."""


@dataclass(frozen=True)
class Distribution:
    """The distribution of one column; ``edges`` has one more entry than ``counts``.

    ``n`` counts the finite numbers, ``n_missing`` the nulls and NaN, ``n_infinite`` the infinities.
    """

    name: str
    unit: str
    n: int
    n_missing: int
    n_infinite: int = 0
    min: float | None = None
    median: float | None = None
    mean: float | None = None
    max: float | None = None
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, name: str, values: np.ndarray, unit: str = "", *, edges: np.ndarray | None = None
    ) -> Self:
        """Describe (N,) numbers; NaN marks missing ones.

        Without ``edges``, which hold all numbers, bins are equally wide and begin at multiples of
        1, 2, 2.5 or 5 times a power of ten, at most ``N_BINS`` + 1 of them. Whole numbers within a
        range below ``N_BINS`` have a bin each.
        """
        values = np.asarray(values, np.float64)
        finite = values[np.isfinite(values)]
        n_missing = int(np.isnan(values).sum())
        n_infinite = int(np.isinf(values).sum())
        if not len(finite):
            return cls(name, unit, 0, n_missing, n_infinite)

        with np.errstate(all="ignore"):
            edges = _edges(finite) if edges is None else edges
            mean = float(finite.mean())
            median = float(np.median(finite))

        # A sum may be beyond float64 where the mean, or the middle of two numbers, is not.
        if not np.isfinite(mean):
            mean = float((finite / len(finite)).sum())
        if not np.isfinite(median):
            median = 2.0 * float(np.median(finite / 2.0))

        counts, _ = np.histogram(finite, edges)
        return cls(
            name,
            unit,
            len(finite),
            n_missing,
            n_infinite,
            min=float(finite.min()),
            median=median,
            mean=mean,
            max=float(finite.max()),
            edges=tuple(edges.tolist()),
            counts=tuple(counts.tolist()),
        )

    @property
    def has_whole_bins(self) -> bool:
        """Whether each bin is one whole number, with edges halfway between two."""
        return has_whole_bins(self.edges)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def has_whole_bins(edges: np.ndarray | tuple[float, ...]) -> bool:
    """Return whether bins are those of whole numbers: one wide, their edges halfway between two."""
    if len(edges) < 2:
        return False
    return bool(edges[1] - edges[0] == 1.0 and edges[0] % 1.0 == 0.5)


def _edges(finite: np.ndarray) -> np.ndarray:
    """Return the edges of the bins of numbers that are all finite."""
    low, high = float(finite.min()), float(finite.max())

    is_whole = bool((finite % 1 == 0).all()) and abs(low) < LARGEST_WHOLE
    if is_whole and high - low < N_BINS:
        return np.arange(low - 0.5, high + 1.0)

    step = _nice_step((high - low) / N_BINS)
    first, last = np.floor(low / step), np.ceil(high / step)
    ends = [step, first, last, step * first, step * last]
    if not np.isfinite(ends).all() or max(abs(first), abs(last)) > LARGEST_WHOLE:
        # No spread, or one below float resolution: everything in one bin.
        return np.array([low, max(high, np.nextafter(low, np.inf))])

    edges: np.ndarray = step * np.arange(first, max(last, first + 1) + 1)
    # Rounding must not lose any number.
    edges[0] = min(edges[0], low)
    edges[-1] = max(edges[-1], high)
    return edges


def _nice_step(rough: float) -> np.float64:
    """Return the smallest nice step of at least ``rough``; 0 or not finite if there is none."""
    power = np.float64(10.0) ** np.floor(np.log10(rough))
    for nice in NICE_STEPS:
        if power * nice >= rough:
            break
    return np.float64(power * nice)
