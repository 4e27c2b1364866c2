"""What libraries would print, in the command's own voice.

Their progress bars are off, as the command shows its own. Their warnings and log records become
lines of the command's log, each once. Some say nothing that a user of prefpipe could act on, and
are dropped, each for the reason beside it. Errors are never dropped. What native code writes to
stderr passes as it is.

``PREFPIPE_LIBRARY_OUTPUT=1`` leaves everything to the libraries.
"""

import logging
import os
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from prefpipe.errors import PrefpipeWarning

LEFT_ALONE = "PREFPIPE_LIBRARY_OUTPUT"
BARS_OFF = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # of transformers, too: it asks the hub's library
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
"""Variables that libraries read when they are imported; set ones stay as they are."""
FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
"""They ask whoever calls the library, which is prefpipe, to call it in another way."""


class Harmless(NamedTuple):
    """A message that is dropped: where it comes from, how it begins or what is in it, and why."""

    library: str
    pattern: str
    reason: str


HARMLESS = (
    Harmless(
        "transformers",
        r"Setting `pad_token_id` to `eos_token_id`",
        "responses end where the tokenizer says; nothing reads the padding behind them",
    ),
    Harmless(
        "transformers",
        r"Token indices sequence length is longer than",
        "too long prompts and responses are rows with their own status",
    ),
    Harmless(
        "transformers",
        r"fast tokenizer, using the `__call__` method is faster",
        "it is about the speed of padding, and prefpipe pads token ids itself",
    ),
    Harmless(
        "transformers",
        r"`use_cache=True` is incompatible with gradient checkpointing",
        "it turns the cache off, which training does not use",
    ),
    Harmless(
        "transformers",
        r"The tokenizer has new PAD/BOS/EOS tokens",
        "the model is saved with the configuration and the tokenizer that it came with",
    ),
    Harmless(
        "transformers",
        r"(?i)`\w+` is deprecated",
        "it asks whoever calls the library to call it in another way",
    ),
    Harmless(
        "huggingface_hub",
        r"You are sending unauthenticated requests",
        "public models need no token, and one that does is refused with its name",
    ),
    Harmless(
        "huggingface_hub",
        r"you are about to commit a data file",
        "a policy's folder has a table of what it was trained on, and keeps it",
    ),
    Harmless(
        "tqdm",
        r"IProgress not found",
        "it asks for a package that draws bars in notebooks, and bars are off",
    ),
    Harmless(
        "torch",
        r"Redirects are currently not supported",
        "launchers say it on macOS and Windows, where each process prints for itself",
    ),
)


@contextmanager
def library_output(log: Callable[[str], None], *, only_errors: bool = False) -> Iterator[None]:
    """Have libraries speak through a log until the context is left.

    Loggers that are created meanwhile are heard whatever handlers a library gives them. Contexts
    may be nested, or open in several threads at once: loggers and warnings belong to the process,
    so the context that was entered last hears them, and the last one that is left restores them.

    Args:
        log: prints a line.
        only_errors: another process prints the same warnings.
    """
    if os.environ.get(LEFT_ALONE, "") not in ("", "0"):
        yield
        return

    listener = _Listener(log, only_errors=only_errors)
    _LISTENING.enter(listener)
    try:
        yield
    finally:
        _LISTENING.leave(listener)


class _Listener(logging.Handler):
    """Makes lines of records and warnings."""

    def __init__(self, log: Callable[[str], None], *, only_errors: bool) -> None:
        super().__init__()
        self._log, self._only_errors = log, only_errors
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record that was logged."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit its text
            message = str(record.msg)
        library = record.name.partition(".")[0]
        if library == "prefpipe":
            library = ""
        if record.levelno < logging.ERROR:
            self._say(library, message, "warning" if record.levelno >= logging.WARNING else "note")
            return

        trace = ""
        if record.exc_info and record.exc_info[0] is not None:
            trace = "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        self._log(f"error: {library}: {message}{trace}")

    def hear_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,  # noqa: ARG002 - as `warnings.showwarning` is called
        file: Any = None,  # noqa: ARG002
        line: str | None = None,  # noqa: ARG002
    ) -> None:
        """Print a warning in place of `warnings.showwarning`."""
        if issubclass(category, PrefpipeWarning):
            self._say("", str(message), "warning")
        elif not issubclass(category, FOR_DEVELOPERS):
            self._say(_library_of(filename), str(message), "warning")

    def _say(self, library: str, message: str, word: str) -> None:
        is_dropped = any(
            library == each.library and re.search(each.pattern, message) for each in HARMLESS
        )
        place = f"{library}: " if library else ""
        line = f"{word}: {place}{' '.join(message.split())}"
        if is_dropped or self._only_errors or line in self._said:
            return
        self._said.add(line)
        self._log(line)


class _LibraryLogger(logging.Logger):
    """A logger whose records go to the listener, if there is one, and to no handler."""

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - of logging
        """Hand the record on."""
        listener = _LISTENING.newest
        if listener is None:
            super().callHandlers(record)
        else:
            listener.handle(record)


class _Listening:
    """The contexts that are open, and what the process had before the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[_Listener] = []
        self._logger_class: type[logging.Logger] = logging.Logger
        self._showwarning: Callable[..., None] = warnings.showwarning
        self._unset: list[str] = []

    @property
    def newest(self) -> _Listener | None:
        """The listener of the context that was entered last."""
        listeners = self._listeners
        return listeners[-1] if listeners else None

    def enter(self, listener: _Listener) -> None:
        """Have a listener hear everything."""
        with self._lock:
            if not self._listeners:
                self._logger_class = logging.getLoggerClass()
                self._showwarning = warnings.showwarning
                self._unset = [name for name in BARS_OFF if name not in os.environ]
                os.environ.update({name: BARS_OFF[name] for name in self._unset})
                logging.setLoggerClass(_LibraryLogger)
            self._hear([*self._listeners, listener])

    def leave(self, listener: _Listener) -> None:
        """Have the newest of the others hear everything; without others, restore the process."""
        with self._lock:
            self._hear([each for each in self._listeners if each is not listener])
            if not self._listeners:
                warnings.showwarning = self._showwarning
                logging.setLoggerClass(self._logger_class)
                for name in self._unset:
                    os.environ.pop(name, None)

    def _hear(self, listeners: list[_Listener]) -> None:
        root = logging.getLogger()
        for each in self._listeners:
            root.removeHandler(each)
        self._listeners = listeners
        if listeners:
            root.addHandler(listeners[-1])
            warnings.showwarning = listeners[-1].hear_warning


_LISTENING = _Listening()


def _library_of(filename: str) -> str:
    """Return the package that a file belongs to."""
    inside = re.split(r"[/\\](?:site|dist)-packages[/\\]", filename)[-1]
    if inside != filename:
        return re.split(r"[/\\.]", inside)[0]
    return "prefpipe" if re.search(r"[/\\]prefpipe[/\\]", filename) else "python"
