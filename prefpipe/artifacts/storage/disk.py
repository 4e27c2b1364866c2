"""Storage on a disk: a rename after fsync, a hard link where a file must be new."""

import io
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from prefpipe.artifacts import atomic
from prefpipe.artifacts.storage.pieces import SourceFile, piece_bytes_of, write_pieces
from prefpipe.artifacts.storage.protocol import (
    Copied,
    CountBytes,
    FileVersion,
    StoredFile,
    count_nothing,
)


class DiskStorage:
    """Files in folders; see `Storage`. The folders of what is written are made."""

    def read(self, place: Path) -> bytes:
        """Return all bytes of a file."""
        return place.read_bytes()

    def read_tail(self, place: Path, n_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of a file, and how many it has."""
        with place.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - n_bytes))
            return file.read(), size

    def list(self, folder: Path) -> Mapping[str, FileVersion | None]:
        """Return what is in a folder, hidden files left out: they are being written."""
        found: dict[str, FileVersion | None] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                # a file that is replaced meanwhile has a version before and after, and no gap
                try:
                    status = entry.stat()
                    is_folder = entry.is_dir()
                except FileNotFoundError:
                    continue
                found[entry.name] = None if is_folder else _version_of(status)
        return found

    def version_of(self, place: Path) -> FileVersion | None:
        """Return which file is there now; None for a folder, and for what is not there."""
        try:
            status = place.stat()
        except OSError:
            return None
        return None if stat.S_ISDIR(status.st_mode) else _version_of(status)

    def write(self, place: Path, data: bytes) -> FileVersion | None:
        """Write a file, over one that is there.

        Raises:
            PrefpipeError: the disk is full, the folder is read-only.
        """
        atomic.make_folder(place.parent)
        with atomic.atomic_write(place) as file:
            file.write(data)
        return self.version_of(place)

    def create(self, place: Path, data: bytes) -> bool:
        """Write a file if there is none.

        Raises:
            PrefpipeError: the disk is full, the folder is read-only.
        """
        atomic.make_folder(place.parent)
        return atomic.create_exclusively(place, data)

    def replace(self, place: Path, data: bytes, *, expected: bytes) -> bool:
        """Write a file over one that holds ``expected``, unless it holds something else.

        Raises:
            PrefpipeError: the disk is full, the folder is read-only.
        """
        try:
            if place.read_bytes() != expected:
                return False
        except FileNotFoundError:
            return False
        with atomic.atomic_write(place) as file:
            file.write(data)
        return True

    def delete(self, place: Path) -> None:
        """Remove a file.

        Raises:
            PrefpipeError: the folder is read-only.
        """
        try:
            place.unlink(missing_ok=True)
        except OSError as error:
            raise atomic.disk_error(place, error) from error

    def list_tree(self, folder: Path) -> Mapping[str, StoredFile]:
        """Return every file under a folder, hidden ones and what is in hidden folders left out."""
        found: dict[str, StoredFile] = {}
        folders, known = [folder], set()
        while folders:
            inside = folders.pop()
            # links may lead round in a circle
            if inside.resolve() in known:
                continue
            known.add(inside.resolve())
            try:
                names = self.list(inside)
            except FileNotFoundError:
                continue
            for name, version in names.items():
                if version is None:
                    folders.append(inside / name)
                else:
                    found[(inside / name).relative_to(folder).as_posix()] = StoredFile(version)
        return found

    def upload(self, source: Path, place: Path, count: CountBytes = count_nothing) -> Copied:
        """Copy a file of this disk.

        Raises:
            InputError: the source cannot be read, or is written to meanwhile.
            PrefpipeError: the disk is full, the folder is read-only.
        """
        with SourceFile(source) as file:
            return write_pieces(place, _whole(file), count)

    def read_pieces(self, place: Path) -> Iterator[bytes]:
        """Yield all bytes of a file."""
        with place.open("rb") as file:
            n_bytes = piece_bytes_of(os.fstat(file.fileno()).st_size)
            while piece := file.read(n_bytes):
                yield piece

    def has_bytes_of(self, source: Path, stored: StoredFile) -> bool | None:  # noqa: ARG002
        """Return None: a disk keeps no digests."""
        return None


def _whole(file: SourceFile) -> Iterator[bytes]:
    """Yield the pieces of a file, and an error in place of their end if it has changed."""
    yield from file.pieces(piece_bytes_of(file.n_bytes))
    file.copied()


def _version_of(status: os.stat_result) -> FileVersion:
    return FileVersion(status.st_size, f"{status.st_ino}:{status.st_mtime_ns}")
