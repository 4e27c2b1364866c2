"""Arrays that ``prefpipe slurm`` prints, in a real Slurm: to the end, stopped, killed, and without their node.

Whatever happens to the tasks, what is there at the end equals what one process makes. `make test-slurm` installs
Slurm and runs these; without it they are skipped.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pipelines import assert_same_artifact, write_prompts
from support.slurm_cluster import GPUS, MAX_ARRAY_SIZE, Cluster, is_installed, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (os.environ.get("PREFPIPE_TEST_SLURM") and is_installed()),
        reason="needs Slurm and root: make test-slurm",
    ),
]

N_PARTS = 12
GENERATE = ["generate", "prompts.jsonl", "--backend", "fake", "--n", "2", "--part-size", "2"]
FAST, SLOW, SLOWER, SLOWEST = "fake", "fake:delay_s=0.1", "fake:delay_s=0.3", "fake:delay_s=0.5"
"""Models with the same rows; of the last three a part takes 0.4 s, 1.2 s and 2 s."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def undivided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same candidates, made by one process."""
    folder = tmp_path_factory.mktemp("undivided")
    write_prompts(folder / "prompts.jsonl", 2 * N_PARTS)
    done = prefpipe(folder, *GENERATE, "--model", FAST, "-o", "candidates")
    assert done.returncode == 0, done.stderr
    return folder / "candidates"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name a shell would take apart."""
    folder = tmp_path / 'it\'s $HOME; a "b"'
    folder.mkdir()
    write_prompts(folder / "prompts.jsonl", 2 * N_PARTS)
    return folder


def prefpipe(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "prefpipe", *words],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


class Array:
    """An array that was submitted, and its tasks."""

    def __init__(self, cluster: Cluster, folder: Path, script: str) -> None:
        self.cluster, self.folder = cluster, folder
        match = re.search(r"--array=(\S+)", script)
        assert match is not None
        self.listed = match[1]
        self.id = cluster.submit(script, folder)

    def tasks(self) -> list[str]:
        """The tasks as Slurm names them, over or not."""
        numbers: list[int] = []
        for piece in self.listed.split(","):
            first, _, last = piece.partition("-")
            numbers += range(int(first), int(last or first) + 1)
        return [f"{self.id}_{number}" for number in numbers]

    def running(self) -> list[str]:
        return [task for task in self.cluster.queue("R") if task.startswith(f"{self.id}_")]

    def is_over(self) -> bool:
        return not any(task.startswith(f"{self.id}_") for task in self.cluster.queue())

    def wait(self) -> None:
        """Wait until all tasks are over."""
        wait_until(self.is_over, f"end of array {self.id}", 120)

    def facts(self, name: str) -> list[str]:
        return [self.cluster.facts(task)[name] for task in self.tasks()]

    def n_restarts(self) -> int:
        return sum(map(int, self.facts("Restarts")))

    def processes(self) -> list[int]:
        """The prefpipe processes of this array's tasks that run now."""
        numbers = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                is_here = (entry / "cwd").readlink() == self.folder
                variables = (entry / "environ").read_bytes()
            except OSError:
                continue
            is_ours = f"SLURM_ARRAY_JOB_ID={self.id}\0".encode() in variables
            if is_here and is_ours and b"generate" in words and b"python" in words[0]:
                numbers.append(int(entry.name))
        return numbers


