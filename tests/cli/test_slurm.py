"""``prefpipe slurm``: what the script says, which shards it lists, and what is refused before anything is submitted."""

import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from support.pipelines import open_artifact, write_prompts

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.slurm import seconds_of

FAKE = ["--backend", "fake", "--model", "fake", "--n", "2", "--part-size", "2"]
GENERATE = ["generate", "prompts.jsonl", "-o", "run/candidates", *FAKE]
N_PARTS = 6


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PWD", str(tmp_path))
    write_prompts(tmp_path / "prompts.jsonl", 2 * N_PARTS)


@pytest.fixture
def script(capfdbinary: pytest.CaptureFixture[bytes]):
    """Print a script and return it."""

    def print_script(*words: str) -> str:
        capfdbinary.readouterr()
        code = prefpipe(["slurm", *words])
        out, err = capfdbinary.readouterr()
        assert code == 0, err.decode()
        return os.fsdecode(out)

    return print_script


@pytest.fixture
def refusal(capfdbinary: pytest.CaptureFixture[bytes]):
    """Print nothing, and return exit code and message."""

    def refuse(*words: str) -> tuple[int, str]:
        capfdbinary.readouterr()
        code = prefpipe(["slurm", *words])
        out, err = capfdbinary.readouterr()
        assert out == b""
        return code, err.decode()

    return refuse


def directives(script: str) -> list[str]:
    return re.findall("^#SBATCH (.*)", script, re.MULTILINE)


def part(index: int) -> Path:
    return open_artifact(Path("run/candidates")).part_path(index)


def test_flags_become_directives(script) -> None:
    flags = (
        "--array 3 --gpus-per-worker 2 --cpus-per-worker 8 --mem 64G --time 4:00:00 "
        "--partition long --account me --signal-seconds 300 --sbatch qos=high "
        "--sbatch exclusive --sbatch job-name=mine --log-folder 50%"
    )
    lines = directives(script(*shlex.split(flags), "--", *GENERATE))
    assert lines == [
        "--array=0-2",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=8",
        "--gres=gpu:2",
        "--mem=64G",
        "--time=4:00:00",
        "--partition=long",
        "--account=me",
        f"--output={Path.cwd()}/50%%/%x-%A_%a.log",
        "--signal=B:USR1@300",
        "--open-mode=append",
        "--requeue",
        "--qos=high",
        "--exclusive",
        "--job-name=mine",
    ]
    assert Path("50%").is_dir()


def test_the_command_reaches_the_program_word_for_word(script, tmp_path: Path) -> None:
    """Quotes, dollars, new lines, letters beyond ASCII; two words behind ``--`` that look like slurm's own."""
    words = [
        *("generate", "prompts.jsonl", "-o", 'run/it\'s $HOME `x` "q"', *FAKE),
        *("--system-prompt", "two\nlines \\ #SBATCH --x", "--base-url", "http://größe.例え"),
    ]
    text = script("--activate", f"PATH={tmp_path}/bin:$PATH", "--array", "2", "--", *words)
    program = tmp_path / "bin" / "prefpipe"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/bash\nprintf "%s\\0" "$@" > {tmp_path}/words-$PREFPIPE_SHARD_INDEX\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    subprocess.run(["bash"], input=os.fsencode(text), env=environment, check=True)
    received = (tmp_path / "words-1").read_bytes().split(b"\0")[:-1]
    assert received == [os.fsencode(word) for word in words]


def test_only_shards_with_a_part_to_make_are_listed(script) -> None:
    assert prefpipe(GENERATE) == 0
    for index in (1, 4, 5):
        part(index).unlink()
    assert directives(script("--array", "6", "--", *GENERATE))[0] == "--array=1,4-5"
    assert directives(script("--array", "3", "--", *GENERATE))[0] == "--array=1-2"
    assert directives(script("--array", "1", "--", *GENERATE))[0] == "--array=0"
    with part(0).open("r+b") as file:
        file.truncate(100)
    assert directives(script("--array", "6", "--", *GENERATE))[0] == "--array=0-1,4-5"


