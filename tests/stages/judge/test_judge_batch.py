"""judge through OpenAI batch files: emit, answer in any order, ingest, emit what is left."""

import json
from pathlib import Path

import pytest
from support.judge_server import longer_wins, running_judge
from support.judged_sides import judge_command, two_sides, verdicts_of, write_side
from support.pipelines import rows_of

from prefpipe.artifacts.interchange import judge_batch
from prefpipe.backends.chat_client import NEUTRAL
from prefpipe.cli.main import run

NOWHERE = "http://127.0.0.1:9/v1"


def answer(line: dict, text: str | None = None) -> dict:
    """What a batch's output file holds for a request."""
    text = longer_wins(line["body"]["messages"][0]["content"]) if text is None else text
    body = {
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
    return {
        "id": "x",
        "custom_id": line["custom_id"],
        "response": {"status_code": 200, "request_id": "r", "body": body},
        "error": None,
    }


def failure(line: dict) -> dict:
    return {
        "id": "x",
        "custom_id": line["custom_id"],
        "response": None,
        "error": {"code": "expired", "message": "out of time"},
    }


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def batch(tmp_path):
    """The command without a server, and a function that emits and returns the lines."""
    a, b = two_sides(tmp_path)
    command = judge_command(a, b, tmp_path / "out", NOWHERE)

    def emit() -> list[dict]:
        assert run([*command, "--emit-batch", str(tmp_path / "batch.jsonl")]) == 0
        return lines_of(tmp_path / "batch.jsonl")

    return command, emit, tmp_path


@pytest.mark.slow
def test_requests_are_the_ones_that_a_server_would_get(batch):
    command, emit, folder = batch
    lines = emit()
    with running_judge() as server:
        live = judge_command(Path(command[1]), Path(command[2]), folder / "live", server.url)
        assert run(live) == 0
    assert len(lines) == 8
    assert {line["custom_id"] for line in lines} == {
        row[f"{order}_request"]
        for row in rows_of(folder / "live")
        for order in ("a_first", "b_first")
    }
    assert all((line["method"], line["url"]) == ("POST", "/v1/chat/completions") for line in lines)
    asked = [
        {name: value for name, value in body.items() if name not in NEUTRAL}
        for body in server.bodies
    ]
    bodies = sorted(json.dumps(body, sort_keys=True) for body in asked)
    assert sorted(json.dumps(line["body"], sort_keys=True) for line in lines) == bodies


@pytest.mark.slow
def test_answers_in_any_order_give_the_rows_of_a_live_run(batch):
    command, emit, folder = batch
    output = write_lines(folder / "output.jsonl", [answer(line) for line in reversed(emit())])
    assert run([*command, "--ingest-batch", str(output)]) == 0
    with running_judge() as server:
        assert (
            run(judge_command(Path(command[1]), Path(command[2]), folder / "live", server.url)) == 0
        )
    assert rows_of(folder / "out") == rows_of(folder / "live")
    assert emit() == []


@pytest.mark.slow
def test_missing_failed_and_unclear_answers_are_rows_and_are_emitted_again(batch, capsys):
    """Of eight: one line is missing, one failed, one is unclear, one has status 500. The next batch holds those four."""
    command, emit, folder = batch
    lines = emit()
    bad = {
        "custom_id": lines[3]["custom_id"],
        "response": {"status_code": 500, "body": {"error": {"message": "oops"}}},
        "error": None,
    }
    output = write_lines(
        folder / "output.jsonl",
        [*(answer(line) for line in lines[4:]), answer(lines[2], "Both are fine."), bad],
    )
    errors = write_lines(folder / "errors.jsonl", [failure(lines[1])])
    assert run([*command, "--ingest-batch", str(output), "--ingest-batch", str(errors)]) == 3
    rows = verdicts_of(folder / "out").values()
    statuses = [row[f"{order}_status"] for row in rows for order in ("a_first", "b_first")]
    assert sorted(statuses) == ["error", "error", "not_answered", *["ok"] * 4, "parse_error"]
    reasons = " ".join(
        row[f"{order}_reason"] or "" for row in rows for order in ("a_first", "b_first")
    )
    assert "out of time" in reasons
    assert "status 500: oops" in reasons
    assert "Both are fine." in {
        row[f"{order}_raw"] for row in rows for order in ("a_first", "b_first")
    }
    again = emit()
    assert {line["custom_id"] for line in again} == {line["custom_id"] for line in lines[:4]}
    output = write_lines(folder / "second.jsonl", [answer(line) for line in again])
    assert run([*command, "--ingest-batch", str(output)]) == 0
    assert {row["status"] for row in rows_of(folder / "out")} == {"ok"}
    assert emit() == []
    capsys.readouterr()


@pytest.mark.slow
def test_a_later_answer_counts_and_one_that_is_there_is_not_lost(batch):
    """A failed line beside an answer for the same request, in either order; ingesting twice changes nothing."""
    command, emit, folder = batch
    lines = emit()
    mixed = [failure(lines[0]), *(answer(line) for line in lines), failure(lines[1])]
    output = write_lines(folder / "output.jsonl", mixed)
    assert run([*command, "--ingest-batch", str(output)]) == 0
    before = rows_of(folder / "out")
    assert run([*command, "--ingest-batch", str(output)]) == 0
    assert rows_of(folder / "out") == before


@pytest.mark.slow
def test_a_batch_and_a_server_share_their_answers(batch):
    """What the batch did not bring is asked live, and nothing else."""
    command, emit, folder = batch
    output = write_lines(folder / "output.jsonl", [answer(line) for line in emit()[:6]])
    assert run([*command, "--ingest-batch", str(output)]) == 3
    with running_judge() as server:
        assert (
            run(judge_command(Path(command[1]), Path(command[2]), folder / "out", server.url)) == 0
        )
    assert len(server.bodies) == 2


@pytest.mark.slow
def test_answers_of_another_batch_change_nothing_and_are_told(batch, capsys):
    command, emit, folder = batch
    lines = emit()
    stranger = answer(lines[0]) | {"custom_id": "f" * 64}
    output = write_lines(folder / "output.jsonl", [*(answer(line) for line in lines), stranger])
    assert run([*command, "--ingest-batch", str(output)]) == 0
    assert "1 answers of the batch match no open question" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{broken\n", "line 1: broken JSON"),
        ('{"id": 1}\n', "line 1: no `custom_id`"),
        (None, "is a request, not an answer"),
    ],
)
def test_files_that_are_no_answers_are_refused(batch, capsys, text, told):
    command, emit, folder = batch
    lines = emit()
    path = write_lines(folder / "wrong.jsonl", lines)
    if text is not None:
        path.write_text(text)
    assert run([*command, "--ingest-batch", str(path)]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_emitting_and_ingesting_at_once_is_refused(batch):
    command, _, folder = batch
    assert (
        run([*command, "--ingest-batch", str(folder / "x"), "--emit-batch", str(folder / "y")]) == 2
    )
    assert run(["judge", *command[1:5], "--judge", "fake", "--emit-batch", str(folder / "y")]) == 2


@pytest.mark.slow
def test_long_batches_go_into_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(judge_batch, "MOST_REQUESTS", 3)
    a = write_side(tmp_path, "a", {f"p{i}": f"long {i}" for i in range(4)})
    b = write_side(tmp_path, "b", {f"p{i}": f"b{i}" for i in range(4)})
    assert (
        run(
            [
                *judge_command(a, b, tmp_path / "out", NOWHERE),
                "--emit-batch",
                str(tmp_path / "x" / "batch.jsonl"),
            ]
        )
        == 0
    )
    files = sorted((tmp_path / "x").iterdir())
    assert [path.name for path in files] == ["batch-2.jsonl", "batch-3.jsonl", "batch.jsonl"]
    assert sorted(len(lines_of(path)) for path in files) == [2, 3, 3]
