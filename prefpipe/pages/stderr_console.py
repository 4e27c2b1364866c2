"""The console of stderr, which outlives its reader."""

import os
from typing import Any

from rich.console import Console


class StderrConsole(Console):
    """Prints to stderr; its reader may go away, and the run goes on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(stderr=True, highlight=False, soft_wrap=True, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Print nowhere from now on: a `tee` that dies must not cost a night's work.

        rich would end the process.
        """
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
