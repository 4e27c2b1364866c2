"""A back-end that opens when the first part needs it.

A run whose parts are all finished loads no model.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

from prefpipe.execution.runtime import Runtime


class Closeable(Protocol):
    """Holds memory, processes or connections."""

    def close(self) -> None:
        """Release them."""
        ...


@runtime_checkable
class StreamingEngine(Protocol):
    """Takes requests of several parts and keeps its own slots full."""

    def has_room(self) -> bool:
        """Return whether more requests are needed to keep its slots busy."""
        ...


Engine = TypeVar("Engine", bound=Closeable)

MOST_OPEN = 3
"""Parts open at a time for a device that takes one batch at a time.

One is being read and tokenised, one is on the device, and one is being written.
"""


class LazyEngine(Generic[Engine]):
    """A back-end that opens once, at its first use.

    It is closed at the end of the ``with`` block.

    A stop request that arrives while it opens ends the command at once: a half-loaded model has
    nothing to finish.
    """

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        runtime: Runtime,
        message: str | None = None,
        *,
        most_open: int = 1,
    ) -> None:
        """Prepare.

        Args:
            open_engine: loads the back-end.
            runtime: logging and stop requests.
            message: logged before the back-end opens; None if the back-end logs it itself.
            most_open: open parts for a back-end that does not say whether it has room.
        """
        self._most_open = most_open
        self._open_engine, self._runtime, self._message = open_engine, runtime, message
        self.opened: Engine | None = None
        """The back-end; None until a part needs it."""

    def get(self) -> Engine:
        """Return the back-end; open it first, in the main thread, if it is not open."""
        if self.opened is not None:
            return self.opened
        return self._runtime.main_thread.do(self._open)

    def has_room(self, n_open: int) -> bool:
        """Return whether to open another part because the back-end may run empty.

        Args:
            n_open: parts that are open.
        """
        if self.opened is None:
            # The first part opens the back-end if it needs one.
            return n_open == 0
        engine: Any = self.opened
        if isinstance(engine, StreamingEngine):
            return engine.has_room()
        return n_open < self._most_open

    def _open(self) -> Engine:
        opened = self.opened
        # Several parts may have requested it.
        if opened is None:
            if self._message is not None:
                self._runtime.log(self._message)
            with self._runtime.opening():
                opened = self._open_engine()
            self.opened = opened
            self._runtime.engines.add(opened)
        return opened

    def close(self) -> None:
        """Close the back-end, if it was opened."""
        if self.opened is not None:
            self._runtime.engines.remove(self.opened)
            self.opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()
