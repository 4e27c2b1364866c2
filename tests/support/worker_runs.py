"""Commands with several workers, run as a user runs them, and the processes that they leave."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

CHANNEL = b"PREFPIPE_WORKER_CHANNEL="


class Ended(NamedTuple):
    """A command that has ended: ``code`` is negative for a signal."""

    code: int
    stdout: str
    stderr: str


class Running:
    """A command that is running, with whatever it has started."""

    def __init__(self, words: Sequence[object], mark: str) -> None:
        """Start it; ``mark`` goes into the environment, by which its workers are found."""
        self.mark = mark
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PREFPIPE_TEST_RUN": mark}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefpipe", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def workers(self) -> list[int]:
        """Return the process ids of the workers that live."""
        return [pid for pid in processes_marked(self.mark) if is_worker(pid)]

    def await_workers(self, n: int, limit_s: float = 120.0) -> list[int]:
        """Return the workers once there are so many; fewer when the command has ended."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and self.process.poll() is None:
            workers = self.workers()
            if len(workers) >= n:
                return workers
            time.sleep(0.01)
        return self.workers()

    def end(self, limit_s: float = 120.0) -> Ended:
        """Wait for its end."""
        try:
            stdout, stderr = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            for pid in processes_marked(self.mark):
                os.kill(pid, signal.SIGKILL)
            raise
        return Ended(self.process.returncode, stdout, stderr)


def run_command(*words: object, mark: str = "plain") -> Ended:
    """Run a command to its end."""
    return Running(words, mark).end()


def processes_marked(mark: str, variable: str = "PREFPIPE_TEST_RUN") -> list[int]:
    """Return the living processes whose environment carries a mark."""
    wanted = f"{variable}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            environment = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if wanted in environment.split(b"\0") and state != "Z":
            found.append(int(folder.name))
    return found


def is_worker(pid: int) -> bool:
    """Return whether a process is a worker."""
    try:
        return CHANNEL in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def await_true(question: Callable[[], bool], limit_s: float = 60.0) -> bool:
    """Return whether a question is answered yes within some time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if question():
            return True
        time.sleep(0.02)
    return question()
