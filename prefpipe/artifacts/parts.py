"""One part: a small Parquet file that proves what it is.

The footer carries the run's fingerprint, the schema's tag, row counts by status, the digests of the parent
parts it was made from, the sha256 of every byte before the footer, and a checksum of these claims with the
schema. ``read_footer`` is cheap and is what resuming looks at; ``read_part`` verifies the data as well.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.errors import CorruptPartError, InputError

FOOTER_KEY = b"prefpipe"
CHECKSUM_KEY = b"prefpipe.checksum"
HINT = "delete the file and run the command that made it again: only this part is made anew"


@dataclass(frozen=True)
class PartFooter:
    """What a part says of itself. ``counts`` is rows by status, ``parents`` digests of parent parts by name."""

    fingerprint: str
    schema: str
    n_rows: int
    counts: Mapping[str, int]
    parents: Mapping[str, str]
    data_bytes: int
    data_sha256: str


def part_name(index: int, n_parts: int) -> str:
    """Return ``part-00003-of-00016.parquet``."""
    return f"part-{index:05d}-of-{n_parts:05d}.parquet"


class _HashingSink(io.RawIOBase):
    """A file that counts and hashes what passes through it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file, self.sha256, self.n_bytes = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.n_bytes += len(data)
        self.file.write(data)
        return len(data)


def write_part(
    path: Path,
    table: pa.Table,
    *,
    fingerprint: str,
    schema: str,
    counts: Mapping[str, int],
    parents: Mapping[str, str],
) -> PartFooter:
    """Write a part under its final name, whole or not at all, and return its footer."""
    with atomic_write(path) as file:
        sink = _HashingSink(file)
        writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), table.schema, compression="zstd", write_page_checksum=True)
        writer.write_table(table, row_group_size=max(1, table.num_rows))  # one row group: NumPy reads it whole
        footer = PartFooter(
            fingerprint=fingerprint, schema=schema, n_rows=table.num_rows, counts=dict(sorted(counts.items())),
            parents=dict(sorted(parents.items())), data_bytes=sink.n_bytes, data_sha256=sink.sha256.hexdigest(),
        )  # fmt: skip
        claims = canonical_json(asdict(footer)).encode()
        writer.add_key_value_metadata({FOOTER_KEY: claims, CHECKSUM_KEY: _checksum(claims, _schema_as_read(table.schema))})
        writer.close()
    return footer


def _checksum(claims: bytes, schema: pa.Schema) -> bytes:
    columns = [f"{field.name}:{field.type}:{field.nullable}" for field in schema]
    return hashlib.sha256(claims + json.dumps(columns).encode()).hexdigest().encode()


def _schema_as_read(schema: pa.Schema) -> pa.Schema:
    """Return the schema that a reader gets: Parquet renames list items and has fewer units of time than Arrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pq.read_schema(pa.BufferReader(sink.getvalue()))


def read_footer(path: Path) -> PartFooter:
    """Return a part's footer, its checksum verified.

    Errors:
        CorruptPartError: truncated, not Parquet, or a footer whose bytes have changed.
    """
    with _as_corrupt(path):
        with pq.ParquetFile(path) as file:
            return _parse_footer(file, path)


def _parse_footer(file: Any, path: Path) -> PartFooter:
    metadata = file.metadata
    values = metadata.metadata or {}
    claims = values.get(FOOTER_KEY)
    if claims is None:
        raise CorruptPartError(f"{path} was not written by prefpipe (its footer has no `prefpipe` entry)", hint=HINT)
    if values.get(CHECKSUM_KEY) != _checksum(claims, file.schema_arrow):
        raise CorruptPartError(f"{path} is corrupt: the footer does not match its checksum", hint=HINT)
    footer = PartFooter(**json.loads(claims))
    if footer.n_rows != metadata.num_rows:
        raise CorruptPartError(
            f"{path} is corrupt: the footer promises {footer.n_rows} rows and the file has {metadata.num_rows}", hint=HINT
        )
    return footer


def verify_part(path: Path) -> PartFooter:
    """Read every byte of a part and compare it with its digest; return the footer.

    Errors:
        CorruptPartError: as ``read_footer``, and when any byte of the data has changed.
    """
    return _open_verified(path)[1]


def _open_verified(path: Path) -> tuple[bytes, PartFooter]:
    with _as_corrupt(path):
        data = path.read_bytes()
        footer = _parse_footer(pq.ParquetFile(pa.BufferReader(data)), path)
        digest = hashlib.sha256(memoryview(data)[: footer.data_bytes]).hexdigest()
    if digest != footer.data_sha256:
        raise CorruptPartError(f"{path} is corrupt: its bytes changed after it was written", hint=HINT)
    return data, footer


def read_part(path: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, PartFooter]:
    """Return a part's table and footer, every byte verified.

    Errors:
        CorruptPartError: see ``verify_part``.
        InputError: a column that was asked for is not there.
    """
    data, footer = _open_verified(path)
    with _as_corrupt(path):
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        names = file.schema_arrow.names
        missing = [name for name in columns or () if name not in names]
        if missing:
            raise InputError(f"{path} has no column `{missing[0]}`; it has: {', '.join(names)}")
        table = file.read(columns=list(columns) if columns is not None else None)
    if table.num_rows != footer.n_rows:
        raise CorruptPartError(f"{path} is corrupt: {table.num_rows} rows read, {footer.n_rows} promised", hint=HINT)
    return table, footer


class _as_corrupt:  # noqa: N801 - reads as a verb at its call sites
    """Turn what pyarrow raises on damaged bytes into a ``CorruptPartError`` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        damaged = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, UnicodeDecodeError, MemoryError)
        if isinstance(error, FileNotFoundError):
            raise CorruptPartError(f"{self.path} is missing", hint="run the command that made it again") from error
        if isinstance(error, PermissionError):
            raise InputError(f"{self.path} cannot be read: permission denied") from error
        if isinstance(error, damaged):
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorruptPartError(f"{self.path} is corrupt: {first[:160]}", hint=HINT) from error
