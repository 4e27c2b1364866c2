"""Reading and writing files of artifacts, wherever they are."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from prefpipe.artifacts.storage.bucket import BucketStorage
from prefpipe.artifacts.storage.disk import DiskStorage
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.protocol import FileVersion, Storage

_DISK: Storage[Path] = DiskStorage()


def read(place: Location) -> bytes:
    """Return all bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read.
    """
    return _DISK.read(place) if isinstance(place, Path) else _bucket_of(place).read(place)


def read_tail(place: Location, n_bytes: int) -> tuple[bytes, int]:
    """Return the last bytes of a file, all where it has fewer, and how many it has.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read.
    """
    if isinstance(place, Path):
        return _DISK.read_tail(place, n_bytes)
    return _bucket_of(place).read_tail(place, n_bytes)


def list_folder(folder: Location) -> Mapping[str, FileVersion | None]:
    """Return what is in a folder by name, in one listing; a folder inside has no version.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: it cannot be read.
    """
    return _DISK.list(folder) if isinstance(folder, Path) else _bucket_of(folder).list(folder)


def version_of(place: Location) -> FileVersion | None:
    """Return which file is there now; None for a folder, and for what is not there.

    Raises:
        OSError: a bucket does not say.
    """
    if isinstance(place, Path):
        return _DISK.version_of(place)
    return _bucket_of(place).version_of(place)


def is_file(place: Location) -> bool:
    """Return whether there is a file.

    Raises:
        OSError: a bucket does not say.
    """
    return place.is_file() if isinstance(place, Path) else version_of(place) is not None


def is_folder(place: Location) -> bool:
    """Return whether there is a folder; one in a bucket is what something lies under.

    Raises:
        OSError: a bucket does not say.
    """
    if isinstance(place, Path):
        return place.is_dir()
    try:
        list_folder(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def exists(place: Location) -> bool:
    """Return whether there is a file or a folder.

    Raises:
        OSError: a bucket does not say.
    """
    return place.exists() if isinstance(place, Path) else is_file(place) or is_folder(place)


def can_be_found(place: Location) -> bool:
    """Return whether there is a file or a folder, and the storage says so."""
    try:
        return exists(place)
    except OSError:
        return False


def names_in(folder: Location) -> set[str]:
    """Return the names in a folder, in one listing; none for what is not there.

    Raises:
        OSError: it cannot be read.
    """
    try:
        if isinstance(folder, Path):
            return {path.name for path in folder.iterdir()}
        return set(list_folder(folder))
    except FileNotFoundError:
        return set()


def write(place: Location, data: bytes) -> FileVersion | None:
    """Write a file whole, over one that is there.

    Returns:
        The version of these bytes; None where the storage does not say which it is.

    Raises:
        PrefpipeError: it cannot be written; what was there still is.
    """
    if isinstance(place, Path):
        return _DISK.write(place, data)
    return _bucket_of(place).write(place, data)


def create(place: Location, data: bytes) -> bool:
    """Write a file if there is none; of several callers at once exactly one gets True.

    Raises:
        PrefpipeError: it cannot be written.
    """
    if isinstance(place, Path):
        return _DISK.create(place, data)
    return _bucket_of(place).create(place, data)


def replace(place: Location, data: bytes, *, expected: bytes) -> bool:
    """Write a file over one that holds ``expected``; return False if it holds something else.

    Where the storage cannot do both in one step, another may come between look and write.

    Raises:
        PrefpipeError: it cannot be written.
    """
    if isinstance(place, Path):
        return _DISK.replace(place, data, expected=expected)
    return _bucket_of(place).replace(place, data, expected=expected)


def delete(place: Location) -> None:
    """Remove a file; one that is not there is no error.

    Raises:
        PrefpipeError: it cannot be removed.
    """
    if isinstance(place, Path):
        _DISK.delete(place)
    else:
        _bucket_of(place).delete(place)


def _bucket_of(place: Url) -> Storage[Url]:
    return _opened(place.scheme, place.bucket)


@cache
def _opened(scheme: str, bucket: str) -> BucketStorage:
    return BucketStorage(Url(scheme, bucket))
