"""The progress of a stage in a notebook: one output area, drawn again as parts are done."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import StringIO

from rich.console import Console, RenderableType

from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import NO_FIGURES, NO_ROWS, NO_TALLY, Advance, Task
from prefpipe.pages.live_view import frame
from prefpipe.pages.pace import Pace

SECONDS_BETWEEN_UPDATES = 0.5
WIDTH = 79


class NotebookView:
    """Shows the progress of one task at a time, as `LiveView` does in a terminal.

    Args:
        show: displays a plain text in an output area of its own, and returns what replaces it.
        clock: in seconds.
    """

    def __init__(
        self,
        show: Callable[[str], Callable[[str], None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show, self._clock = show, clock
        self._pace: Pace | None = None

    @contextmanager
    def progress(self, task: Task, /) -> Iterator[Advance]:
        """Show a task's progress until the context is left; the last state stays."""
        outer = self._pace
        self._pace = pace = Pace(task, self._clock)
        update = self._show(_text_of(pace))
        updated_at = self._clock()

        def advance(
            n: int,
            tally: Tally = NO_TALLY,
            /,
            *,
            rows: Mapping[str, int] = NO_ROWS,
            figures: Mapping[str, str] = NO_FIGURES,
        ) -> None:
            nonlocal updated_at
            pace.add(n, tally, rows=rows, figures=figures)
            if self._clock() - updated_at >= SECONDS_BETWEEN_UPDATES:
                update(_text_of(pace))
                updated_at = self._clock()

        try:
            yield advance
        finally:
            update(_text_of(pace))
            self._pace = outer

    def loading(self) -> AbstractContextManager[None]:
        """Return a section in which a model is loaded: it says nothing about the pace."""
        return nullcontext() if self._pace is None else self._pace.loading()


def _text_of(pace: Pace) -> str:
    return plain_text(frame(pace, WIDTH))


def plain_text(page: RenderableType) -> str:
    """Return what a console prints, without colours."""
    sink = StringIO()
    # in a notebook rich would display it instead
    console = Console(file=sink, width=WIDTH + 1, force_jupyter=False, color_system=None)
    console.print(page)
    return sink.getvalue().rstrip("\n")
