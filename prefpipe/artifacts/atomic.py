"""Writing files so that a name on disk always means a whole file.

A file is written to a hidden temporary name beside its target, flushed, fsynced, renamed, and the
folder is fsynced. A reader sees the old file or the new one, never a part of one. Accepted
trade-offs: twice the space of one part for a moment, and a hidden file left behind by SIGKILL,
which ``sweep_temporary_files`` removes on the next run.
"""

import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from prefpipe.errors import PrefpipeError, UsageError

TORCH_WRITER = re.compile(r"PytorchStreamWriter|inline_container")
TORCH_READER = re.compile(r"unable to (?:open|mmap|stat|read) .*?<(.+?)>.*\((\d+)\)")
TEMPORARY_NAME = re.compile(r"\..+\.(?P<machine>\w+)\.(?P<pid>\d{1,9})\.tmp", re.ASCII)
LONGEST_LOCK_S = 5.0
ABANDONED_S = 86_400
"""Age in seconds at which a temporary file of another machine is taken for left behind."""


def _machine() -> str:
    """Return a name for the scope of process ids: the host, and on Linux the container."""
    namespace = ""
    with suppress(OSError):
        namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    return re.sub(r"\W", "_", socket.gethostname()) + "_" + namespace


MACHINE = _machine()
_FOLDER_LOCK = threading.Lock()


