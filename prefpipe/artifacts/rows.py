"""Rows from a user's file as one Arrow table, each with the place it came from, for messages.

JSON values keep their type where the whole column agrees (boolean, integer, number, text); nested and mixed
columns become JSON text, marked in the field's metadata, so that nothing is dropped or padded.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.errors import InputError, UsageError

JSON_TEXT = {b"prefpipe.encoding": b"json"}
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_rows(source: str) -> tuple[pa.Table, Sequence[str]]:
    """Return a file's rows and the name of each row's place (``line 3``, ``row 2``).

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
        return _numbered(_from_json(path))
    if suffix == ".csv":
        return _numbered(_from_csv(path))
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
    return table_of(rows), lines


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # split on newlines only: str.splitlines would also cut at U+2028 inside a JSON string
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: broken JSON ({error})", hint="correct or remove the line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: a JSON object is needed, not {type(row).__name__}",
                             hint='write one object a line, {"prompt": "..."}')  # fmt: skip
        yield number, row


def _from_json(path: Path) -> pa.Table:
    try:
        rows = json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({error})", hint="correct the file") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a JSON list of objects is needed", hint="for one object a line name the file .jsonl")
    return table_of(rows)


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return JSON objects as a table; every key of any row is a column."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns, fields = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        kind = None if name == "messages" else _scalar_type(values)
        if kind is not None:
            if kind == pa.string():
                _refuse_half_characters(name, values)
            column = pa.array(values, kind)
            fields.append(pa.field(name, kind))
        else:
            column = pa.array([None if v is None else json.dumps(v, ensure_ascii=True) for v in values], pa.string())
            fields.append(pa.field(name, pa.string(), metadata=JSON_TEXT))
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields)) if names else pa.table({})


def _refuse_half_characters(name: str, values: Sequence[str | None]) -> None:
    for number, value in enumerate(values, 1):
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise InputError(f"row {number}: `{name}` holds half of a surrogate pair ({half}), which is no character",
                             hint="correct the row; the text was cut inside an emoji, probably") from error  # fmt: skip


def _scalar_type(values: Sequence[Any]) -> pa.DataType | None:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-(2**63) <= v < 2**63 for v in values if v is not None):
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    if kinds <= {str}:
        return pa.string()
    return None


def _from_csv(path: Path) -> pa.Table:
    import polars as pl

    try:
        return pl.read_csv(path, infer_schema_length=None).to_arrow(compat_level=pl.CompatLevel.oldest())
    except pl.exceptions.NoDataError:
        return pa.table({})
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: broken CSV ({str(error).splitlines()[0]})", hint="correct the file") from error


def _from_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


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
