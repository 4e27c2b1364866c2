"""The candidates of one prompt in two dimensions: coordinates from their embeddings, and a grid of characters to draw them on.

The grid is plain ASCII and tells roles apart by letters, so it reads the same without colour and on any terminal.
"""

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import InputError
from prefpipe.maths.statistics.projection import project
from prefpipe.stages.inspect.one_prompt import Sources

LETTERS = {"positive": "P", "negative": "n", None: "."}
"""What stands for a role on the grid; a row that was not kept has none."""
WIDEST, TALLEST, NARROWEST, LOWEST = 110, 33, 24, 3
ROWS_AND_POINTS = 8
"""A grid has at most so many rows more than points: a few do not need a large one."""
ROW_HEIGHT = 2.0
"""A character is about twice as high as wide: one row is worth two columns, so distances keep their proportions."""


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

        A chosen candidate keeps its sample against one that was not chosen; otherwise letters must not touch a count.
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


def with_coordinates(
    found: Mapping[str, Any], embeddings: Artifact, sources: Sources
) -> dict[str, Any]:
    """Return what ``one_prompt`` found with ``x`` and ``y`` for each candidate, and ``map``: what the two axes show.

    ``x`` and ``y`` are null where a candidate has no embedding. ``map`` has ``n_points``, ``n_dimensions`` and ``shares``, the
    share of the variance that each axis shows.

    Args:
        found: the prompt.
        embeddings: of the same candidates.
        sources: what the prompt was found in.

    Raises:
        InputError: embeddings of other candidates, an earlier version of them, or none of this prompt.
    """
    vectors = _vectors(embeddings, sources, found["part"], found["prompt_id"])
    # by sample, not by rank: the picture must not depend on the reward, not even in its last digit
    known = sorted(
        entry["sample_idx"] for entry in found["candidates"] if entry["sample_idx"] in vectors
    )
    if not known:
        raise InputError(
            f"no candidate of prompt {found['prompt_id']} has an embedding in {embeddings.path}",
            hint=f"run `prefpipe inspect {quote(str(embeddings.path))}` for why",
        )
    shown = project(np.stack([vectors[idx] for idx in known]))
    places = dict(zip(known, shown.coordinates.tolist(), strict=True))
    entries = [
        entry | dict(zip(("x", "y"), places.get(entry["sample_idx"], (None, None)), strict=True))
        for entry in found["candidates"]
    ]
    facts = {
        "embeddings": str(embeddings.path),
        "n_points": len(known),
        "n_dimensions": shown.n_dimensions,
        "shares": shown.shares.tolist(),
    }
    return {**found, "candidates": entries, "map": facts}


def _vectors(
    embeddings: Artifact, sources: Sources, part: int, prompt_id: str
) -> dict[int, np.ndarray]:
    """Return the prompt's vectors by sample, those that the embedder could make."""
    place, again = (
        embeddings.path,
        "pass the embeddings of these candidates, or make them: prefpipe embed CANDIDATES ...",
    )
    if sources.candidates is not None:
        expected: Any = sources.candidates.record.identity
    else:
        expected = (
            sources.groups.record.identity.get("candidates") if sources.groups is not None else None
        )
    if (
        embeddings.n_parts != sources.index.n_parts
        or embeddings.record.identity.get("candidates") != expected
    ):
        raise InputError(
            f"{place} was made for other candidates than {sources.index.path} speaks of", hint=again
        )
    if embeddings.missing([part]):
        raise InputError(
            f"{embeddings.part_path(part)} is not there yet",
            hint=f"run `prefpipe status {quote(str(place))}`",
        )
    table, footer = embeddings.read(part, ["prompt_id", "sample_idx", "embedding", "status"])
    candidates = sources.candidates
    if (
        candidates is not None
        and footer.parents.get("candidates") != candidates.footer(part).data_sha256
    ):
        raise InputError(
            f"{embeddings.part_path(part)} was made from another version of {candidates.part_path(part)}",
            hint="run the `prefpipe embed` command again: it makes this part anew",
        )
    table = table.filter(pc.equal(table["status"], "ok"))
    column = (
        pa.concat_arrays(table["embedding"].chunks)
        if len(table)
        else pa.nulls(0, table["embedding"].type)
    )
    if not pa.types.is_fixed_size_list(column.type):
        raise InputError(
            f"the vectors in {embeddings.part_path(part)} are not all of one length", hint=again
        )
    matrix = (
        column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    )
    keys = zip(
        *(table[name].to_pylist() for name in ("prompt_id", "sample_idx", "status")), strict=True
    )
    return {
        idx: matrix[row]
        for row, (whose, idx, status) in enumerate(keys)
        if whose == prompt_id and status == "ok"
    }


