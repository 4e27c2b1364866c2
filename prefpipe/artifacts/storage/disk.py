"""Storage on a disk: a rename after fsync, a hard link where a file must be new."""

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from prefpipe.artifacts import atomic
from prefpipe.artifacts.storage.protocol import FileVersion


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


def _version_of(status: os.stat_result) -> FileVersion:
    return FileVersion(status.st_size, f"{status.st_ino}:{status.st_mtime_ns}")
