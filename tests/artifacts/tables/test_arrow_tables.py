"""Arrow's types are read as the values that they stand for, at any depth, and written into parts as such."""

import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pipelines import rows_of

from prefpipe.artifacts.tables.arrow_tables import plain_table
from prefpipe.artifacts.tables.bad_rows import BadRowsError
from prefpipe.artifacts.tables.columns import column_values, table_of
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.cli.main import run
from prefpipe.errors import InputError

IDS = [uuid.UUID(int=7), uuid.UUID(int=2**100)]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=("Cs",)), max_size=3), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def read(path: Path, table: pa.Table) -> pa.Table:
    pq.write_table(table, path)
    return read_table(str(path)).columns


def as_json(values: list[Any], storage: pa.DataType | None = None) -> pa.Array:
    texts = pa.array(
        [None if value is None else json.dumps(value) for value in values], storage or pa.string()
    )
    return pa.ExtensionArray.from_storage(pa.json_(storage or pa.string()), texts)


@pytest.mark.slow
@given(st.lists(JSON, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_a_column_of_arrow_json_is_what_a_json_file_with_the_same_values_is(
    values: list[Any],
) -> None:
    table = pa.table({"x": as_json(values)})
    plain, bad = plain_table(table, "s", [f"row {i}" for i in range(len(values))])
    assert bad == []
    expected = table_of([{"x": value} for value in values])
    assert plain.schema.field("x").equals(expected.schema.field("x"), check_metadata=True)
    assert column_values(plain, "x") == column_values(expected, "x") == values


@pytest.mark.parametrize("storage", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_json_texts_come_without_their_quotes_whatever_they_are_stored_in(
    tmp_path: Path, storage: pa.DataType
) -> None:
    found = read(
        tmp_path / "p.parquet", pa.table({"x": as_json(['a "b"\n', "", None, "null"], storage)})
    )
    assert found.schema.field("x").type == pa.string()
    assert found["x"].to_pylist() == ['a "b"\n', "", None, "null"]


def nested(values: list[Any], wrap: str) -> pa.Array:
    """Return one row a value: arrow.json inside another type."""
    inner = as_json(values)
    offsets = list(range(len(values) + 1))
    if wrap == "list":
        return pa.ListArray.from_arrays(offsets, inner)
    if wrap == "large list":
        return pa.LargeListArray.from_arrays(offsets, inner)
    if wrap == "fixed list":
        return pa.FixedSizeListArray.from_arrays(inner, 1)
    if wrap == "struct":
        return pa.StructArray.from_arrays([inner, pa.array(range(len(values)))], ["j", "n"])
    if wrap == "map":
        return pa.MapArray.from_arrays(offsets, pa.array(["k"] * len(values)), inner)
    struct = pa.StructArray.from_arrays([pa.ListArray.from_arrays(offsets, inner)], ["deep"])
    return pa.ListArray.from_arrays(offsets, struct)


VALUES = ["x", {"a": [1, None]}, [True], 2.5]
WRAPPED = {
    "list": [[value] for value in VALUES], "large list": [[value] for value in VALUES], "fixed list": [[value] for value in VALUES],
    "struct": [{"j": value, "n": number} for number, value in enumerate(VALUES)], "map": [{"k": value} for value in VALUES],
    "struct in lists": [[{"deep": [value]}] for value in VALUES],
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED)
def test_json_is_decoded_inside_every_nested_type(tmp_path: Path, wrap: str) -> None:
    table = pa.table({"x": nested(VALUES, wrap)})
    plain, bad = plain_table(table, "s", ["a", "b", "c", "d"])
    assert (column_values(plain, "x"), bad) == (WRAPPED[wrap], [])
    if wrap != "map":  # which Parquet's writer does not take with extension types on every release
        assert column_values(read(tmp_path / "p.parquet", table), "x") == WRAPPED[wrap]


def test_what_stands_beside_json_keeps_its_value(tmp_path: Path) -> None:
    struct = pa.StructArray.from_arrays(
        [
            as_json(["x", "y"]),
            pa.array([Decimal("7.50"), None]),
            pa.array([dt.date(2024, 1, 2), None]),
            pa.array([b.bytes for b in IDS], pa.uuid()),
        ],
        ["j", "d", "t", "u"],
    )
    found = column_values(plain_table(pa.table({"x": struct}), "s", ["1", "2"])[0], "x")
    assert found == [
        {"j": "x", "d": "7.50", "t": "2024-01-02", "u": str(IDS[0])},
        {"j": "y", "d": None, "t": None, "u": str(IDS[1])},
    ]
    raw = pa.StructArray.from_arrays([as_json(["x"]), pa.array([b"\xff"])], ["j", "b"])
    with pytest.raises(
        InputError, match="s, row 1: `x` holds a value of type bytes, which JSON cannot hold"
    ):
        plain_table(pa.table({"x": raw}), "s", ["row 1"])


def test_uuids_are_their_text_at_any_depth(tmp_path: Path) -> None:
    column = pa.array([each.bytes for each in IDS], pa.uuid())
    table = pa.table({"u": column, "l": pa.ListArray.from_arrays([0, 1, 2], column)})
    found = read(tmp_path / "p.parquet", table)
    assert found.to_pylist()[0]["u"] == str(IDS[0])
    assert column_values(found, "l") == [[str(IDS[0])], [str(IDS[1])]]


PLAIN = {
    "dictionary": (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    "decimal": (pa.array([Decimal("7.50"), None]), [Decimal("7.50"), None]),
    "half float": (pa.array([1.5, None], pa.float16()), [1.5, None]),
    "large list": (pa.array([["a"], None], pa.large_list(pa.string())), [["a"], None]),
    "fixed list": (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), [[1, 2], None]),
    "list view": (pa.array([[1], None], pa.list_view(pa.int32())), [[1], None]),
    "string view": (pa.array(["a", None], pa.string_view()), ["a", None]),
    "map": (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())), [{"k": 1}, None]),
    "map in a struct": (pa.array([{"m": [("k", 1)]}, None], pa.struct([("m", pa.map_(pa.string(), pa.int32()))])), [{"m": {"k": 1}}, None]),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())), [True, None]),
    "tensor": (pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2], None], pa.list_(pa.int32(), 2))), [[1, 2], None]),
    "unsigned": (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    "no values": (pa.array([None, None]), [None, None]),
}  # fmt: skip


