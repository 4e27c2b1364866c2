"""A grid of characters on which the candidates of one prompt are drawn.

The grid is plain ASCII and tells roles apart by letters, so it reads the same without colour and
on any terminal.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LETTERS = {"positive": "P", "negative": "n", None: "."}
"""What stands for a role on the grid; a row that was not kept has none."""
WIDEST, TALLEST, NARROWEST, LOWEST = 110, 33, 24, 3
ROWS_AND_POINTS = 8
"""A grid has at most so many rows more than points: a few do not need a large one."""
ROW_HEIGHT = 2.0
"""A character is about twice as high as wide: a row worth two columns keeps proportions."""


class Point(NamedTuple):
    """A candidate in the plane."""

    x: float
    y: float
    sample_idx: int
    role: str | None

    @property
    def letter(self) -> str:
        """What stands for its role."""
        return LETTERS[self.role]

    @property
    def name(self) -> str:
        """The letter and the sample: ``n7``."""
        return f"{self.letter}{self.sample_idx}"


class Pile(NamedTuple):
    """The candidates that share a place on the grid, chosen ones first."""

    column: int
    points: tuple[Point, ...]

    @property
    def short(self) -> str:
        """The letter of the first, and how many more there are."""
        return self.points[0].letter + self._more()

    @property
    def long(self) -> str:
        """The same with the first one's sample."""
        return self.points[0].name + self._more()

    def reach(self, point: Point) -> int:
        """Return the first column in which another point stands by itself.

        A chosen candidate keeps its sample against one that was not chosen. Otherwise letters must
        not touch a count.
        """
        if self.points[0].role is not None and point.role is None:
            return self.column + len(self.long) + 1
        return self.column + len(self.short) + bool(self._more())

    def _more(self) -> str:
        return f"+{len(self.points) - 1}" if len(self.points) > 1 else ""


class Label(NamedTuple):
    """What is written on the grid: where it begins, the text, and whose it is."""

    column: int
    text: str
    pile: Pile


class Grid(NamedTuple):
    """Rows of labels from the top, none of which touches another, within ``n_columns``."""

    n_columns: int
    rows: tuple[tuple[Label, ...], ...]

    def piles(self) -> list[Pile]:
        """Return the places with more than one candidate."""
        return [label.pile for row in self.rows for label in row if len(label.pile.points) > 1]


def points_of(entries: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the candidates that have coordinates."""
    return [
        Point(entry["x"], entry["y"], entry["sample_idx"], entry["role"])
        for entry in entries
        if entry["x"] is not None
    ]


def lay_out(points: Sequence[Point], width: int) -> Grid:
    """Return where each point is written, one scale in both directions.

    Points that fall on one place are one pile, and so are those within the label of a chosen one,
    or in touch with a count. A label has its sample where there is room up to the next one, else
    the letter and the count alone.

    Args:
        points: at least one.
        width: columns of the grid, at least ``NARROWEST``.
    """
    # A label at the right end needs room too, that of all points in one pile included.
    longest = max(len(point.name) for point in points)
    longest = max(longest, len(Pile(0, tuple(points)).long))
    n_across = max(min(width, WIDEST), NARROWEST) - longest
    n_up = min(TALLEST, ROWS_AND_POINTS + len(points))

    xs = np.array([point.x for point in points])
    ys = np.array([point.y for point in points])
    scale = _scale(xs, ys, n_across, n_up)
    # Halves go up; np.round would send them to even places, now left and now right.
    columns = np.floor((xs - xs.min()) * scale + 0.5).astype(int)
    rows = np.floor((ys.max() - ys) * scale / ROW_HEIGHT + 0.5).astype(int)

    # A cloud that is flat, or narrow, stands in the middle.
    n_rows = max(LOWEST, int(rows.max()) + 1)
    rows += (n_rows - 1 - int(rows.max())) // 2
    columns += max(0, NARROWEST - longest - 1 - int(columns.max())) // 2
    n_columns = max(NARROWEST, int(columns.max()) + 1 + longest)

    points_by_row: list[list[tuple[int, Point]]] = [[] for _ in range(n_rows)]
    for row, column, point in zip(rows, columns, points, strict=True):
        points_by_row[row].append((int(column), point))
    labels = [_labels(_piles(placed), n_columns) for placed in points_by_row]
    return Grid(n_columns, tuple(labels))


def _scale(xs: np.ndarray, ys: np.ndarray, n_across: int, n_up: int) -> float:
    """Return the columns a unit with which all points fit; 0 where all points are one."""
    x_span, y_span = float(np.ptp(xs)), float(np.ptp(ys))
    scale = np.inf
    if x_span > 0:
        scale = (n_across - 1) / x_span
    if y_span > 0:
        scale = min(scale, ROW_HEIGHT * (n_up - 1) / y_span)
    return scale if np.isfinite(scale) else 0.0


def _piles(placed: Sequence[tuple[int, Point]]) -> list[Pile]:
    """Return the points of one row as piles, from the left.

    Each point within reach of the pile before it joins that.
    """
    piles: list[Pile] = []
    for column, point in sorted(placed, key=lambda item: item[0]):
        if piles and column < piles[-1].reach(point):
            piles[-1] = Pile(piles[-1].column, _chosen_first((*piles[-1].points, point)))
        else:
            piles.append(Pile(column, (point,)))
    return piles


def _chosen_first(points: tuple[Point, ...]) -> tuple[Point, ...]:
    roles = list(LETTERS)
    return tuple(sorted(points, key=lambda point: (roles.index(point.role), point.sample_idx)))


def _labels(piles: Sequence[Pile], n_columns: int) -> tuple[Label, ...]:
    labels = []
    for place, pile in enumerate(piles):
        is_last = place == len(piles) - 1
        end = n_columns if is_last else piles[place + 1].column - 1
        fits = pile.column + len(pile.long) <= end
        labels.append(Label(pile.column, pile.long if fits else pile.short, pile))
    return tuple(labels)
