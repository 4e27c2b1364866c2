"""SIGTERM and SIGUSR1: finish the current part, then exit 75, which says "run me again"."""

import os
import signal
from types import FrameType

from prefpipe.errors import StoppedEarly


class StopFlag:
    """Remembers that a stop was asked for; a second signal stops at once, losing only the current part.

    One of several processes of a run waits for the step's end in any case: the others wait for it.
    """

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
        if self.asked and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return  # batch systems signal launcher and processes, and the launcher passes it on: still one request
        if self.asked:
            raise StoppedEarly("stopped at once by a second signal; finished parts are kept",
                               hint="run the same command again to go on")  # fmt: skip
        self.asked = True