@pytest.mark.parametrize(("array", "values"), PLAIN.values(), ids=PLAIN)
def test_every_other_type_is_read_as_python_reads_it(
    tmp_path: Path, array: pa.Array, values: list[Any]
) -> None:
    found = read(tmp_path / "p.parquet", pa.table({"x": array}))
    assert column_values(found, "x") == values
    assert column_values(found.slice(1), "x") == values[1:]


def test_runs_are_spread_out() -> None:
    array = pc.run_end_encode(pa.array(["a", "a", None, "b"]))
    plain, _ = plain_table(pa.table({"x": array}), "s", list("1234"))
    assert plain["x"].to_pylist() == ["a", "a", None, "b"]
    assert plain.take([3, 0])["x"].to_pylist() == ["b", "a"]


def test_what_is_declared_json_and_is_none_is_named_with_its_row() -> None:
    texts = pa.ExtensionArray.from_storage(
        pa.json_(), pa.array(['"x"', "{", '{"a": 1, "a": 2}', None])
    )
    _, bad = plain_table(pa.table({"x": texts}), "s", ["row 1", "row 2", "row 3", "row 4"])
    assert [(row.place, row.reason.split(":")[0]) for row in bad] == [
        ("row 2", "`x` is declared JSON, but is not JSON"),
        ("row 3", "`x` is declared JSON, but is not JSON"),
    ]
    assert 'the key "a" occurs twice' in bad[1].reason


def test_texts_that_are_no_utf_8_are_named_with_their_row(tmp_path: Path) -> None:
    """Old writers put bytes of any encoding into columns of texts; pyarrow reads them and Python cannot."""
    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0")
    array = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xe9b")])
    pq.write_table(pa.table({"prompt": array}), tmp_path / "p.parquet")
    with pytest.raises(
        BadRowsError, match="row 2: `prompt` holds the byte 0xe9, which is not UTF-8"
    ):
        read_table(str(tmp_path / "p.parquet"))


def test_user_columns_of_every_type_are_written_into_parts_and_read_on(tmp_path: Path) -> None:
    """generate, score, select and export pass them through; what the last one writes is the value."""
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "j": as_json(["x", "y"]),
            "mixed": as_json([{"k": 1}, "z"]),
            "turns": nested(["x", [1]], "struct in lists"),
            "u": pa.array([each.bytes for each in IDS], pa.uuid()),
            "d": pa.array([Decimal("7.50"), None]),
            "cat": pa.array(["u", "v"]).dictionary_encode(),
            "h": pa.array([1.5, None], pa.float16()),
            "v": pa.array(["q", None], pa.string_view()),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    candidates = tmp_path / "candidates"
    assert (
        run(
            [
                "generate",
                str(tmp_path / "p.parquet"),
                "-o",
                str(candidates),
                "--model",
                "fake",
                "--backend",
                "fake",
                "--n",
                "2",
            ]
        )
        == 0
    )
    first = rows_of(candidates)[0]
    assert (first["j"], first["u"], first["d"], first["cat"], first["h"], first["v"]) == (
        "x",
        str(IDS[0]),
        Decimal("7.50"),
        "u",
        1.5,
        "q",
    )
    assert json.loads(first["mixed"]) == {"k": 1}
    assert json.loads(first["turns"]) == [{"deep": ["x"]}]
    # the parts are read again as what they hold
    [part] = candidates.glob("part-*.parquet")
    again = read_table(str(part)).columns
    assert column_values(again, "mixed") == [{"k": 1}, {"k": 1}, "z", "z"]
    assert run(["score", str(candidates), "-o", str(tmp_path / "scores"), "--scorer", "fake"]) == 0


def test_preference_data_whose_contents_are_arrow_json_is_imported_without_quotes(
    tmp_path: Path,
) -> None:
    """Turns whose contents were texts in some rows and lists of parts in others, as `datasets` writes them."""
    contents = ['Lake "Chad",\nin Africa.', "The Red Sea"]
    roles = pa.array(["assistant", "assistant"])
    turns = pa.ListArray.from_arrays(
        [0, 1, 2], pa.StructArray.from_arrays([roles, as_json(contents)], ["role", "content"])
    )
    prompts = as_json(
        [[{"role": "user", "content": "Which?"}], [{"role": "user", "content": 'And "this"?'}]]
    )
    table = pa.table(
        {"prompt": prompts, "chosen": turns, "rejected": as_json(["The Nile", "null"])}
    )
    pq.write_table(table, tmp_path / "p.parquet")
    assert (
        run(["import", str(tmp_path / "p.parquet"), "-o", str(tmp_path / "out"), "--format", "trl"])
        == 0
    )
    rows = rows_of(tmp_path / "out" / "candidates")
    assert [row["response"] for row in rows] == [contents[0], "The Nile", contents[1], "null"]
    assert [row["messages"][0]["content"] for row in rows[::2]] == ["Which?", 'And "this"?']
