"""``prefpipe status``: exit codes, what is printed, and the lines to paste."""

import json
import shlex
from pathlib import Path

import pytest
from finished_run import N_PROMPTS, N, command, copy_to
from pipelines import open_artifact

from prefpipe.cli.main import run as prefpipe


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


def part_of(folder: Path, index: int) -> Path:
    return open_artifact(folder).part_path(index)


def test_all_done_exits_with_0_and_one_line_each(run: Path, capsys) -> None:
    assert prefpipe(["status", str(run)]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == ["done"] * 4
    assert f"{run / 'candidates'}  generate  3 of 3 parts  {N_PROMPTS * N} rows" in captured.out
    assert captured.err == ""


def test_partial_exits_with_4_and_says_how_to_go_on(run: Path, capsys) -> None:
    part_of(run / "scores", 1).unlink()
    assert prefpipe(["status", str(run / "scores")]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("partial  ")
    assert lines[1].strip() == "missing: part 1"
    recorded = open_artifact(run / "scores").record.context["command"]
    assert shlex.split(lines[2].partition("prefpipe")[2]) == recorded[1:]
    assert lines[3].strip() == "shards:  --array=1, in the job: --shard-index $SLURM_ARRAY_TASK_ID --num-shards 3"


def test_the_command_that_is_shown_repairs_it(run: Path, capsys) -> None:
    """Run what ``again:`` says, and the artifact is done."""
    part_of(run / "scores", 1).unlink()
    prefpipe(["status", str(run / "scores")])
    line = next(line for line in capsys.readouterr().out.splitlines() if "again:" in line)
    command(shlex.split(line.partition("prefpipe ")[2]))
    assert prefpipe(["status", str(run / "scores")]) == 0


def test_shards_are_those_of_the_number_asked_for(run: Path, capsys) -> None:
    part_of(run / "candidates", 2).unlink()
    assert prefpipe(["status", str(run / "candidates"), "--num-shards", "2"]) == 4
    assert "--array=0, in the job: --shard-index $SLURM_ARRAY_TASK_ID --num-shards 2" in capsys.readouterr().out


def test_stale_exits_with_4_and_proposes_to_overwrite(run: Path, capsys) -> None:
    command([*open_artifact(run / "candidates").record.context["command"][1:], "--seed", "3", "--overwrite"])
    capsys.readouterr()
    assert prefpipe(["status", str(run)]) == 4
    out = capsys.readouterr().out
    assert "seed: 0 then, 3 now" in out
    scores = next(line for line in out.splitlines() if "again:" in line and "prefpipe score" in line)
    assert scores.endswith(" --overwrite")


def test_corrupt_exits_with_1_and_names_the_file_to_delete(run: Path, capsys) -> None:
    part = part_of(run / "embeddings", 0)
    part.write_bytes(part.read_bytes()[:100])
    part_of(run / "scores", 0).unlink()
    assert prefpipe(["status", str(run)]) == 1
    out = capsys.readouterr().out
    assert f"delete:  rm {part}" in out
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == ["done", "partial", "corrupt", "done"]


def test_quick_reads_footers_only(run: Path) -> None:
    part = part_of(run / "groups", 0)
    data = bytearray(part.read_bytes())
    data[20] ^= 4
    part.write_bytes(data)
    assert prefpipe(["status", "--quick", str(run)]) == 0
    assert prefpipe(["status", str(run)]) == 1


def test_what_is_no_artifact_exits_with_1(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert prefpipe(["status", str(tmp_path / "empty")]) == 1
    assert prefpipe(["status", str(tmp_path / "absent")]) == 1
    captured = capsys.readouterr()
    assert "is not a prefpipe artifact: it has no run.json" in captured.err
    assert "absent does not exist" in captured.err
    assert captured.out == ""


def test_json_has_the_same_facts(run: Path, capsys) -> None:
    part_of(run / "scores", 1).unlink()
    assert prefpipe(["status", str(run), "--json", "--num-shards", "2"]) == 4
    found = {Path(item["path"]).name: item for item in json.loads(capsys.readouterr().out)}
    assert [item["state"] for item in found.values()] == ["done", "partial", "done", "done"]
    assert found["scores"]["missing"] == [1]
    assert (found["scores"]["num_shards"], found["scores"]["shards_to_run"]) == (2, [1])
    assert found["scores"]["fingerprint"] == open_artifact(run / "scores").record.fingerprint


def test_a_path_given_twice_is_looked_at_once(run: Path, capsys) -> None:
    prefpipe(["status", str(run), str(run / "groups")])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_names_from_run_json_cannot_reach_the_terminal_raw(run: Path, capsys) -> None:
    record = json.loads((run / "scores" / "run.json").read_text())
    record["parents"]["candidates"] = "absent\x1b[2J"
    record["context"]["command"] = ["prefpipe", "score", "\x1b[31m"]
    (run / "scores" / "run.json").write_text(json.dumps(record))
    part_of(run / "scores", 1).unlink()
    prefpipe(["status", str(run / "scores")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "absent␛[2J" in out
