"""The processes that an engine starts: notices their death, and ends them with this process.

vLLM samples in its own process, or several with several GPUs. If that process is killed, for
example out of memory, vLLM's synchronous engine waits for its next step forever. If this process is
killed, vLLM's process stays and keeps the GPU's memory from the next run.
"""

import multiprocessing
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

REAPER = 'read -r _; kill -KILL "$@"'
"""A shell that waits for a line, or for the end of its input when this process ends."""
REAPER_S = 10.0
"""How long `EngineProcesses.close` waits for it."""
EXIT_STATUS_S = 1.0
"""How long to wait for an ended process's exit status."""


class EngineProcesses:
    """The processes started in a ``with`` block."""

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []
        self._reaper: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    @contextmanager
    def started_here(self) -> Iterator[None]:
        """Record the processes that start in the block and still live at its end."""
        before = multiprocessing.active_children()
        yield
        self._processes = [
            process for process in multiprocessing.active_children() if process not in before
        ]
        if not self._processes:
            return

        # By number: some of them are children of children.
        pids = []
        for process in self._processes:
            assert process.pid is not None
            pids += [process.pid, *_descendants(process.pid)]
        # In its own session: a signal to our group is not meant for it.
        self._reaper = subprocess.Popen(
            ["/bin/sh", "-c", REAPER, "reaper", *map(str, pids)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that were started."""
        return [process.pid for process in self._processes if process.pid is not None]

    def watch(self, on_death: Callable[[str], None]) -> None:
        """Call ``on_death``, in a thread, when one of the processes ends before `stopping`.

        It receives a description of the death.
        """
        if self._processes:
            threading.Thread(
                target=self._watch, args=(on_death,), name="engine watch", daemon=True
            ).start()

    def stopping(self) -> None:
        """Treat the end of a process from here on as intended, not as a death."""
        self._is_stopping = True

    def close(self) -> None:
        """Kill the remaining processes after the engine has stopped them."""
        if self._reaper is None:
            return
        assert self._reaper.stdin is not None
        # A line, because a process forked since may still hold the end of its input.
        with suppress(BrokenPipeError):
            self._reaper.stdin.write(b"\n")
            self._reaper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._reaper.wait(REAPER_S)

    def _watch(self, on_death: Callable[[str], None]) -> None:
        by_sentinel = {process.sentinel: process for process in self._processes}
        ended = wait(list(by_sentinel))
        if self._is_stopping:
            return
        process = by_sentinel[next(iter(ended))]  # type: ignore[index]
        how = _how_it_ended(process)
        on_death(f"its process {process.name} (pid {process.pid}) ended{how}")


def _how_it_ended(process: BaseProcess) -> str:
    """Return ``": exit code 1"`` or similar, or nothing if the system does not say.

    vLLM watches the same process in its own thread. Only one of the two receives the exit status;
    the other sees None until the first has recorded it.
    """
    end = time.monotonic() + EXIT_STATUS_S
    while (code := process.exitcode) is None and time.monotonic() < end:
        time.sleep(0.01)
    if code is None:
        return ""
    return f": killed by signal {-code}" if code < 0 else f": exit code {code}"


def _descendants(pid: int) -> list[int]:
    """Return the descendants of a process, if the system lists them."""
    pids: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                pids += [child, *_descendants(child)]
    return pids
