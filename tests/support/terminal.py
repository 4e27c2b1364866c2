"""A command at a terminal: in a process of its own, with a pseudo-terminal as its stderr."""

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from support.screen import Screen

LIMIT_S = 120.0
"""A command that prints nothing for so long fails a test."""


class AtTerminal:
    """A running command; ``text`` is what it has printed to the terminal so far."""

    def __init__(
        self, words: Sequence[str], folder: Path, *, width: int = 80, **variables: str
    ) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
        dropped = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS")
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefpipe", *words],
            cwd=folder,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**environment, "TERM": "xterm-256color", **variables},
        )
        os.close(theirs)
        self.width, self.text = width, ""

    def read_until(self, text: str, *, n_more_than: int = 0) -> None:
        """Wait until something is printed, or printed more often than so many times."""
        while self.text.count(text) <= n_more_than:
            assert self._read(), self.text

    def finish(self) -> int:
        """Wait for the end, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(LIMIT_S)

    @property
    def screen(self) -> Screen:
        """What is on the terminal now."""
        return Screen(self.width).write(self.text.replace("\r\n", "\n"))

    def close(self) -> None:
        """End the command and the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        """Read what has come; return False at the end."""
        ready, _, _ = select.select([self._ours], [], [], LIMIT_S)
        assert ready, f"nothing came within {LIMIT_S} s: {self.text}"
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # nobody holds the other end any more
            return False
        self.text += data.decode()
        return bool(data)