def make_folder(path: Path) -> None:
    """Create a folder and its parents.

    Raises:
        PrefpipeError: the place is read-only, or a file is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name ``path`` when the block ends without an exception.

    Raises:
        PrefpipeError: the disk is full, the folder is read-only or gone. The target is untouched.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            # before the name: after a loss of power it would stand on a file without its end
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _remove_quietly(temporary)
        raise disk_error(path, error) from error
    # an interrupt as well: no sweep touches what a living process has left
    except BaseException:
        _remove_quietly(temporary)
        raise


def write_and_settle(path: Path, data: bytes) -> None:
    """Write a file that takes its name before it is on the disk.

    It is for readers that detect a damaged file. A process that is killed in the
    middle of `atomic_write` loses the file while the disk is busy; here only a loss of power does.

    Raises:
        PrefpipeError: the disk is full, the folder is read-only or gone.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            # named first: from here on a kill loses nothing
            temporary.replace(path)
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        _remove_quietly(temporary)
        raise disk_error(path, error) from error


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Make a hidden folder that takes the name ``path`` when the block ends without an exception.

    Until then that name is free or holds the old folder. After a kill it is free or holds one of
    the two, complete.

    Args:
        path: the folder to make; its parents are made.
        overwrite: replace a folder of that name that is not empty.

    Raises:
        UsageError: the name is taken.
        PrefpipeError: the disk is full, the place is read-only.
    """
    is_taken = _is_taken(path)
    if not overwrite:
        require_free(path)
    make_folder(path.parent)
    sweep_temporary_files(path.parent, path.name)
    temporary = temporary_path(path)
    before = temporary_path(path.with_name(f"{path.name}.before"))
    try:
        temporary.mkdir()
        yield temporary

        # on the disk before it has its name: whoever wrote these files has not synced them
        for file in filter(Path.is_file, temporary.rglob("*")):
            settle_file(file)
        sync_folder(temporary)
        # no system call takes the place of a folder that is not empty: it is moved away first
        if is_taken:
            path.replace(before)
        temporary.replace(path)
        sync_folder(path.parent)

    except PrefpipeError as error:
        # what was written inside names the hidden folder, which is gone by the time it is read
        error.message = error.message.replace(str(temporary), str(path))
        raise
    except Exception as error:
        failure = disk_failure(error)
        if failure is None:
            raise
        # the block reads as well as it writes: it may be an input of it that failed
        source = None if failure.filename is None else os.fsdecode(failure.filename)
        if source is not None and not Path(source).is_relative_to(temporary):
            raise PrefpipeError(
                f"{source}: {failure.strerror or failure}",
                hint="check the disk, then run the same command again",
            ) from error
        raise disk_error(path, failure) from error

    finally:
        # interrupted, or refused by the disk, between the two renames
        if before.exists() and not path.exists():
            before.replace(path)
        _remove_quietly(temporary)
        _remove_quietly(before)


def require_free(path: Path, hint: str = "choose a new folder with -o") -> None:
    """Raise a UsageError when a folder that is to be made exists and is not empty."""
    if _is_taken(path):
        raise UsageError(f"{path} already exists", hint=hint)


def _is_taken(path: Path) -> bool:
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    return path.exists() and not is_empty_folder


def settle_file(path: Path) -> None:
    """Make a file that a library wrote durable, and give it the permissions of a new file.

    safetensors leaves 0600.
    """
    # the mask is read by setting it: there is no other way
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def create_exclusively(path: Path, data: bytes) -> bool:
    """Write ``path`` completely if it does not exist; return False, touching nothing, if it does.

    The file appears under its name by a hard link, which fails when the name is taken, so that of
    several processes starting at once exactly one wins. File systems without hard links fall back
    to a rename.
    """
    # so that a finished artifact on a read-only disk can be opened
    if path.exists():
        return False

    temporary = temporary_path(path)
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
            # without hard links: a rename asks nobody, so what came meanwhile is looked for first
            if path.exists():
                return False
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    else:
        return True
    finally:
        _remove_quietly(temporary)


def temporary_path(path: Path) -> Path:
    """Return a name that no other writer has.

    Neither a thread of this process, nor a process of a machine with the same name.
    """
    token = secrets.token_hex(4)
    return path.parent / f".{path.name}.{token}.{MACHINE}.{os.getpid()}.tmp"


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Let one thread at a time, of all processes of this machine, change a file in this block.

    There is no lock file, and a lock goes with its process. Where the file system has none for
    folders (NFS), or another process holds it for `LONGEST_LOCK_S`, the block runs anyway: the
    threads of one process keep out of each other's way, and others have to be lucky.
    """
    with _FOLDER_LOCK:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise disk_error(folder, error) from error
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock an open folder, if that can be done in time."""
    gives_up_at = time.monotonic() + LONGEST_LOCK_S
    while time.monotonic() < gives_up_at:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return
        else:
            return


def sync_folder(folder: Path) -> None:
    """Make a rename durable: fsync the folder (a no-op on file systems that cannot)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        # a disk that fails, and not one that has no such thing
        if error.errno in {errno.EIO, errno.ENOSPC}:
            raise
        return

    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def sweep_temporary_files(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders that SIGKILL left behind.

    They are those of dead processes here, and day-old ones of other machines.

    Args:
        folder: where they are.
        name: the one file whose temporary files are meant, in a folder that holds others' files as
            well; None for all.
    """
    pattern = ".*.tmp" if name is None else f".{glob.escape(name)}.*.tmp"
    for path in folder.glob(pattern):
        match = TEMPORARY_NAME.fullmatch(path.name)
        if match is None:
            continue

        # a process id says something on its own machine alone: elsewhere age has to tell
        if match["machine"] == MACHINE:
            is_left_behind = not is_alive(int(match["pid"]))
        else:
            is_left_behind = _is_abandoned(path)
        if is_left_behind:
            _remove_quietly(path)


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except OSError:
        return False  # gone meanwhile: its owner finished, or another worker swept


def is_alive(pid: int) -> bool:
    """Return whether a process of `MACHINE` lives."""
    try:
        os.kill(pid, 0)  # sends nothing, and fails where it could not be sent
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _remove_quietly(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:  # the first error is the one to report
        return


def disk_failure(error: BaseException) -> OSError | None:
    """Return the operating system's error behind an exception, None if there is none.

    Libraries that write in another language raise their own classes: safetensors a
    ``SafetensorError`` and tokenizers a bare ``Exception``, both ending in Rust's ``(os error
    28)``; torch a ``RuntimeError`` that names the place in its own source and keeps the number to
    itself.
    """
    if isinstance(error, OSError):
        return error

    number = re.search(r"\(os error (\d+)\)", str(error))
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])))

    opened = TORCH_READER.search(str(error))
    if opened and isinstance(error, RuntimeError):
        return OSError(int(opened[2]), os.strerror(int(opened[2])), opened[1])
    if isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)):
        return OSError(errno.EIO, "torch could not write its file: the disk is full, or failed")
    return None


def disk_error(path: Path, error: OSError) -> PrefpipeError:
    """Return the user's error for a file that could not be written."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        reason = "no space left on the disk"
        hint = "free some space and run the same command again; finished parts are kept"
    elif error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        reason = "the folder cannot be written to"
        hint = "choose another folder with -o, or change its permissions"
    elif error.errno in {errno.ENOTDIR, errno.EEXIST}:
        reason = "a file is where a folder should be"
        hint = "choose another folder with -o"
    else:
        reason = error.strerror or str(error)
        hint = "check the disk, then run the same command again"
    return PrefpipeError(f"cannot write {path}: {reason}", hint=hint)
