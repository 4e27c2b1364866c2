"""The errors: what went wrong, where, and the next command to try.

Every error that a user can cause is one of these. The command line prints ``error: <message>`` and
``hint: <hint>`` and exits with ``exit_code``; a traceback is a bug in prefpipe.

Exit codes: 0 done; 1 failed; 2 bad usage, config or fingerprint clash; 3 finished, but the error
rate is above the limit; 4 input incomplete; 75 stopped early, safe to run again; 130 interrupted.
"""

from typing import Any, ClassVar


class PrefpipeError(Exception):
    """An error with a message for people, an optional hint and an exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def show_hint(self) -> None:
        """Have a traceback, in a notebook or a script, show the hint."""
        note = f"hint: {self.hint}"
        if self.hint and note not in getattr(self, "__notes__", []):
            self.add_note(note)


class UsageError(PrefpipeError):
    """An unusable flag, config value or argument (exit 2)."""

    exit_code = 2


class MissingExtraError(UsageError):
    """A package of an optional extra is not installed (exit 2).

    ``extra`` is what `pip install 'prefpipe[...]'` takes, ``package`` the first that is missing.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs {package}, which is not installed",
            hint=f"pip install 'prefpipe[{extra}]'",
        )
        self.package = package
        self.extra = extra
        self.show_hint()


class InputError(PrefpipeError):
    """Unusable data: a broken line, a bad value, a wrong schema (exit 1)."""


class FingerprintError(PrefpipeError):
    """The output folder holds the result of another configuration (exit 2)."""

    exit_code = 2


class IncompleteInputError(PrefpipeError):
    """Parts of an input artifact are missing (exit 4)."""

    exit_code = 4


class CorruptPartError(PrefpipeError):
    """A part is truncated or its bytes changed after it was written (exit 1)."""


class ModelError(PrefpipeError):
    """An unusable model, tokenizer or chat template (exit 1)."""


class EngineDeadError(ModelError):
    """An engine that has died: only a new engine can answer requests (exit 1)."""

    def once_more(self) -> "EngineDeadError":
        """Return a copy to raise in another thread: a traceback belongs to one thread."""
        error = EngineDeadError(self.message, hint=self.hint)
        error.__cause__ = self.__cause__
        return error


class EngineNotOpenedError(EngineDeadError):
    """An engine that a worker cannot open: no part is at fault, and another worker may succeed.

    Exit 1. ``why`` is the error from opening it.
    """

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class ErrorRateError(PrefpipeError):
    """The stage finished and all good rows are on disk, but too many rows failed (exit 3).

    ``summary`` is the stage's result, which is printed as after any finished stage.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None, summary: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.summary = summary


class StoppedEarly(PrefpipeError):  # noqa: N818 - it is a requested stop, not an error
    """SIGTERM, SIGUSR1 or a time budget ended the run after the current part (exit 75)."""

    exit_code = 75


def error_with_code(exit_code: int, message: str, *, hint: str | None) -> PrefpipeError:
    """Return another process's error, with its exit code."""
    for kind in (UsageError, IncompleteInputError, StoppedEarly):
        if kind.exit_code == exit_code:
            return kind(message, hint=hint)
    return PrefpipeError(message, hint=hint)


class PrefpipeWarning(UserWarning):
    """Something a user should know that does not stop the run."""
