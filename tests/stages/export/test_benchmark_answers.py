"""``import`` and ``export`` of AlpacaEval's model_outputs.json and of Arena-Hard's model_answer files."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.finished_run import command
from support.interchange_files import lines, user
from support.pipelines import rows_of

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.cli.main import run

MARKDOWN = "# Answer\n\n1. **One** thing\n2. Another\n\n- a __bold__ word\n\n```\n# no heading\n- no item\n```\n"


def outputs(path: Path, *rows: dict[str, Any]) -> str:
    """Write a file as alpaca_eval's leaderboard models have it: a JSON list over many lines."""
    path.write_text(json.dumps(list(rows), indent=4), encoding="utf-8")
    return str(path)


def output(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {
        "dataset": "helpful_base",
        "instruction": f"What is {number}?",
        "output": text,
        "generator": "claude-2",
        **more,
    }


def arena(
    uid: str, answer: Any, *, prompt: str = "Explain IPv6.", model: str = "o3-mini-2025-01-31"
) -> dict[str, Any]:
    """Return a line as Arena-Hard v2's gen_answer.py writes it."""
    return {
        "uid": uid,
        "ans_id": "dgYCTvj3bz42JVPxnkZNB2",
        "model": model,
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": {"answer": answer}},
        ],
        "tstamp": 1744155079.1383833885,
        "metadata": {
            "token_len": 179,
            "header_count": {"h1": 0, "h2": 0, "h3": 0, "h4": 0, "h5": 0, "h6": 0},
            "list_count": {"ordered": 0, "unordered": 0},
            "bold_count": {"**": 0, "__": 0},
        },
    }


def test_alpaca_outputs_become_candidates(tmp_path: Path) -> None:
    source = outputs(
        tmp_path / "model_outputs.json",
        output(1, "One."),
        output(2, ""),
        output(3, "Drei, \u2028 größer."),
    )
    command(
        [
            "import",
            source,
            "-o",
            f"{tmp_path}/run",
            "--format",
            "alpaca-eval",
            "--columns",
            "dataset",
        ]
    )
    rows = rows_of(tmp_path / "run" / "candidates")
    assert [(row["response"], row["model"], row["status"]) for row in rows] == [
        ("One.", "claude-2", "ok"),
        ("", "claude-2", "empty"),
        ("Drei, \u2028 größer.", "claude-2", "ok"),
    ]
    assert rows[0]["messages"] == user("What is 1?")
    assert rows[0]["prompt_id"] == prompt_id_of(user("What is 1?"))
    assert rows[0]["dataset"] == "helpful_base"
    assert not (tmp_path / "run" / "scores").exists()


def test_arena_answers_become_candidates(tmp_path: Path) -> None:
    """``uid`` is the prompt's id; where the tool got no answer the row says so."""
    source = lines(
        tmp_path / "o3-mini.jsonl",
        arena("0253f", "Use C."),
        arena("0275c", None, prompt="And this?"),
    )
    command(["import", source, "-o", f"{tmp_path}/run", "--format", "arena-hard"])
    rows = rows_of(tmp_path / "run" / "candidates")
    assert [(row["prompt_id"], row["response"], row["status"]) for row in rows] == [
        ("0253f", "Use C.", "ok"),
        ("0275c", None, "error"),
    ]
    assert rows[0]["messages"] == user("Explain IPv6.")
    assert rows[0]["model"] == "o3-mini-2025-01-31"


def question(number: int, **more: Any) -> dict[str, Any]:
    """Return a line of Arena-Hard v0.1's question.jsonl."""
    return {
        "question_id": f"q{number}",
        "category": "arena-hard-v0.1",
        "cluster": f"c{number}",
        "turns": [{"content": f"Why {number}?"}],
        **more,
    }


def old_answer(number: int, *texts: str | None) -> dict[str, Any]:
    """Return a line of its model_answer files."""
    choices = [
        {"index": i, "turns": [{"content": text, "token_len": 3}]} for i, text in enumerate(texts)
    ]
    return {
        "question_id": f"q{number}",
        "answer_id": "a",
        "model_id": "gpt-4-0314",
        "choices": choices,
        "tstamp": 1.5,
    }


