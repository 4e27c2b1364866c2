"""Rows from users' files: places for messages, types that nothing is lost in."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.artifacts.tables.columns import JSON_TEXT, python_rows, table_of
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.errors import InputError, UsageError


def column(values: list[Any]) -> tuple[pa.DataType, bool, list[Any]]:
    """Return the type, whether it is JSON text, and the values, of a column of JSON values."""
    table = table_of([{"x": value} for value in values])
    field = table.schema.field("x")
    return field.type, field.metadata == JSON_TEXT, table["x"].to_pylist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, None], pa.bool_()),
        ([1, -(2**63), 2**63 - 1, None], pa.int64()),
        ([1, 2.5, None], pa.float64()),
        ([2**53, 0.5], pa.float64()),
        (["a", None, "\0\U0001f600\u2028"], pa.string()),
        ([None, None], pa.string()),
    ],
)
def test_values_that_agree_keep_their_type(values: list[Any], kind: pa.DataType) -> None:
    assert column(values) == (kind, False, values)


@pytest.mark.parametrize(
    "values",
    [
        [1, "1"],
        [True, 1],
        [1, True, 0.5],
        [["a"], [], None],
        [{"a": [None, {"b": 2.5}]}, {"c": "\U0001f600"}],
        [2**63, 1],
        [2**53 + 1, 0.5],
        ["a", ["a"]],
    ],
)
def test_nested_and_mixed_values_become_json_text_and_lose_nothing(values: list[Any]) -> None:
    """Also whole numbers that a column of decimals would round: 2**53 + 1 is not a float64."""
    kind, is_json, texts = column(values)
    assert (kind, is_json) == (pa.string(), True)
    decoded = [None if text is None else json.loads(text) for text in texts]
    assert [(type(value), value) for value in decoded] == [(type(value), value) for value in values]


def test_every_key_of_any_row_is_a_column_in_order_of_appearance() -> None:
    table = table_of([{"b": 1}, {"a": 2, "b": 3}, {}])
    assert table.column_names == ["b", "a"]
    assert table.to_pylist() == [{"b": 1, "a": None}, {"b": 3, "a": 2}, {"b": None, "a": None}]
    assert table_of([]).num_rows == 0


@pytest.mark.parametrize(
    ("row", "where"), [({"x": "cut \ud83d"}, "`x`"), ({"x\udc00": 1}, "the name of a column")]
)
def test_half_characters_are_refused_where_they_stand(row: dict[str, Any], where: str) -> None:
    with pytest.raises(
        InputError, match=f"row 1: {where} holds half of a surrogate pair"
    ) as caught:
        table_of([row])
    assert caught.value.hint


def test_half_characters_inside_nested_values_are_kept_as_escapes() -> None:
    assert table_of([{"x": ["\ud83d"]}])["x"].to_pylist() == ['["\\ud83d"]']


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_json_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    """Blank lines count, a byte order mark does not matter, and U+2028 inside a text ends no line."""
    source = write(tmp_path / "a.jsonl", '\ufeff{"x": "a\u2028b\u0085c"}\r\n\n  \n{"x": "d"}')
    table, lines = read_table(source)
    assert table["x"].to_pylist() == ["a\u2028b\u0085c", "d"]
    assert list(lines) == ["line 1", "line 4"]
    with pytest.raises(InputError, match=r"line 5: broken JSON"):
        read_table(write(tmp_path / "a.jsonl", '{"x": "a\u2028b"}\n\n  \n{"x": "d"}\n{"x": }'))


def test_the_same_rows_come_from_every_format(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "007", "prompt": "12", "n": 1, "x": 0.5},
        {"prompt_id": "8", "prompt": 'a "b",\nc', "n": 2, "x": None},
    ]
    sources = [
        write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        write(tmp_path / "a.json", json.dumps(rows)),
        write(tmp_path / "a.csv", pl.DataFrame(rows).write_csv()),
        write(tmp_path / "A.CSV", pl.DataFrame(rows).write_csv()),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for source in [*sources, str(tmp_path / "a.parquet")]:
        table, lines = read_table(source)
        assert table.to_pylist() == rows, source
        assert len(lines) == 2
        assert lines[1] in ("line 2", "line 3", "row 2")


def test_ids_and_prompts_of_a_csv_file_are_texts(tmp_path: Path) -> None:
    """An id of 007 would be 7 as a number, and no key would find it again."""
    table, _ = read_table(write(tmp_path / "a.csv", "prompt_id,prompt,n\n007,1.50,3\n010,2,4\n"))
    assert table.to_pylist() == [
        {"prompt_id": "007", "prompt": "1.50", "n": 3},
        {"prompt_id": "010", "prompt": "2", "n": 4},
    ]


def test_a_folder_name_with_an_equals_sign_adds_no_column(tmp_path: Path) -> None:
    """pyarrow reads folders called key=value as columns."""
    (tmp_path / "lang=en").mkdir()
    pq.write_table(pa.table({"prompt": ["q"]}), tmp_path / "lang=en" / "p.parquet")
    assert read_table(str(tmp_path / "lang=en" / "p.parquet"))[0].column_names == ["prompt"]


def test_parquet_with_view_types_is_read_as_types_that_rows_can_be_taken_from(
    tmp_path: Path,
) -> None:
    table = pa.table(
        {
            "s": pa.array(["a", None], pa.string_view()),
            "l": pa.array([["b"], None], pa.list_(pa.string_view())),
            "b": pa.array([b"c", None], pa.binary_view()),
            "st": pa.array([{"v": "d"}, None]),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    read, _ = read_table(str(tmp_path / "p.parquet"))
    assert read.take([1, 0, 0]).to_pylist() == [table.to_pylist()[i] for i in (1, 0, 0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "[1]\n", "a.jsonl, line 1: a JSON object is needed, not list"),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', "a.jsonl, line 1: broken JSON (Extra data"),
        ("a.jsonl", "[" * 100_000, "a.jsonl, line 1: broken JSON (it is nested too deep)"),
        (
            "a.jsonl",
            b"\xff\xfe{\0",
            "a.jsonl, line 1: not UTF-8, but UTF-16 (byte order mark ff fe)",
        ),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "a.jsonl, line 2: the byte 0xe9 is not UTF-8"),
        (
            "a.json",
            '[{"a": 1},\n{"a" 2}]',
            "a.json, line 2: broken JSON (Expecting ':' delimiter, column 6)",
        ),
        ("a.json", "[" * 100_000, "a.json: broken JSON"),
        ("a.json", "[1]", "a.json: a JSON list of objects is needed"),
        ("a.csv", "a,b\n1,2,3\n", "a.csv, line 2: more fields than the header, 3 and not 2"),
        ("a.csv", b"prompt\n\xff\n", "a.csv, line 2: the byte 0xff is not UTF-8"),
        ("a.parquet", b"PAR1 and more PAR1", "a.parquet cannot be read as Parquet"),
        ("a.parquet", b"", "a.parquet cannot be read as Parquet"),
    ],
)
def test_a_broken_file_is_named_with_the_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_table(write(tmp_path / name, content))
    assert message in caught.value.message


def test_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["q"], "a": [1], "b": [2]}).rename_columns(["prompt", "a", "a"])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p\.parquet: two columns are called `a`"):
        read_table(str(tmp_path / "p.parquet"))


def test_files_that_are_not_there_or_not_known_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl does not exist"):
        read_table(str(tmp_path / "gone.jsonl"))
    with pytest.raises(UsageError, match=r"files that end in `\.xlsx` are not read") as caught:
        read_table(write(tmp_path / "a.xlsx", "x"))
    assert (
        caught.value.hint
        == "use one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, a datasets folder, or hf:org/name"
    )
    with pytest.raises(InputError, match="is a folder, and not one written by datasets"):
        read_table(str(tmp_path))
    for source in ("hf:", "hf::train", "hf:@main"):
        with pytest.raises(InputError, match="does not name a dataset"):
            read_table(source)


def test_python_rows_have_whole_numbers_for_times_that_python_does_not_hold() -> None:
    """Nanoseconds, the year 40,000 and unknown zones: one value whether pandas is installed or not."""
    table = pa.table(
        {
            "ns": pa.array([1, None], pa.timestamp("ns")),
            "far": pa.array([2**60, None], pa.timestamp("s")),
            "zone": pa.array([5, None], pa.timestamp("us", "Nowhere/City")),
            "day": pa.array([dt.date(1970, 1, 2), None]),
            "time": pa.array([dt.time(0, 0, 1), None], pa.time32("s")),
            "wait": pa.array([7, None], pa.duration("ns")),
            "nested": pa.array(
                [[{"t": 3}], None], pa.list_(pa.struct([("t", pa.timestamp("ns"))]))
            ),
            "map": pa.array([[("k", 4)], None], pa.map_(pa.string(), pa.timestamp("ns"))),
            "fixed": pa.array([[1, 2], None], pa.list_(pa.timestamp("ns"), 2)),
            "large": pa.array([[6], None], pa.large_list(pa.duration("s"))),
            "text": ["a", None],
        }
    )
    first = {
        "ns": 1,
        "far": 2**60,
        "zone": 5,
        "day": 1,
        "time": 1,
        "wait": 7,
        "nested": [{"t": 3}],
        "map": [("k", 4)],
        "fixed": [1, 2],
        "large": [6],
        "text": "a",
    }
    assert python_rows(table) == [first, dict.fromkeys(first)]


def test_python_rows_of_a_table_without_columns_are_as_many_as_the_table_has() -> None:
    assert python_rows(pa.table({"x": [1, 2]}).select([])) == [{}, {}]


def saved(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


def test_a_folder_of_datasets_gives_its_rows_in_their_order(tmp_path: Path) -> None:
    """Also those that were chosen and shuffled, which the folder keeps beside the table."""
    datasets.Dataset.from_list([{"x": i} for i in range(5)]).select([3, 1]).save_to_disk(
        str(tmp_path / "chosen")
    )
    table, places = read_table(str(tmp_path / "chosen"))
    assert (table["x"].to_pylist(), list(places)) == ([3, 1], ["row 1", "row 2"])


@pytest.mark.parametrize(
    "damage", ["no table", "half a table", "no state", "broken state", "bytes"]
)
def test_a_damaged_folder_of_datasets_is_refused(tmp_path: Path, damage: str) -> None:
    folder = saved(tmp_path / "d", [{"x": f"a{i}"} for i in range(50)])
    [table] = folder.glob("*.arrow")
    data = table.read_bytes()
    if damage == "no table":
        table.unlink()
    elif damage == "half a table":
        table.write_bytes(data[: len(data) // 2])
    elif damage == "bytes":
        table.write_bytes(data[:20] + b"\xff" * 40 + data[60:])
    elif damage == "no state":
        (folder / "state.json").unlink()
    else:
        (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match="d cannot be read as a folder of datasets") as caught:
        read_table(str(folder))
    assert caught.value.hint


def test_a_folder_of_several_splits_names_them(tmp_path: Path) -> None:
    split = datasets.Dataset.from_list([{"x": 1}])
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(InputError, match="d holds several splits: test, train") as caught:
        read_table(str(tmp_path / "d"))
    assert caught.value.hint == f"pass one of them, {tmp_path / 'd' / 'test'}"
    assert read_table(str(tmp_path / "d" / "test")).columns.to_pylist() == [{"x": 1}]


def test_a_folder_of_datasets_with_one_split_is_that_split(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(
        str(tmp_path / "set")
    )
    assert read_table(str(tmp_path / "set")).columns.to_pylist() == rows
