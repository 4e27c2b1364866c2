"""A Ray cluster of two nodes in this machine, and who of it belongs to which command."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from support.worker_runs import await_true, is_worker, processes_marked

MARK = "PREFPIPE_RAY_CLUSTER"
NODE = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
QUICK = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
"""A node that is lost is noticed within seconds, not after a quarter of a minute."""
OURS = ("ray::WorkerActor", "prefpipe.execution.ray_client", "prefpipe worker")


class TwoNodes:
    """A head and a second node, one processor each; the second one can be lost and replaced."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": QUICK, **NODE}
        )
        self.second: Any = None
        self.add_node()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add_node(self, n_cpus: int = 1, **variables: str) -> None:
        self.second = self.cluster.add_node(num_cpus=n_cpus, env_vars=variables, **NODE)

    def lose_node(self) -> None:
        """End the second node's processes as a power cut would."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start a cluster; end it with whatever it has started."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DEDUP_LOGS", "0")
        cluster = TwoNodes()
        session = cluster.cluster.head_node.get_session_dir_path()
        try:
            yield cluster
        finally:
            cluster.cluster.shutdown()
            await_true(lambda: not members(mark), 5.0)
            # Agents of a node that was lost notice it late.
            for pid in members(mark):
                os.kill(pid, signal.SIGKILL)
            assert await_true(lambda: not members(mark))
            # Logs, in /tmp/ray: the names of Ray's sockets must be short.
            shutil.rmtree(session, ignore_errors=True)


def members(mark: str) -> list[int]:
    """Return the processes that a cluster has started, and theirs."""
    return [pid for pid in processes_marked(mark, MARK) if pid != os.getpid()]


def ours_on_it() -> list[str]:
    """Return the command lines of prefpipe's processes on the cluster and towards it."""
    lines = []
    for pid in members(os.environ[MARK]):
        line = command_line(pid)
        if any(name in line for name in OURS):
            lines.append(line)
    return lines


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def actors_of(mark: str) -> list[int]:
    """Return the process ids of the actors that hold the workers of a command."""
    return [pid for pid in map(parent_of, workers_of(mark)) if pid > 1]


def workers_of(mark: str) -> list[int]:
    """Return the process ids of a command's workers."""
    return [pid for pid in processes_marked(mark) if is_worker(pid)]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def variable_of(pid: int, name: str) -> str:
    """Return a variable of a process's environment."""
    for entry in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0"):
        key, _, value = entry.partition("=")
        if key == name:
            return value
    return ""
