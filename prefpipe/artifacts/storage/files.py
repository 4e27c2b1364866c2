"""Reading and writing files of artifacts, wherever they are."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from threading import Lock

from prefpipe.artifacts.storage.bucket import BucketStorage
from prefpipe.artifacts.storage.disk import DiskStorage
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.pieces import hash_pieces, write_pieces
from prefpipe.artifacts.storage.protocol import (
    Copied,
    CountBytes,
    FileVersion,
    Storage,
    StoredFile,
    count_nothing,
)
from prefpipe.artifacts.storage.read_ahead import ReadAhead

_OPENING = Lock()
_DISK: Storage[Path] = DiskStorage()


def read(place: Location) -> bytes:
    """Return all bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read.
    """
    if isinstance(place, Path):
        return _DISK.read(place)
    coming = _AHEAD.take(place)
    return _bucket_of(place).read(place) if coming is None else coming.result()


def read_ahead(place: Location) -> None:
    """Begin to read a file of a bucket that `read` will be asked for soon; on a disk do nothing."""
    if isinstance(place, Url):
        _AHEAD.begin(place)


def forget_ahead() -> None:
    """Drop the files that were read ahead and not asked for."""
    _AHEAD.clear()


def read_tail(place: Location, n_bytes: int, n_in_all: int | None = None) -> tuple[bytes, int]:
    """Return the last bytes of a file, all where it has fewer, and how many it has.

    Args:
        place: the file.
        n_bytes: how many of its bytes.
        n_in_all: how many it has by a listing, which saves a request to a bucket.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read.
    """
    if isinstance(place, Path):
        return _DISK.read_tail(place, n_bytes)
    return _bucket_of(place).read_tail(place, n_bytes, n_in_all)


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


def list_tree(folder: Location) -> Mapping[str, StoredFile]:
    """Return every file under a folder by its path in it, ``checkpoints/step-8/config.json``.

    Nothing there: an empty mapping.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(folder, Path):
        return _DISK.list_tree(folder)
    return _bucket_of(folder).list_tree(folder)


def upload(source: Path, place: Location, count: CountBytes = count_nothing) -> Copied:
    """Write a file with the bytes of one on this disk, over one that is there.

    It is never in memory as a whole. The storage itself compares each piece with its digest, where
    it can.

    Raises:
        InputError: the source cannot be read, or is written to meanwhile.
        PrefpipeError: it cannot be written; what was there still is.
    """
    if isinstance(place, Path):
        return _DISK.upload(source, place, count)
    return _bucket_of(place).upload(source, place, count)


def download(
    place: Location,
    target: Path,
    count: CountBytes = count_nothing,
    *,
    sha256: str | None = None,
) -> Copied:
    """Write a file on this disk, over one that is there, with the bytes of another.

    It is never in memory as a whole. The folder of ``target`` is made.

    Args:
        place: the file to read.
        target: the file to write.
        count: see `CountBytes`.
        sha256: the digest that the bytes must have, None where nobody knows it.

    Raises:
        FileNotFoundError: there is nothing to read.
        OtherBytesError: the bytes have another digest.
        OSError: it cannot be read, or was replaced meanwhile.
        PrefpipeError: the target cannot be written.
    In all cases, what was at the target still is.
    """
    return write_pieces(target, _pieces_of(place), count, sha256=sha256)


def digest(place: Location, count: CountBytes = count_nothing) -> Copied:
    """Read a file piece by piece, and return its digest.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read, or was replaced meanwhile.
    """
    return hash_pieces(_pieces_of(place), count)


def _pieces_of(place: Location) -> Iterator[bytes]:
    if isinstance(place, Path):
        return _DISK.read_pieces(place)
    return _bucket_of(place).read_pieces(place)


def has_bytes_of(source: Path, folder: Location, stored: StoredFile) -> bool | None:
    """Return whether a file of `list_tree` has the bytes of one on this disk.

    None if only reading it can tell.

    Raises:
        InputError: the source cannot be read.
    """
    if isinstance(folder, Path):
        return _DISK.has_bytes_of(source, stored)
    return _bucket_of(folder).has_bytes_of(source, stored)


def version(place: Url) -> FileVersion:
    """Return the size and the stamp of a file in a bucket, in one request.

    Raises:
        FileNotFoundError: it is not there.
        IsADirectoryError: it is a folder.
        OSError: it cannot be looked at.
    """
    return _bucket_of(place).version(place)


def read_range(place: Url, start: int, end: int) -> bytes:
    """Return the bytes of a file in a bucket from ``start`` to before ``end``.

    Raises:
        FileNotFoundError: it is not there.
        OSError: they cannot be read.
    """
    return _bucket_of(place).read_range(place, start, end)


def _bucket_of(place: Url) -> BucketStorage:
    # one for all threads: it knows what it has found out of its store
    with _OPENING:
        return _opened(place.scheme, place.bucket)


@cache
def _opened(scheme: str, bucket: str) -> BucketStorage:
    return BucketStorage(Url(scheme, bucket))


_AHEAD = ReadAhead(lambda place: _bucket_of(place).read(place))
