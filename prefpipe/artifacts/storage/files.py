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


def write(place: Location, data: bytes) -> None:
    """Write a file whole, over one that is there.

    Raises:
        PrefpipeError: it cannot be written; what was there still is.
    """
    if isinstance(place, Path):
        _DISK.write(place, data)
    else:
        _bucket_of(place).write(place, data)


def create(place: Location, data: bytes) -> bool:
    """Write a file if there is none; of several callers at once exactly one gets True.

    Raises:
        PrefpipeError: it cannot be written.
    """
    if isinstance(place, Path):
        return _DISK.create(place, data)
    return _bucket_of(place).create(place, data)


def delete(place: Location) -> None:
    """Remove a file; one that is not there is no error.

    Raises:
        PrefpipeError: it cannot be removed.
    """
    if isinstance(place, Path):
        _DISK.delete(place)
    else:
        _bucket_of(place).delete(place)


def version(place: Url) -> FileVersion:
    """Return the size and the stamp of a file in a bucket, in one request.

    Raises:
        FileNotFoundError: it is not there.
        IsADirectoryError: it is a folder.
        OSError: it cannot be looked at.
    """
    return _opened(place.scheme, place.bucket).version(place)


def read_range(place: Url, start: int, end: int) -> bytes:
    """Return the bytes of a file in a bucket from ``start`` to before ``end``.

    Raises:
        FileNotFoundError: it is not there.
        OSError: they cannot be read.
    """
    return _opened(place.scheme, place.bucket).read_range(place, start, end)


def upload(place: Url, source: Path) -> None:
    """Write a file of the disk into a bucket whole, without its bytes in memory.

    Raises:
        PrefpipeError: it cannot be written; what was there still is.
    """
    _opened(place.scheme, place.bucket).upload(place, source)


def _bucket_of(place: Url) -> Storage[Url]:
    return _opened(place.scheme, place.bucket)


@cache
def _opened(scheme: str, bucket: str) -> BucketStorage:
    return BucketStorage(Url(scheme, bucket))
