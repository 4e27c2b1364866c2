"""Columns of users' rows: types where the values agree, JSON text where they do not.

Also the way back to values. Nothing is dropped or padded: values without a common type are kept as
JSON text, marked in the field's metadata.
"""

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from prefpipe.artifacts.tables.bad_rows import BadRow, BadRowsError
from prefpipe.artifacts.tables.values import LARGEST_EXACT, half_character_of
from prefpipe.errors import InputError

JSON_TEXT: Final = {b"prefpipe.encoding": b"json"}


def table_of(
    rows: Sequence[dict[str, Any]], *, source: str = "", places: Sequence[str] = ()
) -> pa.Table:
    """Return JSON objects as a table; every key of any row is a column.

    Args:
        rows: the objects.
        source: where they are from, for messages.
        places: the name of each row's place; default ``row 1``, ``row 2``, ...

    Raises:
        BadRowsError: texts that hold half of a surrogate pair.
    """
    places = places or [f"row {number}" for number in range(1, len(rows) + 1)]
    first_place: dict[str, str] = {}
    for row, place in zip(rows, places, strict=True):
        for name in row:
            first_place.setdefault(name, place)
    names = list(first_place)
    _refuse_half_characters("the name of a column", names, list(first_place.values()), source)
    if not names:
        return pa.table({})

    fields, columns = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        field, column = column_of(name, values, source=source, places=places)
        fields.append(field)
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))


def column_of(
    name: str, values: Sequence[Any], *, source: str, places: Sequence[str]
) -> tuple[pa.Field, pa.Array]:
    """Return values as a column: of their type if they agree, else as JSON text.

    Raises:
        BadRowsError: texts that hold half of a surrogate pair.
        InputError: a value that JSON cannot hold.
    """
    kind = None if name == "messages" else _scalar_type(values)
    if kind is not None:
        try:
            return pa.field(name, kind), pa.array(values, kind)
        except UnicodeEncodeError:
            # pyarrow does not say in which row
            _refuse_half_characters(f"`{name}`", values, places, source)
            raise

    texts = []
    for value, place in zip(values, places, strict=True):
        text = None
        if value is not None:
            try:
                # ASCII, so that half of a surrogate pair inside a value is kept, as its escape
                text = json.dumps(value, ensure_ascii=True, default=_as_json)
            except TypeError as error:
                raise InputError(
                    f"{source}, {place}: `{name}` {error}", hint="remove the column from the file"
                ) from error
        texts.append(text)
    return pa.field(name, pa.string(), metadata=JSON_TEXT), pa.array(texts, pa.string())


def _as_json(value: Any) -> Any:
    """Return what is beside JSON in a Parquet column as JSON.

    Decimals keep their digits, dates are ISO texts.
    """
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    raise TypeError(f"holds a value of type {type(value).__name__}, which JSON cannot hold")


def _refuse_half_characters(
    subject: str, values: Sequence[str | None], places: Sequence[str], source: str
) -> None:
    bad = []
    for value, place in zip(values, places, strict=False):
        reason = half_character_of(value or "")
        if reason is not None:
            bad.append(BadRow(source, place, f"{subject} {reason}"))
    if bad:
        raise BadRowsError(
            source, bad, hint="correct the row; the text was probably cut inside an emoji"
        )


def _scalar_type(values: Sequence[Any]) -> pa.DataType | None:
    """Return the type of a column of Python values, None if they have no one type."""
    types = {type(value) for value in values if value is not None}
    if types <= {str}:  # a column of nulls alone among them
        return pa.string()
    if types == {bool}:
        return pa.bool_()
    if not types <= {int, float}:
        return None

    whole = [value for value in values if type(value) is int]
    if types == {int} and min(whole) >= -(2**63) and max(whole) < 2**63:
        return pa.int64()
    # a whole number must keep its digits beside numbers with a point
    if all(abs(value) <= LARGEST_EXACT for value in whole):
        return pa.float64()
    return None


def column_values(table: pa.Table, name: str) -> list[Any]:
    """Return a column's values as Python objects; JSON text is decoded, a map is a dictionary."""
    field = table.schema.field(name)
    if (field.metadata or {}).items() >= JSON_TEXT.items():
        return [None if text is None else json.loads(text) for text in table[name].to_pylist()]

    maps = "strict" if _holds_map(field.type) else None
    values: list[Any] = table[name].to_pylist(maps_as_pydicts=maps)
    # only here: in JSON text a null is one that somebody wrote
    if field.name == "tools" or _holds_field(field.type, "tool_calls"):
        return list(map(_without_fillers, values))
    return values


def _without_fillers(value: Any) -> Any:
    """Return a value without what is null in it.

    Structs give every tool the parameters of all others, as nulls.
    """
    if isinstance(value, dict):
        return {key: _without_fillers(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return list(map(_without_fillers, value))
    return value


def _holds_field(kind: pa.DataType, name: str) -> bool:
    """Return whether a type has a field of a name, at any depth."""
    for number in range(kind.num_fields):
        field = kind.field(number)
        if field.name == name or _holds_field(field.type, name):
            return True
    return False


def _holds_map(kind: pa.DataType) -> bool:
    """Return whether a type has a map in it, at any depth."""
    if pa.types.is_map(kind):
        return True
    return any(_holds_map(kind.field(number).type) for number in range(kind.num_fields))


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return a table's rows as Python values, dates and times as whole numbers in their unit.

    Python's own types do not hold nanoseconds or the year 10000, and what pyarrow does about it
    depends on whether pandas is installed.
    """
    rows: list[dict[str, Any]] = cast(table, _times_as_integers).to_pylist()
    return rows


def cast(table: pa.Table, change: Callable[[pa.DataType], pa.DataType]) -> pa.Table:
    """Change the types of columns, also inside lists and structs."""
    schema = pa.schema([field.with_type(_mapped(field.type, change)) for field in table.schema])
    if schema == table.schema:
        return table
    return table.cast(schema.with_metadata(table.schema.metadata))


def _mapped(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_mapped(field.type, change)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(_mapped(kind.key_type, change), _mapped(kind.item_type, change))
    if pa.types.is_fixed_size_list(kind):
        member = kind.value_field.with_type(_mapped(kind.value_type, change))
        return pa.list_(member, kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        member = kind.value_field.with_type(_mapped(kind.value_type, change))
        return pa.list_(member) if pa.types.is_list(kind) else pa.large_list(member)
    return change(kind)


def _times_as_integers(kind: pa.DataType) -> pa.DataType:
    if not pa.types.is_temporal(kind) or pa.types.is_interval(kind):
        return kind
    return pa.int32() if pa.types.is_date32(kind) or pa.types.is_time32(kind) else pa.int64()
