"""score with a judge: ratings from 1 to 10 by probabilities or text, asked again where unclear, through batches too."""

import json
import re

import pytest
from support.judge_server import logprobs_of, running_judge
from support.judged_sides import write_side
from support.pipelines import rows_of

from prefpipe.cli.main import run


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("prefpipe.backends.chat_client.FIRST_WAIT_S", 0.01)


@pytest.fixture
def candidates(tmp_path):
    return write_side(
        tmp_path, "a", {f"p{i}": [f"answer {i}{j}" for j in range(2)] for i in range(3)}
    )


def command(candidates, output, url, *more, scorer="judge:openai:the-judge"):
    return [
        "score",
        str(candidates),
        "-o",
        str(output),
        "--scorer",
        scorer,
        "--base-url",
        url,
        *map(str, more),
    ]


def by_last_digit(prompt):
    """Rates ``answer 21`` with 3, the last digit and 2."""
    return str(int(re.search(r"answer \d(\d)", prompt)[1]) + 2)


@pytest.mark.slow
def test_the_expected_rating_where_the_server_gives_probabilities(tmp_path, candidates):
    with running_judge(
        answer=lambda _prompt: ("8", logprobs_of({"8": 0.6, "9": 0.2, "10": 0.1, "x": 0.1}))
    ) as server:
        assert run(command(candidates, tmp_path / "out", server.url)) == 0
    rows = rows_of(tmp_path / "out")
    assert {row["scorer"] for row in rows} == {"judge"}
    assert {round(row["reward"], 9) for row in rows} == {
        round((8 * 0.6 + 9 * 0.2 + 10 * 0.1) / 0.9, 9)
    }
    detail = json.loads(rows[0]["detail"])
    assert (detail["rating"], detail["answer"], round(detail["mass"], 9)) == (8, "8", 0.9)
    assert len(server.bodies) == 6
    assert {
        (body["logprobs"], body["top_logprobs"], body["max_tokens"]) for body in server.bodies
    } == {(True, 20, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True])
def test_the_rating_itself_where_it_does_not(tmp_path, candidates, refuses):
    """A server that ignores the wish, and one that refuses it: it is asked again without."""
    faults = {"": [("status", 400, "logprobs is not supported")]} if refuses else {}
    with running_judge(answer=by_last_digit, faults=faults) as server:
        assert run(command(candidates, tmp_path / "out", server.url)) == 0
    assert [row["reward"] for row in rows_of(tmp_path / "out")] == [2.0, 3.0] * 3
    assert len(server.bodies) == 6 + refuses
    assert {"logprobs" in body for body in server.bodies[1:]} == {not refuses}


@pytest.mark.slow
def test_what_is_no_rating_is_null_and_asked_again_on_the_next_run(tmp_path, candidates):
    """Beside a scorer whose rewards are kept; without a flag."""
    answers = iter(["I would say eight", "11"])
    with running_judge(
        answer=lambda prompt: next(answers, None) or by_last_digit(prompt)
    ) as server:
        score = [
            *command(candidates, tmp_path / "out", server.url, "--concurrency", 1),
            "--scorer",
            "fake",
        ]
        assert run(score) == 3
        before = {
            (row["prompt_id"], row["sample_idx"], row["scorer"]): row
            for row in rows_of(tmp_path / "out")
        }
        failed = [key for key, row in before.items() if row["status"] == "parse_error"]
        assert len(failed) == 2
        assert [before[key]["reward"] for key in failed] == [None, None]
        assert {json.loads(before[key]["detail"])["answer"] for key in failed} == {
            "I would say eight",
            "11",
        }
        assert len(server.bodies) == 6
        assert run(score) == 0
        assert len(server.bodies) == 8
        after = {
            (row["prompt_id"], row["sample_idx"], row["scorer"]): row
            for row in rows_of(tmp_path / "out")
        }
    assert {key: row for key, row in after.items() if key not in failed} == {
        key: row for key, row in before.items() if key not in failed
    }
    assert all(after[key]["status"] == "ok" for key in failed)


