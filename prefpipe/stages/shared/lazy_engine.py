"""A back-end that is opened at the first part that needs it.

A run whose parts are finished loads no model.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from prefpipe.stages.shared.runtime import Runtime


class Closeable(Protocol):
    """What holds memory, processes or connections."""

    def close(self) -> None:
        """Release them."""
        ...


Engine = TypeVar("Engine", bound=Closeable)


class LazyEngine(Generic[Engine]):
    """A back-end that is opened when it is first asked for, once.

    It is closed at the end of the ``with`` block.

    A request to stop that comes while it is being opened ends the command there and then: a model
    that is half loaded is nothing that could be finished.
    """

    def __init__(
        self, open_engine: Callable[[], Engine], runtime: Runtime, message: str | None = None
    ) -> None:
        """Prepare.

        Args:
            open_engine: loads the back-end.
            runtime: where to log, and whether to stop.
            message: what is logged before it is opened; None where the back-end says it itself.
        """
        self._open_engine, self._runtime, self._message = open_engine, runtime, message
        self.opened: Engine | None = None
        """The back-end, None as long as no part needed it."""

    def get(self) -> Engine:
        """Return the back-end, opened now where it is not open."""
        if self.opened is None:
            if self._message is not None:
                self._runtime.log(self._message)
            with self._runtime.interruptible():
                self.opened = self._open_engine()
        return self.opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self.opened is not None:
            self.opened.close()
