"""A column of numbers as five figures and a small histogram."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from rich.text import Text

N_BINS = 10
BAR_WIDTH = 32
LABEL_WIDTH = 10
LARGEST_WHOLE = 2.0**50
"""Beyond it, halves between whole numbers cannot be told apart in float64."""
EIGHTHS = "▏▎▍▌▋▊▉█"
"""Left blocks of one to eight eighths of a character."""


@dataclass(frozen=True)
class Distribution:
    """What the numbers of one name look like; ``edges`` has one more entry than ``counts``.

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
    def of(cls, name: str, values: np.ndarray, unit: str = "") -> Self:
        """Describe (N,) numbers, NaN where there is none.

        Bins are equally wide and begin at multiples of 1, 2, 2.5 or 5 times a power of ten, at most ``N_BINS`` + 1 of
        them; whole numbers within a range below ``N_BINS`` have a bin each.
        """
        values = np.asarray(values, np.float64)
        finite = values[np.isfinite(values)]
        n_missing, n_infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        if not len(finite):
            return cls(name, unit, 0, n_missing, n_infinite)
        with np.errstate(all="ignore"):
            edges, mean, median = _edges(finite), float(finite.mean()), float(np.median(finite))
        if not np.isfinite(mean):  # the sum is beyond float64, the mean is not
            mean = float((finite / len(finite)).sum())
        if not np.isfinite(median):  # so may be the sum of the two in the middle
            median = 2.0 * float(np.median(finite / 2.0))
        counts = np.histogram(finite, edges)[0]
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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def plot(self) -> Text:
        """Return a heading with the figures and a bar for each bin, labelled with the bin's lower end and its count."""
        unit = f", {self.unit}" if self.unit else ""
        text = Text()
        text.append(f"{self.name}{unit}\n", style="bold")
        text.append(f"  {self._figures()}")
        labels = [figure(edge + (0.5 if self._is_whole() else 0.0)) for edge in self.edges[:-1]]
        if len(labels) < 2 or len(set(labels)) < len(
            labels
        ):  # one value, or a spread that is not worth a picture
            return text
        n_digits = len(f"{max(self.counts):,}")
        for label, count in zip(labels, self.counts, strict=True):
            text.append(f"\n  {label:>{LABEL_WIDTH}} ")
            text.append(f"{bar(count / max(self.counts)):<{BAR_WIDTH}}", style="cyan")
            text.append(f" {count:>{n_digits},}")
        return text

    def _figures(self) -> str:
        if self.min is None or self.median is None or self.mean is None or self.max is None:
            return f"no numbers ({self.n_missing:,} missing)"
        parts = [
            f"min {figure(self.min)}",
            f"median {figure(self.median)}",
            f"mean {figure(self.mean)}",
        ]
        parts += [f"max {figure(self.max)}", f"n {self.n:,}"]
        parts += [f"missing {self.n_missing:,}"] if self.n_missing else []
        parts += [f"infinite {self.n_infinite:,}"] if self.n_infinite else []
        return "   ".join(parts)

    def _is_whole(self) -> bool:
        """Return whether each bin stands for one whole number, its edges halfway between."""
        return (
            len(self.edges) > 1 and self.edges[1] - self.edges[0] == 1 and self.edges[0] % 1 == 0.5
        )


def _edges(finite: np.ndarray) -> np.ndarray:
    low, high = float(finite.min()), float(finite.max())
    if high - low < N_BINS and bool((finite % 1 == 0).all()) and abs(low) < LARGEST_WHOLE:
        return np.arange(low - 0.5, high + 1.0)
    rough = (high - low) / N_BINS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(
        power * nice
        for nice in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)
        if power * nice >= rough or nice == 20.0
    )
    first, last = np.floor(low / step), np.ceil(high / step)
    if (
        not np.isfinite([step, first, last, step * last, step * first]).all()
        or max(abs(first), abs(last)) > LARGEST_WHOLE
    ):
        return np.array(
            [low, max(high, np.nextafter(low, np.inf))]
        )  # a spread below what floats can tell apart, or no spread
    edges: np.ndarray = step * np.arange(first, max(last, first + 1) + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding must lose no number
    return edges


def bar(share: float) -> str:
    """Return a bar of ``share`` (in [0, 1]) of ``BAR_WIDTH`` characters; anything above zero is seen."""
    eighths = round(share * BAR_WIDTH * 8)
    if share > 0:
        eighths = max(1, eighths)
    full, rest = divmod(eighths, 8)
    return "█" * full + (EIGHTHS[rest - 1] if rest else "")


def figure(value: float) -> str:
    """Return a number as people read it: four significant digits, thousands apart, no trailing zeros."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:.4g}"


def concatenate(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Return the pieces of a column as one float64 array, empty when there are none."""
    return (
        np.concatenate([np.asarray(piece, np.float64) for piece in pieces])
        if pieces
        else np.empty(0)
    )
