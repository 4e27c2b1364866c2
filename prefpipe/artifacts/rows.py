"""Rows from a user's file as one Arrow table, each with the place it came from, for messages.

JSON values keep their type where the whole column agrees (boolean, integer, number, text); nested and mixed
columns become JSON text, marked in the field's metadata, so that nothing is dropped or padded.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.errors import InputError, UsageError

JSON_TEXT = {b"prefpipe.encoding": b"json"}
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_rows(source: str, *, text_columns: Sequence[str] = ()) -> tuple[pa.Table, Sequence[str]]:
    """Return a file's rows and the name of each row's place (``line 3``, ``row 2``).

    Args:
        source: path or ``hf:`` reference.
        text_columns: columns that are text in a CSV file whatever they look like, beside those of prompts.

    Errors:
        InputError: missing file, broken line (with its number), broken Parquet or CSV.
        UsageError: a kind of file that is not read.
    """
    if source.startswith("hf:"):
        return _numbered(_from_hub(source[3:]))
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path} does not exist", hint="look at the path of the input file")
    if path.is_dir():
        return _numbered(_from_saved_dataset(path))
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _from_json_lines(path)
    if suffix == ".json":
        return _from_json(path)
    if suffix == ".csv":
        return _numbered(_from_csv(path, text_columns))
    if suffix == ".parquet":
        return _numbered(_from_parquet(path))
    raise UsageError(f"{path}: files that end in `{suffix}` are not read",
                     hint=f"use one of {', '.join(SUFFIXES)}, a datasets folder, or hf:org/name")  # fmt: skip


def _numbered(table: pa.Table) -> tuple[pa.Table, Sequence[str]]:
    return table, [f"row {number}" for number in range(1, table.num_rows + 1)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})", hint="save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _from_json_lines(path: Path) -> tuple[pa.Table, Sequence[str]]:
    rows, lines = [], []
    for number, row in _json_objects(path):
        rows.append(row)
        lines.append(f"line {number}")
    return table_of(rows, source=str(path), places=lines), lines


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # split on newlines only: str.splitlines would also cut at U+2028 inside a JSON string
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: broken JSON ({error})", hint="correct or remove the line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: a JSON object is needed, not {type(row).__name__}",
                             hint='write one object a line, {"prompt": "..."}')  # fmt: skip
        yield number, row


def _from_json(path: Path) -> tuple[pa.Table, Sequence[str]]:
    text = _text(path)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data") and text.lstrip("\ufeff \t\r\n").startswith("{"):
            return _from_json_lines(path)  # one object a line under this name, as several tools write it
        raise InputError(f"{path}: broken JSON ({error})", hint="correct the file") from error
    if isinstance(rows, dict) and isinstance(rows.get("instances"), list):  # Online-RLHF and LMFlow wrap their rows
        rows = rows["instances"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a JSON list of objects is needed", hint="for one object a line name the file .jsonl")
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    return table_of(rows, source=str(path), places=places), places


def table_of(rows: Sequence[dict[str, Any]], *, source: str = "", places: Sequence[str] = ()) -> pa.Table:
    """Return JSON objects as a table; every key of any row is a column.

    Args:
        rows: the objects.
        source: where they are from, for messages.
        places: the name of each row's place; default ``row 1``, ``row 2``, ...
    """
    places = [(f"{source}, " if source else "") + (places[i] if places else f"row {i + 1}") for i in range(len(rows))]
    first: dict[str, str] = {}
    for row, place in zip(rows, places, strict=True):
        for name in row:
            first.setdefault(name, place)
    names = list(first)
    _refuse_half_characters("the name of a column", names, list(first.values()))
    columns, fields = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        kind = None if name == "messages" else _scalar_type(values)
        if kind is not None:
            if kind == pa.string():
                _refuse_half_characters(f"`{name}`", values, places)
            column = pa.array(values, kind)
            fields.append(pa.field(name, kind))
        else:
            column = pa.array([None if v is None else json.dumps(v, ensure_ascii=True) for v in values], pa.string())
            fields.append(pa.field(name, pa.string(), metadata=JSON_TEXT))
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields)) if names else pa.table({})


def _refuse_half_characters(what: str, values: Sequence[str | None], places: Sequence[str]) -> None:
    for value, place in zip(values, places, strict=False):
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise InputError(f"{place}: {what} holds half of a surrogate pair ({half}), which is no character",
                             hint="correct the row; the text was cut inside an emoji, probably") from error  # fmt: skip


def _scalar_type(values: Sequence[Any]) -> pa.DataType | None:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-(2**63) <= v < 2**63 for v in values if v is not None):
        return pa.int64()
    if kinds and kinds <= {int, float} and all(-(2**53) <= v <= 2**53 for v in values if type(v) is int):
        return pa.float64()
    if kinds <= {str}:
        return pa.string()
    return None


def _from_csv(path: Path, text_columns: Sequence[str]) -> pa.Table:
    import polars as pl

    try:
        texts = dict.fromkeys(("prompt_id", "prompt", "messages", *text_columns), pl.String())  # an id 007 is no number
        table = pl.read_csv(path, infer_schema_length=None, schema_overrides=texts)
        return table.to_arrow(compat_level=pl.CompatLevel.oldest())
    except pl.exceptions.NoDataError:
        return pa.table({})
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: broken CSV ({str(error).splitlines()[0]})", hint="correct the file") from error


def _from_parquet(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}",
                         hint="was the file written to its end, and is it Parquet?") from error  # fmt: skip
    return _cast(table, _without_views)


def column_values(table: pa.Table, name: str) -> list[Any]:
    """Return a column's values, decoded where rows of different types made it JSON text."""
    values: list[Any] = table[name].to_pylist()
    if (table.schema.field(name).metadata or {}).items() >= JSON_TEXT.items():
        return [json.loads(value) if value is not None else None for value in values]
    return values


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return a table's rows as Python values, dates and times as whole numbers of their own unit.

    Python's own types do not hold nanoseconds or the year 10000, and what pyarrow does about it depends on
    whether pandas is installed.
    """
    rows: list[dict[str, Any]] = _cast(table, _times_as_integers).to_pylist()
    return rows


def _cast(table: pa.Table, change: Callable[[pa.DataType], pa.DataType]) -> pa.Table:
    """Change the types of columns, also inside lists and structs."""
    fields = [field.with_type(_mapped(field.type, change)) for field in table.schema]
    return table if pa.schema(fields) == table.schema else table.cast(pa.schema(fields, metadata=table.schema.metadata))


def _mapped(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_mapped(field.type, change)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(_mapped(kind.key_type, change), _mapped(kind.item_type, change))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_mapped(kind.value_type, change)), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_mapped(kind.value_type, change)))
    return change(kind)


def _times_as_integers(kind: pa.DataType) -> pa.DataType:
    if not pa.types.is_temporal(kind) or pa.types.is_interval(kind):
        return kind
    return pa.int32() if pa.types.is_date32(kind) or pa.types.is_time32(kind) else pa.int64()


def _without_views(kind: pa.DataType) -> pa.DataType:
    """Replace the view types, whose rows pyarrow cannot take by index."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def _from_saved_dataset(path: Path) -> pa.Table:
    if not (path / "dataset_info.json").exists():
        raise InputError(f"{path} is a folder, and not one written by datasets.save_to_disk",
                         hint="pass the prompts file itself")  # fmt: skip
    return _datasets().load_from_disk(str(path)).with_format("arrow")[:]


def _from_hub(reference: str) -> pa.Table:
    name, _, split = reference.partition(":")
    name, _, revision = name.partition("@")
    try:
        dataset = _datasets().load_dataset(name, split=split or "train", revision=revision or None)
    except (ValueError, OSError) as error:
        raise InputError(f"hf:{reference} cannot be loaded: {str(error).splitlines()[0]}",
                         hint="look at the name, the split (hf:org/name:split) and HF_HUB_OFFLINE") from error  # fmt: skip
    return dataset.with_format("arrow")[:]


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UsageError("reading Hugging Face datasets needs the package `datasets`",
                         hint="pip install 'prefpipe[hub-datasets]'") from error  # fmt: skip
    return datasets