def script_of(cluster: Cluster, folder: Path, *flags: str, model: str = FAST) -> str:
    """Return what ``prefpipe slurm`` prints."""
    done = prefpipe(
        folder,
        "slurm",
        *flags,
        "--",
        *GENERATE,
        "--model",
        model,
        "-o",
        "run/candidates",
        **{name: cluster.environment[name] for name in ("SLURM_CONF",)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def n_parts(folder: Path) -> int:
    return len(list((folder / "run" / "candidates").glob("part-*")))


def test_an_array_runs_to_its_end_a_task_a_gpu(
    cluster: Cluster, folder: Path, undivided: Path
) -> None:
    """Four workers on two GPUs run two at a time; then there is nothing to submit."""
    flags = ("--array", "4", "--gpus-per-worker", "1", "--time", "1:00:00", "--log-folder", "logs")
    array = Array(cluster, folder, script_of(cluster, folder, *flags, model=SLOW))
    most = 0
    while cluster.queue():
        most = max(most, len(array.running()))
        time.sleep(0.1)
    assert most == len(GPUS)
    assert array.facts("JobState") == ["COMPLETED"] * 4
    assert_same_artifact(folder / "run" / "candidates", undivided)

    logs = sorted((folder / "logs").iterdir())
    assert [path.name for path in logs] == [
        f"prefpipe-generate-{task}.log" for task in array.tasks()
    ]
    assert "shard 2 of 4" in logs[2].read_text()
    assert script_of(cluster, folder, *flags) == ""


def test_usr1_before_the_limit_queues_a_task_again(
    cluster: Cluster, folder: Path, undivided: Path
) -> None:
    """As often as it comes, whenever it comes: also before the program has a handler for it."""
    moments = random.Random(13)
    array = Array(cluster, folder, script_of(cluster, folder, "--array", "2", model=SLOWER))
    n_struck = 0
    while n_struck < 10 and not array.is_over():
        wait_until(lambda: bool(array.running()) or array.is_over(), "a running task")
        time.sleep(moments.uniform(0.2, 1.5))
        for task in array.running():
            cluster.signal_task(task, "USR1")
            n_struck += 1
        wait_until(lambda: not array.running(), "stopped tasks")
    array.wait()

    # a signal that comes while the last parts are open queues nothing again
    assert array.facts("JobState") == ["COMPLETED"] * 2
    assert array.n_restarts() >= n_struck - 2 >= 4
    assert_same_artifact(folder / "run" / "candidates", undivided)
    print(f"{n_struck} tasks signalled, {array.n_restarts()} queued again")


def test_a_killed_task_fails_and_the_script_printed_anew_has_its_shard_alone(
    cluster: Cluster, folder: Path, undivided: Path
) -> None:
    """SIGKILL, as by the kernel where memory runs out: queued again by itself it would be killed again."""
    moments = random.Random(13)
    n_killed = 0
    while n_parts(folder) < N_PARTS:
        # a task has four parts of 2 s each: on the quickest machine none is over when it is killed
        script = script_of(cluster, folder, "--array", "3", model=SLOWEST)
        shards = {part % 3 for part in range(N_PARTS)} - finished_shards(folder, 3)
        array = Array(cluster, folder, script)
        assert {int(task.partition("_")[2]) for task in array.tasks()} == shards

        victims: list[int] = []
        if n_killed < 6:
            victims = victims_of(array, moments.uniform(0, 3))
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
        array.wait()
        assert array.facts("JobState").count("FAILED") <= len(victims)
        assert array.n_restarts() == 0
        n_killed += array.facts("ExitCode").count("137:0")
    assert n_killed >= 6
    assert_same_artifact(folder / "run" / "candidates", undivided)
    print(f"{n_killed} tasks killed")


def test_a_node_that_goes_down_and_comes_back_has_its_tasks_again(
    cluster: Cluster, folder: Path, undivided: Path
) -> None:
    moments = random.Random(13)
    array = Array(cluster, folder, script_of(cluster, folder, "--array", "2", model=SLOWER))
    n_lost = 0
    for _ in range(2):
        wait_until(lambda: len(array.running()) == 2, "two running tasks")
        time.sleep(moments.uniform(0, 2))
        n_lost += len(array.running())
        node = f"nodename={cluster.host}"
        cluster.run("scontrol", "update", node, "state=down", "reason=test")
        wait_until(lambda: not array.running(), "lost tasks")
        cluster.run("scontrol", "update", node, "state=resume")
    array.wait()
    assert array.facts("JobState") == ["COMPLETED"] * 2
    assert array.n_restarts() == n_lost == 4
    assert_same_artifact(folder / "run" / "candidates", undivided)
    print(f"{n_lost} tasks lost with their node")


def test_a_task_that_is_cancelled_stops_and_is_not_queued_again(
    cluster: Cluster, folder: Path
) -> None:
    """scancel sends SIGTERM to shell and program; what is begun is finished, as far as the grace allows."""
    array = Array(cluster, folder, script_of(cluster, folder, "--array", "1", model=SLOW))
    wait_until(lambda: n_parts(folder) > 0, "a part")
    cluster.run("scancel", array.id)
    array.wait()
    assert array.facts("JobState") == ["CANCELLED"]
    assert array.n_restarts() == 0
    (log,) = folder.glob("slurm-*.out")
    assert "SIGTERM: finishing what is begun" in log.read_text()
    assert "stopped on request" in log.read_text()
    assert "at once" not in log.read_text().partition("stops at once")[2]
    assert 0 < n_parts(folder) < N_PARTS


def test_more_shards_than_an_array_may_have_take_windows(
    cluster: Cluster, folder: Path, undivided: Path
) -> None:
    """Slurm numbers tasks below MaxArraySize, which scontrol says; each window says where it begins."""
    flags = ("--array", str(N_PARTS))
    words = ("--", *GENERATE, "--model", FAST, "-o", "run/candidates")
    config = {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
    refused = prefpipe(folder, "slurm", *flags, *words, **config)
    assert refused.returncode == 2
    assert f"(MaxArraySize {MAX_ARRAY_SIZE})" in refused.stderr
    assert "for window in 0 1; do prefpipe slurm --window $window" in refused.stderr

    arrays = [
        Array(cluster, folder, script_of(cluster, folder, *flags, "--window", str(window)))
        for window in (0, 1)
    ]
    for array in arrays:
        assert array.listed == f"0-{MAX_ARRAY_SIZE - 1}"
        array.wait()
        assert set(array.facts("JobState")) == {"COMPLETED"}
    assert_same_artifact(folder / "run" / "candidates", undivided)


def victims_of(array: Array, seconds: float) -> list[int]:
    """The array's processes some time after the first of them has started."""
    wait_until(lambda: bool(array.processes()), "a process")
    time.sleep(seconds)
    return array.processes()


def finished_shards(folder: Path, count: int) -> set[int]:
    """The shards whose parts are all there."""
    there = {int(path.name[5:10]) for path in (folder / "run" / "candidates").glob("part-*")}
    return {index for index in range(count) if set(range(index, N_PARTS, count)) <= there}
