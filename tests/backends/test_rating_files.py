"""Rows of any format know their place, and a broken file is told with it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.backends.rating_files import read_rows
from prefpipe.errors import InputError


def rows(data, name="r.jsonl"):
    return read_rows(data.encode() if isinstance(data, str) else data, Path(name))


def test_json_lines_may_be_blank_end_in_crlf_and_hold_odd_separators():
    found = rows('\ufeff{"a": 1}\r\n\n{"a": "x\u2028y"}\n')
    assert [tuple(row) for row in found] == [("line 1", {"a": 1}), ("line 3", {"a": "x\u2028y"})]


def test_csv_is_all_text_and_rows_may_span_lines():
    found = rows('id,text\n007,"two\nlines, one ""field"""\n\n8,\n', "r.csv")
    assert [tuple(row) for row in found] == [
        ("line 2", {"id": "007", "text": 'two\nlines, one "field"'}),
        ("line 5", {"id": "8", "text": ""}),
    ]


def test_a_csv_field_may_be_longer_than_the_readers_usual_limit():
    assert rows(f'id,text\n1,"{"x" * 200_000}"\n', "r.csv")[0].values["text"] == "x" * 200_000


def test_json_is_a_list_of_objects():
    assert [tuple(row) for row in rows('[{"a": 1}]', "r.json")] == [("item 1", {"a": 1})]


def test_parquet_keeps_its_types(tmp_path):
    pq.write_table(pa.table({"a": [1, None]}), tmp_path / "r.parquet")
    found = rows((tmp_path / "r.parquet").read_bytes(), "r.parquet")
    assert [tuple(row) for row in found] == [("row 1", {"a": 1}), ("row 2", {"a": None})]


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        ('{"a": 1}\n{"a": 2,}\n', "r.jsonl", r"r.jsonl, line 2: not JSON"),
        ('{"a": 1}\n[1]\n', "r.jsonl", r"r.jsonl, line 2: must be an object, got \[1\]"),
        (b'{"a": 1}\n\xff\n', "r.jsonl", r"r.jsonl, line 2: not UTF-8"),
        ('{"a": 1}', "r.json", "must be a list of objects, got dict"),
        ("[", "r.json", "r.json: not JSON"),
        ("[" * 100_000, "r.json", "r.json: not JSON"),
        ("a,b\n1,2\n1,2,3\n", "r.csv", "line 3: 3 fields, the header has 2"),
        ('a,b\n"x\ny",2\n1\n', "r.csv", "line 4: 1 fields, the header has 2"),
        ("a,a\n", "r.csv", "a column name stands twice"),
        ('a\n"open\n', "r.csv", "r.csv, line 2"),
        (b"PAR1 no", "r.parquet", "not a Parquet file"),
        ("x", "r.xlsx", "cannot tell the format of r.xlsx from its suffix '.xlsx'"),
    ],
)
def test_what_is_broken_is_told_with_its_place(data, name, message):
    with pytest.raises(InputError, match=message) as caught:
        rows(data, name)
    assert caught.value.hint


def test_an_empty_file_has_no_rows():
    assert rows("") == rows("", "r.csv") == []
