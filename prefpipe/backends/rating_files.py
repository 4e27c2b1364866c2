"""Reads a table of any common format into rows that know their place in the file, and guesses no types."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.errors import InputError


class Row(NamedTuple):
    """``place`` names the row for people (``line 7``); ``values`` is column to value (text only, from CSV)."""

    place: str
    values: dict[str, Any]


def read_rows(data: bytes, path: Path) -> list[Row]:
    """Return the rows of a file's bytes; the format follows the suffix of ``path``.

    Raises ``InputError`` with the place: unknown suffix, not UTF-8, a broken JSON line, a CSV row with too many or too few
    fields, a broken Parquet file.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"cannot tell the format of {path} from its suffix {path.suffix!r}",
            hint=f"rename it to one of {', '.join(_READERS)}",
        )
    return list(reader(data, path))


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8", hint=f"iconv -t UTF-8 {path} > converted{path.suffix}") from error


def _read_jsonl(data: bytes, path: Path) -> Iterator[Row]:
    # Split at "\n" alone: U+2028 and its kind may stand inside a JSON string.
    for number, line in enumerate(_decode(data, path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}", hint=f"sed -n {number}p {path}") from error
        yield Row(f"line {number}", _require_object(value, path, f"line {number}"))


def _read_json(data: bytes, path: Path) -> Iterator[Row]:
    try:
        values = json.loads(_decode(data, path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}", hint="one object a line is JSONL: name the file .jsonl") from error
    if not isinstance(values, list):
        raise InputError(f"{path}: must be a list of objects, got {type(values).__name__}", hint="wrap it in [ ]")
    for number, value in enumerate(values, 1):
        yield Row(f"item {number}", _require_object(value, path, f"item {number}"))


def _require_object(value: Any, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}, {place}: must be an object, got {value!r:.80}", hint='write {"prompt_id": ..., ...}')
    return value


def _read_csv(data: bytes, path: Path) -> Iterator[Row]:
    text = _decode(data, path)
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = next(reader, [])
        if len(set(columns)) < len(columns):
            raise InputError(f"{path}, line 1: a column name stands twice in {columns}", hint="name every column differently")
        begin = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(columns):
                raise InputError(
                    f"{path}, line {begin}: {len(fields)} fields, the header has {len(columns)}",
                    hint='put a text with commas or line breaks into "double quotes"',
                )
            if fields:
                yield Row(f"line {begin}", dict(zip(columns, fields, strict=True)))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}", hint="is a double quote left open?") from error
    finally:
        csv.field_size_limit(limit)


def _read_parquet(data: bytes, path: Path) -> Iterator[Row]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file: {error}", hint="was it written to the end?") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(f"row {number}", values)


_READERS: Final[dict[str, Callable[[bytes, Path], Iterator[Row]]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