def points_of(entries: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the candidates that have coordinates."""
    return [
        Point(entry["x"], entry["y"], entry["sample_idx"], entry["role"])
        for entry in entries
        if entry["x"] is not None
    ]


def lay_out(points: Sequence[Point], width: int) -> Grid:
    """Return where each point is written on a grid of at most ``width`` columns, one scale in both directions.

    Points that fall on one place are one pile, and so are those within the label of a chosen one, or in touch with a
    count. A label has its sample where there is room up to the next one, else the letter and the count alone.

    Args:
        points: at least one.
        width: columns of the grid, at least ``NARROWEST``.
    """
    longest = max(
        len(text) for text in (Pile(0, tuple(points)).long, *(point.name for point in points))
    )
    n_across = (
        max(min(width, WIDEST), NARROWEST) - longest
    )  # so that a label at the right end has room
    xs, ys = np.array([point.x for point in points]), np.array([point.y for point in points])
    x_span, y_span = float(np.ptp(xs)), float(np.ptp(ys))
    n_up = min(TALLEST, ROWS_AND_POINTS + len(points))
    scales = [
        (n_across - 1) / x_span if x_span > 0 else np.inf,
        ROW_HEIGHT * (n_up - 1) / y_span if y_span > 0 else np.inf,
    ]
    scale = min(scales) if np.isfinite(min(scales)) else 0.0
    columns = np.floor((xs - xs.min()) * scale + 0.5).astype(int)
    rows = np.floor((ys.max() - ys) * scale / ROW_HEIGHT + 0.5).astype(int)
    n_rows = max(LOWEST, int(rows.max()) + 1)
    rows += (n_rows - 1 - int(rows.max())) // 2  # a flat cloud stands in the middle
    columns += max(0, NARROWEST - longest - 1 - int(columns.max())) // 2
    n_columns = max(NARROWEST, int(columns.max()) + 1 + longest)
    laid = []
    for row in range(n_rows):
        here = [
            (int(column), point)
            for column, point, own in zip(columns, points, rows, strict=True)
            if own == row
        ]
        laid.append(_labels(_piles(here), n_columns))
    return Grid(n_columns, tuple(laid))


def _piles(placed: Sequence[tuple[int, Point]]) -> list[Pile]:
    """Return the points of one row as piles, from the left: each within reach of the one before it joins that."""
    piles: list[Pile] = []
    for column, point in sorted(placed, key=lambda item: item[0]):
        if piles and column < piles[-1].reach(point):
            piles[-1] = Pile(piles[-1].column, _in_order((*piles[-1].points, point)))
        else:
            piles.append(Pile(column, (point,)))
    return piles


def _in_order(points: tuple[Point, ...]) -> tuple[Point, ...]:
    ranks = list(LETTERS)
    return tuple(sorted(points, key=lambda point: (ranks.index(point.role), point.sample_idx)))


def _labels(piles: Sequence[Pile], n_columns: int) -> tuple[Label, ...]:
    ends = [pile.column - 1 for pile in piles[1:]] + [n_columns] * bool(piles)
    return tuple(
        Label(pile.column, pile.long if pile.column + len(pile.long) <= end else pile.short, pile)
        for pile, end in zip(piles, ends, strict=True)
    )
