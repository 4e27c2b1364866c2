"""The error family: what went wrong, where, and the next command to try.

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


class UsageError(PrefpipeError):
    """A flag, a config value or an argument that cannot be used (exit 2)."""

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


class InputError(PrefpipeError):
    """Data that cannot be used: a broken line, a bad value, a wrong schema (exit 1)."""


class FingerprintError(PrefpipeError):
    """The output folder holds the result of another configuration (exit 2)."""

    exit_code = 2


class IncompleteInputError(PrefpipeError):
    """Parts of an input artifact are missing (exit 4)."""

    exit_code = 4


class CorruptPartError(PrefpipeError):
    """A part is truncated or its bytes changed after it was written (exit 1)."""


class ModelError(PrefpipeError):
    """A model, tokenizer or chat template that cannot be used (exit 1)."""


class EngineDeadError(ModelError):
    """An engine that has died: nothing can be asked of it any more, but of a new one (exit 1)."""

    def once_more(self) -> "EngineDeadError":
        """Return it for another thread that it is raised in: a traceback belongs to one of them."""
        error = EngineDeadError(self.message, hint=self.hint)
        error.__cause__ = self.__cause__
        return error


class EngineNotOpenedError(EngineDeadError):
    """An engine that a worker cannot open: no part is at fault, and another worker may (exit 1).

    ``why`` is what opening it raised.
    """

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class ErrorRateError(PrefpipeError):
    """The stage finished and everything good is on disk, but too many rows failed (exit 3).

    ``summary`` is what the stage would have handed back: it is printed, as after any finished
    stage.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None, summary: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.summary = summary


class StoppedEarly(PrefpipeError):  # noqa: N818 - it is a stop that was asked for, not an error
    """SIGTERM, SIGUSR1 or a time budget ended the run after the current part (exit 75)."""

    exit_code = 75


def error_with_code(exit_code: int, message: str, *, hint: str | None) -> PrefpipeError:
    """Return the error of another process, with the exit code that it would have had."""
    for kind in (UsageError, IncompleteInputError, StoppedEarly):
        if kind.exit_code == exit_code:
            return kind(message, hint=hint)
    return PrefpipeError(message, hint=hint)


class PrefpipeWarning(UserWarning):
    """Something a user should know that does not stop the run."""
