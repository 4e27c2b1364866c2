"""Vectors copied from pages are the ones that pyarrow reads; it reads what is not plain."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.artifacts.plain_vectors import read_plain_vectors

FLOAT = pa.float32()
AS_PARTS_ARE_WRITTEN = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True}


def vectors(n: int, width: int, number: pa.DataType = FLOAT) -> pa.Array:
    rng = np.random.default_rng(n)
    values = pa.array(rng.standard_normal(n * width).astype("float32")).cast(number)
    return pa.FixedSizeListArray.from_arrays(values, width)


def written(table: pa.Table, **options: Any) -> tuple[bytes, pq.ParquetFile]:
    sink = io.BytesIO()
    pq.write_table(table, sink, **AS_PARTS_ARE_WRITTEN | options)
    return sink.getvalue(), pq.ParquetFile(pa.BufferReader(sink.getvalue()))


@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize(("n", "width"), [(4096, 384), (3000, 1), (1, 7), (0, 7)])
def test_vectors_are_the_numbers_that_were_written(n: int, width: int, number: pa.DataType) -> None:
    table = pa.table({"reward": vectors(n, 1).flatten(), "embedding": vectors(n, width, number)})
    data, file = written(table)
    found = read_plain_vectors(data, file, table.column_names)
    assert list(found) == ["embedding"]
    assert found["embedding"].equals(table["embedding"].combine_chunks())
    found["embedding"].validate(full=True)
    assert found["embedding"].type == file.read()["embedding"].type


@pytest.mark.parametrize("is_nullable", [True, False])
def test_numbers_of_many_pages_stand_one_behind_the_other(is_nullable: bool) -> None:
    column = vectors(5000, 16)
    schema = pa.schema([pa.field("embedding", column.type, nullable=is_nullable)])
    data, file = written(pa.table([column], schema=schema), data_page_size=4096)
    assert read_plain_vectors(data, file, ["embedding"])["embedding"].equals(column)


def test_numbers_that_are_not_finite_keep_their_bits() -> None:
    bits = np.array([0x7FC00001, 0x7F800000, 0xFF800000, 0x80000000, 1, 0xFFC0FFEE], np.uint32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(bits.view(np.float32)), 3)
    data, file = written(pa.table({"embedding": column}))
    read = read_plain_vectors(data, file, ["embedding"])["embedding"]
    assert read.flatten().to_numpy().view(np.uint32).tolist() == bits.tolist()


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("kind", ["number", "vector"])
def test_what_has_a_null_is_left_to_pyarrow(width: int, kind: str) -> None:
    """A null vector of width 1 is one null number: the counts alone would not show it."""
    row: Any = None if kind == "vector" else [None, *[0.5] * (width - 1)]
    column = pa.array([[1.0] * width, row, [2.0] * width], pa.list_(pa.float32(), width))
    data, file = written(pa.table({"embedding": column}))
    assert read_plain_vectors(data, file, ["embedding"]) == {}


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "snappy"},
        {"compression": "none"},
        {"use_dictionary": True},
        {"data_page_version": "2.0"},
        {"column_encoding": {"embedding.list.element": "BYTE_STREAM_SPLIT"}},
        {"row_group_size": 100},
    ],
)
def test_what_is_not_written_as_parts_are_is_left_to_pyarrow(options: dict[str, Any]) -> None:
    data, file = written(pa.table({"embedding": vectors(500, 8)}), **options)
    assert read_plain_vectors(data, file, ["embedding"]) == {}


def test_columns_that_are_no_vectors_of_fractions_are_left_to_pyarrow() -> None:
    table = pa.table(
        {
            "ids": pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
            "ragged": pa.array([[0.5], [0.5, 1.5]], pa.list_(pa.float32())),
            "reward": [0.5, 1.5],
        }
    )
    data, file = written(table)
    assert read_plain_vectors(data, file, table.column_names) == {}


def test_pages_that_are_none_are_left_to_pyarrow() -> None:
    """Whatever byte of the pages' headers differs, no other numbers come and nothing is raised."""
    table = pa.table({"embedding": vectors(40, 8)})
    data, file = written(table)
    chunk = file.metadata.row_group(0).column(0)
    for place in range(chunk.data_page_offset, chunk.data_page_offset + 60):
        changed = bytearray(data)
        changed[place] ^= 0x55
        column = read_plain_vectors(bytes(changed), file, ["embedding"]).get("embedding")
        assert column is None or len(column) == 40
