"""Preferences from files: AlpacaEval's scale is turned, keys join, and what does not fit is refused with its row."""

import json
from math import isnan
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.alpaca_files import annotation, annotations, difficulty_table, gamed_table
from support.interchange_files import lines

from prefpipe.artifacts.interchange.annotations import read_annotations
from prefpipe.artifacts.interchange.prompt_values import (
    read_baseline_lengths,
    read_difficulty,
    read_regularising_rows,
)
from prefpipe.errors import InputError


def alpaca(path: Path, *rows: dict) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def test_alpaca_eval_annotations_are_turned_to_0_to_1(tmp_path: Path) -> None:
    """2 is the model's win, 1 the baseline's, 1.5 and the 0 of old files a draw; null is no verdict."""
    rows = [annotation(i, value) for i, value in enumerate([2, 1, 1.5, 0, 1.25, None])]
    found = read_annotations(alpaca(tmp_path / "annotations.json", *rows))
    assert found.kind == "alpaca-eval"
    assert found.preferences[:5] == [1.0, 0.0, 0.5, 0.5, 0.25]
    assert isnan(found.preferences[5])
    assert found.n_missing == 1
    assert len(found.known().preferences) == 5
    assert (found.policy, found.baseline) == ("model", "gpt4_1106_preview")
    assert found.judges == ("weighted_alpaca_eval_gpt4_turbo",)
    assert found.lengths == [len(row["output_2"]) for row in rows]
    assert found.baseline_lengths == [len(row["output_1"]) for row in rows]
    assert found.texts == [row["instruction"] for row in rows]


def test_lengths_are_characters_and_not_bytes(tmp_path: Path) -> None:
    source = alpaca(tmp_path / "a.json", annotation(0, 2, output_2="héé🙂", output_1="abc"))
    found = read_annotations(source)
    assert (found.lengths, found.baseline_lengths) == ([4.0], [3.0])


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "`preference` is 0.5, and this file's are 1 to 2"), (2.5, "2.5"), ("A", "not a number")],
)
def test_alpaca_eval_preferences_outside_their_scale_are_refused(
    tmp_path: Path, value, message
) -> None:
    source = alpaca(tmp_path / "a.json", annotation(0, 1.5), annotation(1, value))
    with pytest.raises(InputError, match=message) as caught:
        read_annotations(source)
    assert "row 2" in caught.value.message


