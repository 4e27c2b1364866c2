"""The README's job script, run by bash as Slurm runs it: what it exits with, and what it asks scontrol for."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.pipelines import write_prompts

pytestmark = pytest.mark.slow

README = Path(__file__).resolve().parents[2] / "README.md"
ARRAY = {
    "SLURM_ARRAY_JOB_ID": "77",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_ARRAY_TASK_COUNT": "2",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_MAX": "2",
    "SLURM_ARRAY_TASK_STEP": "1",
}
FAKE = "generate prompts.jsonl -o run/candidates --backend fake --model fake:delay_s={delay_s} --n 2 --part-size 2"


def job_script() -> str:
    """Return the one script of the README that has an array."""
    blocks = re.findall(
        r"```bash\n(#!/bin/bash\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    (script,) = [block for block in blocks if "#SBATCH --array" in block]
    return script


class Job:
    """The script in a folder of its own, with a scontrol that notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "job.sh").write_text(job_script(), encoding="utf-8")
        self._program("scontrol", f'echo "$@" >> {folder}/asked')

    def _program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def start(self, words: str, **variables: str) -> "subprocess.Popen[str]":
        """Start the script; its ``prefpipe`` runs these words, with a fake engine in place of vLLM."""
        entry = "import sys; from prefpipe.__main__ import main; sys.exit(main())"
        self._program("prefpipe", f'exec {sys.executable} -c "{entry}" {words}')
        environment = (
            os.environ | ARRAY | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"} | variables
        )
        return subprocess.Popen(
            ["bash", "job.sh"],
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def asked(self) -> list[str]:
        """What scontrol was called with."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def parts(self) -> list[int]:
        """The parts on disk."""
        return sorted(
            int(path.name[5:10]) for path in (self.folder / "run" / "candidates").glob("part-*")
        )


@pytest.fixture
def job(folder: Path) -> Job:
    write_prompts(folder / "prompts.jsonl", 16)
    return Job(folder)


def wait_for(line: str, process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    assert any(line in text for text in process.stderr)


def test_usr1_ends_the_job_after_the_part_and_queues_it_again(job: Job) -> None:
    """Slurm signals the batch shell alone, twice where other tasks are pending; shard 1 of 2 has parts 1, 3, 5 and 7."""
    process = job.start(FAKE.format(delay_s=0.3))
    wait_for("loading fake", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 75
    assert job.asked == ["requeue 77_2"]
    assert job.parts == [1]


def test_queued_again_it_goes_on_and_ends_with_0(job: Job) -> None:
    words = FAKE.format(delay_s=0.1)
    process = job.start(words)
    wait_for("loading fake", process)
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 75
    assert job.start(words).wait(30) == 0
    assert job.parts == [1, 3, 5, 7]
    assert job.asked == ["requeue 77_2"]


def test_usr1_in_the_last_part_ends_with_0_and_queues_nothing(job: Job) -> None:
    """Once it ended with 138, the wait that the signal broke off."""
    process = job.start(FAKE.format(delay_s=0.3) + " --shard-index 7 --num-shards 8")
    wait_for("loading fake", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert job.parts == [7]
    assert job.asked == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("generate prompts.jsonl --no-such-flag", 2),
        ("score nowhere -o run/scores --scorer fake", 1),
    ],
)
def test_an_error_is_the_jobs_and_queues_nothing(job: Job, words: str, code: int) -> None:
    assert job.start(words).wait(30) == code
    assert job.asked == []


def test_the_script_appends_to_its_log_and_is_signalled_alone() -> None:
    """A job that is queued again would else truncate what it said before."""
    directives = " ".join(line for line in job_script().splitlines() if line.startswith("#SBATCH"))
    assert "--open-mode=append" in directives
    assert re.search(r"--signal=B:USR1@\d+", directives)
    assert "--requeue" in directives


@pytest.fixture
def generate(job: Job) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a generate of 8 parts alone, without the script."""

    def run(
        *more: str, delay_s: float = 0.0, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        words = [*FAKE.format(delay_s=delay_s).split(), *more]
        return subprocess.run(
            [sys.executable, "-m", "prefpipe", *words],
            cwd=job.folder,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_sweep_in_an_array_is_told_from_a_split(
    job: Job, generate: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    silent_share = generate("-o", "sweep/candidates-2", **ARRAY)
    assert silent_share.returncode == 0
    first, second, *_ = silent_share.stderr.splitlines()
    assert first == (
        "shard 1 of 2, from SLURM_ARRAY_TASK_ID=2 of the array 1-2; where each task is a run of its own, pass --no-shards"
    )
    assert second.startswith(
        "warning: -o sweep/candidates-2 has this task's number in `candidates-2`."
    )
    assert len(list((job.folder / "sweep/candidates-2").glob("part-*"))) == 4
    whole = generate("-o", "sweep/candidates-2", "--no-shards", **ARRAY)
    assert whole.returncode == 0
    assert "shard" not in whole.stderr
    assert len(list((job.folder / "sweep/candidates-2").glob("part-*"))) == 8


def test_a_worker_without_a_part_says_so(
    generate: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    done = generate("--shard-index", "8", "--num-shards", "9")
    assert done.returncode == 0
    assert "shard 8 of 9 has no part to make: run/candidates has 8 in all" in done.stderr
    assert "a smaller --part-size" in done.stderr
    assert "no part to make" not in generate("--shard-index", "7", "--num-shards", "9").stderr


def test_parts_that_fit_are_not_warned_about(
    generate: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    done = generate(delay_s=0.05, SLURM_JOB_END_TIME=str(int(time.time()) + 3600))
    assert "warning" not in done.stderr
