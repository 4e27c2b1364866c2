"""Writing files so that a name on disk always means a whole file.

A file is written to a hidden temporary name beside its target, flushed, fsynced, renamed, and the folder is
fsynced. A reader sees the old file or the new one, never a part of one. Accepted trade-offs: twice the space
of one part for a moment, and a hidden file left behind by SIGKILL, which ``sweep_temporary_files`` removes on
the next run.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from prefpipe.errors import PrefpipeError

HOST = socket.gethostname().replace(".", "_")


def make_folder(path: Path) -> None:
    """Create a folder and its parents; a clear error when the place is read-only or a file is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk_error(path, error) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name ``path`` when the block ends without an exception.

    Errors:
        PrefpipeError: the disk is full, the folder is read-only or gone. The target is untouched.
    """
    temporary = path.parent / f".{path.name}.{HOST}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _remove_quietly(temporary)
        raise _disk_error(path, error) from error
    except BaseException:
        _remove_quietly(temporary)
        raise


def create_exclusively(path: Path, data: bytes) -> bool:
    """Write ``path`` whole if it does not exist; return False, touching nothing, if it does.

    The file appears under its name by a hard link, which fails when the name is taken, so that of several
    processes starting at once exactly one wins. File systems without hard links fall back to a rename.
    """
    temporary = path.parent / f".{path.name}.{HOST}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            if path.exists():
                return False
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _disk_error(path, error) from error
    else:
        return True
    finally:
        _remove_quietly(temporary)


def sync_folder(folder: Path) -> None:
    """Make a rename durable: fsync the folder (a no-op where folders cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporary_files(folder: Path) -> None:
    """Remove the temporary files of processes of this host that are dead (what SIGKILL left behind)."""
    for path in folder.glob(".*.tmp"):
        fields = path.name.rsplit(".", 3)
        if len(fields) == 4 and fields[1] == HOST and fields[2].isdigit() and not _is_alive(int(fields[2])):
            _remove_quietly(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the first error is the one to report
        return


def _disk_error(path: Path, error: OSError) -> PrefpipeError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        what, hint = "no space left on the disk", "free some space and run the same command again; finished parts are kept"
    elif error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        what, hint = "the folder cannot be written to", "choose another folder with -o, or change its permissions"
    elif error.errno in {errno.ENOTDIR, errno.EEXIST}:
        what, hint = "a file is where a folder should be", "choose another folder with -o"
    else:
        what, hint = error.strerror or str(error), "look at the disk, then run the same command again"
    return PrefpipeError(f"cannot write {path}: {what}", hint=hint)