def test_a_preference_that_a_csv_file_holds_as_text_is_refused_by_its_number(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text("prompt_id,preference\na,5\nb,x\n")
    with pytest.raises(InputError) as caught:
        read_annotations(str(tmp_path / "a.csv"))
    assert "line 2: `preference` is 5, and this file's are 0 to 1" in caught.value.message
    assert "line 3: `preference` is 'x', which is not a number" in caught.value.message


def test_rows_of_ones_own_are_0_to_1_unless_it_is_said(tmp_path: Path) -> None:
    """A file of 1 to 2 that is no AlpacaEval file is never guessed at: 2 is refused."""
    rows = [{"prompt_id": "a", "preference": 1}, {"prompt_id": "b", "preference": 2}]
    source = lines(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(InputError, match="line 2: `preference` is 2, and this file's are 0 to 1"):
        read_annotations(source)
    assert read_annotations(source, scale="1-2").preferences == [0.0, 1.0]


def test_parquet_annotations_have_lengths_and_difficulty(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt_id": [3, 4],
            "preference": [0.25, 1.0],
            "length_chars": [10, 20],
            "baseline_length_chars": [30.0, 5.0],
            "difficulty": [0.1, -0.2],
            "judge": ["me", "you"],
            "model": ["m", "m"],
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    found = read_annotations(str(tmp_path / "p.parquet"))
    assert (found.ids, found.texts) == (["3", "4"], None)
    assert (found.lengths, found.baseline_lengths, found.difficulty) == (
        [10.0, 20.0],
        [30.0, 5.0],
        [0.1, -0.2],
    )
    assert (found.judges, found.policy) == (("me", "you"), "m")


def test_verdicts_of_two_sides_are_of_the_first_over_the_second(tmp_path: Path) -> None:
    """`prefpipe judge A B` writes the preference for A, and both lengths."""
    row = {
        "prompt_id": "p",
        "preference": 0.75,
        "a_length_chars": 12,
        "b_length_chars": 30,
        "disagree": False,
    }
    found = read_annotations(lines(tmp_path / "v.jsonl", row))
    assert (found.preferences, found.lengths, found.baseline_lengths) == ([0.75], [12.0], [30.0])


def test_a_row_without_a_verdict_needs_no_response(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "preference": None, "response": None, "baseline_response": "x"},
        {"prompt": "b", "preference": 0.5, "response": "yy", "baseline_response": "x"},
    ]
    found = read_annotations(lines(tmp_path / "r.jsonl", *rows)).known()
    assert found.lengths == [2.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt_id": "a", "score": 1}], "no column `preference`"),
        ([{"preference": 0.5}], "has no column that names the prompt of a row"),
        ([{"prompt_id": None, "preference": 0.5}, {"prompt_id": "b", "preference": 0.5}], "line 1: `prompt_id` is empty"),
        ([{"prompt": "a", "preference": 0.5, "response": None, "baseline_response": "x"}], "line 1: `response` is None"),
        ([{"prompt": "a", "preference": 0.5, "length_chars": None, "x": 1}, {"prompt": "b", "preference": 0.5, "length_chars": 3}],
         "line 1: `length_chars` is None"),
        ([{"prompt": "a", "preference": 0.5, "model": "m"}, {"prompt": "a", "preference": 0.5, "model": "n"}],
         "has 2 models in one column: m, n"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_refused(tmp_path: Path, rows, message) -> None:
    with pytest.raises(InputError, match=message):
        read_annotations(lines(tmp_path / "r.jsonl", *rows))


def test_a_folder_of_no_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder that a prefpipe stage wrote"):
        read_annotations(str(tmp_path))


def test_difficulty_is_matched_by_text_in_any_order(tmp_path: Path) -> None:
    read = read_annotations(alpaca(tmp_path / "a.json", *(annotation(i, 1.5) for i in (2, 0, 1))))
    table = lines(
        tmp_path / "d.jsonl",
        *(
            {"instruction": f"Explain item {i}.", "instruction_difficulty": i / 10}
            for i in range(5)
        ),
    )
    found = read_difficulty(table, read)
    assert found.values == [0.2, 0.0, 0.1]
    assert (found.by, found.n_unused) == ("`instruction`", 2)


def test_difficulty_by_row_number_is_taken_of_complete_annotations_alone(tmp_path: Path) -> None:
    """AlpacaEval's table has no key. A model with rows missing would get its neighbours' difficulties, silently."""
    table = str(difficulty_table(tmp_path / "d.csv", 40))
    complete = read_annotations(str(annotations(tmp_path / "all.json", 40)))
    found = read_difficulty(table, complete)
    assert (
        found.by
        == "row number (both files have all rows; correct only if they are in the same order)"
    )
    assert found.values[1] == pytest.approx(-0.2)
    fewer = read_annotations(str(annotations(tmp_path / "fewer.json", 39)))
    with pytest.raises(
        InputError, match=r"names prompts only by row number, and has 40 rows where .* has 39"
    ):
        read_difficulty(table, fewer)


def test_a_prompt_without_difficulty_or_with_two_is_refused(tmp_path: Path) -> None:
    read = read_annotations(alpaca(tmp_path / "a.json", annotation(0, 1.5), annotation(1, 1.5)))
    one = lines(tmp_path / "one.jsonl", {"instruction": "Explain item 0.", "difficulty": 0.5})
    with pytest.raises(
        InputError, match=r"no difficulty for 1 of 2 prompts, the first is 'Explain item 1.'"
    ):
        read_difficulty(one, read)
    rows = [
        {"instruction": f"Explain item {i}.", "difficulty": value}
        for i, value in ((0, 0.5), (1, 0.5), (0, 0.6))
    ]
    with pytest.raises(
        InputError,
        match=r"line 3: prompt 'Explain item 0.' has a different difficulty than in an earlier row",
    ):
        read_difficulty(lines(tmp_path / "two.jsonl", *rows), read)
    with pytest.raises(InputError, match="holds no difficulties"):
        read_difficulty(lines(tmp_path / "none.jsonl", {"instruction": "x", "hard": 1}), read)
    with pytest.raises(InputError, match="shares no column"):
        read_difficulty(lines(tmp_path / "ids.jsonl", {"prompt_id": "x", "difficulty": 1}), read)


def test_baseline_outputs_are_matched_by_instruction(tmp_path: Path) -> None:
    """What AlpacaEval calls model_outputs.json; the last column of its rows is not read."""
    read = read_annotations(
        lines(
            tmp_path / "r.jsonl",
            {"prompt": "b", "preference": 0.5},
            {"prompt": "a", "preference": 0.5},
        )
    )
    outputs = alpaca(
        tmp_path / "model_outputs.json",
        {"instruction": "a", "output": "four", "generator": "m", "dataset": "d"},
        {"instruction": "b", "output": "", "generator": "m", "dataset": "d"},
    )
    assert read_baseline_lengths(outputs, read).values == [0.0, 4.0]


def test_regularising_rows_are_columns_of_numbers(tmp_path: Path) -> None:
    found = read_regularising_rows(str(gamed_table(tmp_path / "g.csv", 3)))
    assert found.preferences == pytest.approx([0.3, 0.31, 0.32])
    assert found.std_length_difference == [1.5, -1.5, 1.5]
    assert found.difficulty == pytest.approx([0.0, 0.1, 0.2])
    with pytest.raises(InputError, match="has no column `std_delta_len`"):
        read_regularising_rows(lines(tmp_path / "x.jsonl", {"preference": 0.5}))


def test_categories_of_any_type_are_known_by_their_text(tmp_path: Path) -> None:
    games = [{"score": "A>B"}, {"score": "B>A"}]
    source = tmp_path / "a.jsonl"
    rows = [{"uid": f"u{i}", "games": games, "category": [i]} for i in range(2)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"holds 2 categories.*\[0\] \(1\), \[1\] \(1\)"):
        read_annotations(str(source))
    assert set(read_annotations(str(source), category="[1]").keys) == {"u1"}
