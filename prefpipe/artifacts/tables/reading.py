"""The one reader of users' tables: every kind of source becomes one Arrow table with places.

JSON, JSON lines, CSV, TSV and Parquet files and folders written by ``datasets.save_to_disk``, on a
disk or in a bucket, and ``hf:org/name[@revision][:split]``. The strict readers are our own:
pyarrow's and polars' take the schema from the first rows, lose what differs, and name no line.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.storage.local_copies import LocalFile, local_copy
from prefpipe.artifacts.tables.arrow_tables import first_line, plain_table, read_parquet, reason_in
from prefpipe.artifacts.tables.bad_rows import BadRowsError, rows_to_keep
from prefpipe.artifacts.tables.columns import column_values, table_of
from prefpipe.artifacts.tables.csv_rows import csv_table, read_csv
from prefpipe.artifacts.tables.json_rows import read_json, read_json_lines
from prefpipe.artifacts.tables.locations import HUB, command_on, place_of
from prefpipe.artifacts.tables.text_files import TextRows
from prefpipe.errors import InputError, MissingExtraError, UsageError

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED: Final = {
    ".gz": "gunzip --keep",
    ".bz2": "bunzip2 --keep",
    ".xz": "unxz --keep",
    ".zst": "unzstd",
    ".zip": "unzip",
}
SAVED_DATASET: Final = ("dataset_info.json", "dataset_dict.json")
"""Files of a folder that `datasets.save_to_disk` wrote."""
DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}


class Table(NamedTuple):
    """Rows of a user's file: the columns, and each row's place (``line 3``, ``row 2``)."""

    columns: pa.Table
    places: Sequence[str]


def read_table(source: str, *, text_columns: Sequence[str] = ()) -> Table:
    """Read a file, a folder or a hub data set.

    Args:
        source: path, URL of a bucket or ``hf:`` reference.
        text_columns: columns that are text in a CSV file whatever they look like, beside those of
            prompts.

    Raises:
        BadRowsError: rows that cannot be read, each with its place.
        InputError: a missing file, a fault of the whole file, such as a truncated Parquet file.
        UsageError: a kind of file or an address that is not read.
    """
    place = place_of(source)
    if place is None:
        return _from_arrow(_from_hub(source.removeprefix(HUB)), source)
    try:
        with local_copy(place, folder_marks=SAVED_DATASET) as file:
            return _read_file(replace(file, name=source), text_columns)
    except IsADirectoryError as error:
        raise _no_saved_dataset(source) from error


def _read_file(file: LocalFile, text_columns: Sequence[str]) -> Table:
    # as it was typed: rows that are left out are known by it
    source = file.name
    if not file.path.exists():
        raise InputError(f"{file} does not exist", hint="check the path of the input file")
    if file.path.is_dir():
        return _from_arrow(_from_saved_dataset(file), source)

    suffix = file.path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _from_text(read_json_lines(file), source, _json_table)
    if suffix == ".json":
        return _from_text(read_json(file), source, _json_table)
    if suffix in DELIMITERS:
        rows = read_csv(file, DELIMITERS[suffix])
        return _from_text(rows, source, lambda kept, _: csv_table(kept, text_columns))
    if suffix == ".parquet":
        return _from_arrow(read_parquet(file), source)

    if suffix in COMPRESSED:
        raise UsageError(
            f"{file}: compressed files are not read",
            hint=command_on(source, f"{COMPRESSED[suffix]} {{}}"),
        )
    raise UsageError(
        f"{file}: files that end in `{suffix}` are not read",
        hint=f"use one of {', '.join(SUFFIXES)}, a datasets folder, or hf:org/name",
    )


def _from_text(
    rows: TextRows, source: str, make_table: Callable[[TextRows, str], pa.Table]
) -> Table:
    """Make a table of the rows that stay: columns get their types from these alone."""
    kept = rows_to_keep(source, rows.places, rows.bad, rows.rows.__getitem__)
    if kept is not None:
        rows = TextRows(
            rows=[rows.rows[row] for row in kept],
            places=[rows.places[row] for row in kept],
            names=rows.names,
        )
    return Table(make_table(rows, source), rows.places)


def _json_table(rows: TextRows, source: str) -> pa.Table:
    return table_of(rows.rows, source=source, places=rows.places)


def _from_arrow(table: pa.Table, source: str) -> Table:
    places = [f"row {number}" for number in range(1, table.num_rows + 1)]
    # rows that are left out go before anything is decoded: they may be what cannot be
    kept = rows_to_keep(source, places, [], lambda row: _raw_row(table, row))
    if kept is not None:
        table = _rows_of(table, kept)
        places = [places[row] for row in kept]

    plain, bad = plain_table(table, source, places)
    if bad:
        raise BadRowsError(source, bad)
    return Table(plain, places)


def _rows_of(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Return the rows of these numbers; pyarrow takes rows of some types by slices alone."""
    slices = []
    begin = 0
    for end in range(1, len(rows) + 1):
        is_last_of_run = end == len(rows) or rows[end] != rows[end - 1] + 1
        if is_last_of_run:
            slices.append(table.slice(rows[begin], end - begin))
            begin = end
    return pa.concat_tables(slices)


def _raw_row(table: pa.Table, row: int) -> dict[str, Any]:
    """Return what a row holds, for the file of skipped rows, whatever of it can be read."""
    values = {}
    for name in table.column_names:
        try:
            values[name] = column_values(table.select([name]).slice(row, 1), name)[0]
        except (UnicodeDecodeError, ValueError) as error:
            values[name] = f"cannot be read: {error}"
    return values


def _from_saved_dataset(file: LocalFile) -> pa.Table:
    if (file.path / "dataset_dict.json").exists():
        split = _only_split(file)
        return _from_saved_dataset(LocalFile(f"{file}/{split}", file.path / split))
    if not (file.path / "dataset_info.json").exists():
        raise _no_saved_dataset(str(file))

    library = _datasets()
    damaged = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
    try:
        # by rows, and not the table: which were chosen, and their order, are beside it
        return library.load_from_disk(str(file.path)).with_format("arrow")[:]
    except damaged as error:
        raise InputError(
            f"{file} cannot be read as a folder of datasets.save_to_disk: {reason_in(error, file)}",
            hint="check that the folder was written or copied completely",
        ) from error


def _no_saved_dataset(source: str) -> InputError:
    return InputError(
        f"{source} is a folder, and not one written by datasets.save_to_disk",
        hint="pass the prompts file itself",
    )


def _only_split(file: LocalFile) -> str:
    """Return the name of the one split that a folder holds.

    Raises:
        InputError: it holds several, or none.
    """
    splits = sorted(item.name for item in file.path.iterdir() if item.is_dir())
    if len(splits) == 1:
        return splits[0]
    hint = "check that the folder was copied completely"
    if splits:
        hint = f"pass one of them, {file}/{splits[0]}"
    raise InputError(f"{file} holds several splits: {', '.join(splits) or 'none'}", hint=hint)


def _from_hub(reference: str) -> pa.Table:
    name, _, split = reference.partition(":")
    name, _, revision = name.partition("@")
    if not name.strip("/ "):
        raise InputError(
            f"hf:{reference} does not name a dataset", hint="write hf:org/name or hf:org/name:split"
        )
    library = _datasets()
    try:
        dataset = library.load_dataset(name, split=split or "train", revision=revision or None)
        return dataset.with_format("arrow")[:]
    except (pa.ArrowException, OSError, ValueError, library.exceptions.DatasetsError) as error:
        raise InputError(
            f"hf:{reference} cannot be loaded: {first_line(error)}",
            hint="check the name, the split (hf:org/name:split) and HF_HUB_OFFLINE",
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "reading Hugging Face datasets", "datasets", "hub-datasets"
        ) from error
    return datasets