def test_answers_of_the_first_version_are_joined_with_their_questions(
    tmp_path: Path, capsys
) -> None:
    """By question_id, whatever the order; what the tool did not get, and what the file lacks, are rows that say so."""
    source = lines(tmp_path / "a.jsonl", old_answer(2, "$ERROR$"), old_answer(1, "one", "another"))
    words = ["import", source, "-o", f"{tmp_path}/run", "--format", "arena-hard"]
    assert run(words) == 1
    told = capsys.readouterr().err
    assert "Arena-Hard v0.1 (`question_id`, `choices`), which does not hold the prompts" in told
    assert "question.jsonl with --requests" in told
    command(
        [
            *words,
            "--requests",
            lines(tmp_path / "q.jsonl", *map(question, range(1, 4))),
            "--columns",
            "cluster",
        ]
    )
    rows = rows_of(tmp_path / "run" / "candidates")
    assert [
        (row["prompt_id"], row["sample_idx"], row["response"], row["status"], row["cluster"])
        for row in rows
    ] == [
        ("q1", 0, "one", "ok", "c1"),
        ("q1", 1, "another", "ok", "c1"),
        ("q2", 0, None, "error", "c2"),
        ("q3", 0, None, "error", "c3"),
    ]
    assert (rows[0]["messages"], rows[0]["model"]) == (user("Why 1?"), "gpt-4-0314")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "questions", "message"),
    [
        (
            [old_answer(9, "x")],
            [question(1)],
            "line 1: `question_id` 'q9' does not match any question in",
        ),
        (
            [old_answer(1, "x"), old_answer(1, "y")],
            [question(1)],
            "line 2: question 'q1' is already answered in an earlier row",
        ),
        ([old_answer(1, "x")], [question(1), question(1)], "line 2: question 'q1' occurs twice"),
        ([old_answer(1)], [question(1)], "`choices` is an empty list"),
        ([old_answer(1, None)], [question(1)], "`choices[0].turns[0].content` is null"),
        (
            [old_answer(1, "x")],
            [question(1, turns=[{"content": "a"}, {"content": "b"}])],
            "one turn with `content` is expected",
        ),
        ([arena("q1", "x")], [question(1)], "no column `question_id`"),
        ([old_answer(1, "x")], [arena("q1", "x")], "no column `question_id`"),
    ],
)
def test_first_version_files_that_do_not_fit_are_refused(
    tmp_path: Path, capsys, answers, questions, message
) -> None:
    words = [
        "import",
        lines(tmp_path / "a.jsonl", *answers),
        "-o",
        f"{tmp_path}/run",
        "--format",
        "arena-hard",
    ]
    assert run([*words, "--requests", lines(tmp_path / "q.jsonl", *questions)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("alpaca-eval", {"instruction": "x", "output": None, "generator": "m"}, "`output` is null"),
        (
            "alpaca-eval",
            {"instruction": "x", "output": "y", "input": "z"},
            "`input` is 'z'; merge it",
        ),
        ("alpaca-eval", {"instruction": "x", "answer": "y"}, "no column `output`"),
        (
            "arena-hard",
            {"uid": "u", "model": "m", "messages": [{"role": "user", "content": "x"}]},
            "does not end with the assistant",
        ),
        (
            "arena-hard",
            {
                "uid": "u",
                "model": "m",
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": {"answer": 3}},
                ],
            },
            "which is not text",
        ),
        ("arena-hard", {"uid": None, "model": "m", "messages": []}, "`uid` is empty"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path: Path, capsys, kind, row, message) -> None:
    assert (
        run(["import", lines(tmp_path / "a.jsonl", row), "-o", f"{tmp_path}/run", "--format", kind])
        == 1
    )
    assert message in capsys.readouterr().err


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """Two samples of three prompts, as `generate` or `import` leaves them; one first sample failed."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": f"question {i}",
            "sample_idx": j,
            "response": MARKDOWN if (i, j) == (0, 0) else f"answer {i} {j}",
            "model": "org/policy",
            "dataset": "mine",
        }
        for i in range(3)
        for j in range(2)
    ]
    rows[4] |= {"response": None, "finish_reason": "error"}
    command(
        [
            "import",
            lines(tmp_path / "rows.jsonl", *rows),
            "-o",
            f"{tmp_path}/run",
            "--format",
            "rows",
            "--part-size",
            "2",
        ]
    )
    return tmp_path / "run" / "candidates"


def test_alpaca_eval_gets_one_response_a_prompt(tmp_path: Path, candidates: Path, capsys) -> None:
    out = tmp_path / "outputs" / "model_outputs.json"
    capsys.readouterr()
    command(
        ["export", str(candidates), "-o", str(out), "--format", "alpaca-eval", "--sample-idx", "1"]
    )
    assert json.loads(out.read_text()) == [
        {
            "instruction": f"question {i}",
            "output": f"answer {i} 1",
            "generator": "org/policy",
            "dataset": "mine",
        }
        for i in range(3)
    ]
    assert "3 prompts in" in capsys.readouterr().err
    command(
        [
            "export",
            str(candidates),
            "-o",
            str(out),
            "--format",
            "alpaca-eval",
            "--model-name",
            "mine",
            "--overwrite",
        ]
    )
    assert [row["generator"] for row in json.loads(out.read_text())] == ["mine", "mine"]
    assert "1 prompts left out: error" in capsys.readouterr().err


def test_arena_hard_gets_what_its_judge_and_its_style_control_read(
    tmp_path: Path, candidates: Path
) -> None:
    """The answer under messages[-1].content.answer, and counts of what is outside code, token_len first."""
    out = tmp_path / "my-policy.jsonl"
    command(["export", str(candidates), "-o", str(out), "--format", "arena-hard"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["uid"] for row in rows] == ["p0", "p1"]
    assert {row["model"] for row in rows} == {"my-policy"}
    assert rows[0]["messages"] == [
        *user("question 0"),
        {"role": "assistant", "content": {"answer": MARKDOWN}},
    ]
    metadata = rows[0]["metadata"]
    assert list(metadata) == ["token_len", "header_count", "list_count", "bold_count"]
    assert metadata["header_count"] == {"h1": 1, "h2": 0, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    assert metadata["list_count"] == {"ordered": 2, "unordered": 1}
    assert metadata["bold_count"] == {"**": 1, "__": 1}
    before = out.read_bytes()
    command(["export", str(candidates), "-o", str(out), "--format", "arena-hard", "--overwrite"])
    assert out.read_bytes() == before


def test_arena_hard_gets_the_uid_of_its_questions(tmp_path: Path) -> None:
    """Its question.jsonl as prompts: uid passes through generate as a column of the user's; tokens are counted."""
    questions = lines(
        tmp_path / "question.jsonl",
        *({"uid": f"u{i}", "category": "hard_prompt", "prompt": f"q {i}"} for i in range(3)),
    )
    sample = [
        "generate",
        questions,
        "-o",
        f"{tmp_path}/c",
        "--backend",
        "fake",
        "--model",
        "fake",
        "--max-tokens",
        "60",
    ]
    command([*sample, "--n", "1"])
    command(["export", f"{tmp_path}/c", "-o", f"{tmp_path}/fake.jsonl", "--format", "arena-hard"])
    rows = [json.loads(line) for line in (tmp_path / "fake.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in rows] == ["u0", "u1", "u2"]
    assert all(row["metadata"]["token_len"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alpaca-eval", "arena-hard"])
def test_what_is_exported_is_imported_as_it_was(
    tmp_path: Path, candidates: Path, kind: str
) -> None:
    out = tmp_path / ("org.json" if kind == "alpaca-eval" else "policy.jsonl")
    command(["export", str(candidates), "-o", str(out), "--format", kind, "--sample-idx", "1"])
    command(["import", str(out), "-o", f"{tmp_path}/back", "--format", kind])
    back = rows_of(tmp_path / "back" / "candidates")
    first = [row for row in rows_of(candidates) if row["sample_idx"] == 1]
    assert [(row["messages"], row["response"]) for row in back] == [
        (row["messages"], row["response"]) for row in first
    ]


def test_several_turns_and_several_models_are_told(tmp_path: Path, capsys) -> None:
    turns = [
        *user("Hi."),
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And now?"},
    ]
    rows = [
        {"prompt_id": "a", "messages": turns, "response": "x", "model": "m"},
        {"prompt_id": "b", "messages": user("q"), "response": "y", "model": "n"},
        {"prompt_id": "c", "messages": user("r"), "response": "z", "model": "m"},
    ]
    command(
        ["import", lines(tmp_path / "r.jsonl", *rows), "-o", f"{tmp_path}/run", "--format", "rows"]
    )
    words = [
        "export",
        f"{tmp_path}/run/candidates",
        "--format",
        "alpaca-eval",
        "-o",
        f"{tmp_path}/o.json",
    ]
    command(words)
    assert "1 prompts left out: several_turns" in capsys.readouterr().err
    assert run([*words, "--overwrite", "--model-name", "one"]) == 1
    assert "sample 0 comes from 2 models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "x.jsonl", "--format", "alpaca-eval"], "ends in .json"),
        (
            ["-o", "x.jsonl", "--format", "trl", "--sample-idx", "1"],
            "--sample-idx goes with --format alpaca-eval and arena-hard",
        ),
        (
            ["-o", "x.jsonl", "--format", "arena-hard", "--model-name", "m"],
            "--model-name goes with --format alpaca-eval",
        ),
        (
            ["-o", "x.json", "--format", "alpaca-eval", "--sample-idx", "7"],
            "holds nothing to export: 3 no_such_sample",
        ),
        (["-o", "x.jsonl", "--format", "trl"], "groups"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, candidates: Path, monkeypatch, capsys, words, message
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(candidates), *words]) != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.slow
def test_real_instructions_pass_through(tmp_path: Path, data_dir: Path) -> None:
    """The 805 instructions and baseline responses of AlpacaEval, of which none is taken for a templated prompt."""
    baseline = pl.read_parquet(data_dir / "alpaca_baseline.parquet").sort("prompt_id")
    rows = [
        {"dataset": dataset, "instruction": prompt, "output": response, "generator": model}
        for prompt, dataset, model, response in baseline.select(
            "prompt", "dataset", "model", "response"
        ).iter_rows()
    ]
    command(
        [
            "import",
            outputs(tmp_path / "o.json", *rows),
            "-o",
            f"{tmp_path}/run",
            "--format",
            "alpaca-eval",
            "--columns",
            "dataset",
        ]
    )
    command(
        [
            "export",
            f"{tmp_path}/run/candidates",
            "-o",
            f"{tmp_path}/back.json",
            "--format",
            "alpaca-eval",
        ]
    )
    assert json.loads((tmp_path / "back.json").read_text()) == [
        {key: row[key] for key in ("instruction", "output", "generator", "dataset")} for row in rows
    ]
