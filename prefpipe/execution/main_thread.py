"""Work that part threads hand to the main thread: opening an engine.

Libraries expect to be loaded there: they install signal handlers. And only in the main thread can a
stop request end the command while a model loads.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class MainThread:
    """Runs errands of part threads while the main thread waits for their parts."""

    def __init__(self) -> None:
        self._owner = threading.get_ident()
        self._waiting: queue.SimpleQueue[_Errand] = queue.SimpleQueue()
        self._wake: Callable[[], None] = lambda: None

    def attach(self, wake: Callable[[], None]) -> None:
        """Make the calling thread the one that runs errands; ``wake`` is called for each."""
        self._owner = threading.get_ident()
        self._wake = wake

    def look_again(self) -> None:
        """Make the main loop check at once whether to open another part."""
        self._wake()

    def do(self, errand: Callable[[], Result]) -> Result:
        """Call ``errand`` in the main thread and return its result.

        Raises:
            Exception: whatever ``errand`` raised.
        """
        if threading.get_ident() == self._owner:
            return errand()
        waiting = _Errand(errand)
        self._waiting.put(waiting)
        self._wake()
        waiting.is_done.wait()
        if waiting.error is not None:
            raise waiting.error
        result: Result = waiting.result
        return result

    def do_what_waits(self) -> None:
        """Run the waiting errands. An interrupt passes through and leaves its thread waiting."""
        while not self._waiting.empty():
            errand = self._waiting.get()
            try:
                errand.result = errand.call()
            except Exception as error:  # noqa: BLE001 - raised again in the calling thread
                errand.error = error
            errand.is_done.set()


class _Errand:
    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.is_done = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
