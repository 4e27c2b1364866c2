"""Rows into one file, part by part, so that memory does not grow with the file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.artifacts.storage.local_copies import written_whole
from prefpipe.artifacts.storage.location import Location
from prefpipe.errors import InputError

Row = dict[str, Any]


class RowWriter(Protocol):
    """Takes rows of one file."""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        for row in rows:
            try:
                text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            except ValueError as error:
                raise InputError(
                    f"prompt {row.get('prompt_id')} holds a number that is not finite, which "
                    "JSON cannot express",
                    hint="look at it with `prefpipe inspect`, and select again",
                ) from error
            self.file.write(f"{text}\n".encode())


class JsonListWriter:
    """One JSON list of objects, a row a line."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.lines = JsonLinesWriter(file)
        self.n_rows = 0
        file.write(b"[\n")

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        for row in rows:
            self.file.write(b"," if self.n_rows else b"")
            self.lines.write([row])
            self.n_rows += 1

    def close(self) -> None:
        """End the list."""
        self.file.write(b"]\n")


class ParquetRowsWriter:
    """A row group for each call, all of one schema."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.writer, self.schema = writer, schema

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        # a part of which nothing is exported would be an empty row group
        if rows:
            self.writer.write_table(pa.Table.from_pylist(list(rows), schema=self.schema))


@contextmanager
def row_writer(place: Location, schema: pa.Schema | None) -> Iterator[RowWriter]:
    """Open a file for rows; it appears under its name when the block ends without an exception.

    Args:
        place: ``.parquet``, ``.json`` for a list, or anything else, which is JSON lines.
        schema: of a Parquet file.
    """
    suffix = place.suffix.lower()
    with written_whole(place) as file:
        if suffix == ".json":
            writer = JsonListWriter(file)
            yield writer
            # in no `finally`: after an exception the file does not appear, ended or not
            writer.close()
        elif suffix == ".parquet":
            assert schema is not None
            target = pa.PythonFile(file, mode="w")
            with pq.ParquetWriter(target, schema, compression="zstd") as parquet:
                yield ParquetRowsWriter(parquet, schema)
        else:
            yield JsonLinesWriter(file)
