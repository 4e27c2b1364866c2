"""One part: a small Parquet file that proves what it is.

The footer carries the part's name, the run's fingerprint, the schema's tag, row counts by status,
the digests of the parent parts it was made from, the sha256 of every byte before the footer, and
the sha256 of the footer itself. So no byte can change unseen, and no byte is given to a parser
before it has been compared. ``read_footer`` reads the footer alone; ``verify_part`` and
``read_part`` read and compare everything.

This is our own code because no Parquet library verifies the bytes it reads.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe import __version__
from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.plain_vectors import read_plain_vectors
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.protocol import FileVersion
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.errors import CorruptPartError, InputError

SMALL_BYTES = 2**20
"""A part up to here is decoded where it is requested: to hand it to threads takes longer."""
WRITTEN_AT_ONCE_BYTES = 2**20
FOOTER_KEY = "prefpipe"
CHECKSUM_KEY = "prefpipe.checksum"
BLANK = b"0" * 64
CHECKSUM_PATTERN = re.compile(
    CHECKSUM_KEY.encode().replace(b".", rb"\.") + rb"\x18\x40([0-9a-f]{64})"
)
"""The checksum's entry in the footer.

The footer is in Thrift's compact encoding: field header 0x18, length 0x40 = 64.
"""
PART_PATTERN = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")
TAIL_BYTES = 8
"""The footer's length in four bytes, then `MAGIC`."""
MAGIC = b"PAR1"
FIRST_READ_BYTES = 2**16
"""What one request to a bucket brings of a part's end. Most footers are a tenth as long."""
HINT = "run the command that made it again: it rewrites only this part"


@dataclass(frozen=True)
class PartFooter:
    """What a part says of itself.

    ``counts`` is rows by status, ``parents`` digests of parent parts by name. ``tally`` holds sums
    over what the part was made from, which its rows no longer show, so that a summary of the whole
    never depends on which parts were made now. ``engines`` are what sampled its rows, with their
    versions; they are unknown for parts of earlier releases, servers and fakes.
    """

    name: str
    fingerprint: str
    schema: str
    n_rows: int
    counts: Mapping[str, int]
    parents: Mapping[str, str]
    data_bytes: int
    data_sha256: str
    tally: Mapping[str, float] = field(default_factory=dict)
    engines: Sequence[str] = ()


def part_name(index: int, n_parts: int) -> str:
    """Return ``part-00003-of-00016.parquet``."""
    return f"part-{index:05d}-of-{n_parts:05d}.parquet"


class WrittenPart(NamedTuple):
    """A part that was just written.

    ``version``: which file it is; None where a storage does not say.
    """

    footer: PartFooter
    version: FileVersion | None


class _HashingSink(io.RawIOBase):
    """A file that counts and hashes the bytes written to it, and holds back the footer."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self.sha256, self.n_bytes = hashlib.sha256(), 0
        self.footer: bytearray | None = None
        """What is held back, None before the footer begins."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.footer is not None:
            self.footer += data
            return len(data)
        self.sha256.update(data)
        self.n_bytes += len(data)
        self.file.write(data)
        return len(data)


def write_part(
    path: Location,
    table: pa.Table,
    *,
    fingerprint: str,
    schema: str,
    counts: Mapping[str, int],
    parents: Mapping[str, str],
    tally: Mapping[str, float] | None = None,
    engines: Collection[str] = (),
) -> WrittenPart:
    """Write a part under its final name, completely or not at all."""
    draft = PartFooter(
        name=path.name,
        fingerprint=fingerprint,
        schema=schema,
        n_rows=table.num_rows,
        counts=dict(sorted(counts.items())),
        parents=dict(sorted(parents.items())),
        data_bytes=0,
        data_sha256="",
        tally=dict(sorted((tally or {}).items())),
        engines=tuple(sorted(set(engines))),
    )
    if isinstance(path, Path):
        with atomic_write(path) as file:
            footer = _write_into(file, table, draft)
        return WrittenPart(footer, files.version_of(path))

    # a bucket has no rename: the part is made in memory and sent in one request
    memory = io.BytesIO()
    footer = _write_into(memory, table, draft)
    return WrittenPart(footer, files.write(path, memory.getvalue()))