def test_where_all_is_made_nothing_is_printed(capfdbinary) -> None:
    assert prefpipe(GENERATE) == 0
    capfdbinary.readouterr()
    assert prefpipe(["slurm", "--array", "6", "--", *GENERATE]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert err == b"run/candidates has all its parts: nothing to submit\n"


def test_a_share_of_the_prompts_has_its_own_parts(script) -> None:
    words = ["--array", "2", "--", *GENERATE, "--prompt-share", "1/3"]
    text = script(*words)
    assert "--array=0-1" in directives(text)
    assert "# 2 of 2 parts of run/candidates to make" in text
    assert "--prompt-share 1/3" in text


@pytest.mark.parametrize(
    ("flags", "gpus"),
    [
        ("generate prompts.jsonl -o x --model m --backend vllm --part-size 2", 1),
        ("generate prompts.jsonl -o x --model m --backend vllm --part-size 2 --tensor-parallel-size 4", 4),
        ("generate prompts.jsonl -o x --model m --part-size 2 --workers 8", 8),
        ("generate prompts.jsonl -o x --model m --part-size 2 --workers 4 --gpus-per-worker 2", 8),
        ("generate prompts.jsonl -o x --model m --part-size 2 --device cpu", 0),
        ("generate prompts.jsonl -o x --model m --part-size 2 --backend openai", 0),
        ("score run/candidates -o x --scorer checks --scorer judge:openai:m", 0),
        ("score run/candidates -o x --scorer checks --scorer reward-model:m", 1),
        ("embed run/candidates -o x --model m", 1),
        ("judge run/candidates run/candidates -o x --judge openai:m", 0),
        ("judge run/candidates run/candidates -o x --judge vllm:m", 1),
        ("logprobs run/candidates -o x --model m", 1),
        ("select run/candidates --scores s -o x --strategy bottom-k --k 1", 0),
    ],
)  # fmt: skip
def test_a_task_has_the_gpus_that_its_command_needs(script, flags: str, gpus: int) -> None:
    if "run/candidates" in flags:
        assert prefpipe(GENERATE) == 0
    lines = [line for line in directives(script("--", *flags.split())) if "gres" in line]
    assert lines == ([f"--gres=gpu:{gpus}"] if gpus else [])


def test_more_shards_than_one_array_may_number(script, refusal) -> None:
    words = ("--array", "6", "--max-array-size", "2", "--", *GENERATE)
    code, message = refusal(*words)
    assert code == 2
    assert "for window in 0 1 2; do prefpipe slurm --window $window ... | sbatch; done" in message

    text = script("--window", "2", *words)
    assert directives(text)[0] == "--array=0-1"
    assert "PREFPIPE_SHARD_INDEX=$((SLURM_ARRAY_TASK_ID + 4)) PREFPIPE_NUM_SHARDS=6" in text

    # what is left is of one window, which need not be named
    assert prefpipe(GENERATE) == 0
    part(3).unlink()
    text = script(*words)
    assert directives(text)[0] == "--array=1"
    assert "$((SLURM_ARRAY_TASK_ID + 2))" in text
    code, message = refusal("--window", "0", *words)
    assert code == 2
    assert "--window 0 has no shard with parts left to make" in message


def test_scontrol_says_how_many_tasks_an_array_may_have(
    refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho 'MaxArraySize            = 4'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    assert "(MaxArraySize 4)" in refusal("--array", "6", "--", *GENERATE)[1]


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("--array 4", 2, "put the command to run after `--`"),
        ("--array 0 -- GENERATE", 2, "--array must be 1 or more, not 0"),
        ("--array 7 -- GENERATE", 2, "--array 7 is more than the 6 parts of run/candidates"),
        ("-- train g -o x --model m --objective dpo", 2, "`train` cannot be divided"),
        ("-- eval rewardbench --pairs p -o x", 2, "`eval` cannot be divided"),
        ("-- generat prompts.jsonl", 2, "(did you mean `generate`?)"),
        ("-- generate prompts.jsonl --bogus", 2, "No such option: --bogus"),
        ("-- generate prompts.jsonl -o x", 2, "`prefpipe generate` needs --model"),
        ("-- generate nowhere.jsonl -o x --model m", 1, "nowhere.jsonl does not exist"),
        ("-- score nowhere -o x --scorer checks", 1, "nowhere does not exist"),
        ("-- GENERATE --shard-index 1 --num-shards 2", 2, "--shard-index and --num-shards"),
        ("-- GENERATE --no-shards", 2, "the command has --no-shards"),
        ("-- GENERATE --overwrite", 2, "would delete the parts it already made"),
        ("-- GENERATE --workers auto --backend vllm", 2, "--workers auto, one worker for each GPU"),
        ("--gpus-per-worker 1 -- GENERATE --workers 4 --backend vllm", 2, "less than the 4 GPUs that"),
        ("--time soon -- GENERATE", 2, "--time must be a limit such as 4:00:00, not 'soon'"),
        ("--time 10 -- GENERATE", 2, "--signal-seconds 600 leaves nothing of --time 10"),
        ("--mem much -- GENERATE", 2, "--mem must be a size such as 64G, not 'much'"),
        ("--sbatch array=1-9 -- GENERATE", 2, "--sbatch array=1-9 is set by --array"),
        ("--sbatch requeue -- GENERATE", 2, "the script sets requeue itself"),
        ("--sbatch -p -- GENERATE", 2, "--sbatch takes KEY=VALUE"),
        ("--partition $'a\\nb' -- GENERATE", 2, "--partition must be one line"),
        ("--activate $'a\\nb' -- GENERATE", 2, "--activate must be one line"),
        ("--log-folder 'a\\b' -- GENERATE", 2, "a path with a backslash"),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_is_refused(
    refusal, words: str, code: int, complaint: str
) -> None:
    words = words.replace("GENERATE", shlex.join(GENERATE)).replace("$'a\\nb'", "'a\nb'")
    assert refusal(*shlex.split(words))[0] == code
    assert complaint in refusal(*shlex.split(words))[1]


def test_one_file_of_questions_is_not_written_by_every_task(refusal, tmp_path: Path) -> None:
    assert prefpipe(GENERATE) == 0
    words = "score run/candidates -o x --scorer judge:openai:m --emit-batch questions.jsonl"
    code, message = refusal("--", *words.split())
    assert code == 2
    assert "--emit-batch: every task would write the same file" in message


def test_the_folder_has_the_name_that_the_shell_has_for_it(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a link or an automounter a node may know that name alone."""
    (tmp_path.parent / f"link-{tmp_path.name}").symlink_to(tmp_path)
    link = tmp_path.parent / f"link-{tmp_path.name}"
    monkeypatch.setenv("PWD", str(link))
    text = script("--log-folder", "logs", "--", *GENERATE)
    assert f"cd {link} ||" in text
    assert f"--output={link}/logs/" in text
    monkeypatch.setenv("PWD", "/tmp")
    assert f"cd {tmp_path} ||" in script("--", *GENERATE)


@pytest.mark.parametrize("name", ["SBATCH_ARRAY_INX", "SBATCH_SIGNAL", "SBATCH_NO_REQUEUE"])
def test_a_variable_that_beats_the_script_is_refused(
    refusal, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    code, message = refusal("--", *GENERATE)
    assert code == 2
    assert f"{name} is set" in message
    assert f"run `unset {name}`" in message


def test_an_output_of_another_configuration_is_refused_unless_it_is_to_be_made_again(
    script, refusal
) -> None:
    """Each task would refuse it, after it had waited for a GPU."""
    assert prefpipe(GENERATE) == 0
    other = [*GENERATE, "--temperature", "1.2"]
    code, message = refusal("--array", "3", "--", *other)
    assert code == 2
    assert "temperature" in message
    assert "0.8" in message
    text = script("--array", "3", "--", *other, "--overwrite=stale")
    assert directives(text)[0] == "--array=0-2"
    assert text.count("--overwrite=stale") == 1

    extended = [*GENERATE[:-4], "--n", "4", "--part-size", "2", "--extend"]
    assert directives(script("--array", "3", "--", *extended))[0] == "--array=0-2"
    changed = [*extended, "--temperature", "1.2"]
    assert refusal("--array", "3", "--", *changed)[0] == 2


def test_prompts_that_have_changed_are_refused(refusal) -> None:
    assert prefpipe(GENERATE) == 0
    write_prompts(Path("prompts.jsonl"), 2 * N_PARTS + 1)
    code, message = refusal("--array", "3", "--", *GENERATE)
    assert code == 2
    assert "its prompts, prompts.jsonl, have changed since" in message


def test_a_stage_has_the_parts_of_its_input(script, capfdbinary) -> None:
    assert prefpipe(GENERATE) == 0
    part(2).unlink()
    score = ["score", "run/candidates", "-o", "run/scores", "--scorer", "fake"]
    assert prefpipe(["slurm", "--array", "6", "--", *score]) == 0
    out, err = capfdbinary.readouterr()
    assert directives(out.decode())[0] == "--array=0-5"
    assert "warning: run/candidates has 5 of its 6 parts" in err.decode()


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("4:00:00", 14400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-12:30:15", 131415),
        ("4h", None),
        ("", None),
        ("1:2:3:4", None),
    ],
)
def test_time_limits_as_slurm_reads_them(limit: str, seconds: int | None) -> None:
    assert seconds_of(limit) == seconds
