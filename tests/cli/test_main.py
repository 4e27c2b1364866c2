"""The command line as a script sees it: exit codes, precedence of values, messages, and what goes to stdout."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.pipelines import open_artifact, rows_of, write_prompts

from prefpipe import __version__
from prefpipe.cli.main import run
from prefpipe.configs.generate import GenerateConfig
from prefpipe.configs.select import SelectConfig
from prefpipe.errors import UsageError

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-8]|9[0-7])[0-9;]*m")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl", 6)


def generate(prompts: Path, *more: str, output: str = "out") -> list[str]:
    folder = str(prompts.parent / output)
    return [
        "generate",
        str(prompts),
        "-o",
        folder,
        "--backend",
        "fake",
        "--model",
        "fake",
        "--n",
        "2",
        "--part-size",
        "2",
        *more,
    ]


def test_version_goes_to_stdout(capsys) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_stdout_carries_the_output_path_and_nothing_else(prompts: Path, capsys) -> None:
    assert run(generate(prompts)) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{prompts.parent / 'out'}\n"
    assert "12 rows" in captured.err


def test_stdout_carries_json_and_nothing_else(prompts: Path, capsys) -> None:
    """6 prompts x 2 responses = 12 rows in 3 parts of 2 prompts."""
    assert run(generate(prompts, "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["stage"], summary["n_rows"], summary["n_parts_made"]) == ("generate", 12, 3)


def test_a_second_run_keeps_what_is_there_and_exits_with_0(prompts: Path, capsys) -> None:
    run(generate(prompts))
    capsys.readouterr()
    assert run(generate(prompts, "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["n_parts_made"], summary["n_parts_kept"]) == (0, 3)


def test_unusable_data_exits_with_1_and_a_hint(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    assert run(generate(tmp_path / "empty.jsonl")) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "\nhint: " in captured.err


def test_a_folder_of_another_configuration_exits_with_2_and_names_the_field(
    prompts: Path, capsys
) -> None:
    run(generate(prompts))
    assert run(generate(prompts, "--temperature", "0.5")) == 2
    assert "temperature: [0.8] on disk, [0.5] requested" in capsys.readouterr().err


def test_too_many_failed_rows_exit_with_3(prompts: Path, capsys) -> None:
    """These prompts carry no checks, so that none of the 12 candidates can be rated; all 12 rows are on disk."""
    run(generate(prompts))
    output = prompts.parent / "scores"
    assert run(["score", str(prompts.parent / "out"), "-o", str(output), "--scorer", "checks"]) == 3
    assert "12 of 12 rows failed (100.0%, the limit is 5.0%)" in capsys.readouterr().err
    assert {row["status"] for row in rows_of(output)} == {"no_checks"}


def test_incomplete_input_exits_with_4(prompts: Path, capsys) -> None:
    run(generate(prompts, "--shard-index", "0", "--num-shards", "2"))
    output = prompts.parent / "scores"
    assert run(["score", str(prompts.parent / "out"), "-o", str(output), "--scorer", "fake"]) == 4
    assert "1 of 3 parts are missing (part 1)" in capsys.readouterr().err
    assert not output.exists()


def test_a_stop_that_was_asked_for_exits_with_75(prompts: Path, capsys, monkeypatch) -> None:
    from prefpipe.cli.signals import stop_request

    monkeypatch.setattr(stop_request, "number", signal.SIGTERM)
    assert run(generate(prompts)) == 75
    assert (
        "stopped: generate stopped on request: 0 parts made now, 3 left" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flag", "suggestion"),
    [
        ("--temprature", "--temperature"),
        ("--max-token", "--max-tokens"),
        ("--numshards", "--num-shards"),
    ],
)
def test_an_unknown_flag_exits_with_2_and_the_nearest_spelling(
    prompts: Path, capsys, flag: str, suggestion: str
) -> None:
    assert run(generate(prompts, flag, "1")) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: No such option: {flag}")
    assert suggestion in message
    assert "hint: run `prefpipe generate --help`" in message


@pytest.mark.slow
def test_an_unknown_command_exits_with_2(capsys) -> None:
    assert run(["generat"]) == 2
    assert "No such command 'generat'" in capsys.readouterr().err


def test_a_missing_required_value_is_named(capsys) -> None:
    assert run(["generate"]) == 2
    assert "`prefpipe generate` needs --output, PROMPTS, --model" in capsys.readouterr().err


def test_a_flag_beats_yaml_and_yaml_beats_the_default(prompts: Path, tmp_path: Path) -> None:
    """Default n = 32; the file says 3 and max_tokens 40; the flag says n = 2: two rows a prompt, 40 tokens at most."""
    config = tmp_path / "generate.yaml"
    config.write_text(
        f"prompts: {prompts}\nbackend: fake\nmodel: [fake]\nn: 3\nmax_tokens: 40\npart-size: 6\n"
    )
    assert run(["generate", "--config", str(config), "-o", str(tmp_path / "yaml")]) == 0
    assert run(["generate", "--config", str(config), "-o", str(tmp_path / "flag"), "--n", "2"]) == 0
    by_yaml, by_flag = (open_artifact(tmp_path / name).record.identity for name in ("yaml", "flag"))
    assert (by_yaml["n"], by_yaml["max_tokens"], by_yaml["top_p"]) == (3, 40, 1.0)
    assert (by_flag["n"], by_flag["max_tokens"], by_flag["top_p"]) == (2, 40, 1.0)
    assert len(rows_of(tmp_path / "yaml")) == 18
    assert len(rows_of(tmp_path / "flag")) == 12


def test_all_unknown_yaml_keys_are_named_with_their_nearest_spelling(
    tmp_path: Path, capsys
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text("tempature: 0.5\nmax-tokns: 3\nzzz: 1\n")
    assert run(["generate", "p.jsonl", "-o", "x", "--config", str(config)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "unknown key `tempature` (did you mean `temperature`?)" in message
    assert "unknown key `max_tokns` (did you mean `max_tokens`?)" in message
    assert "unknown key `zzz`;" in message or message.count("unknown key `zzz`") == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("n: [", "is not YAML"),
        ("- n", "must hold `key: value` lines, not a list"),
        ("n: many", "--n takes a whole number, not 'many'"),
    ],
)
def test_a_yaml_file_that_cannot_be_used_is_explained(
    tmp_path: Path, capsys, text: str, complaint: str
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    assert run(["generate", "p.jsonl", "-o", "x", "--model", "fake", "--config", str(config)]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_a_yaml_file_that_is_absent_is_named(tmp_path: Path, capsys) -> None:
    assert (
        run(
            [
                "generate",
                "p.jsonl",
                "-o",
                "x",
                "--model",
                "fake",
                "--config",
                str(tmp_path / "no.yaml"),
            ]
        )
        == 2
    )
    assert "no.yaml cannot be read" in capsys.readouterr().err


def test_all_problems_are_reported_at_once(prompts: Path, capsys) -> None:
    assert (
        run(
            generate(
                prompts, "--top-p", "2", "--seed", "-1", "--max-tokens", "0", "--backend", "vlm"
            )
        )
        == 2
    )
    message = capsys.readouterr().err
    for complaint in (
        "--backend must be one of auto, vllm, transformers, openai, fake, not 'vlm' (did you mean `vllm`?)",
        "--top-p must be above 0 and at most 1, not 2.0",
        "--seed must be 0 or more, not -1",
        "--max-tokens must be 1 or more, not 0",
    ):
        assert complaint in message


def test_configs_never_repair_a_value() -> None:
    with pytest.raises(UsageError, match="--k must be 1 or more, not 0"):
        SelectConfig(
            candidates=Path("c"), scores=Path("s"), output=Path("o"), strategy="bottom-k", k=0
        )
    with pytest.raises(UsageError, match="--temperature must be within 0 and 10"):
        GenerateConfig(prompts="p", output=Path("o"), model=("m",), temperature=(-1.0,))


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (
            {"SLURM_ARRAY_TASK_ID": "0"},
            "only one of SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT is set",
        ),
        (
            {"SLURM_ARRAY_TASK_COUNT": "2"},
            "only one of SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT is set",
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2"},
            "SLURM_ARRAY_TASK_ID=2 does not fit SLURM_ARRAY_TASK_COUNT=2",
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "a", "SLURM_ARRAY_TASK_COUNT": "2"},
            "SLURM_ARRAY_TASK_ID=a is not a whole number",
        ),
        (
            {"PREFPIPE_SHARD_INDEX": "0"},
            "only one of PREFPIPE_SHARD_INDEX and PREFPIPE_NUM_SHARDS is set",
        ),
    ],
)
def test_slurm_variables_that_do_not_fit_are_an_error(
    prompts: Path, capsys, monkeypatch, variables, complaint: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run(generate(prompts)) == 2
    assert complaint in capsys.readouterr().err
    assert not (prompts.parent / "out").exists()


def test_slurm_variables_choose_the_parts_and_flags_beat_them(
    prompts: Path, capsys, monkeypatch
) -> None:
    """Task 1 of 2 makes part 1 of 0, 1, 2; the flags 0 of 2 then make parts 0 and 2 in spite of the variables."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert run(generate(prompts)) == 0
    out = prompts.parent / "out"
    assert open_artifact(out).missing() == [0, 2]
    assert run(generate(prompts, "--shard-index", "0", "--num-shards", "2")) == 0
    assert open_artifact(out).missing() == []


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--shard-index", "0"], "--shard-index and --num-shards go together"),
        (["--num-shards", "2"], "--shard-index and --num-shards go together"),
        (
            ["--shard-index", "2", "--num-shards", "2"],
            "--shard-index must be within 0 and 1, not 2",
        ),
        (["--shard-index", "0", "--num-shards", "0"], "--num-shards must be 1 or more, not 0"),
    ],
)
def test_shard_flags_that_do_not_fit_are_an_error(
    prompts: Path, capsys, flags: list[str], complaint: str
) -> None:
    assert run(generate(prompts, *flags)) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_obeyed(tmp_path: Path, no_color: bool) -> None:
    """On a terminal (``FORCE_COLOR`` stands for one) errors are red, unless ``NO_COLOR`` is set."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    environment |= {
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
        **({"NO_COLOR": "1"} if no_color else {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "prefpipe", "status", str(tmp_path / "absent")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert bool(COLOUR.search(done.stderr)) is not no_color


@pytest.mark.slow
def test_a_closed_stdout_is_no_error(prompts: Path) -> None:
    words = ["generate", str(prompts), "--backend", "fake", "--model", "fake", "-o"]
    command = [sys.executable, "-m", "prefpipe", *words, str(prompts.parent / "unheard")]
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(prompts: Path) -> None:
    """``prefpipe ... | head -0`` ends without a traceback."""
    run(generate(prompts))
    command = f"{sys.executable} -m prefpipe inspect {prompts.parent / 'out'} --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_a_reader_of_stderr_that_goes_away_does_not_end_the_run(prompts: Path) -> None:
    """``2>&1 >/dev/null | head -1``, or a ``tee`` that dies: every part is made all the same."""
    words = ["generate", prompts, "-o", prompts.parent / "unread", "--backend", "fake"]
    words += ["--model", "fake:delay_s=0.02", "--n", "2", "--part-size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "prefpipe", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.readline()
    process.stderr.close()
    assert process.wait(120) == 0
    assert not list((prompts.parent / "unread").glob("*.tmp"))
    assert len(list((prompts.parent / "unread").glob("part-*"))) == len(
        prompts.read_text().splitlines()
    )