def _write_into(file: BinaryIO, table: pa.Table, draft: PartFooter) -> PartFooter:
    """Write the bytes of a part and return its footer: the draft with what its bytes are."""
    sink = _HashingSink(file)
    # a part is written in some ninety pieces, each of which would wait for Python's global lock
    stream = pa.BufferedOutputStream(pa.PythonFile(sink, mode="w"), WRITTEN_AT_ONCE_BYTES)
    writer = pq.ParquetWriter(
        stream,
        table.schema,
        compression="zstd",
        use_dictionary=_columns_with_dictionary(table.schema),
        write_page_checksum=True,
    )
    try:
        # one row group: NumPy reads it whole
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        stream.flush()

        n_bytes, sha256 = sink.n_bytes, sink.sha256.hexdigest()
        footer = replace(draft, data_bytes=n_bytes, data_sha256=sha256)

        # a blank as long as the checksum holds its place: nothing behind it moves when it comes
        claims = footer_to_json(footer)
        writer.add_key_value_metadata({FOOTER_KEY: claims, CHECKSUM_KEY: BLANK.decode()})

        # the checksum is of the footer with a blank in its place, which it then takes
        sink.footer = bytearray()
        writer.close()
        stream.flush()
    except BaseException:
        # closing writes a footer, and the first error is the one to report
        sink.footer = bytearray()
        with suppress(Exception):
            writer.close()
        raise

    place = _checksum_place(sink.footer)
    assert place is not None
    sink.footer[place : place + len(BLANK)] = hashlib.sha256(sink.footer).hexdigest().encode()
    file.write(sink.footer)
    return footer


def footer_to_json(footer: PartFooter) -> str:
    """Return a footer as its part holds it.

    Engines only if any: without them the bytes equal those of earlier releases.
    """
    values = asdict(footer)
    if not footer.engines:
        del values["engines"]
    return canonical_json(values)


def _columns_with_dictionary(schema: pa.Schema) -> list[str]:
    """Return the paths of the columns that repeat themselves: all but those of fractions.

    Rewards, log-probabilities and embeddings hardly repeat. A dictionary makes a part of 1,024
    embeddings 40 % larger, and takes twice as long to write.
    """
    return list(_paths_without_fractions(schema.remove_metadata()))


@cache
def _paths_without_fractions(schema: pa.Schema) -> tuple[str, ...]:
    # how Parquet calls what is nested is seen in a file without rows
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return tuple(
        leaf.path
        for leaf in leaves
        if leaf.physical_type not in ("FLOAT", "DOUBLE") and leaf.logical_type.type != "FLOAT16"
    )


def _checksum_place(footer: bytes | bytearray) -> int | None:
    """Return where the checksum starts.

    It is the last match, for statistics of the user's texts are before it.
    """
    matches = list(CHECKSUM_PATTERN.finditer(footer))
    return matches[-1].start(1) if matches else None


def read_footer(path: Location, n_bytes: int | None = None) -> PartFooter:
    """Return a part's footer, its bytes compared with its checksum.

    Args:
        path: the part.
        n_bytes: how many bytes it has by a listing, which saves a request to a bucket.

    Raises:
        CorruptPartError: missing, truncated, not a prefpipe part, or a footer whose bytes have
            changed.
        InputError: the file cannot be read, or a newer release of prefpipe wrote it.
    """
    try:
        tail, size = _read_footer_bytes(path, n_bytes)
        return _parse_footer(tail, size, path)
    except CorruptPartError:
        if n_bytes is None:
            raise
        # it may have been replaced since the listing by a file of another size
        return read_footer(path)
    except OSError as error:
        if n_bytes is not None and not isinstance(error, FileNotFoundError):
            return read_footer(path)
        raise _unreadable(path, error) from error


def _read_footer_bytes(path: Location, n_bytes: int | None = None) -> tuple[bytes, int]:
    """Return a part's footer with the tail behind it, and how many bytes the file has.

    Raises:
        OSError: it cannot be read.
        CorruptPartError: truncated, or not a Parquet file.
    """
    # the footer's length is behind it, at the end of the file
    if isinstance(path, Path):
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            footer_bytes = _footer_length(file.read(), path) + TAIL_BYTES
            file.seek(max(0, size - footer_bytes))
            return file.read(), size

    tail, size = files.read_tail(path, FIRST_READ_BYTES, n_bytes)
    footer_bytes = _footer_length(tail[-TAIL_BYTES:], path) + TAIL_BYTES
    if footer_bytes > len(tail) < size:
        tail, size = files.read_tail(path, footer_bytes, n_bytes)
    return tail[-footer_bytes:], size


