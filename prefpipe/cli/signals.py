"""SIGTERM and SIGUSR1: finish the current part, then exit 75, which says "run me again"."""

import signal
from types import FrameType

from prefpipe.errors import StoppedEarly


class StopFlag:
    """Remembers that a stop was asked for; a second signal stops at once, losing only the current part."""

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        """Catch SIGTERM, and SIGUSR1 where it exists (Slurm sends it before the time limit)."""
        for name in ("SIGTERM", "SIGUSR1"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._on_signal)

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.asked

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise StoppedEarly("stopped at once by a second signal; finished parts are kept",
                               hint="run the same command again to go on")  # fmt: skip
        self.asked = True
