"""A back-end that is opened at the first part that needs it.

A run whose parts are finished loads no model.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

from prefpipe.execution.runtime import Runtime


class Closeable(Protocol):
    """What holds memory, processes or connections."""

    def close(self) -> None:
        """Release them."""
        ...


@runtime_checkable
class StreamingEngine(Protocol):
    """What takes requests of several parts and fills its slots by itself."""

    def has_room(self) -> bool:
        """Return whether more requests are needed to keep its slots busy."""
        ...


Engine = TypeVar("Engine", bound=Closeable)

MOST_OPEN = 3
"""Parts that are open for a device that takes one batch at a time.

One is being read and tokenised, one is on the device, and one is being written.
"""


class LazyEngine(Generic[Engine]):
    """A back-end that is opened when it is first asked for, once.

    It is closed at the end of the ``with`` block.

    A request to stop that comes while it is being opened ends the command there and then: a model
    that is half loaded is nothing that could be finished.
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
            runtime: where to log, and whether to stop.
            message: what is logged before it is opened; None where the back-end says it itself.
            most_open: parts that may be open for a back-end that does not say whether it has room.
        """
        self._most_open = most_open
        self._open_engine, self._runtime, self._message = open_engine, runtime, message
        self.opened: Engine | None = None
        """The back-end, None as long as no part needed it."""

    def get(self) -> Engine:
        """Return the back-end, opened now where it is not open: in the main thread, for any."""
        if self.opened is not None:
            return self.opened
        return self._runtime.main_thread.do(self._open)

    def has_room(self, n_open: int) -> bool:
        """Return whether another part should be opened, because the back-end may run empty.

        Args:
            n_open: parts that are open.
        """
        if self.opened is None:
            # The first part opens it, if it needs it.
            return n_open == 0
        engine: Any = self.opened
        if isinstance(engine, StreamingEngine):
            return engine.has_room()
        return n_open < self._most_open

    def _open(self) -> Engine:
        opened = self.opened
        # Several parts may have asked for it.
        if opened is None:
            if self._message is not None:
                self._runtime.log(self._message)
            with self._runtime.opening():
                opened = self._open_engine()
            self.opened = opened
        return opened

    def close(self) -> None:
        """Close the back-end, if it was opened."""
        if self.opened is not None:
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
