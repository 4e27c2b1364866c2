"""Workers on this node: a process each, with GPUs of its own and a share of the processors.

Each worker leads a session, so that Ctrl-C at the terminal reaches the driver alone, and so that
all of its children (vLLM's engine processes) can be ended with it. Its line to the driver is a
socket: when the driver is gone, even by SIGKILL, the worker reads the end of the line and ends
itself and its children.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prefpipe.errors import UsageError
from prefpipe.execution.channel import Message, Order, SocketChannel
from prefpipe.execution.driver import Inbox
from prefpipe.execution.runtime import Job

CHANNEL_VARIABLE = "PREFPIPE_WORKER_CHANNEL"
"""Holds the number of the socket's file descriptor in a worker."""
THREADS_VARIABLES = ("OMP_NUM_THREADS",)
"""Set to a worker's share of the processors, where the user has not set them."""
DYING_S = 5.0


class LocalWorkers:
    """Processes on this node.

    Args:
        gpus: for each worker the GPUs that it sees (``CUDA_VISIBLE_DEVICES``), None to leave it.
    """

    def __init__(self, gpus: Sequence[str | None]) -> None:
        self._gpus = gpus
        self.n_workers = len(gpus)

    def open(self, job: Job) -> None:
        """Prepare nothing."""

    def start(self, order: Order, inbox: Inbox) -> "LocalWorker":
        """Start a process."""
        return LocalWorker(order, self._environment(order.number), inbox)

    def close(self) -> None:
        """Do nothing: each worker was ended by its driver."""

    def _environment(self, number: int) -> dict[str, str]:
        environment = dict(os.environ)
        # A share of the processors: torch would take all of them, in every worker.
        n_threads = max(1, len(os.sched_getaffinity(0)) // self.n_workers)
        for name in THREADS_VARIABLES:
            environment.setdefault(name, str(n_threads))
        gpus = self._gpus[number - 1]
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        return environment


class LocalWorker:
    """A process on this node, and a thread that hears what it says."""

    def __init__(self, order: Order, environment: Mapping[str, str], inbox: Inbox) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [*module_command("prefpipe"), "worker"],
                stdin=subprocess.DEVNULL,
                # stdout is the driver's, for what one would pipe
                stdout=sys.__stderr__,
                pass_fds=[its.fileno()],
                env={**environment, CHANNEL_VARIABLE: str(its.fileno())},
                start_new_session=True,
            )

        self.name = f"worker {order.number} (pid {self._process.pid})"
        self._channel = SocketChannel(ours)
        self._inbox = inbox
        self._has_closed_line = False
        self._channel.send(order.message())
        threading.Thread(target=self._listen, name=self.name, daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message."""
        self._channel.send(message)

    def end(self) -> str:
        """Kill what is left of the session; return how the process ended, in words."""
        if self._process.poll() is None and not self._is_ending_by_itself():
            self._kill_session()
        code = self._process.wait()
        # Children may have outlived it.
        self._kill_session()
        self._channel.close()
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def _is_ending_by_itself(self) -> bool:
        """Wait for a process that has closed its line; return whether it has ended."""
        if not self._has_closed_line:
            return False
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_S)
        return self._process.poll() is not None

    def _kill_session(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            self._inbox.put((self, message))
        self._has_closed_line = True
        self._inbox.put((self, None))


def module_command(module: str) -> list[str]:
    """Return the words that run a module as this process runs its own: with the same modules.

    ``python -m`` looks in the working directory first. A ``select.py`` or ``datasets.py`` that a
    user has there would be imported in place of the library's, in workers alone.
    """
    looks_here_first = sys.path[:1] in ([""], [str(Path.cwd())])
    isolation = [] if looks_here_first else ["-P"]
    return [sys.executable, *isolation, "-m", module]


def channel_to_driver() -> SocketChannel:
    """Return a worker's end of the line.

    Raises:
        UsageError: this process was not started by a driver.
    """
    number = os.environ.pop(CHANNEL_VARIABLE, "")
    try:
        return SocketChannel(socket.socket(fileno=int(number)))
    except (ValueError, OSError) as error:
        raise UsageError(
            "`prefpipe worker` is started by other commands",
            hint="run a stage with --workers N",
        ) from error


def end_this_session() -> None:
    """End this process and its children: nobody waits for them any more."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
