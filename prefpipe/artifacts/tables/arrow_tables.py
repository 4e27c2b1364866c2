"""Arrow and Parquet tables: extension types become the values that they stand for, at any depth."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefpipe.artifacts.storage.local_copies import LocalFile
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.columns import cast, column_of
from prefpipe.artifacts.tables.strict_json import explained, parse_json
from prefpipe.errors import InputError

EXTENSION_NAME: Final = b"ARROW:extension:name"
"""Where an extension type stands that this pyarrow does not know: in the field's metadata."""
Decode = Callable[[Any], Any]


def read_parquet(file: LocalFile) -> pa.Table:
    """Read a Parquet file.

    Raises:
        InputError: it is none, is damaged, or has two columns of one name.
    """
    try:
        # not pq.read_table, which makes a column of a folder that is called key=value
        return pq.ParquetFile(file.path).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file} cannot be read as Parquet: {reason_in(error, file)}",
            hint="check that the file is Parquet and was written completely",
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, or the error's name without a message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def reason_in(error: Exception, file: LocalFile) -> str:
    """Return the first line of a library's message, which may name the copy of a file."""
    return first_line(error).replace(str(file.path), str(file))


def plain_table(
    table: pa.Table, source: str, places: Sequence[str]
) -> tuple[pa.Table, list[BadRow]]:
    """Return a table without JSON, UUIDs, views and runs as types.

    ``arrow.json`` becomes the values that it holds: a column of JSON texts is a column of texts, a
    column of JSON objects is JSON text, as it is from a JSON file. UUIDs become their text. Other
    extension types stay: their Python values are what they stand for.

    Args:
        table: as it was read.
        source: for messages.
        places: the name of each row's place.

    Returns:
        The table, and the rows that hold what cannot be decoded; with such rows it is not plain.

    Raises:
        InputError: two columns of one name; a value that JSON cannot hold.
    """
    names = table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{source}: two columns are called `{twice}`", hint="give every column a different name"
        )

    # texts that are no UTF-8 first: decoding a column ends at the first of them
    bad = []
    for number, field in enumerate(table.schema):
        column = table.column(number)
        if pa.types.is_run_end_encoded(field.type):
            chunks = [pc.run_end_decode(chunk) for chunk in column.chunks]
            column = pa.chunked_array(chunks, field.type.value_type)
            table = table.set_column(number, field.with_type(column.type), column)
        bad += _undecodable_texts(column, field.name, source, places)
    if bad:
        return table, bad

    for number, field in enumerate(table.schema):
        decode = _decoder(field)
        if decode is None:
            continue
        values, faults = _decoded(table.column(number), decode, field.name, source, places)
        bad += faults
        if not faults:
            plain, column = column_of(field.name, values, source=source, places=places)
            table = table.set_column(number, plain, column)
    if bad:
        return table, bad
    return cast(table, _without_views), []


def _decoded(
    column: pa.ChunkedArray, decode: Decode, name: str, source: str, places: Sequence[str]
) -> tuple[list[Any], list[BadRow]]:
    values, bad = [], []
    for place, value in zip(places, column.to_pylist(), strict=True):
        try:
            values.append(None if value is None else decode(value))
        except ValueError as error:
            reason = f"`{name}` is declared JSON, but is not JSON: {explained(error)}"
            bad.append(BadRow(source, place, reason))
    return values, bad


def _decoder(field: pa.Field) -> Decode | None:
    """Return what makes values of a field's Python objects, None if these are the values."""
    kind = field.type
    name = (field.metadata or {}).get(EXTENSION_NAME)
    if isinstance(kind, pa.BaseExtensionType):
        name = kind.extension_name.encode()
    if name == b"arrow.json":
        return parse_json
    if name == b"arrow.uuid":
        return _uuid_text

    # of every other type, what is inside it
    if isinstance(kind, pa.BaseExtensionType):
        return _decoder(pa.field(field.name, kind.storage_type))
    if pa.types.is_dictionary(kind):
        return _decoder(pa.field(field.name, kind.value_type))
    if pa.types.is_struct(kind):
        return _of_struct({inner.name: _decoder(inner) for inner in kind.fields})
    if pa.types.is_map(kind):
        return _of_map(_decoder(kind.key_field), _decoder(kind.item_field))
    if kind.num_fields == 1 and not pa.types.is_union(kind):  # lists of every kind
        return _of_list(_decoder(kind.value_field))
    return None


def _uuid_text(value: uuid.UUID | bytes) -> str:
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(bytes=value))


def _of_struct(decoders: dict[str, Decode | None]) -> Decode | None:
    changed = {name: decode for name, decode in decoders.items() if decode is not None}
    if not changed:
        return None

    def decode_struct(value: dict[str, Any]) -> dict[str, Any]:
        decoded = dict(value)
        for name, decode in changed.items():
            if value[name] is not None:
                decoded[name] = decode(value[name])
        return decoded

    return decode_struct


def _of_list(decode: Decode | None) -> Decode | None:
    if decode is None:
        return None
    return lambda values: [None if value is None else decode(value) for value in values]


def _of_map(decode_key: Decode | None, decode_item: Decode | None) -> Decode | None:
    if decode_key is None and decode_item is None:
        return None

    def decode_map(items: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
        decoded = {}
        for key, item in items:
            plain_key = key if decode_key is None else decode_key(key)
            decoded[plain_key] = item if item is None or decode_item is None else decode_item(item)
        return decoded

    return decode_map


def _undecodable_texts(
    column: pa.ChunkedArray, name: str, source: str, places: Sequence[str]
) -> list[BadRow]:
    """Return the rows whose texts are not UTF-8, which old writers leave in text columns."""
    # Arrow looks at a whole column at once; value by value is for those that have a fault
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        pass
    else:
        return []

    bad = []
    for place, value in zip(places, column, strict=True):
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            bad.append(
                BadRow(source, place, f"`{name}` holds the byte 0x{byte:02x}, which is not UTF-8")
            )
    return bad


def _without_views(kind: pa.DataType) -> pa.DataType:
    """Replace the view types, whose rows pyarrow cannot take by index."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind
