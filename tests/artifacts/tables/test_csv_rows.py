"""CSV and TSV: every row of as many fields, each with its line, and types that an established reader gives as well."""

import csv
import io
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefpipe.artifacts.storage.local_copies import LocalFile
from prefpipe.artifacts.tables.bad_rows import BadRowsError
from prefpipe.artifacts.tables.csv_rows import csv_table, read_csv
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.errors import InputError


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def reasons(source: str) -> list[tuple[str, str]]:
    with pytest.raises(BadRowsError) as caught:
        read_table(source)
    return [(row.place, row.reason) for row in caught.value.rows]


def by_polars(text: str) -> pa.Table:
    """The reader that prefpipe used before: fingerprints of plain files stand on its types and values."""
    texts = dict.fromkeys(("prompt_id", "prompt", "messages"), pl.String())
    frame = pl.read_csv(text.encode(), infer_schema_length=None, schema_overrides=texts)
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


COLUMNS = {
    "whole numbers": "1\n-2\n\n700",
    "numbers": "1\n.5\n-2.5e3\n7.\n\ninf\nNaN",
    "booleans": "true\nFALSE\n\nTrue",
    "booleans and numbers": "true\n1",
    "texts": "a\n1\n\n2.5",
    "signs that make texts": "+1\n1_000\n--2\n-",
    "spaces that make texts": " 7\n8",
    "dates": "2024-01-01\n",
    "nothing": "\n",
    "lower-case nan": "1.5\nnan",
    "quoted numbers": '"7"\n"8"',
    "a quoted empty text": '""\n3',
    "quotes and line ends": '"a ""b"", c"\n"d\r\ne\nf"',
    "whole numbers of 64 bits": "9223372036854775807\n-9223372036854775808",
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_types_and_values_are_those_of_polars(tmp_path: Path, column: str) -> None:
    cells, inside, cell = [], False, ""
    for character in column + "\n":
        inside ^= character == '"'
        if character == "\n" and not inside:
            cells.append(cell)
            cell = ""
        else:
            cell += character
    text = "prompt,x\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells))
    table = read_table(write(tmp_path / "a.csv", text)).columns
    expected = by_polars(text)
    assert table.schema == expected.schema
    assert str(table.to_pylist()) == str(expected.to_pylist())  # the text of NaN equals itself


TEXTS = st.one_of(
    st.text(
        st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8
    ),
    st.sampled_from(['"', ",", "\n", "\r\n", "a\rb", "\u2028", "007", "true", "1e5", "😀"]),
)
CELLS = st.one_of(st.none(), st.just(""), TEXTS)


@pytest.mark.slow
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=200, deadline=None)
def test_what_was_written_quoted_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, delimiter: str, end: str
) -> None:
    """Every text comes back character by character; a missing value is an empty field, an empty text a quoted one."""
    cell = lambda value: "" if value is None else '"' + value.replace('"', '""') + '"'  # noqa: E731 - the writer in one line
    header = delimiter.join(("prompt", "b", "c"))
    text = header + end + "".join(delimiter.join(map(cell, row)) + end for row in rows)
    path = tmp_path_factory.mktemp("csv") / ("a.csv" if delimiter == "," else "a.tsv")
    found = csv_table(
        read_csv(LocalFile(str(path), Path(write(path, text))), delimiter), ("b", "c")
    )
    assert [tuple(row.values()) for row in found.to_pylist()] == list(rows)


@pytest.mark.slow
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_what_pythons_own_writer_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: Any
) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("prompt", "b"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    found = csv_table(
        read_csv(LocalFile(str(path), Path(write(path, buffer.getvalue()))), ","), ("b",)
    )
    assert [tuple(row.values()) for row in found.to_pylist()] == list(rows)


def test_rows_know_the_line_on_which_they_begin(tmp_path: Path) -> None:
    table, places = read_table(
        write(tmp_path / "a.csv", '\ufeffprompt,n\r\n"two\r\nlines",1\r\n\r\nb,2\r\n')
    )
    assert table.to_pylist() == [{"prompt": "two\r\nlines", "n": 1}, {"prompt": "b", "n": 2}]
    assert list(places) == ["line 2", "line 5"]


def test_every_damaged_row_is_named_with_its_line_and_fault(tmp_path: Path) -> None:
    text = b'prompt,n\na,1\nb\n"c\nd",2,3\ncaf\xe9,4\n"e"f,5\ng\0h,6\ni,7\n'
    assert reasons(write(tmp_path / "a.csv", text)) == [
        ("line 3", "fewer fields than the header, 1 and not 2"),
        ("line 4", "more fields than the header, 3 and not 2"),
        ("line 6", "the byte 0xe9 is not UTF-8"),
        ("line 7", "text follows the quote that closes field 1"),
        ("line 8", "it holds a NUL byte: the file was cut off by a crash, or is UTF-16"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('prompt,n\na,1\n"open,2\nb,3\n', "line 3: a double quote is left open"),
        ('prompt,n\na,1\nb,"open ""and so on""\n', "line 3: a double quote is left open"),
        ("prompt,n,prompt\na,1,b\n", "line 1: two columns are called `prompt`"),
        ("prompt,,\na,1,b\n", "line 1: 2 columns have no name"),
        (b"caf\xe9,n\na,1\n", "line 1: the byte 0xe9 is not UTF-8"),
        (
            "prompt,n\na,1\n".encode("utf-16"),
            "line 1: not UTF-8, but UTF-16 (byte order mark ff fe)",
        ),
    ],
)
def test_what_makes_the_whole_file_unreadable_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_table(write(tmp_path / "a.csv", content))
    assert message in caught.value.message
    assert caught.value.hint


def test_whole_numbers_that_no_column_of_numbers_holds_stay_texts(tmp_path: Path) -> None:
    """Of 2**53 + 1 a float makes 2**53, and of 2**63 an int64 nothing."""
    table = read_table(
        write(tmp_path / "a.csv", f"prompt,x,y\na,{2**53 + 1},{2**63}\nb,0.5,1\n")
    ).columns
    assert table["x"].to_pylist() == [str(2**53 + 1), "0.5"]
    assert table["y"].to_pylist() == [str(2**63), "1"]


def test_an_empty_file_and_a_header_alone_have_no_rows(tmp_path: Path) -> None:
    for text in ("", "\n", "prompt,n\n", "\ufeffprompt,n"):
        assert read_table(write(tmp_path / "a.csv", text)).columns.num_rows == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "prompt;topic\nq;1,5\n",
            "line 1: one column, `prompt;topic`: fields are separated by a semicolon and not by a comma",
        ),
        ("a.csv", "prompt\ttopic\nq\tx\n", "fields are separated by a tab and not by a comma"),
        ("a.tsv", "prompt,topic\nq,x\n", "fields are separated by a comma and not by a tab"),
        (
            "a.csv",
            "sep=,\r\nprompt,topic\r\nq,x\r\n",
            "line 1: `sep=,` is a separator line of Excel, not a header",
        ),
        ("a.csv", "prompt,topic\rq,x\r", "line 1: lines end with a carriage return alone"),
        ("a.csv", "prompt,topic,,\nq,x,,\n", "line 1: 2 columns have no name"),
    ],
)
def test_other_dialects_are_called_by_their_name(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, newline="")
    with pytest.raises(InputError) as caught:
        read_table(str(path))
    assert message in str(caught.value)


def test_zeros_at_the_beginning_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("zip,n,x,y\n01234,0,0.5,00.5\n501,-3,.5,1.5\n")
    table = read_table(str(path)).columns
    assert table.to_pydict() == {
        "zip": ["01234", "501"],
        "n": [0, -3],
        "x": [0.5, 0.5],
        "y": ["00.5", "1.5"],
    }
