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
        "torch",
        r"Redirects are currently not supported",
        "launchers say it on macOS and Windows, where each process prints for itself",
    ),
)


@contextmanager
def library_output(log: Callable[[str], None], *, only_errors: bool = False) -> Iterator[None]:
    """Have libraries speak through a log until the context is left.

    Loggers that are created meanwhile are heard whatever handlers a library gives them.

    Args:
        log: prints a line.
        only_errors: another process prints the same warnings.
    """
    if os.environ.get(LEFT_ALONE, "") not in ("", "0"):
        yield
        return

    listener = _Listener(log, only_errors=only_errors)
    outer, outer_class = _LibraryLogger.listener, logging.getLoggerClass()
    shown_before = warnings.showwarning
    unset = [name for name in BARS_OFF if name not in os.environ]

    os.environ.update({name: BARS_OFF[name] for name in unset})
    _LibraryLogger.listener = listener
    logging.setLoggerClass(_LibraryLogger)
    logging.getLogger().addHandler(listener)
    warnings.showwarning = listener.hear_warning
    try:
        yield
    finally:
        warnings.showwarning = shown_before
        logging.getLogger().removeHandler(listener)
        logging.setLoggerClass(outer_class)
        _LibraryLogger.listener = outer
        for name in unset:
            os.environ.pop(name, None)


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

    listener: _Listener | None = None

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - of logging
        """Hand the record on."""
        listener = _LibraryLogger.listener
        if listener is None:
            super().callHandlers(record)
        else:
            listener.handle(record)


def _library_of(filename: str) -> str:
    """Return the package that a file belongs to."""
    inside = re.split(r"[/\\](?:site|dist)-packages[/\\]", filename)[-1]
    if inside != filename:
        return re.split(r"[/\\.]", inside)[0]
    return "prefpipe" if re.search(r"[/\\]prefpipe[/\\]", filename) else "python"
