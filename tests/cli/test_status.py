"""``prefpipe status``: exit codes, what is printed, and the lines to paste."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.finished_run import N_PROMPTS, N, command, copy_to
from support.pipelines import identities_of, open_artifact

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
    assert (
        lines[3].strip()
        == "shards:  --array=1, in the job: --shard-index $SLURM_ARRAY_TASK_ID --num-shards 3"
    )


def test_the_command_that_is_shown_repairs_it(run: Path, capsys) -> None:
    """Run what ``again:`` says, and the artifact is done."""
    part_of(run / "scores", 1).unlink()
    prefpipe(["status", str(run / "scores")])
    line = next(line for line in capsys.readouterr().out.splitlines() if "again:" in line)
    command(shlex.split(line.partition("prefpipe ")[2]))
    assert prefpipe(["status", str(run / "scores")]) == 0


def lines_again(out: str) -> list[str]:
    """Return the commands that are printed to be pasted."""
    return [line.partition("again:")[2].strip() for line in out.splitlines() if "again:" in line]


def paste(line: str, folder: Path) -> None:
    """Run a line in a shell, in a folder, as one would."""
    program = shlex.join([sys.executable, "-m", "prefpipe"])
    line = line.replace("prefpipe", program, 1)
    done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def generate(folder: Path, *flags: str) -> Path:
    """Make three parts of candidates in a folder with a space, by a relative path."""
    (folder / "my run").mkdir(parents=True)
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q {i}"}) + "\n" for i in range(6))
    )
    words = [
        "prefpipe",
        "generate",
        "prompts.jsonl",
        "-o",
        "my run/c",
        "--backend",
        "fake",
        "--model",
        "fake",
        "--part-size",
        "2",
    ]
    paste(shlex.join([*words, *flags]), folder)
    return folder / "my run" / "c"


@pytest.mark.slow
def test_what_goes_on_after_a_kill_with_overwrite_keeps_the_finished_parts(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    candidates = generate(tmp_path / "then", "--overwrite")
    part_of(candidates, 1).unlink()
    before = identities_of(candidates)
    for folder in (tmp_path / "then", tmp_path):
        monkeypatch.chdir(folder)
        prefpipe(["status", str(candidates)])
        [line] = lines_again(capsys.readouterr().out)
        assert "--overwrite" not in line
    paste(line, tmp_path)
    assert before.items() < identities_of(candidates).items()
    assert prefpipe(["status", str(candidates)]) == 0


@pytest.mark.slow
def test_a_line_for_each_unfinished_shard_and_together_they_finish(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    """Of shards 0 to 2 the middle one ran: its own command would make nothing."""
    candidates = generate(tmp_path, "--shard-index", "1", "--num-shards", "3")
    monkeypatch.chdir(tmp_path)
    assert prefpipe(["status", str(candidates)]) == 4
    lines = lines_again(capsys.readouterr().out)
    assert [line.partition("--shard-index ")[2] for line in lines] == [
        "0 --num-shards 3",
        "2 --num-shards 3",
    ]
    for line in lines:
        paste(line, tmp_path)
    assert prefpipe(["status", str(candidates)]) == 0


@pytest.mark.slow
def test_json_has_the_commands_as_words(tmp_path: Path, monkeypatch, capsys) -> None:
    candidates = generate(tmp_path, "--overwrite")
    part_of(candidates, 0).unlink()
    monkeypatch.chdir(tmp_path / "my run")
    prefpipe(["status", "c", "--json"])
    [report] = json.loads(capsys.readouterr().out)
    assert report["again"] == [
        [
            "prefpipe",
            "generate",
            f"{tmp_path}/prompts.jsonl",
            "-o",
            "c",
            "--backend",
            "fake",
            "--model",
            "fake",
            "--part-size",
            "2",
        ]
    ]
    prefpipe(["status", "c", "--json", "--num-shards", "3"])
    [report] = json.loads(capsys.readouterr().out)
    assert [words[-4:] for words in report["again"]] == [
        ["--shard-index", "0", "--num-shards", "3"]
    ]


def test_a_finished_artifact_has_nothing_to_paste(run: Path, capsys) -> None:
    prefpipe(["status", str(run), "--json"])
    assert [report["again"] for report in json.loads(capsys.readouterr().out)] == [[]] * 4


@pytest.mark.slow
def test_stale_lines_pasted_from_the_top_bring_everything_up_to_date(run: Path, capsys) -> None:
    command(
        [
            *open_artifact(run / "candidates").record.context["command"][1:],
            "--seed",
            "3",
            "--overwrite",
        ]
    )
    capsys.readouterr()
    prefpipe(["status", str(run)])
    lines = lines_again(capsys.readouterr().out)
    assert [shlex.split(line)[1] for line in lines] == ["score", "embed", "select"]
    for line in lines:
        command(shlex.split(line)[1:])
    assert prefpipe(["status", str(run)]) == 0


def test_a_copied_run_is_finished_where_it_is_and_the_original_is_left_alone(
    run: Path, tmp_path: Path, capsys
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(run, copy / "run")
    part_of(copy / "run" / "scores", 1).unlink()
    before = identities_of(run / "scores")
    prefpipe(["status", str(copy / "run" / "scores")])
    [line] = lines_again(capsys.readouterr().out)
    command(shlex.split(line)[1:])
    assert prefpipe(["status", str(copy / "run" / "scores")]) == 0
    assert identities_of(run / "scores") == before


@pytest.mark.slow
def test_the_line_of_a_side_of_an_evaluation_is_the_evaluation_s(run: Path, capsys) -> None:
    prompts = str(run.parent / "prompts.jsonl")
    words = [
        "eval",
        "--policy",
        "fake",
        "--baseline",
        "fake",
        "--prompts",
        prompts,
        "-o",
        str(run / "eval"),
        "--scorer",
        "fake",
    ]
    command([*words, "--backend", "fake", "--overwrite"])
    side = run / "eval" / "policy" / "candidates"
    part_of(side, 0).unlink()
    capsys.readouterr()
    prefpipe(["status", str(side)])
    [line] = lines_again(capsys.readouterr().out)
    assert shlex.split(line) == ["prefpipe", *words, "--backend", "fake"]
    command(shlex.split(line)[1:])
    assert prefpipe(["status", str(run / "eval")]) == 0


@pytest.mark.slow
def test_many_shards_are_cut_on_the_page_and_whole_in_json(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    candidates = generate(tmp_path, "--part-size", "1", "--num-shards", "6", "--shard-index", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prefpipe.cli.status.SHARDS_SHOWN", 2)
    prefpipe(["status", str(candidates)])
    out = capsys.readouterr().out
    assert len(lines_again(out)) == 2
    assert "and 3 more, a shard each; --json has them all" in out


def test_shards_are_those_of_the_number_asked_for(run: Path, capsys) -> None:
    part_of(run / "candidates", 2).unlink()
    assert prefpipe(["status", str(run / "candidates"), "--num-shards", "2"]) == 4
    assert (
        "--array=0, in the job: --shard-index $SLURM_ARRAY_TASK_ID --num-shards 2"
        in capsys.readouterr().out
    )


def test_stale_exits_with_4_and_proposes_to_overwrite(run: Path, capsys) -> None:
    command(
        [
            *open_artifact(run / "candidates").record.context["command"][1:],
            "--seed",
            "3",
            "--overwrite",
        ]
    )
    capsys.readouterr()
    assert prefpipe(["status", str(run)]) == 4
    out = capsys.readouterr().out
    assert "seed: 0 then, 3 now" in out
    scores = next(
        line for line in out.splitlines() if "again:" in line and "prefpipe score" in line
    )
    assert scores.endswith(" --overwrite=stale")


def test_corrupt_exits_with_1_and_names_the_file_to_delete(run: Path, capsys) -> None:
    part = part_of(run / "embeddings", 0)
    part.write_bytes(part.read_bytes()[:100])
    part_of(run / "scores", 0).unlink()
    assert prefpipe(["status", str(run)]) == 1
    out = capsys.readouterr().out
    assert f"delete:  rm {part}" in out
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == [
        "done",
        "partial",
        "corrupt",
        "done",
    ]


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
