"""Workers on this node: one process each, with its own GPUs and a share of the processors.

Each worker leads a session, so that Ctrl-C at the terminal reaches only the driver, and so that all
its children (vLLM's engine processes) can be ended with it. It talks to the driver over a socket:
when the driver is gone, even by SIGKILL, the worker reads end-of-file and ends itself and its
children.
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
"""Environment variable with the socket's file descriptor in a worker."""
THREADS_VARIABLES = ("OMP_NUM_THREADS",)
"""Variables set to a worker's share of the processors, unless the user has set them."""
DYING_S = 5.0


class LocalWorkers:
    """Processes on this node.

    Args:
        gpus: for each worker its ``CUDA_VISIBLE_DEVICES``; None to leave the variable alone.
    """

    def __init__(self, gpus: Sequence[str | None]) -> None:
        self._gpus = gpus
        self.n_workers = len(gpus)

    def open(self, job: Job) -> None:
        """Do nothing: there is nothing to prepare."""

    def start(self, order: Order, inbox: Inbox) -> "LocalWorker":
        """Start a process."""
        return LocalWorker(order, self._environment(order.number), inbox)

    def close(self) -> None:
        """Do nothing: the driver has ended each worker."""

    def _environment(self, number: int) -> dict[str, str]:
        environment = dict(os.environ)
        # Without this, torch would take all processors in every worker.
        n_threads = max(1, len(os.sched_getaffinity(0)) // self.n_workers)
        for name in THREADS_VARIABLES:
            environment.setdefault(name, str(n_threads))
        gpus = self._gpus[number - 1]
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        return environment


class LocalWorker:
    """A process on this node, and a thread that receives its messages."""

    def __init__(self, order: Order, environment: Mapping[str, str], inbox: Inbox) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [*module_command("prefpipe"), "worker"],
                stdin=subprocess.DEVNULL,
                # stdout belongs to the driver, for output that can be piped
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
        """Kill the rest of the session; return in words how the process ended."""
        if self._process.poll() is None and not self._is_ending():
            self._kill_session()
        code = self._process.wait()
        # Its children may still run.
        self._kill_session()
        self._channel.close()
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def _is_ending(self) -> bool:
        """Wait for a process that has closed its socket; return whether it has ended."""
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
    """Return the command that runs a module with the modules of this process.

    ``python -m`` looks in the working directory first. A user's ``select.py`` or ``datasets.py``
    there would replace the library's module, but only in workers.
    """
    looks_here_first = sys.path[:1] in ([""], [str(Path.cwd())])
    isolation = [] if looks_here_first else ["-P"]
    return [sys.executable, *isolation, "-m", module]


def channel_to_driver() -> SocketChannel:
    """Return a worker's end of the channel.

    Raises:
        UsageError: no driver started this process.
    """
    number = os.environ.pop(CHANNEL_VARIABLE, "")
    try:
        return SocketChannel(socket.socket(fileno=int(number)))
    except (ValueError, OSError) as error:
        raise UsageError(
            "`prefpipe worker` runs only as a child of another command",
            hint="start workers with `prefpipe generate ... --workers N`, or another stage",
        ) from error


def end_this_session() -> None:
    """End this process and its children: nothing waits for them any more."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
