"""Repeated keys are refused with key and place, at any depth and in every JSON file."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefpipe.artifacts.tables.bad_rows import BadRowsError
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.artifacts.tables.strict_json import parse_json
from prefpipe.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(JSON)
def test_what_is_no_fault_is_read_as_python_reads_it(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a": 1, "a": 1}', "a"),
        ('{"x": [{"y": {"k": 1, "b": 2, "k": 3}}]}', "k"),
        (r'{"é": 1, "\u00e9": 2}', r"\u00e9"),
        ('{"": 1, "": 2}', ""),
    ],
)
def test_a_key_twice_is_refused_at_any_depth(text: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"the key .* occurs twice in one object") as caught:
        parse_json(text)
    assert f'"{key}"' in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": {"b": 1, "b": 2}}\n', "line 3"),
        ("a.ndjson", '{"a": 1}\n{"a": 1, "a": 2}\n', "line 2"),
        ("a.json", '[{"a": 1},\n {"a": [{"b": 1, "b": 2}]}]', "row 2"),
        ("a.json", '{"a": 1}\n{"a": 2, "a": 3}\n', "line 2"),
    ],
)
def test_a_key_twice_is_refused_with_its_row(
    tmp_path: Path, name: str, content: str, place: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadRowsError) as caught:
        read_table(str(tmp_path / name))
    assert [row.place for row in caught.value.rows] == [place]


def test_rows_that_tools_wrap_are_read_and_their_repeated_keys_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"type": "text_only", "instances": [{"a": 1}, {"a": 2}]}')
    assert read_table(str(path)).columns.to_pylist() == [{"a": 1}, {"a": 2}]
    path.write_text('{"type": "text_only",\n "instances": [{"a": 1}, {"a": 2, "a": 3}]}')
    with pytest.raises(InputError, match='the key "a" occurs twice'):
        read_table(str(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_whole_numbers_of_any_size_are_exact_and_too_many_digits_are_said(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text(f'[{{"n": {10**30}}}]' if name == "a.json" else f'{{"n": {10**30}}}')
    assert read_table(str(path)).columns["n"].to_pylist() == [str(10**30)]
    path.write_text(f'[{{"n": {"1" * 5000}}}]' if name == "a.json" else f'{{"n": {"1" * 5000}}}')
    with pytest.raises(InputError, match="a whole number of more than 4,300 digits"):
        read_table(str(path))


def test_what_is_broken_behind_a_repeated_key_is_refused_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text('[{"prompt": "a", "prompt": "b"},\n {"prompt" "c"}]')
    with pytest.raises(InputError, match=r"a\.json, line 2: broken JSON"):
        read_table(str(source))
