"""``prefpipe inspect``: overview and one prompt, on stdout, as a page or as JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.finished_run import K, N, copy_to, original
from support.pipelines import open_artifact

from prefpipe.cli.main import run as prefpipe


def inspect(capsys, *words: object) -> str:
    assert prefpipe(["inspect", *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def one(capsys, *words: object) -> dict:
    return json.loads(inspect(capsys, *words, "--json"))


@pytest.fixture
def finished() -> Path:
    return original() / "run"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["candidates", "scores", "embeddings", "groups"])
def test_the_page_and_the_json_tell_the_same(finished: Path, kind: str, capsys) -> None:
    found = one(capsys, finished / kind)
    page = inspect(capsys, finished / kind)
    assert found["fingerprint"] == open_artifact(finished / kind).record.fingerprint
    assert f"{kind} by prefpipe {found['stage']}: {found['n_rows']:,} rows in all 3 parts" in page
    assert all(name in page for name in found["columns"])
    assert "█" in page


def test_a_group_is_shown_with_all_its_candidates_through_its_parents(
    finished: Path, capsys
) -> None:
    found = one(capsys, finished / "groups", "--prompt-id", "p1")
    assert found["n_candidates"] == N
    roles = [entry["role"] for entry in found["candidates"]]
    assert (roles.count("positive"), roles.count("negative"), roles.count(None)) == (
        1,
        K,
        N - K - 1,
    )


def test_scores_and_embeddings_find_their_candidates(finished: Path, capsys) -> None:
    by_scores = one(capsys, finished / "scores", "--prompt-id", "p1")
    assert by_scores["ranked_by"] == "checks"  # without groups, the first scorer
    assert [entry["response"] for entry in by_scores["candidates"] if not entry["response"]] == []
    assert one(capsys, finished / "embeddings", "--prompt-id", "p1")["n_candidates"] == N


@pytest.mark.slow
def test_candidates_take_scores_and_groups_from_flags(finished: Path, capsys) -> None:
    alone = one(capsys, finished / "candidates", "--prompt-id", "p1")
    assert {entry["reward"] for entry in alone["candidates"]} == {None}
    flags = ["--scores", finished / "scores", "--groups", finished / "groups"]
    assert one(capsys, finished / "candidates", "--prompt-id", "p1", *flags) == one(
        capsys, finished / "groups", "--prompt-id", "p1"
    )
    only_groups = one(
        capsys, finished / "candidates", "--prompt-id", "p1", "--groups", finished / "groups"
    )
    assert (
        only_groups["ranked_by"] == "checks + 0.5 * fake"
    )  # the groups' scores are found through them
    by_flag = one(capsys, finished / "groups", "--prompt-id", "p1", "--reward", "fake")
    assert by_flag["ranked_by"] == "fake"


def test_a_moved_group_without_its_parents_shows_what_it_holds(tmp_path: Path, capsys) -> None:
    run = copy_to(tmp_path)
    shutil.rmtree(run / "candidates")
    shutil.rmtree(run / "scores")
    assert one(capsys, run / "groups", "--prompt-id", "p1")["n_candidates"] == K + 1
    assert prefpipe(["inspect", str(run / "embeddings"), "--prompt-id", "p1"]) == 2
    assert "the candidates of" in capsys.readouterr().err


def test_an_unknown_prompt_exits_with_2_and_names_a_few(finished: Path, capsys) -> None:
    assert prefpipe(["inspect", str(finished / "candidates"), "--prompt-id", "nope"]) == 2
    assert "ids in it are, for example: p0, p1, p2, p3, p4" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_hostile_reaches_stdout(finished: Path, capsys) -> None:
    """The text of p4 holds an escape sequence, NUL and a direction override; JSON escapes all three."""
    for words in (
        ["--prompt-id", "p4"],
        ["--prompt-id", "p4", "--full"],
        ["--prompt-id", "p4", "--json"],
        [],
        ["--json"],
    ):
        out = inspect(capsys, finished / "candidates", *words)
        assert not set(out) & {"\x1b", "\x00", "\u202e", "\u202c"}


def test_a_folder_of_several_artifacts_is_an_error_that_names_them(finished: Path, capsys) -> None:
    assert prefpipe(["inspect", str(finished)]) == 1
    message = capsys.readouterr().err
    assert f"{finished} is not an artifact, it holds 4" in message
    assert str(finished / "scores") in message


def test_flags_of_one_prompt_need_a_prompt(finished: Path, capsys) -> None:
    assert prefpipe(["inspect", str(finished / "groups"), "--full"]) == 2
    assert "--full goes together with --prompt-id" in capsys.readouterr().err


def test_a_map_is_drawn_from_the_embeddings_of_the_groups(finished: Path, capsys) -> None:
    found = one(capsys, finished / "groups", "--prompt-id", "p1", "--map")
    assert found["map"]["embeddings"].endswith("embeddings")
    assert found["map"]["n_points"] == N
    assert all(
        isinstance(entry["x"], float) and isinstance(entry["y"], float)
        for entry in found["candidates"]
    )
    page = inspect(capsys, finished / "groups", "--prompt-id", "p1", "--map")
    frame = page.partition("+---")[2].partition("+---")[0]
    marks = [
        f"{'P' if entry['role'] == 'positive' else 'n'}{entry['sample_idx']}"
        for entry in found["candidates"]
        if entry["role"]
    ]
    assert len(marks) == K + 1
    assert all(mark in frame for mark in marks)
    assert "\x1b" not in page


@pytest.mark.slow
def test_a_map_takes_its_embeddings_from_any_of_the_artifacts(finished: Path, capsys) -> None:
    through_groups = one(capsys, finished / "groups", "--prompt-id", "p1", "--map")
    flags = ["--embeddings", finished / "embeddings", "--groups", finished / "groups"]
    assert (
        one(capsys, finished / "candidates", "--prompt-id", "p1", "--map", *flags) == through_groups
    )
    alone = one(capsys, finished / "embeddings", "--prompt-id", "p1", "--map")
    assert {entry["sample_idx"]: entry["x"] for entry in alone["candidates"]} == {
        entry["sample_idx"]: entry["x"] for entry in through_groups["candidates"]
    }
    by_flag = one(capsys, finished / "candidates", "--prompt-id", "p1", "--map", *flags[:2])
    assert {entry["role"] for entry in by_flag["candidates"]} == {None}


def test_a_map_without_embeddings_names_the_flag(finished: Path, tmp_path: Path, capsys) -> None:
    for words in (["candidates"], ["scores"]):
        assert (
            prefpipe(
                ["inspect", *(str(finished / word) for word in words), "--prompt-id", "p1", "--map"]
            )
            == 2
        )
        assert "--map needs embeddings" in capsys.readouterr().err
    run = copy_to(tmp_path)
    shutil.rmtree(run / "embeddings")
    assert prefpipe(["inspect", str(run / "groups"), "--prompt-id", "p1", "--map"]) == 2
    assert "hint: pass the folder that embed wrote with --embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--map"], "--map goes together with --prompt-id"),
        (["--embeddings", "e"], "--embeddings goes together with --prompt-id"),
        (["--prompt-id", "p1", "--embeddings", "e"], "--embeddings goes together with --map"),
        (["--prompt-id", "p1", "--map", "--full"], "--full does not go with it"),
    ],
)
def test_flags_of_a_map_that_do_not_go_together(
    finished: Path, capsys, flags: list[str], message: str
) -> None:
    assert prefpipe(["inspect", str(finished / "groups"), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_map_on_an_ascii_stdout(finished: Path) -> None:
    """Without a terminal, an encoding or colour; p4's text holds everything that can harm one."""
    command = [
        sys.executable,
        "-m",
        "prefpipe",
        "inspect",
        str(finished / "groups"),
        "--prompt-id",
        "p4",
        "--map",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "COLUMNS": "60"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    lines = done.stdout.decode("ascii").splitlines()
    edges = [number for number, line in enumerate(lines) if line.startswith("+--")]
    assert {len(line) for line in lines[edges[0] : edges[1] + 1]} == {len(lines[edges[0]])}
    assert len(lines[edges[0]]) <= 60
    assert "\x1b" not in done.stdout.decode("ascii")


def test_groups_of_an_earlier_schema_are_refused_with_a_hint(tmp_path: Path, capsys) -> None:
    run = copy_to(tmp_path)
    record = run / "groups" / "run.json"
    record.write_text(record.read_text().replace('"schema": "groups/2"', '"schema": "groups/1"'))
    assert prefpipe(["inspect", str(run / "groups"), "--prompt-id", "p1"]) == 1
    assert "has schema groups/1, and this release reads groups/2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_prompt_of_an_evaluation_is_not_to_be_had(finished: Path, tmp_path: Path, capsys) -> None:
    sides = [
        "--policy",
        str(finished / "candidates"),
        "--baseline",
        str(finished / "candidates"),
        "--reward",
        "fake",
    ]
    scores = [
        "--policy-scores",
        str(finished / "scores"),
        "--baseline-scores",
        str(finished / "scores"),
    ]
    assert prefpipe(["eval", *sides, *scores, "-o", str(tmp_path / "eval")]) == 0
    capsys.readouterr()
    assert prefpipe(["inspect", str(tmp_path / "eval"), "--prompt-id", "p1"]) == 2
    assert "--prompt-id needs candidates, scores, embeddings or groups" in capsys.readouterr().err
    page = inspect(capsys, tmp_path / "eval")
    assert "win rate, ties half" in page
    assert "mean reward" in page
    assert (
        one(capsys, tmp_path / "eval")["summary"]["win_rate"]["mean"] == 0.5
    )  # a policy against itself


def test_a_corrupt_part_exits_with_1(tmp_path: Path, capsys) -> None:
    run = copy_to(tmp_path)
    part = open_artifact(run / "scores").part_path(1)
    part.write_bytes(part.read_bytes()[:50])
    assert prefpipe(["inspect", str(run / "scores")]) == 1
    assert f"error: {part} is corrupt" in capsys.readouterr().err
