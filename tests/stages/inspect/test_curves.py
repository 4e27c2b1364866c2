"""Training metrics become curves: first and last value, and means of equal stretches between."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.stages.inspect.curves import CURVE_WIDTH, read_curves


def write(folder: Path, **columns) -> Path:
    n = len(next(iter(columns.values())))
    table = pa.table(
        {"step": list(range(1, n + 1)), "epoch": [0.1] * n, "split": ["train"] * n, **columns}
    )
    pq.write_table(table, folder / "metrics.parquet")
    return folder


def test_a_curve_has_first_last_least_and_greatest(tmp_path: Path) -> None:
    [found] = read_curves(write(tmp_path, loss=[3.0, None, 1.0, 2.0]))
    assert found == {
        "name": "loss",
        "split": "train",
        "n": 3,
        "first": 3.0,
        "last": 2.0,
        "min": 1.0,
        "max": 3.0,
        "last_step": 4,
        "curve": [3.0, 1.0, 2.0],
    }


def test_many_steps_are_means_of_equal_stretches(tmp_path: Path) -> None:
    """0..63 in 32 stretches of two: means 0.5, 2.5, ..., 62.5."""
    [found] = read_curves(write(tmp_path, loss=[float(i) for i in range(2 * CURVE_WIDTH)]))
    assert found["curve"] == [2 * i + 0.5 for i in range(CURVE_WIDTH)]


def test_measures_without_a_number_and_absent_files_are_left_out(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == []
    assert [
        item["name"] for item in read_curves(write(tmp_path, a=[None, float("nan")], b=[1, 2]))
    ] == ["b"]
    (tmp_path / "metrics.parquet").write_bytes(b"no Parquet")
    assert read_curves(tmp_path) == []
