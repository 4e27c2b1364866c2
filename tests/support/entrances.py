"""The entrances of users' tables, and writers of the same rows as files of every kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from prefpipe.artifacts.interchange.annotations import read_annotations
from prefpipe.artifacts.interchange.formats import read_pool
from prefpipe.artifacts.interchange.pair_rows import read_pairs
from prefpipe.artifacts.interchange.read_options import ColumnNames, ReadOptions
from prefpipe.artifacts.prompts import load_prompts
from prefpipe.backends.scorers.ratings import RatingsScorer

Row = dict[str, Any]


def as_json_lines(folder: Path, rows: list[Row]) -> str:
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "t.jsonl")


def as_json(folder: Path, rows: list[Row]) -> str:
    (folder / "t.json").write_text(json.dumps(rows, indent=1))
    return str(folder / "t.json")


def _delimited(path: Path, rows: list[Row], delimiter: str) -> str:
    cell = lambda value: "" if value is None else '"' + str(value).replace('"', '""') + '"'  # noqa: E731 - the writer in one line
    lines = [
        delimiter.join(rows[0]),
        *(delimiter.join(cell(value) for value in row.values()) for row in rows),
    ]
    path.write_text("\ufeff" + "".join(line + "\r\n" for line in lines))
    return str(path)


def as_csv(folder: Path, rows: list[Row]) -> str:
    return _delimited(folder / "t.csv", rows, ",")


def as_tsv(folder: Path, rows: list[Row]) -> str:
    return _delimited(folder / "t.tsv", rows, "\t")


def as_parquet(folder: Path, rows: list[Row]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    return str(folder / "t.parquet")


def as_arrow_json(folder: Path, rows: list[Row]) -> str:
    """Every column as the JSON type of Arrow, which `datasets` writes where the rows of a column differ."""
    table = pa.table(
        {
            name: pa.array(
                [None if row[name] is None else json.dumps(row[name]) for row in rows], pa.json_()
            )
            for name in rows[0]
        }
    )
    pq.write_table(table, folder / "j.parquet")
    return str(folder / "j.parquet")


def as_categories(folder: Path, rows: list[Row]) -> str:
    """Texts as pandas' categories, and large lists: what polars and pandas write."""
    table = pa.Table.from_pylist(rows)
    for number, field in enumerate(table.schema):
        if field.type == pa.string():
            table = table.set_column(
                number, field.name, table.column(number).cast(pa.large_string()).dictionary_encode()
            )
    pq.write_table(table, folder / "c.parquet")
    return str(folder / "c.parquet")


def as_dataset(folder: Path, rows: list[Row]) -> str:
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "dataset"))
    return str(folder / "dataset")


WRITERS = [
    as_json_lines,
    as_json,
    as_csv,
    as_tsv,
    as_parquet,
    as_arrow_json,
    as_categories,
    as_dataset,
]
Write = Callable[[Path, list[Row]], str]

ENTRANCES: dict[str, tuple[Callable[[str], Any], Row, str]] = {
    "prompts": (load_prompts, {"prompt_id": "p", "prompt": "q"}, "prompt"),
    "rows": (
        lambda source: read_pool(source, "rows", ReadOptions(columns=(), names=ColumnNames(rewards={"r": "r"}))),
        {"prompt": "q", "response": "a", "r": 1.0}, "r",
    ),
    "trl": (
        lambda source: read_pool(source, "trl", ReadOptions(columns=())),
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1.0, "score_rejected": 0.0}, "score_chosen",
    ),
    "alpaca-eval": (
        lambda source: read_pool(source, "alpaca-eval", ReadOptions(columns=())),
        {"instruction": "q", "output": "a"}, "output",
    ),
    "pairs": (
        lambda source: read_pairs(source, needs_texts=False),
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1.0, "score_rejected": 0.0}, "score_rejected",
    ),
    "ratings": (RatingsScorer, {"prompt_id": "p", "sample_idx": 0, "rating": 1.0}, "rating"),
    "annotations": (read_annotations, {"prompt_id": "p", "preference": 0.5, "length_chars": 1.0, "baseline_length_chars": 1.0}, "preference"),
}  # fmt: skip
