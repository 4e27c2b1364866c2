"""A command in a process of its own, which is sent what this process is sent, and waited for.

The process leads a session, so that Ctrl-C at the terminal reaches this process alone. It is ended
by the system when this one is gone, even by SIGKILL (Linux; elsewhere it goes on to its end).
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress

from prefpipe.execution.processes import module_command

PR_SET_PDEATHSIG = 1
POLL_S = 0.1
UNWIND_S = 6.0
"""A process that is to end at once may take so long to close what it has open."""


def run_step(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    signal_asked: Callable[[], int | None],
    finishing: Callable[..., AbstractContextManager[None]],
    kept_open: Sequence[int] = (),
) -> int:
    """Run a command to its end; return its exit code, negative for the signal that ended it.

    Args:
        words: after ``prefpipe``.
        environment: its variables.
        signal_asked: the number of the first signal that this process was sent, None for none.
        finishing: a section in which such a signal waits: the command says when it has stopped.
        kept_open: file descriptors that it inherits.

    Raises:
        BaseException: what a second signal, or Ctrl-C, raises here; the command has ended.
    """
    with finishing(however_long=True):
        process = subprocess.Popen(
            [*module_command("prefpipe"), *words],
            stdin=subprocess.DEVNULL,
            # stdout is for what one would pipe, and a step's path is not the answer
            stdout=subprocess.DEVNULL,
            stderr=sys.__stderr__,
            env=dict(environment),
            pass_fds=tuple(kept_open),
            start_new_session=True,
            # no thread of this process holds a lock: all that it has is the one that reads signals
            preexec_fn=_EndWithParent(),  # noqa: PLW1509
        )
        try:
            return _wait(process, signal_asked)
        except BaseException:
            number = signal.SIGINT if signal_asked() == signal.SIGINT else signal.SIGTERM
            _send(process, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(UNWIND_S)
            raise


def _wait(process: "subprocess.Popen[bytes]", signal_asked: Callable[[], int | None]) -> int:
    """Wait for the end of a process, and hand the first signal on."""
    while signal_asked() is None:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S)

    number = signal_asked()
    # Slurm and systemd send SIGTERM to all processes, and to a command a second one means "at
    # once"; SIGHUP so soon after is the same request.
    _send(process, signal.SIGHUP if number == signal.SIGTERM else signal.Signals(number or 0))
    return process.wait()


def _send(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


class _EndWithParent:
    """What a new process does before it becomes the command."""

    def __init__(self) -> None:
        self._parent = os.getpid()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def __call__(self) -> None:
        # under `nohup` it is ignored, and a stop is handed on by it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if self._libc is None:
            return
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # gone already: nobody is left whose end would be noticed
        if os.getppid() != self._parent:
            os.kill(os.getpid(), signal.SIGTERM)
