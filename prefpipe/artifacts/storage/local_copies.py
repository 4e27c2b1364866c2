"""Users' files in a bucket as files of this disk, while a command reads or writes them.

Readers of tables, and pyarrow's and datasets' below them, want a file. One that lies in a bucket is
copied into a temporary folder, once a command, and removed at its end; what SIGKILL leaves behind
the next copy sweeps away. A path stays what it is. Messages name the place and never the copy.
"""

import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import BinaryIO

from prefpipe.artifacts import atomic
from prefpipe.artifacts.storage import files, pieces
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.pieces import in_order
from prefpipe.artifacts.storage.protocol import FileVersion
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.errors import InputError, PrefpipeError

FOLDER_NAME = "prefpipe-copies"
"""In the name of the temporary folder, which says whose it is, see `atomic.temporary_path`."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
ROOM_HINT = "set TMPDIR to a folder on a disk with more room, and run the same command again"


@dataclass(frozen=True)
class LocalFile:
    """A file or folder as the user named it, and the one of this disk that holds its bytes.

    As text it is that name, which is what messages show.
    """

    name: str
    path: Path

    def __str__(self) -> str:
        return self.name


@contextmanager
def local_copy(place: Location, *, folder_marks: Sequence[str] = ()) -> Iterator[LocalFile]:
    """Give a file of this disk with the bytes of a place until the block ends.

    Args:
        place: a path, which stays itself whether or not it is there; or a file in a bucket.
        folder_marks: files of which one is in a folder that is copied, too. Any other folder of a
            bucket might be the bucket.

    Raises:
        InputError: it is not in the bucket, cannot be read, or was replaced meanwhile.
        IsADirectoryError: it is a folder of a bucket without any of the marks.
        PrefpipeError: this disk has no room for it.
    """
    if isinstance(place, Path):
        yield LocalFile(str(place), place)
        return
    with kept_local_copies():
        copies = _copies.get()
        assert copies is not None
        yield LocalFile(str(place), copies.of(place, folder_marks))


@contextmanager
def kept_local_copies() -> Iterator[None]:
    """Keep what is copied in this block until it ends.

    Each reader of a command then reads the same bytes, and they are downloaded once.
    """
    if _copies.get() is not None:
        yield
        return
    copies = _Copies()
    token = _copies.set(copies)
    try:
        yield
    finally:
        _copies.reset(token)
        copies.remove()


@contextmanager
def written_whole(place: Location) -> Iterator[BinaryIO]:
    """Open a file that appears at a place whole when the block ends without an exception.

    What is meant for a bucket is written to a temporary file and uploaded at the end.

    Raises:
        PrefpipeError: it cannot be written; what was there still is.
    """
    if isinstance(place, Path):
        atomic.make_folder(place.parent)
        with atomic.atomic_write(place) as file:
            yield file
        return

    with kept_local_copies():
        copies = _copies.get()
        assert copies is not None
        path = copies.new_path(place.name)
        try:
            with path.open("wb") as file:
                yield file
            files.upload(path, place)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise PrefpipeError(
                f"cannot write {place}: its temporary file in {tempfile.gettempdir()} fills the "
                "disk",
                hint=ROOM_HINT,
            ) from error
        finally:
            path.unlink(missing_ok=True)


class _Copies:
    """What one command has copied, in a temporary folder of its own."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._folder: Path | None = None
        self._n_paths = 0
        self._by_place: dict[Url, Path] = {}

    def of(self, place: Url, folder_marks: Sequence[str]) -> Path:
        """Return the copy of a place, which is made when it is first asked for."""
        with self._lock:
            if place not in self._by_place:
                try:
                    self._by_place[place] = self._copied(place, folder_marks)
                except (IsADirectoryError, PrefpipeError):
                    raise
                except FileNotFoundError as error:
                    raise InputError(
                        f"{place} does not exist",
                        hint="check the bucket's name and the key, with its upper and lower case",
                    ) from error
                except OSError as error:
                    raise unreadable(place, error) from error
            return self._by_place[place]

    def new_path(self, name: str) -> Path:
        """Return where a file of a name can be written; suffixes say what is in a file."""
        with self._lock:
            if self._folder is None:
                root = Path(tempfile.gettempdir())
                atomic.sweep_temporary_files(root, FOLDER_NAME)
                folder = atomic.temporary_path(root / FOLDER_NAME)
                try:
                    folder.mkdir(mode=0o700)
                except OSError as error:
                    raise PrefpipeError(
                        f"no temporary folder can be made in {root}: {error.strerror}",
                        hint="set TMPDIR to a folder that can be written to",
                    ) from error
                self._folder = folder
            self._n_paths += 1
            inner = self._folder / str(self._n_paths)
            inner.mkdir()
            return inner / name

    def remove(self) -> None:
        """Remove all copies."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _copied(self, place: Url, folder_marks: Sequence[str]) -> Path:
        try:
            version = files.version(place)
        except IsADirectoryError:
            return self._copied_folder(place, folder_marks)

        target = self.new_path(place.name)
        _require_room(place, version.n_bytes)
        _download(place, version, target)
        return target

    def _copied_folder(self, folder: Url, marks: Sequence[str]) -> Path:
        if not any(mark in files.list_folder(folder) for mark in marks):
            raise IsADirectoryError(f"{folder} is a folder")
        members = dict(_files_in(folder))
        _require_room(folder, sum(version.n_bytes for version in members.values()))

        target = self.new_path(folder.name)
        for member in members:
            path = target / member.key.removeprefix(f"{folder.key}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            # stores write the stamp of a listing in another way
            _download(member, files.version(member), path)
        return target


_copies: ContextVar[_Copies | None] = ContextVar("copies of users' files in buckets", default=None)


def _files_in(folder: Url) -> Iterator[tuple[Url, FileVersion]]:
    """Yield the files of a folder and of those inside it."""
    for name, version in files.list_folder(folder).items():
        # a key may be anything, and a path of this disk would lead elsewhere
        if name in {"", ".", ".."} or "\0" in name:
            raise InputError(
                f"{folder} holds an object called {name!r}, which no disk can hold",
                hint="rename it, or remove it",
            )
        if version is None:
            yield from _files_in(folder / name)
        else:
            yield folder / name, version


def _require_room(place: Url, n_bytes: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise PrefpipeError(
            f"{place} has {n_bytes:,} bytes, and {folder}, where it is copied to, has {free:,} "
            "free",
            hint=ROOM_HINT,
        )


def _download(place: Url, version: FileVersion, target: Path) -> None:
    """Copy a file to this disk, all its bytes from one version of it.

    Raises:
        FileNotFoundError: it is gone.
        OSError: it cannot be read.
        InputError: it was replaced meanwhile.
        PrefpipeError: the disk is full.
    """

    def read(start: int) -> bytes:
        return files.read_range(place, start, min(start + pieces.PIECE_BYTES, version.n_bytes))

    try:
        with target.open("wb") as file:
            # nobody's but this command's, and gone with it: no fsync, no other name first
            file.writelines(in_order(read, range(0, version.n_bytes, pieces.PIECE_BYTES)))
    except OSError as error:
        if error.errno in NO_ROOM:
            raise PrefpipeError(
                f"{place} fills the disk of {tempfile.gettempdir()}, where it is copied to",
                hint=ROOM_HINT,
            ) from error
        # what took its place may be shorter, so that its ranges cannot be read
        if files.version(place) == version:
            raise
        raise _replaced(place) from error
    if files.version(place) != version:
        raise _replaced(place)


def _replaced(place: Url) -> InputError:
    return InputError(
        f"{place} was replaced while it was read",
        hint="run the same command again when whoever writes it has finished",
    )
