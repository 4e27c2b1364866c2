"""A Slurm cluster of one node on this machine, with its own key, folders and ports; needs root and Debian's packages."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
GPUS = ("/dev/null", "/dev/zero")
"""Devices that are on every machine stand for them: Slurm counts and hands out what it does not open."""
MAX_ARRAY_SIZE = 6
"""Small, so that a few parts fill several windows."""
CONFIG = """\
ClusterName=prefpipe
SlurmctldHost={host}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
KillWait=8
MaxArraySize={max_array_size}
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={n_gpus} Gres=gpu:{n_gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, PROGRAMS))


class Cluster:
    """The daemons, and what is asked of them."""

    def __init__(self) -> None:
        # a short path: munge's socket has one, and sockets have at most 107 letters
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        self.host = socket.gethostname().partition(".")[0]
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("SLURM_", "SBATCH_"))
            },
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Write key and configuration and start the daemons, each a child of this process."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        gpus = [f"Name=gpu File={device}\n" for device in GPUS]
        (self.folder / "gres.conf").write_text("".join(gpus))
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                host=self.host,
                folder=self.folder,
                controller_port=_free_port(),
                node_port=_free_port(),
                max_array_size=MAX_ARRAY_SIZE,
                n_gpus=len(GPUS),
            )
        )

        places = {"key": "munge.key", "socket": "munge.socket", "pid": "munge.pid"}
        words = ["munged", "--foreground", "--force"]
        words += [f"--key-file={self.folder}/{places['key']}"]
        words += [f"--socket={self.folder}/{places['socket']}"]
        words += [f"--pid-file={self.folder}/{places['pid']}"]
        words += [f"--seed-file={self.folder}/munge.seed", f"--log-file={self.folder}/munge.log"]
        self._start(words)
        wait_until((self.folder / "munge.socket").exists, "munge's socket")
        self._start(["slurmctld", "-D"])
        self._start(["slurmd", "-D", "-N", self.host])
        wait_until(lambda: self.node_state() == "idle", "an idle node")

    def stop(self) -> None:
        """End all jobs and the daemons."""
        self.run("scancel", "--user=root")
        wait_until(lambda: not self.queue(), "the jobs' end")
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, words: list[str]) -> None:
        with (self.folder / f"{words[0]}.out").open("wb") as log:
            daemon = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
        self._daemons.append(daemon)

    def run(self, *words: str, stdin: str | None = None) -> str:
        """Run a command of Slurm and return what it prints."""
        done = subprocess.run(
            words, env=self.environment, input=stdin, capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def submit(self, script: str, folder: Path) -> str:
        """Pipe a script into sbatch and return the array's number."""
        done = subprocess.run(
            ["sbatch", "--parsable"],
            cwd=folder,
            env=self.environment,
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stderr}\n{script}"
        return done.stdout.strip()

    def node_state(self) -> str:
        """Return ``idle``, ``mix``, ``alloc``, ``down``, ..."""
        return self.run("sinfo", "-h", "-N", "-o", "%t").strip()

    def queue(self, states: str = "all") -> list[str]:
        """Return the tasks that are not over, ``12_3``, or those in some states, ``R``."""
        chosen = [] if states == "all" else [f"--states={states}"]
        return self.run("squeue", "-h", "-r", "-o", "%i", *chosen).split()

    def facts(self, task: str) -> dict[str, str]:
        """Return what Slurm says of a task: JobState, Restarts, ExitCode, ..."""
        return dict(re.findall(r"(\w+)=(\S+)", self.run("scontrol", "show", "job", task)))

    def signal_task(self, task: str, number: str) -> None:
        """Signal a task's shell alone, as Slurm does before the time limit."""
        # scancel itself tries for a minute where the task is on its way out
        subprocess.Popen(
            ["timeout", "3", "scancel", "--batch", f"--signal={number}", task],
            env=self.environment,
            stderr=subprocess.DEVNULL,
        )


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for something that another process brings about."""
    ends_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends_at, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