def require_own_name(footer: PartFooter, path: Location) -> None:
    """Check that a part is under its own name: copied over another one it is whole, and wrong.

    Raises:
        CorruptPartError: it is another part.
    """
    if footer.name != path.name:
        raise CorruptPartError(f"{path} is {footer.name} under a different name", hint=HINT)


def verify_part(path: Location) -> PartFooter:
    """Read every byte of a part and compare it with its digest; return the footer.

    Raises:
        CorruptPartError: as ``read_footer``, and when any byte of the data has changed.
        InputError: the file cannot be read.
    """
    return _read_verified(path)[1]


def read_columns(path: Location) -> pa.Schema:
    """Return the names and types of a part's columns; no byte of them is read.

    Raises:
        CorruptPartError: the file cannot be read as Parquet.
    """
    try:
        if isinstance(path, Path):
            return pq.read_schema(path)
        return pq.read_schema(pa.BufferReader(_read_footer_bytes(path)[0]))
    except (pa.ArrowException, OSError) as error:
        raise CorruptPartError(
            f"{path} is corrupt: it cannot be read as Parquet ({_first_line(error)})", hint=HINT
        ) from error


def read_part(
    path: Location, columns: Sequence[str] | None = None, *, if_there: Sequence[str] = ()
) -> tuple[pa.Table, PartFooter]:
    """Return a part's table and footer, every byte verified.

    Args:
        path: the part.
        columns: those that are read; None for all.
        if_there: columns that are read with them where the part has them.

    Raises:
        CorruptPartError: see ``verify_part``.
        InputError: a column that was requested is not there; the file cannot be read.
    """
    data, footer = _read_verified(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = file.schema_arrow.names
        missing = [name for name in columns or () if name not in names]
        if missing:
            raise InputError(f"{path} has no column `{missing[0]}`; it has: {', '.join(names)}")
        also = [name for name in if_there if name in names and name not in (columns or ())]
        table = _decode(data, file, names if columns is None else [*columns, *also])
    except (pa.ArrowException, OSError) as error:
        # its digests agree: whoever wrote it wrote no Parquet
        raise CorruptPartError(
            f"{path} is corrupt: it cannot be read as Parquet ({_first_line(error)})", hint=HINT
        ) from error

    if file.metadata.num_rows != footer.n_rows:
        raise CorruptPartError(
            f"{path} is corrupt: it has {file.metadata.num_rows:,} rows, its footer says "
            f"{footer.n_rows:,}",
            hint=HINT,
        )
    return table, footer


def _decode(data: bytes, file: pq.ParquetFile, names: Sequence[str]) -> pa.Table:
    """Return some columns of a file, in the order of their names.

    Without the footer's keys, which belong only to this part: the table may go into another one.
    """
    vectors = read_plain_vectors(data, file, names)
    others = [name for name in names if name not in vectors]
    n_bytes = len(data) - sum(column.nbytes for column in vectors.values())
    table = file.read(columns=others, use_threads=n_bytes > SMALL_BYTES)
    for name, column in vectors.items():
        field_ = file.schema_arrow.field(name)
        table = table.add_column(names.index(name), field_, column)
    return table.replace_schema_metadata(None)


def _read_verified(path: Location) -> tuple[bytes, PartFooter]:
    try:
        data = files.read(path)
    except OSError as error:
        raise _unreadable(path, error) from error

    footer_bytes = _footer_length(data[-TAIL_BYTES:], path) + TAIL_BYTES
    footer = _parse_footer(data[-footer_bytes:], len(data), path)
    # a view: the data may be large, and is not copied
    rows = memoryview(data)[: footer.data_bytes]
    if hashlib.sha256(rows).hexdigest() != footer.data_sha256:
        raise CorruptPartError(
            f"{path} is corrupt: its bytes changed after it was written", hint=HINT
        )
    return data, footer


def _footer_length(tail: bytes, path: Location) -> int:
    if len(tail) < TAIL_BYTES or tail[-len(MAGIC) :] != MAGIC:
        raise CorruptPartError(
            f"{path} is corrupt: it is truncated or not a Parquet file", hint=HINT
        )
    return int.from_bytes(tail[:4], "little")


def _parse_footer(tail: bytes, file_size: int, path: Location) -> PartFooter:
    """Compare the footer with its checksum and read it.

    Args:
        tail: footer, length and magic bytes.
        file_size: in bytes.
        path: for messages.
    """
    place = _checksum_place(tail)
    if place is None:
        raise CorruptPartError(
            f"{path} is corrupt, or not a part that prefpipe wrote: its footer has no checksum",
            hint=HINT,
        )
    end = place + len(BLANK)
    blanked = tail[:place] + BLANK + tail[end:]
    if hashlib.sha256(blanked).hexdigest().encode() != tail[place:end]:
        raise CorruptPartError(
            f"{path} is corrupt: the footer does not match its checksum", hint=HINT
        )

    try:
        # its bytes are proven: now a parser may see them, and it needs no more of the file
        entries = pq.read_metadata(pa.BufferReader(tail)).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise CorruptPartError(
            f"{path} is corrupt: its footer is not a Parquet footer", hint=HINT
        ) from error

    footer = footer_from_json(entries.get(FOOTER_KEY.encode()), path)
    # bytes between data and footer would be in neither digest
    expected_size = footer.data_bytes + len(tail)
    if expected_size != file_size:
        raise CorruptPartError(
            f"{path} is corrupt: it has {file_size} bytes, not {expected_size}", hint=HINT
        )
    return footer


def footer_from_json(text: bytes | None, path: Location) -> PartFooter:
    """Return the footer that a part's JSON describes, every field of the type it should have.

    Raises:
        CorruptPartError: there is no such JSON, or it is not what any release of prefpipe writes.
        InputError: it has fields that this release does not know: a newer one wrote it. That is no
            damage, and the part must not be made again by a release that cannot read it.
    """
    if text is None:
        raise CorruptPartError(
            f"{path} is not a part that prefpipe wrote: its footer has no `{FOOTER_KEY}`", hint=HINT
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptPartError(
            f"{path} is corrupt: `{FOOTER_KEY}` in its footer is not JSON", hint=HINT
        ) from error
    if not isinstance(values, dict):
        raise CorruptPartError(
            f"{path} is corrupt: `{FOOTER_KEY}` in its footer is {values!r:.40}, which is not an "
            "object",
            hint=HINT,
        )

    for name, (is_valid, kind) in FOOTER_TYPES.items():
        if name in OPTIONAL_FOOTER_FIELDS and name not in values:
            continue
        value = values.get(name)
        if not is_valid(value):
            raise CorruptPartError(
                f"{path} is corrupt: `{name}` in its footer is {value!r:.40}, which is not {kind}",
                hint=HINT,
            )

    # what is known is as it should be: anything more is no damage
    known = {each.name for each in fields(PartFooter)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise InputError(
            f"{path} was written by a newer release of prefpipe: its footer holds `{unknown[0]}`, "
            f"which release {__version__} does not know",
            hint="read it with the release that wrote it, or make the artifact again with "
            "--overwrite",
        )
    values["engines"] = tuple(values.get("engines", ()))
    return PartFooter(**values)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _maps_texts_to(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(is_valid(item) for item in value.values())

    return check


FOOTER_TYPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "a text"),
    "fingerprint": (_is_text, "a text"),
    "schema": (_is_text, "a text"),
    "n_rows": (_is_count, "a number of rows"),
    "counts": (_maps_texts_to(_is_count), "rows by status"),
    "parents": (_maps_texts_to(_is_text), "digests by name"),
    "data_bytes": (_is_count, "a number of bytes"),
    "data_sha256": (_is_text, "a text"),
    "tally": (_maps_texts_to(_is_number), "numbers by name"),
    "engines": (_is_list_of_texts, "a list of texts"),
}
"""What each field of the footer must be, and how a message calls it."""
OPTIONAL_FOOTER_FIELDS = ("tally", "engines")
"""Fields that early releases did not write, and that not every part has."""


def missing_part(path: Location) -> CorruptPartError:
    """Return the error of a part that is not there."""
    return CorruptPartError(f"{path} is missing", hint="run the command that made it again")


def _unreadable(path: Location, error: OSError) -> CorruptPartError | InputError:
    if isinstance(error, FileNotFoundError):
        return missing_part(path)
    return unreadable(path, error)
