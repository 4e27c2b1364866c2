"""File locks for work that only one process at a time may do in a folder.

Copies of one command share a folder, on this machine or on several over one file system. A piece of
work has a file in a folder of locks; the process that has its lock works on it, and the others take
another piece. The file stays when the work is done: removing and making it again would give two
locks.

The lock is the system's (flock) and belongs to the processes that have the file open. So it is free
the moment its holder is killed; and a step that outlives the command that began it keeps the lock,
because it inherits the file. A claim with a lease (`prefpipe.artifacts.claims`) can do neither: it
fits parts, which two processes may make at once to the same bytes, but not a training, where two
would overwrite each other's checkpoints. Over NFS the lock is the server's, because the file is
opened for writing; locks of a lost machine are free after the server's lease.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.atomic import MACHINE, disk_error, is_alive, make_folder

LONGEST_NOTE = 4096
LOOK_S = 0.05
"""Longer than a look at a lock takes."""


class Holder(NamedTuple):
    """The process named in a lock's file, for people.

    ``name``: host and process. ``since``: when it took the lock, as it reads on its own clock.
    ``is_gone``: it ran on this machine and is dead; a step that it started may still hold the lock.
    """

    name: str
    since: str
    is_gone: bool = False

    @property
    def line(self) -> str:
        """Who it is and since when."""
        return f"{self.name} since {self.since}" if self.since else self.name


UNKNOWN = Holder("another process", "")


class Lock:
    """The lock of one piece of work.

    Args:
        path: of its file; the folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def tried(self) -> Iterator["Held | None"]:
        """Take the lock if it is free, and release it at the end of the block.

        Yields:
            What was taken; None if another process has it.

        Raises:
            PrefpipeError: the folder cannot be written to.
        """
        descriptor = self._open()
        try:
            is_taken = try_lock(descriptor)
            if is_taken is False:
                # `is_held` has it for the moment in which it looks
                time.sleep(LOOK_S)
                is_taken = try_lock(descriptor)
            if is_taken is False:
                yield None
                return
            _note_holder(descriptor)
            yield Held(descriptor, is_sure=is_taken is True)
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Whether another process has it; False without a file or a lock."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def holder(self) -> Holder:
        """Return who has it, as recorded in the file."""
        try:
            text = self.path.read_bytes()[:LONGEST_NOTE].decode()
            values = json.loads(text)
        except (OSError, ValueError, RecursionError):
            return UNKNOWN
        return _holder_of(values)

    def _open(self) -> int:
        make_folder(self.path.parent)
        try:
            # for writing: a lock over NFS needs it
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise disk_error(self.path, error) from error


class Held(NamedTuple):
    """A lock that this process has.

    ``descriptor``: of the open file; processes that inherit it keep the lock. ``is_sure``: False if
    the file system has no locks, so that another copy may do the same work.
    """

    descriptor: int
    is_sure: bool


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder for as long as it is open; do not wait.

    Returns:
        True; False where another process has the lock; None if the file system has none.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _note_holder(descriptor: int) -> None:
    """Write the holder of the lock into its file; a full disk does not stop the work."""
    note = {
        "host": socket.gethostname(),
        "machine": MACHINE,
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{json.dumps(note)}\n".encode(), 0)


def _holder_of(values: Any) -> Holder:
    """Return the holder in a file; anybody can edit the file."""
    if not isinstance(values, dict):
        return UNKNOWN
    host, pid, since = (values.get(name) for name in ("host", "pid", "since"))
    if not isinstance(host, str) or not isinstance(since, str):
        return UNKNOWN
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 2**31:
        return UNKNOWN
    is_gone = values.get("machine") == MACHINE and not is_alive(pid)
    return Holder(f"{host[:255]}/{pid}", since[:40], is_gone)