@pytest.mark.slow
def test_a_batch_gives_what_a_server_gives(tmp_path, candidates):
    nowhere = command(candidates, tmp_path / "out", "http://127.0.0.1:9/v1")
    assert run([*nowhere, "--emit-batch", str(tmp_path / "batch.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "batch.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    with (tmp_path / "output.jsonl").open("w") as file:
        for line in lines[1:]:
            message = {
                "role": "assistant",
                "content": by_last_digit(line["body"]["messages"][0]["content"]),
            }
            body = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
            file.write(
                json.dumps(
                    {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}}
                )
                + "\n"
            )
    assert run([*nowhere, "--ingest-batch", str(tmp_path / "output.jsonl")]) == 3
    assert sorted(row["status"] for row in rows_of(tmp_path / "out")) == [
        "not_answered",
        *["ok"] * 5,
    ]
    with running_judge(answer=by_last_digit) as server:
        assert run(command(candidates, tmp_path / "out", server.url)) == 0
        assert len(server.bodies) == 1
    assert [row["reward"] for row in rows_of(tmp_path / "out")] == [2.0, 3.0] * 3


@pytest.mark.slow
def test_the_prompt_is_part_of_the_fingerprint(tmp_path, candidates, capsys):
    own = tmp_path / "mine.txt"
    own.write_text("{conversation}{response} 1 to 10?")
    with running_judge(answer=by_last_digit) as server:
        assert run(command(candidates, tmp_path / "out", server.url)) == 0
        assert run(command(candidates, tmp_path / "out", server.url, "--judge-prompt", own)) == 2
        assert "scorers.0.prompt" in capsys.readouterr().err
        assert (
            run(
                command(
                    candidates,
                    tmp_path / "own",
                    server.url,
                    "--judge-prompt",
                    own,
                    scorer="mine=judge:openai:j",
                )
            )
            == 0
        )
    assert {row["scorer"] for row in rows_of(tmp_path / "own")} == {"mine"}
    assert server.prompts[-1].endswith("1 to 10?")


def test_fingerprints_of_other_scorers_are_what_they_were(tmp_path, candidates):
    """The judge's own flags say nothing of checks: a run of before goes on."""
    score = ["score", str(candidates), "-o", str(tmp_path / "out"), "--scorer", "fake"]
    assert run(score) == 0
    identity = json.loads((tmp_path / "out" / "run.json").read_text())["identity"]
    assert set(identity) == {"stage", "version", "trust_remote_code", "scorers", "candidates"}
    assert run([*score, "--judge-temperature", "1"]) == 0


@pytest.mark.parametrize(
    "scorer", ["judge", "judge:", "judge:gpt", "judge:openai", "judge:openai:", "judge:fake"]
)
def test_a_scorer_that_is_no_judge_is_refused(tmp_path, candidates, scorer):
    assert run(command(candidates, tmp_path / "out", "http://127.0.0.1:9", scorer=scorer)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("--base-url",),
        ("--judge-base-url",),
        ("--backend", "openai", "--base-url", "http://127.0.0.1:9/v1", "--judge-base-url"),
    ],
)
def test_eval_asks_the_judge_at_the_address_that_it_was_given(tmp_path, candidates, more):
    """Not at OPENAI_BASE_URL alone; with sides from a server the judge has an address of its own."""
    with running_judge(answer=by_last_digit) as server:
        sides = [
            "--policy",
            str(candidates),
            "--baseline",
            str(candidates),
            "-o",
            str(tmp_path / "eval"),
        ]
        assert (
            run(
                [
                    "eval",
                    *sides,
                    "--scorer",
                    "judge:openai:the-judge",
                    "--bootstrap-draws",
                    "100",
                    *more,
                    server.url,
                ]
            )
            == 0
        )
        assert len(server.bodies) == 12
    assert (
        json.loads((tmp_path / "eval" / "summary.json").read_text())["reward"]["policy"]["mean"]
        == 2.5
    )
