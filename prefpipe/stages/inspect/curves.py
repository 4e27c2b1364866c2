"""Training metrics as small curves: what each measure was at first, at last, and on the way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from prefpipe.maths.statistics.distribution import figure
from prefpipe.text.untrusted import visible_line

METRICS_FILE = "metrics.parquet"
NOT_MEASURES = ("step", "epoch", "split")
LEVELS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 32


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Return each measure of ``metrics.parquet`` by split; [] where a stage left none.

    Keys: ``name``, ``split``, ``n``, ``first``, ``last``, ``min``, ``max``, ``last_step`` and ``curve``, the means of at most
    ``CURVE_WIDTH`` equal stretches. Rows without a finite value are left out.
    """
    return [
        {
            "name": name,
            "split": split,
            "n": len(values),
            "first": float(values[0]),
            "last": float(values[-1]),
            "min": float(values.min()),
            "max": float(values.max()),
            "last_step": int(steps[-1]),
            "curve": [
                float(stretch.mean())
                for stretch in np.array_split(values, min(CURVE_WIDTH, len(values)))
            ],
        }
        for name, split, steps, values in _finite_columns(folder)
    ]


def read_points(folder: Path, max_points: int) -> list[dict[str, Any]]:
    """Return each measure of ``metrics.parquet`` by split as points that can be drawn; [] where a stage left none.

    Keys: ``name``, ``split``, ``first``, ``last`` and ``last_step`` of what was logged, ``n`` and ``n_not_finite`` (NaN and
    infinities) values, and what is drawn, ``steps`` and ``values``: as logged, or the means of ``max_points`` equal stretches
    and their last steps. A measure that never was finite has None and no points.
    """
    found = []
    for name, split, steps, values in _columns(folder):
        known = np.isfinite(values)
        n = min(max_points, int(known.sum()))
        means = [float(stretch.mean()) for stretch in np.array_split(values[known], n)] if n else []
        lasts = [int(stretch[-1]) for stretch in np.array_split(steps[known], n)] if n else []
        found.append(
            {
                "name": name,
                "split": split,
                "n": int(known.sum()),
                "n_not_finite": int((~known).sum()),
                "first": _finite(values[0]),
                "last": _finite(values[-1]),
                "last_step": int(steps[-1]),
                "steps": lasts,
                "values": means,
            }
        )
    return found


def metrics_problem(folder: Path) -> str | None:
    """Return why ``metrics.parquet`` cannot be read, None where it can or is not there."""
    try:
        list(_read_columns(folder))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError) as error:
        return f"{folder / METRICS_FILE} cannot be read: {str(error).splitlines()[0]}"
    return None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _finite_columns(folder: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield each measure with its split, steps and values, those rows that have a finite value; nothing where none has."""
    for name, split, steps, values in _columns(folder):
        known = np.isfinite(values)
        if known.any():
            yield name, split, steps[known], values[known]


def _columns(folder: Path) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Return each measure with its split, steps and values, those rows in which it was logged; [] where nothing can be read."""
    try:
        return list(_read_columns(folder))
    except (OSError, pa.ArrowException, KeyError):
        return []


def _read_columns(folder: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    table = pq.read_table(folder / METRICS_FILE)
    for split in dict.fromkeys(table["split"].to_pylist()):
        rows = table.filter(pc.equal(table["split"], split))
        steps = rows["step"].to_numpy()
        for name in rows.column_names:
            if name not in NOT_MEASURES:
                is_logged = rows[name].is_valid().to_numpy()
                if is_logged.any():
                    yield (
                        name,
                        split,
                        steps[is_logged],
                        rows[name].cast(pa.float64()).to_numpy()[is_logged],
                    )


def curves_table(curves: list[dict[str, Any]]) -> Table:
    """Return a row for each measure: its name, first and last value, and its course from the left to the right."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("", "", Text("first", style="dim"), Text("last", style="dim"), "")
    for item in curves:
        name, split = visible_line(item["name"], 32), visible_line(item["split"], 12)
        table.add_row(
            Text(name),
            Text(split),
            figure(item["first"]),
            figure(item["last"]),
            Text(sparkline(item["curve"])),
        )
    return table


def sparkline(values: list[float]) -> str:
    """Return one block for each value, the lowest for the least and the highest for the greatest."""
    low, high = min(values), max(values)
    if not high > low:
        return LEVELS[0] * len(values)
    return "".join(
        LEVELS[round((value - low) / (high - low) * (len(LEVELS) - 1))] for value in values
    )
