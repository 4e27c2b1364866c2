"""A recorded command is read as the command line reads it, and comes back as one that goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from prefpipe.configs.recorded_commands import RecordedCommand, Surroundings


def go_on(command: str, folder: Path, **changes: object) -> list[str]:
    """Return the words that go on, in the same folder unless changed."""
    now = changes.pop("now", folder)
    output = changes.pop("output", None)
    values = {"replaces_other_runs": False, "shard": None, "has_checkpoints": False} | changes
    return RecordedCommand(command.split()).to_go_on(Surroundings(folder, output, now), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ("prefpipe score c -o s --scorer checks --overwrite", "prefpipe score c -o s --scorer checks"),
        ("prefpipe score --overwrite c -o s --scorer checks", "prefpipe score c -o s --scorer checks"),
        ("prefpipe score c -o s --scorer checks --overwrite=stale", "prefpipe score c -o s --scorer checks"),
        ("prefpipe score c -o s --scorer checks --shard-index 1 --num-shards=3", "prefpipe score c -o s --scorer checks"),
        ("prefpipe score c --shard-index=1 --num-shards 3 -os --scorer checks", "prefpipe score c -o s --scorer checks"),
        ("prefpipe eval rewardbench --pairs p -o r --overwrite --model m", "prefpipe eval rewardbench --pairs p -o r --model m"),
        ("prefpipe judge a b -o v --judge fake --no-retry-errors", "prefpipe judge a b -o v --judge fake --no-retry-errors"),
        ("prefpipe score c -o s --scorer a=checks --scorer fake -- --overwrite",
         "prefpipe score c -o s --scorer a=checks --scorer fake -- --overwrite"),
        # a value that looks like a flag is a value
        ("prefpipe generate p -o c --model m --system-prompt --overwrite", "prefpipe generate p -o c --model m --system-prompt --overwrite"),
    ],
)  # fmt: skip
def test_what_would_throw_away_or_make_another_part_is_left_out(
    recorded: str, expected: str, tmp_path: Path
) -> None:
    assert go_on(recorded, tmp_path) == expected.split()


def test_a_shard_is_said_anew(tmp_path: Path) -> None:
    recorded = "prefpipe embed c -o e --model m --shard-index 3 --num-shards 4 --overwrite"
    assert go_on(recorded, tmp_path, shard=(1, 2)) == [
        "prefpipe",
        "embed",
        "c",
        "-o",
        "e",
        "--model",
        "m",
        "--shard-index",
        "1",
        "--num-shards",
        "2",
    ]


def test_of_another_configuration_is_made_again_by_stale_and_grows_no_more(tmp_path: Path) -> None:
    recorded = "prefpipe generate p -o c --model m --n 8 --extend"
    assert go_on(recorded, tmp_path, replaces_other_runs=True) == [
        "prefpipe",
        "generate",
        "p",
        "-o",
        "c",
        "--model",
        "m",
        "--n",
        "8",
        "--overwrite=stale",
    ]
    assert go_on(recorded, tmp_path) == recorded.split()


def test_a_training_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    recorded = "prefpipe train g -o p --model m --resume-from other/checkpoint-4 --overwrite"
    assert go_on(recorded, tmp_path, has_checkpoints=True) == [
        "prefpipe",
        "train",
        "g",
        "-o",
        "p",
        "--model",
        "m",
    ]
    assert go_on(recorded, tmp_path) == [
        "prefpipe",
        "train",
        "g",
        "-o",
        "p",
        "--model",
        "m",
        "--resume-from",
        "other/checkpoint-4",
    ]


def test_in_another_folder_paths_are_those_of_there_and_other_words_stay(tmp_path: Path) -> None:
    """``cpu`` is a folder too, and a device here; the scorer's model and the judge's are paths behind colons."""
    for name in ("then/c", "then/rm", "then/cpu", "then/checks", "now"):
        (tmp_path / name).mkdir(parents=True)
    then, now = tmp_path / "then", tmp_path / "now"
    recorded = "prefpipe score c -o s --scorer checks --scorer b=reward-model:rm --scorer judge:transformers:org/name --device cpu"
    assert go_on(recorded, then, now=now) == [
        "prefpipe", "score", f"{then}/c", "-o", f"{then}/s", "--scorer", "checks", "--scorer", f"b=reward-model:{then}/rm",
        "--scorer", "judge:transformers:org/name", "--device", "cpu",
    ]  # fmt: skip
    assert go_on(recorded, then, now=tmp_path)[2:5] == ["then/c", "-o", "then/s"]


@pytest.mark.parametrize("backend", ["openai", "fake"])
@pytest.mark.parametrize("in_file", [False, True])
def test_the_name_of_a_served_model_is_no_path_where_a_folder_is_called_so(
    backend: str, in_file: bool, tmp_path: Path
) -> None:
    """The name is part of the identity: another one would be refused, or sampled from another model."""
    (tmp_path / "there" / "qwen").mkdir(parents=True)
    (tmp_path / "there" / "g.yaml").write_text(
        f"backend: {backend}\nmodel: qwen\n" if in_file else "n: 2\n"
    )
    flags = "" if in_file else f" --model qwen --backend {backend}"
    words = go_on(
        f"prefpipe generate p -o c --config g.yaml{flags}", tmp_path / "there", now=tmp_path
    )
    assert (
        words[-4:] == ["--model", "qwen", "--backend", backend]
        if not in_file
        else "--model" not in words
    )
    assert "there/qwen" not in words
    assert "there/c" in words


def test_a_moved_run_is_finished_where_it_is_now(tmp_path: Path) -> None:
    """The candidates moved along and the prompts did not; the original is still there and is not what was asked for."""
    for name in ("a/run/candidates", "a/run/scores", "b/run/candidates", "b/run/scores"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "ratings.jsonl").touch()
    recorded = "prefpipe score run/candidates -o run/scores --scorer ratings:ratings.jsonl"
    words = go_on(
        recorded, tmp_path / "a", now=tmp_path / "b", output=tmp_path / "b" / "run" / "scores"
    )
    assert (
        words
        == f"prefpipe score run/candidates -o run/scores --scorer ratings:{tmp_path}/a/ratings.jsonl".split()
    )


def test_a_renamed_output_is_written_under_its_new_name(tmp_path: Path) -> None:
    for name in ("run/candidates", "run/old"):
        (tmp_path / name).mkdir(parents=True)
    words = go_on(
        "prefpipe embed run/candidates -o run/e --model m",
        tmp_path,
        output=tmp_path / "run" / "old",
    )
    assert words == ["prefpipe", "embed", "run/candidates", "-o", "run/old", "--model", "m"]


def test_a_configuration_file_that_overwrites_is_overruled(tmp_path: Path) -> None:
    """And one that says a shard: the line without a shard is for all parts."""
    (tmp_path / "e.yaml").write_text("overwrite: true\nnum_shards: 4\nshard_index: 1\n")
    words = go_on("prefpipe embed c -o e --model m --config e.yaml", tmp_path)
    assert words == [
        "prefpipe",
        "embed",
        "c",
        "-o",
        "e",
        "--model",
        "m",
        "--config",
        "e.yaml",
        "--overwrite=no",
        "--shard-index",
        "0",
        "--num-shards",
        "1",
    ]


def test_relative_paths_of_a_configuration_file_are_said_in_another_folder(tmp_path: Path) -> None:
    for name in ("then/run/c", "now"):
        (tmp_path / name).mkdir(parents=True)
    then = tmp_path / "then"
    (then / "e.yaml").write_text("candidates: run/c\noutput: run/e\nmodel: org/name\n")
    words = go_on("prefpipe embed --config e.yaml", then, now=tmp_path / "now")
    assert (
        words == f"prefpipe embed --config {then}/e.yaml --output {then}/run/e {then}/run/c".split()
    )
    assert go_on("prefpipe embed --config e.yaml", then) == [
        "prefpipe",
        "embed",
        "--config",
        "e.yaml",
    ]


@pytest.mark.parametrize(
    "command",
    [["prefpipe"], ["prefpipe", "report", "x"], ["prefpipe", "of-another-release", "x"], []],
)
def test_what_is_no_stage_is_no_recorded_command(command: list[str]) -> None:
    with pytest.raises(ValueError, match="no stage's command"):
        RecordedCommand(command)


@pytest.mark.slow
def test_reading_a_command_loads_nothing_heavy() -> None:
    code = "import sys, prefpipe.configs.recorded_commands as _; print({'torch', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
