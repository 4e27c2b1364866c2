"""A command in its own process: this process forwards signals to it and waits for it.

The process leads a session, so that Ctrl-C at the terminal reaches only this process. On Linux the
system ends it when this process is gone, even by SIGKILL; elsewhere it runs to its end.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import IO, Protocol

from prefpipe.execution.processes import module_command

STEP_VARIABLE = "PREFPIPE_STEP"
"""Says a step's process which step of a plan it is, to show it above its own progress."""
PR_SET_PDEATHSIG = 1
POLL_S = 0.1
SENT_TO_ALL_S = 1.0
"""Time in which a SIGTERM to all processes also reaches the command."""
UNWIND_S = 6.0
"""Time for a process that must end at once to close its files and connections."""


class SignalSource(Protocol):
    """Knows which signal requested a stop, and lets a step end first."""

    @property
    def number(self) -> int | None:
        """The first signal; None until one arrives."""
        ...

    def finishing(self, *, however_long: bool = False) -> AbstractContextManager[None]:
        """Return a section that delays a stop request."""
        ...


def run_step(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    signals: SignalSource,
    kept_open: Sequence[int] = (),
) -> int:
    """Run a command to its end; return its exit code, negative for the signal that ended it.

    Args:
        words: the words after ``prefpipe``.
        environment: its environment variables.
        signals: the signals that this process receives.
        kept_open: file descriptors that it inherits.

    Raises:
        BaseException: a second signal or Ctrl-C; the command has ended.
    """
    command = [*module_command("prefpipe"), *words]
    # stdout is for output to pipe, and a step's path is not the result.
    return _run(command, subprocess.DEVNULL, environment, signals, kept_open)


def run_foreign(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    signals: SignalSource,
    kept_open: Sequence[int] = (),
) -> int:
    """Run a foreign command in the same way; its output goes to stderr.

    Raises:
        OSError: the command does not exist.
        BaseException: as `run_step`.
    """
    return _run(words, sys.__stderr__, environment, signals, kept_open)


def _run(
    command: Sequence[str],
    stdout: int | IO[str] | None,
    environment: Mapping[str, str],
    signals: SignalSource,
    kept_open: Sequence[int],
) -> int:
    with signals.finishing(however_long=True):
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=sys.__stderr__,
            env=dict(environment),
            pass_fds=tuple(kept_open),
            start_new_session=True,
            # No thread here holds a lock: the only other thread reads signals.
            preexec_fn=_EndWithParent(),  # noqa: PLW1509
        )
        try:
            return _wait(process, signals)
        except BaseException:
            number = signal.SIGINT if signals.number == signal.SIGINT else signal.SIGTERM
            _send(process, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(UNWIND_S)
            raise


def _wait(process: "subprocess.Popen[bytes]", signals: SignalSource) -> int:
    """Wait for a process to end, and forward the first signal."""
    while (asked := signals.number) is None:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S)

    number = signal.Signals(asked)
    if number == signal.SIGTERM:
        # Slurm and systemd signal all processes, and a second SIGTERM means "at once" to a command.
        # SIGHUP after it repeats the same request.
        with suppress(subprocess.TimeoutExpired):
            return process.wait(SENT_TO_ALL_S)
        number = signal.SIGHUP
    _send(process, number)
    return process.wait()


def _send(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


class _EndWithParent:
    """Runs in a new process before it becomes the command."""

    def __init__(self) -> None:
        self._parent = os.getpid()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def __call__(self) -> None:
        # `nohup` ignores SIGHUP, but stops are forwarded as SIGHUP.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if self._libc is None:
            return
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent is gone already: there is nothing left to wait for.
        if os.getppid() != self._parent:
            os.kill(os.getpid(), signal.SIGTERM)
