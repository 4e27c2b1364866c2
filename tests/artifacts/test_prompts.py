"""Prompts are keyed, checked whole, and the user's columns stay beside them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.prompts import Prompts, load_prompts
from prefpipe.artifacts.storage.location import Url
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.errors import InputError, UsageError

USER = [{"role": "user", "content": "q"}]


def json_lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Prompts:
    return load_prompts(json_lines(tmp_path / "p.jsonl", *rows), **options)


def test_a_text_is_one_user_turn_and_its_id_is_its_content(tmp_path: Path) -> None:
    [prompt] = load(tmp_path, {"prompt": "q"}).rows
    assert prompt.messages == USER
    assert prompt.prompt_id == prompt_id_of(USER)


def test_conversations_keep_their_turns_and_ids_are_the_users(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "b"},
    ]
    prompts = load(
        tmp_path,
        {"messages": turns, "prompt_id": "x"},
        {"messages": json.dumps(turns), "prompt_id": 7},
    )
    assert prompts.rows == [("x", turns), ("7", turns)]
    with pytest.raises(
        InputError,
        match=r"line 1: `messages`: it needs text in `prompt` or a list of turns in `messages`",
    ):
        load(tmp_path, {"messages": "just a text"})


def test_a_column_of_texts_with_one_stray_value_stays_a_column_of_texts(tmp_path: Path) -> None:
    """One number among the prompts, or turns in one row, must not put quotation marks around all others."""
    with pytest.raises(
        InputError, match="line 2: `prompt`: it needs text in `prompt` or a list of turns"
    ) as caught:
        load(tmp_path, {"prompt": "q"}, {"prompt": 5})
    assert "1 prompt that cannot be used" in caught.value.message
    prompts = load(tmp_path, {"prompt": "q", "prompt_id": 1}, {"prompt": USER, "prompt_id": "x"})
    assert prompts.rows == [("1", USER), ("x", USER)]


def test_turns_in_parquet_are_read_as_lists_of_structs(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"messages": [USER, USER], "prompt_id": [1, 2]}), tmp_path / "p.parquet"
    )
    assert load_prompts(str(tmp_path / "p.parquet")).rows == [("1", USER), ("2", USER)]


def test_csv_holds_turns_as_json(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('messages,n\n"[{""role"": ""user"", ""content"": ""q""}]",3\n')
    prompts = load_prompts(str(tmp_path / "p.csv"))
    assert prompts.rows[0].messages == USER
    assert prompts.columns.to_pylist() == [{"n": 3}]


def test_parts_cover_the_prompts_in_order_with_their_columns(tmp_path: Path) -> None:
    prompts = load(tmp_path, *({"prompt": f"q{i}", "n": i} for i in range(7)))
    assert (len(prompts), prompts.n_parts(3), prompts.n_parts(7), prompts.n_parts(100)) == (
        7,
        3,
        1,
        1,
    )
    pieces = [prompts.part(index, 3) for index in range(3)]
    assert [prompt for piece in pieces for prompt in piece.rows] == prompts.rows
    assert [row["n"] for piece in pieces for row in piece.columns.to_pylist()] == list(range(7))


def test_a_part_size_beyond_64_bits_is_one_part(tmp_path: Path) -> None:
    prompts = load(tmp_path, {"prompt": "a", "n": 1}, {"prompt": "b", "n": 2})
    assert prompts.n_parts(10**20) == 1
    assert prompts.part(0, 10**20).columns.equals(prompts.columns)


def test_columns_can_be_chosen_and_reserved_names_are_refused(tmp_path: Path) -> None:
    row = {"prompt": "q", "a": 1, "b": {"c": 2}, "seed": 3}
    with pytest.raises(
        InputError, match="has a column `seed`, a name reserved for prefpipe's own column"
    ) as caught:
        load(tmp_path, row, reserved=["seed"])
    assert caught.value.hint == "rename it, or leave it out with --columns a,b"
    assert load(tmp_path, row, keep_columns=["b"], reserved=["seed"]).columns.to_pylist() == [
        {"b": '{"c": 2}'}
    ]
    assert load(tmp_path, row, keep_columns=[], reserved=["seed"]).columns.num_columns == 0
    with pytest.raises(
        UsageError, match=r"--columns names `z`, which .* does not have; it has: a, b, seed"
    ):
        load(tmp_path, row, keep_columns=["z"])
    with pytest.raises(InputError) as alone:
        load(tmp_path, {"prompt": "q", "seed": 3}, reserved=["seed"])
    assert alone.value.hint == "rename it, or leave it out with --columns none"


def test_duplicates_are_refused_with_both_places_or_dropped_on_request(tmp_path: Path) -> None:
    rows = [{"prompt": text, "n": i} for i, text in enumerate(["a", "b", "a", "a"])]
    with pytest.raises(
        InputError, match=r"has 2 duplicate prompt ids: [0-9a-f]{16} stands at line 1 and line 3"
    ):
        load(tmp_path, *rows)
    prompts = load(tmp_path, *rows, drop_duplicates=True)
    assert [prompt.messages[0]["content"] for prompt in prompts.rows] == ["a", "b"]
    assert prompts.columns.to_pylist() == [{"n": 0}, {"n": 1}]


def test_a_number_and_a_text_that_read_the_same_are_the_same_id(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 duplicate prompt ids: 1 stands at line 1 and line 2"):
        load(tmp_path, {"prompt": "a", "prompt_id": 1}, {"prompt": "b", "prompt_id": "1"})


def test_a_system_prompt_comes_first_and_is_no_part_of_the_id(tmp_path: Path) -> None:
    [prompt] = load(tmp_path, {"prompt": "q"}, system_prompt="s").rows
    assert prompt.messages == [{"role": "system", "content": "s"}, *USER]
    assert prompt.prompt_id == prompt_id_of(USER)
    own = {"messages": [{"role": "system", "content": "mine"}, *USER], "prompt_id": "x"}
    with pytest.raises(
        InputError, match="prompt x has its own system turn, and --system-prompt was given"
    ):
        load(tmp_path, own, system_prompt="s")


ROWS = [{"prompt": "a", "n": 1, "tags": ["x"]}, {"prompt": "b", "n": 2, "tags": []}]
CHANGES = {
    "a text": [{**ROWS[0], "prompt": "A"}, ROWS[1]],
    "an id": [
        {**ROWS[0], "prompt_id": "x"},
        {**ROWS[1], "prompt_id": prompt_id_of([{"role": "user", "content": "b"}])},
    ],
    "a user column": [{**ROWS[0], "n": 3}, ROWS[1]],
    "a nested value": [{**ROWS[0], "tags": ["y"]}, ROWS[1]],
    "a column's name": [
        {"prompt": row["prompt"], "m": row["n"], "tags": row["tags"]} for row in ROWS
    ],
    "a column's type": [{**row, "n": float(row["n"])} for row in ROWS],  # type: ignore[arg-type]
    "the order": ROWS[::-1],
    "one more": [*ROWS, {"prompt": "c", "n": 3, "tags": []}],
    "one less": ROWS[:1],
}


@pytest.mark.parametrize("rows", CHANGES.values(), ids=CHANGES)
def test_the_hash_of_the_prompts_changes_with(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert load(tmp_path, *rows).sha256() != load(tmp_path, *ROWS).sha256()


def test_the_hash_of_the_prompts_does_not_change_with_their_file(tmp_path: Path) -> None:
    """The same rows elsewhere, with other spacing or as a JSON list, are the same prompts."""
    (tmp_path / "p.json").write_text(json.dumps(ROWS, indent=4))
    assert load_prompts(str(tmp_path / "p.json")).sha256() == load(tmp_path, *ROWS).sha256()


def test_the_hash_holds_for_columns_that_python_has_no_type_for(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["q"],
            "t": pa.array([1], pa.timestamp("ns")),
            "s": pa.array([{"t": 2}], pa.struct([("t", pa.time64("ns"))])),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    first = load_prompts(str(tmp_path / "p.parquet"))
    assert first.sha256() == load_prompts(str(tmp_path / "p.parquet")).sha256()
    pq.write_table(
        table.set_column(1, "t", pa.array([2], pa.timestamp("ns"))), tmp_path / "p.parquet"
    )
    assert load_prompts(str(tmp_path / "p.parquet")).sha256() != first.sha256()


def test_all_problems_are_counted_and_the_first_eight_named(tmp_path: Path) -> None:
    rows = [{"prompt": "" if i % 2 else f"q{i}"} for i in range(30)]
    with pytest.raises(InputError) as caught:
        load(tmp_path, *rows)
    lines = caught.value.message.splitlines()
    assert lines[0].endswith("has 15 prompts that cannot be used:")
    assert lines[1:9] == [f"  line {2 * i}: `prompt`: the prompt is empty" for i in range(1, 9)]
    assert lines[9:] == ["  and 7 more"]


def test_where_a_source_is() -> None:
    assert place_of("hf:org/name") is None
    assert place_of("a/b.jsonl") == Path("a/b.jsonl")
    assert place_of("s3://b/p.jsonl") == Url("s3", "b/p.jsonl")
