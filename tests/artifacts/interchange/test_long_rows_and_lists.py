"""The long form, and the formats with a list of responses a row, from small files written by hand."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.interchange_files import SKY, held, lines, read, user

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.errors import InputError, UsageError

LONG = [
    {
        "prompt_id": 7,
        "prompt": "What colour is the sky?",
        "response": "Blue.",
        "model": "a",
        "score": 0.5,
        "topic": "sky",
    },
    {
        "prompt_id": 8,
        "prompt": "And the sea?",
        "response": "Green.",
        "model": "a",
        "score": None,
        "topic": "sea",
    },
    {
        "prompt_id": 7,
        "prompt": "What colour is the sky?",
        "response": "Grey.",
        "model": "b",
        "score": -1,
        "topic": "sky",
    },
]


def test_rows_of_one_prompt_need_not_be_adjacent_and_keep_their_order(tmp_path: Path) -> None:
    pool = read(lines(tmp_path / "a.jsonl", *LONG), "rows", rewards={"judge": "score"})
    assert held(pool) == {
        ("7", 0): ("Blue.", "a", {"judge": 0.5}),
        ("7", 1): ("Grey.", "b", {"judge": -1.0}),
        ("8", 0): ("Green.", "a", {"judge": None}),
    }
    assert [prompt.prompt_id for prompt in pool.prompts.rows] == ["7", "8"]
    assert pool.prompts.rows[0].messages == SKY
    assert pool.scorers == ("judge",)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        lines(path, *LONG)
    elif suffix == "json":
        path.write_text(json.dumps(LONG))
    else:
        pl.DataFrame(LONG).write_csv(path) if suffix == "csv" else pl.DataFrame(LONG).write_parquet(
            path
        )
    expected = held(
        read(lines(tmp_path / "expected.jsonl", *LONG), "rows", rewards={"score": "score"})
    )
    assert held(read(str(path), "rows", rewards={"score": "score"})) == expected


def test_a_text_that_looks_like_a_number_stays_a_text_in_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt_id,prompt,response,model\n007,1+1?,2,3\n")
    assert held(read(str(tmp_path / "a.csv"), "rows")) == {("007", 0): ("2", "3", {})}


def test_long_rows_take_columns_that_are_named(tmp_path: Path) -> None:
    row = {
        "doc": "d1",
        "source": "What colour is the sky?",
        "out": "Blue.",
        "system": "M1",
        "human": 3,
    }
    source = lines(tmp_path / "a.jsonl", row)
    pool = read(
        source,
        "rows",
        prompt_id="doc",
        prompt="source",
        response="out",
        model="system",
        rewards={"r": "human"},
    )
    assert held(pool) == {("d1", 0): ("Blue.", "M1", {"r": 3.0})}
    assert pool.prompts.rows[0].messages == SKY


def test_an_id_alone_can_stand_for_the_prompt_and_it_is_said(tmp_path: Path) -> None:
    pool = read(
        lines(tmp_path / "a.jsonl", {"id": "s1", "response": "x"}),
        "rows",
        prompt_id="id",
        prompt="id",
    )
    assert pool.prompts.rows[0] == ("s1", user("s1"))
    assert "do not train a policy on them" in pool.notes[0]


def test_without_an_id_the_key_is_the_hash_of_the_prompt_whether_text_or_turns(
    tmp_path: Path,
) -> None:
    text = read(
        lines(tmp_path / "a.jsonl", {"prompt": SKY[0]["content"], "response": "Blue."}), "rows"
    )
    turns = read(lines(tmp_path / "b.jsonl", {"messages": SKY, "response": "Blue."}), "rows")
    as_json = read(
        lines(tmp_path / "c.jsonl", {"messages": json.dumps(SKY), "response": "Blue."}), "rows"
    )
    assert (
        held(text) == held(turns) == held(as_json) == {(prompt_id_of(SKY), 0): ("Blue.", None, {})}
    )


def test_given_sample_indices_are_keys_and_sort_the_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": f"r{i}", "sample_idx": i} for i in (5, 2)]
    assert [key[1] for key in held(read(lines(tmp_path / "a.jsonl", *rows), "rows"))] == [2, 5]


def test_a_row_that_says_it_failed_has_no_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "response": None, "finish_reason": "error"},
        {"prompt": "q", "response": "x", "finish_reason": "length"},
    ]
    [members] = read(lines(tmp_path / "a.jsonl", *rows), "rows").responses
    assert [(item.text, item.finish_reason) for item in members] == [
        (None, "error"),
        ("x", "length"),
    ]
    assert members[0].failure == "the file says that it failed (finish_reason error)"


def test_columns_of_the_prompt_pass_through_and_others_are_named(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", *LONG)
    pool = read(source, "rows", rewards={"score": "score"})
    assert pool.prompts.columns.to_pydict() == {"topic": ["sky", "sea"]}
    assert pool.notes == []
    pool = read(source, "rows")  # the scores are no scores now, and differ within a prompt
    assert pool.prompts.columns.column_names == ["topic"]
    assert pool.notes == [
        "left out, because they differ within a prompt: columns score",
        (
            "no scores are read, but some columns could be scores; to read them, pass "
            "--reward-column score"
        ),
    ]
    assert read(source, "rows", columns=[]).prompts.columns.column_names == []
    with pytest.raises(
        InputError,
        match=r"line 3: `score` differs from an earlier row of the same prompt",
    ):
        read(source, "rows", columns=["score"])
    with pytest.raises(UsageError, match="--columns names `nope`"):
        read(source, "rows", columns=["nope"])
    with pytest.raises(UsageError, match="--columns names `model`, which is already a column"):
        read(source, "rows", columns=["model"])


def test_a_column_of_nan_is_the_same_for_all_rows(tmp_path: Path) -> None:
    nan = float("nan")
    table = pa.table(
        {"prompt": ["q", "q"], "response": ["a", "b"], "x": [nan, nan], "seed": [1, 1]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet"), "rows").prompts.columns.column_names == [
        "x"
    ]  # seed is the candidates' own


def test_simpo_lists_become_responses_with_scores(tmp_path: Path) -> None:
    rows = [
        {
            "prompt_id": "p",
            "prompt": "What colour is the sky?",
            "all_generated_responses": ["Blue.", "Red."],
            "all_rm_scores": [0.2, -3],
            "chosen": [],
            "rejected": [],
        },
        {
            "prompt_id": "q",
            "prompt": [{"role": "system", "content": "Be brief."}, *SKY],
            "all_generated_responses": ["Blue."],
            "all_rm_scores": [None],
        },
    ]
    pool = read(lines(tmp_path / "a.jsonl", *rows), "simpo")
    assert held(pool) == {
        ("p", 0): ("Blue.", None, {"rm_score": 0.2}),
        ("p", 1): ("Red.", None, {"rm_score": -3.0}),
        ("q", 0): ("Blue.", None, {"rm_score": None}),
    }
    assert pool.prompts.rows[1].messages[0]["role"] == "system"
    assert pool.prompts.columns.column_names == []


def test_simpo_from_parquet_and_before_it_was_scored(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["q"], "all_generated_responses": [["a", "b"]], "source": ["s"]})
    pq.write_table(table, tmp_path / "a.parquet")
    pool = read(str(tmp_path / "a.parquet"), "simpo", columns=["source"])
    assert [text for text, _, _ in held(pool).values()] == ["a", "b"]
    assert pool.scorers == ()
    assert pool.prompts.columns.to_pydict() == {"source": ["s"]}


def test_ultrafeedback_completions_have_two_scores(tmp_path: Path) -> None:
    completions = [
        {
            "model": "gpt-4",
            "response": "Blue.",
            "overall_score": 9.0,
            "fine-grained_score": 4.75,
            "critique": "...",
            "annotations": {"h": 1},
            "custom_system_prompt": "Be honest.",
        },
        {
            "model": "bard",
            "response": "Red.",
            "overall_score": 1,
            "fine-grained_score": None,
            "annotations": {"h": 2},
        },
    ]
    pool = read(
        lines(
            tmp_path / "a.jsonl",
            {"instruction": "What colour is the sky?", "models": [], "completions": completions},
        ),
        "ultrafeedback",
    )
    key = prompt_id_of(SKY)
    assert held(pool) == {
        (key, 0): ("Blue.", "gpt-4", {"overall_score": 9.0, "fine_grained_score": 4.75}),
        (key, 1): ("Red.", "bard", {"overall_score": 1.0, "fine_grained_score": None}),
    }
    assert pool.prompts.rows[0].messages == SKY


def test_ultrafeedback_without_the_fine_grained_score(tmp_path: Path) -> None:
    row = {"instruction": "q", "completions": [{"model": "m", "response": "a", "overall_score": 1}]}
    assert read(lines(tmp_path / "a.jsonl", row), "ultrafeedback").scorers == ("overall_score",)


@pytest.mark.parametrize("models", [None, "generation_models", "model_names"])
def test_ultrafeedback_as_distilabel_writes_it(tmp_path: Path, models: str | None) -> None:
    row: dict[str, Any] = {
        "input": "What colour is the sky?",
        "generations": ["Blue.", "Red."],
        "ratings": [5, 1],
        "rationales": ["", ""],
    }
    if models is not None:
        row[models] = ["x", "y"]
    key = prompt_id_of(SKY)
    names = ("x", "y") if models else (None, None)
    assert held(read(lines(tmp_path / "a.jsonl", row), "ultrafeedback")) == {
        (key, 0): ("Blue.", names[0], {"rating": 5.0}),
        (key, 1): ("Red.", names[1], {"rating": 1.0}),
    }


def test_online_rlhf_wrapped_in_one_object_or_a_row_a_line_under_the_name_json(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt": SKY, "responses": ["Blue.", "Red."], "rewards": [1.5, -0.5]},
        {"prompt": user("q"), "responses": ["x"], "rewards": [0]},
    ]
    (tmp_path / "wrapped.json").write_text(json.dumps({"type": "text_only", "instances": rows}))
    lines(tmp_path / "lines.json", *rows)
    found = [
        held(read(str(tmp_path / name), "online-rlhf")) for name in ("wrapped.json", "lines.json")
    ]
    expected = {
        (prompt_id_of(SKY), 0): ("Blue.", None, {"reward": 1.5}),
        (prompt_id_of(SKY), 1): ("Red.", None, {"reward": -0.5}),
        (prompt_id_of(user("q")), 0): ("x", None, {"reward": 0.0}),
    }
    assert found == [expected, expected]


def test_online_rlhf_reads_a_templated_prompt_back_or_names_its_row(tmp_path: Path) -> None:
    templated = "<|im_start|>user\nWhat colour is the sky?<|im_end|>\n<|im_start|>assistant\n"
    good = read(
        lines(tmp_path / "a.jsonl", {"prompt": templated, "responses": ["Blue."], "rewards": [1]}),
        "online-rlhf",
    )
    assert good.prompts.rows[0].messages == SKY
    rows = [
        {"prompt": text, "responses": ["x"], "rewards": [1]}
        for text in ("fine", "<s>[INST] What? [/INST]", "see <|im_start|> here")
    ]
    with pytest.raises(InputError) as caught:
        read(lines(tmp_path / "b.jsonl", *rows), "online-rlhf")
    assert "b.jsonl has 2 problems" in caught.value.message
    assert "line 2: `prompt`: it went through a chat template ([INST])" in caught.value.message
    assert (
        "line 3: `prompt`: it went through a chat template (<|im_start|>)" in caught.value.message
    )
    assert caught.value.hint is not None
    assert "put the turns into the file" in caught.value.hint
    assert "--prompts-are-text" in caught.value.hint


def test_exported_group_lines_come_back(tmp_path: Path) -> None:
    row = {
        "prompt_id": "p",
        "messages": SKY,
        "strategy": "all",
        "pairs": [{"chosen": 3, "rejected": 1, "margin": 1.0}],
        "responses": [
            {
                "sample_idx": 3,
                "role": "positive",
                "response": "Blue.",
                "reward": 2,
                "model": "m",
                "finish_reason": "length",
            },
            {"sample_idx": 1, "role": "negative", "response": "Red.", "reward": 1.0, "model": "n"},
        ],
    }
    pool = read(lines(tmp_path / "a.jsonl", row), "jsonl")
    assert held(pool) == {
        ("p", 1): ("Red.", "n", {"reward": 1.0}),
        ("p", 3): ("Blue.", "m", {"reward": 2.0}),
    }
    assert pool.responses[0][1].finish_reason == "length"


def test_a_prompt_that_stands_in_two_rows_has_the_responses_of_both(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "all_generated_responses": [text], "all_rm_scores": [1]}
        for text in ("a", "b")
    ]
    assert [key[1] for key in held(read(lines(tmp_path / "a.jsonl", *rows), "simpo"))] == [0, 1]
