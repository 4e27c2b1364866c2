"""The measures that a stage logged in ``metrics.parquet``: first, last, and in between."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location

METRICS_FILE = "metrics.parquet"
NOT_MEASURES = ("step", "epoch", "split")
CURVE_WIDTH = 32


class LoggedMeasure(NamedTuple):
    """One measure of one split: ``steps`` (N,) and ``values`` (N,), where it was logged."""

    name: str
    split: str
    steps: np.ndarray
    values: np.ndarray


def read_curves(folder: Location) -> list[dict[str, Any]]:
    """Return each measure of ``metrics.parquet`` by split; [] if a stage left none.

    Keys: ``name``, ``split``, ``n``, ``first``, ``last``, ``min``, ``max``, ``last_step`` and
    ``curve``, the means of at most ``CURVE_WIDTH`` equal stretches. Rows without a finite value,
    and measures that have no other, are left out.
    """
    curves = []
    for measure in _logged_measures(folder):
        is_finite = np.isfinite(measure.values)
        if not is_finite.any():
            continue

        values, steps = measure.values[is_finite], measure.steps[is_finite]
        stretches = np.array_split(values, min(CURVE_WIDTH, len(values)))
        curves.append(
            {
                "name": measure.name,
                "split": measure.split,
                "n": len(values),
                "first": float(values[0]),
                "last": float(values[-1]),
                "min": float(values.min()),
                "max": float(values.max()),
                "last_step": int(steps[-1]),
                "curve": [float(stretch.mean()) for stretch in stretches],
            }
        )
    return curves


def read_points(folder: Location, max_points: int) -> list[dict[str, Any]]:
    """Return each measure of ``metrics.parquet`` by split as points that can be drawn.

    Keys: ``name``, ``split``, ``first``, ``last`` and ``last_step`` of what was logged, and ``n``
    and ``n_not_finite`` (NaN and infinities) values. What is drawn is ``steps`` and ``values``: as
    logged, or the means of ``max_points`` equal stretches and their last steps.

    A measure that never was finite has None and no points. [] if a stage left no metrics.
    """
    curves = []
    for measure in _logged_measures(folder):
        is_finite = np.isfinite(measure.values)
        n_finite = int(is_finite.sum())

        steps, values = [], []
        if n_finite:
            n_points = min(max_points, n_finite)
            for stretch in np.array_split(np.flatnonzero(is_finite), n_points):
                steps.append(int(measure.steps[stretch[-1]]))
                values.append(float(measure.values[stretch].mean()))

        curves.append(
            {
                "name": measure.name,
                "split": measure.split,
                "n": n_finite,
                "n_not_finite": len(measure.values) - n_finite,
                "first": _or_none(measure.values[0]),
                "last": _or_none(measure.values[-1]),
                "last_step": int(measure.steps[-1]),
                "steps": steps,
                "values": values,
            }
        )
    return curves


class LoggedTotals(NamedTuple):
    """What a training went through: response tokens, and the least seconds it took.

    ``tokens_per_s`` counts prompts as well, so that response tokens over it are less than the time.
    """

    n_tokens: float
    least_s: float


def read_totals(folder: Location) -> LoggedTotals:
    """Return the sums over all training steps of ``metrics.parquet``; 0 where nothing is logged."""
    logged = {
        measure.name: measure for measure in _logged_measures(folder) if measure.split == "train"
    }
    if "n_tokens" not in logged:
        return LoggedTotals(0.0, 0.0)
    tokens = logged["n_tokens"]
    if "tokens_per_s" not in logged:
        return LoggedTotals(float(tokens.values.sum()), 0.0)

    rates = logged["tokens_per_s"]
    by_step = dict(zip(rates.steps.tolist(), rates.values.tolist(), strict=True))
    seconds = 0.0
    for step, n_tokens in zip(tokens.steps.tolist(), tokens.values.tolist(), strict=True):
        rate = by_step.get(step, 0.0)
        if np.isfinite(rate) and rate > 0:
            seconds += n_tokens / rate
    return LoggedTotals(float(tokens.values.sum()), seconds)


def metrics_problem(folder: Location) -> str | None:
    """Return why ``metrics.parquet`` cannot be read, None if it can or is not there."""
    try:
        list(_read_measures(folder))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError) as error:
        return f"{folder / METRICS_FILE} cannot be read: {str(error).splitlines()[0]}"
    return None


def _logged_measures(folder: Location) -> list[LoggedMeasure]:
    """Return every measure that was logged; [] if nothing can be read."""
    try:
        return list(_read_measures(folder))
    except (OSError, pa.ArrowException, KeyError):
        return []


def _read_measures(folder: Location) -> Iterator[LoggedMeasure]:
    table = pq.read_table(pa.BufferReader(files.read(folder / METRICS_FILE)))
    for split in pc.unique(table["split"]).to_pylist():
        rows = table.filter(pc.equal(table["split"], split))
        steps = rows["step"].to_numpy()

        for name in rows.column_names:
            if name in NOT_MEASURES:
                continue
            is_logged = rows[name].is_valid().to_numpy()
            if is_logged.any():
                values = rows[name].cast(pa.float64()).to_numpy()
                yield LoggedMeasure(name, split, steps[is_logged], values[is_logged])


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
