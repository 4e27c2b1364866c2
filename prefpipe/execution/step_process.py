"""A command in a process of its own, which is sent what this process is sent, and waited for.

The process leads a session, so that Ctrl-C at the terminal reaches this process alone. It is ended
by the system when this one is gone, even by SIGKILL (Linux; elsewhere it goes on to its end).
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
"""A SIGTERM that all processes are sent has reached the command by then."""
UNWIND_S = 6.0
"""A process that is to end at once may take so long to close what it has open."""


class SignalSource(Protocol):
    """What knows which signal asked this process to stop, and lets a step end first."""

    @property
    def number(self) -> int | None:
        """The first signal, None as long as there is none."""
        ...

    def finishing(self, *, however_long: bool = False) -> AbstractContextManager[None]:
        """Return a section in which a request waits."""
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
        words: after ``prefpipe``.
        environment: its variables.
        signals: those that this process is sent.
        kept_open: file descriptors that it inherits.

    Raises:
        BaseException: what a second signal, or Ctrl-C, raises here; the command has ended.
    """
    command = [*module_command("prefpipe"), *words]
    # stdout is for what one would pipe, and a step's path is not the answer
    return _run(command, subprocess.DEVNULL, environment, signals, kept_open)


def run_foreign(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    signals: SignalSource,
    kept_open: Sequence[int] = (),
) -> int:
    """Run a command that is none of ours in the same way; what it prints goes to stderr.

    Raises:
        OSError: there is no such command.
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
            # no thread of this process holds a lock: all that it has is the one that reads signals
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
    """Wait for the end of a process, and hand the first signal on."""
    while (asked := signals.number) is None:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S)

    number = signal.Signals(asked)
    if number == signal.SIGTERM:
        # Slurm and systemd send it to all processes, and to a command a second one means "at
        # once". SIGHUP behind it is the same request.
        with suppress(subprocess.TimeoutExpired):
            return process.wait(SENT_TO_ALL_S)
        number = signal.SIGHUP
    _send(process, number)
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
