"""``steps.jsonl``: the ledger of a study, one line for each step that ended or failed.

Copies of the command write to one file: each line is written at once, under a lock where the file
system has one. A line that a kill or a full disk cut off is ignored, and the next one starts on a
new line; a step without a line is run again, and its command keeps what is finished.
"""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, Self

from prefpipe.artifacts.atomic import disk_error, make_folder, sync_folder
from prefpipe.errors import InputError

FILE_NAME = "steps.jsonl"
STOPPED_CODES = (75, 130)
"""Exit codes of a step that stopped on request: it did not fail and continues later."""


@dataclass(frozen=True, kw_only=True)
class StepEntry:
    """A step that ended.

    Attributes:
        key: what it was made of: inputs, command, versions. Equal keys are the same step.
        name: of the step among those of its run.
        stage: the command, or what is no command of ours.
        words: behind ``prefpipe``.
        exit_code: negative for the signal that ended it.
        seconds: it took, start-up included.
        ended_at: on the clock of its machine.
        host: that machine.
        n_tokens: sampled or trained on in this call, None if nothing says it.
        arm: None of a step that all arms share.
        seed: None of a step that all seeds share.
        judged_at: the training step whose weights an evaluation judged.
        fingerprint: of the artifact that it made, None if it made none.
        keeps_weights: the weights that it judged are to stay (``--keep-policies``).
    """

    key: str
    name: str
    stage: str
    words: Sequence[str] = field(default_factory=tuple)
    exit_code: int
    seconds: float
    ended_at: str
    host: str
    n_tokens: int | None = None
    arm: str | None = None
    seed: int | None = None
    judged_at: int | None = None
    fingerprint: str | None = None
    keeps_weights: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the step did everything."""
        return self.exit_code == 0

    @property
    def has_failed(self) -> bool:
        """Whether it ended with an error, without a request to stop."""
        return self.exit_code not in (0, *STOPPED_CODES)

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """Return the entry of a line, None if the line is invalid."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(values, dict):
            return None

        # another release may say more, or less
        known = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        if not all(is_kind(known.get(name)) for name, is_kind in _KINDS.items()):
            return None
        return cls(**{**known, "words": tuple(known.get("words", ()))})


class StepLedger:
    """The ledger of a study's folder."""

    def __init__(self, study: Path) -> None:
        self.path = study / FILE_NAME

    def read(self) -> list[StepEntry]:
        """Return all entries, the oldest first; [] if no step has ended yet.

        Raises:
            InputError: the file is there and cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read: {error.strerror or error}",
                hint="check the disk and the file's permissions",
            ) from error
        return list(_entries(content))

    def add(self, entry: StepEntry) -> None:
        """Append an entry.

        Raises:
            PrefpipeError: the disk is full, or the folder cannot be written to; the ledger is as it
                was.
        """
        line = f"{json.dumps(asdict(entry), allow_nan=False)}\n".encode()
        make_folder(self.path.parent)
        try:
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                _append(descriptor, line)
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise disk_error(self.path, error) from error


def _append(descriptor: int, line: bytes) -> None:
    """Write a complete line, or nothing."""
    # held for milliseconds, and gone with its process
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    size = os.fstat(descriptor).st_size
    # after a line that was cut off, start on a new line
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        _write_whole(descriptor, line)
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _write_whole(descriptor: int, line: bytes) -> None:
    # a disk that gets full in the middle takes a piece and says so by its length alone
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _entries(content: bytes) -> Iterator[StepEntry]:
    for line in content.split(b"\n"):
        entry = StepEntry.from_line(line) if line else None
        if entry is not None:
            yield entry


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and isfinite(value) and value >= 0


def _is_none_or_text(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_none_or_whole(value: Any) -> bool:
    return value is None or _is_whole(value)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_KINDS: dict[str, Callable[[Any], bool]] = {
    "key": _is_text,
    "name": _is_text,
    "stage": _is_text,
    "words": _is_words,
    "exit_code": _is_whole,
    "seconds": _is_seconds,
    "ended_at": _is_text,
    "host": _is_text,
    "n_tokens": _is_none_or_whole,
    "arm": _is_none_or_text,
    "seed": _is_none_or_whole,
    "judged_at": _is_none_or_whole,
    "fingerprint": _is_none_or_text,
    "keeps_weights": lambda value: value is None or isinstance(value, bool),
}
