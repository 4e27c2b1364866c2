"""What a result of `judge` was made of, and sides that are not compared without --force."""

import json
from pathlib import Path

import pytest
from support.judge_server import running_judge
from support.judged_sides import judge_command, two_sides, write_side
from support.pipelines import write_json_lines

from prefpipe.artifacts.interchange.judge_batch import URL
from prefpipe.cli.main import run


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def summary_of(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


def sampled(folder: Path, name: str, *more: str) -> Path:
    prompts = write_json_lines(
        folder / "p.jsonl", [{"prompt_id": f"p{i}", "prompt": f"Say {i}"} for i in range(3)]
    )
    made = [
        "generate",
        str(prompts),
        "-o",
        str(folder / name),
        "--model",
        "fake",
        "--backend",
        "fake",
        "--n",
        "1",
        *more,
    ]
    assert run(made) == 0
    return folder / name


@pytest.mark.slow
def test_the_summary_holds_the_recipe(tmp_path, capsys):
    """Prompts, judge with the hash of its prompt, orders, models and versions; the same in --json."""
    a, b = two_sides(tmp_path)
    with running_judge() as server:
        assert run(judge_command(a, b, tmp_path / "out", server.url)) == 0
        recipe = summary_of(tmp_path / "out")["recipe"]
        assert len(recipe["prompts_sha256"]) == len(recipe["judge"]["prompt"]) == 64
        assert recipe["judge"] | {"prompt": ""} == {
            "kind": "openai",
            "served": "the-judge",
            "prompt": "",
            "verdict": "text",
            "max_tokens": 1024,
            "temperature": 0.0,
        }
        assert (recipe["orders"], recipe["pairing"], recipe["differences"]) == (
            "both",
            "same-index",
            [],
        )
        assert {"prefpipe", "numpy"} <= recipe["versions"].keys()
        capsys.readouterr()
        assert run([*judge_command(a, b, tmp_path / "out", server.url), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["recipe"] == recipe
        other = write_side(tmp_path, "c", {"p0": "another text", "p1": "of fewer prompts"})
        assert run(judge_command(other, other, tmp_path / "fewer", server.url)) == 0
    assert summary_of(tmp_path / "fewer")["recipe"]["prompts_sha256"] != recipe["prompts_sha256"]


@pytest.mark.slow
def test_sides_that_were_sampled_differently_need_force(tmp_path, capsys):
    """A longer limit or another temperature is part of what is compared; the number of samples and the seed are not."""
    a = sampled(tmp_path, "a")
    assert (
        run(
            [
                "judge",
                str(a),
                str(sampled(tmp_path, "more", "--n", "2", "--seed", "3")),
                "-o",
                str(tmp_path / "n"),
                "--judge",
                "fake",
            ]
        )
        == 0
    )
    words = [
        "judge",
        str(a),
        str(sampled(tmp_path, "b", "--max-tokens", "9")),
        "-o",
        str(tmp_path / "out"),
        "--judge",
        "fake",
    ]
    capsys.readouterr()
    assert run(words) == 2
    told = capsys.readouterr().err
    assert "the recipes of the two sides differ:\n  max_tokens: 9 for B, 1024 for A" in told
    assert "--force" in told
    assert run([*words, "--force"]) == 0
    line = "max_tokens: 9 for B, 1024 for A"
    assert f"compared with --force although the recipes differ: {line}" in capsys.readouterr().err
    assert summary_of(tmp_path / "out")["recipe"]["differences"] == [line]
    assert run(["eval", "win-rate", str(tmp_path / "out"), "--bootstrap-draws", "100"]) == 0
    assert (
        f"its sides were compared with --force although their recipes differ: {line}"
        in " ".join(capsys.readouterr().out.split())
    )


@pytest.mark.slow
def test_a_forced_evaluation_says_what_differs(tmp_path, capsys):
    sides = [
        "--policy",
        str(sampled(tmp_path, "a")),
        "--baseline",
        str(sampled(tmp_path, "b", "--max-tokens", "9")),
    ]
    words = [
        "eval",
        *sides,
        "-o",
        str(tmp_path / "out"),
        "--scorer",
        "fake",
        "--bootstrap-draws",
        "100",
        "--force",
    ]
    assert run(words) == 0
    line = "max_tokens: 9 for the baseline, 1024 for the policy"
    assert f"compared with --force although the recipes differ: {line}" in capsys.readouterr().err
    assert summary_of(tmp_path / "out")["recipe"]["differences"] == [line]


@pytest.mark.slow
def test_sides_without_a_prompt_in_common_are_refused(tmp_path, capsys):
    """All rows would be `no_partner`, and the command would succeed."""
    a, b = write_side(tmp_path, "a", {"p0": "x"}), write_side(tmp_path, "b", {"q0": "y"})
    assert run(["judge", str(a), str(b), "-o", str(tmp_path / "out"), "--judge", "fake"]) == 1
    assert "have no prompt in common" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_is_missing_is_told_with_its_reasons(tmp_path, capsys):
    """A batch of another judge answers nothing: how many rows lack a verdict, by status, and where to look."""
    a, b = two_sides(tmp_path, 2)
    answer = {"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}]}
    lines = [
        {"custom_id": f"request-{i}", "url": URL, "response": {"status_code": 200, "body": answer}}
        for i in range(3)
    ]
    batch = write_json_lines(tmp_path / "answers.jsonl", lines)
    assert (
        run(
            [
                "judge",
                str(a),
                str(b),
                "-o",
                str(tmp_path / "out"),
                "--judge",
                "openai:j",
                "--ingest-batch",
                str(batch),
            ]
        )
        == 3
    )
    told = capsys.readouterr().err
    assert "0.0% of 4 verdicts could not be parsed, 100.0% are missing for other reasons" in told
    assert (
        "no open question of this run; none matches: check that the batch was emitted with the "
        "same judge, prompt and verdict" in told
    )
    assert (
        "2 of 2 rows failed (100.0%, the limit is 5.0%): 2 not_answered; the rows that succeeded "
        "are in" in told
    )
