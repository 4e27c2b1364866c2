"""The script that ``prefpipe slurm`` prints, run by bash as Slurm runs it: what it exits with, and what it asks scontrol for."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.pipelines import write_prompts

pytestmark = pytest.mark.slow

ARRAY = {
    "SLURM_ARRAY_JOB_ID": "77",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_ARRAY_TASK_COUNT": "2",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_MAX": "2",
    "SLURM_ARRAY_TASK_STEP": "1",
}
FAKE = "generate prompts.jsonl -o run/candidates --backend fake --model fake:delay_s={delay_s} --n 2 --part-size 2"
ENTRY = "import sys; from prefpipe.__main__ import main; sys.exit(main())"


class Job:
    """The script in a folder of its own, with a scontrol that notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self._program("scontrol", f'echo "$@" >> {folder}/asked')
        self._program("prefpipe", f'exec {sys.executable} -c "{ENTRY}" "$@"')
        self.environment = os.environ | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def _program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def print_script(self, words: str, *flags: str) -> str:
        """Print the script of an array of two, or of what ``flags`` say."""
        done = subprocess.run(
            [
                *("prefpipe", "slurm", "--array", "2", "--activate", ":", *flags),
                *("--", *shlex.split(words)),
            ],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (self.folder / "job.sh").write_text(done.stdout, encoding="utf-8")
        (self.folder / "asked").unlink(missing_ok=True)
        return done.stdout

    def start(self, task: int = 1, **variables: str) -> "subprocess.Popen[str]":
        """Start the script as a task of the array."""
        of_task = ARRAY | {"SLURM_ARRAY_TASK_ID": str(task)}
        return subprocess.Popen(
            ["bash", "job.sh"],
            cwd=self.folder,
            env=self.environment | of_task | variables,
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
    job.print_script(FAKE.format(delay_s=0.3))
    process = job.start()
    wait_for("loading fake", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 75
    assert job.asked == ["requeue 77_1"]
    assert 1 in job.parts
    assert len(job.parts) < 4


def test_queued_again_it_goes_on_and_ends_with_0(job: Job) -> None:
    job.print_script(FAKE.format(delay_s=0.1))
    process = job.start()
    wait_for("loading fake", process)
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 75
    assert job.start().wait(120) == 0
    assert job.parts == [1, 3, 5, 7]
    assert job.asked == ["requeue 77_1"]


def test_usr1_in_the_last_part_ends_with_0_and_queues_nothing(job: Job) -> None:
    """Once it ended with 138, the wait that the signal broke off."""
    job.print_script(FAKE.format(delay_s=0.3), "--array", "8")
    process = job.start(task=7)
    wait_for("loading fake", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 0
    assert job.parts == [7]
    assert job.asked == []


@pytest.mark.parametrize("moment_s", [0, 0.03, 0.1, 0.25])
def test_usr1_while_everything_is_starting_queues_the_task_again(job: Job, moment_s: float) -> None:
    """Python has a handler some milliseconds after bash has its trap."""
    job.print_script(FAKE.format(delay_s=0.1))
    process = job.start()
    while not catches_usr1(process.pid):
        time.sleep(0.001)
    time.sleep(moment_s)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 75
    assert job.asked == ["requeue 77_1"]


def catches_usr1(process: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


def test_sigterm_finishes_the_part_and_queues_nothing(job: Job) -> None:
    """It comes with scancel, to all processes: passed on as it came, it would stop the program at once."""
    job.print_script(FAKE.format(delay_s=0.7))
    process = job.start()
    wait_for("loading fake", process)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(120) == 75
    assert job.asked == []
    assert 1 in job.parts
    assert len(job.parts) < 4


def test_a_task_is_not_queued_again_for_ever(job: Job) -> None:
    """A model that takes longer to load than the time limit allows is never done."""
    job.print_script(FAKE.format(delay_s=0.1), "--max-requeues", "3")
    for count, asked in (("2", ["requeue 77_1"]), ("3", ["requeue 77_1"])):
        process = job.start(SLURM_RESTART_COUNT=count)
        wait_for("loading fake", process)
        process.send_signal(signal.SIGUSR1)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 75
        assert job.asked == asked
    assert "error: queued again 3 times, the limit of --max-requeues" in stderr


@pytest.mark.parametrize("missing", ["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_JOB_ID"])
def test_started_without_sbatch_it_does_nothing(job: Job, missing: str) -> None:
    job.print_script(FAKE.format(delay_s=0))
    variables = {name: value for name, value in ARRAY.items() if name != missing}
    done = subprocess.run(
        ["bash", "job.sh"],
        cwd=job.folder,
        env=job.environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"{missing}: is not set: submit this script with sbatch" in done.stderr
    assert job.parts == []


def test_a_line_that_makes_no_prefpipe_available_is_an_error(job: Job) -> None:
    job.print_script(FAKE.format(delay_s=0), "--activate", "PATH=/usr/bin:/bin")
    process = job.start()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: prefpipe is not found; correct the activation lines above" in stderr


def test_an_error_is_the_jobs_and_queues_nothing(job: Job) -> None:
    job.print_script(FAKE.format(delay_s=0))
    (job.folder / "prompts.jsonl").unlink()
    assert job.start().wait(120) == 1
    assert job.asked == []


def test_the_script_appends_to_its_log_and_is_signalled_alone(job: Job) -> None:
    """A job that is queued again would else truncate what it said before."""
    directives = re.findall("^#SBATCH (.*)", job.print_script(FAKE.format(delay_s=0)), re.MULTILINE)
    assert {"--open-mode=append", "--signal=B:USR1@600", "--requeue"} <= set(directives)


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
        "shard 1 of 2, from SLURM_ARRAY_TASK_ID=2 of the array 1-2; pass --no-shards if each task is a separate run"
    )
    assert second.startswith(
        "warning: -o sweep/candidates-2 contains this task's number in `candidates-2`."
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
