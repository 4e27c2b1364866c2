"""What a storage does: operations that are each whole or not at all."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from prefpipe.artifacts.storage.location import Location

PlaceT_contra = TypeVar("PlaceT_contra", bound=Location, contravariant=True)


class FileVersion(NamedTuple):
    """What tells a file from one that was written in its place.

    ``stamp``: on a disk inode and time of change, in a bucket the ETag, by which a file that was
    replaced by one of the same bytes is the same.
    """

    n_bytes: int
    stamp: str


class StoredFile(NamedTuple):
    """A file as a listing of everything under a folder shows it.

    ``md5``: what the store says of its bytes, in hex; ``<hex>-<n>`` is S3's, of an object that was
    sent in n pieces. "" where it says nothing that a file can be compared with.
    """

    version: FileVersion
    md5: str = ""


class Copied(NamedTuple):
    """What became of a file that was copied or read piece by piece.

    ``md5``: as `StoredFile` has it, where it was sent with one; else "".
    """

    n_bytes: int
    sha256: str
    md5: str = ""


CountBytes = Callable[[int], None]
"""Called with the bytes that are through since the last call; what has to be sent again counts
negative. An exception from it ends the copying, and nothing half is left."""


def count_nothing(_n_bytes: int) -> None:
    """Stand in for a `CountBytes` that nobody looks at."""


class OtherBytesError(OSError):
    """The bytes of a file are not those that it should have."""


class Storage(Protocol[PlaceT_contra]):
    """Reads and writes whole files.

    A file appears under its name whole, with all its bytes durable, or not at all.

    Every method that reads raises `FileNotFoundError` for what is not there and another `OSError`
    for what cannot be read; its text names no credential. Methods that write raise `PrefpipeError`.
    """

    def read(self, place: PlaceT_contra) -> bytes:
        """Return all bytes of a file, never fewer."""
        ...

    def read_tail(self, place: PlaceT_contra, n_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of a file, all where it has fewer, and how many it has."""
        ...

    def list(self, folder: PlaceT_contra) -> Mapping[str, FileVersion | None]:
        """Return what is in a folder by name, in one listing; a folder inside has no version.

        Raises:
            FileNotFoundError: there is nothing; a bucket has no empty folders.
        """
        ...

    def version_of(self, place: PlaceT_contra) -> FileVersion | None:
        """Return which file is there now; None for a folder, and for what is not there."""
        ...

    def write(self, place: PlaceT_contra, data: bytes) -> FileVersion | None:
        """Write a file, over one that is there.

        Returns:
            The version of these bytes; None where the storage does not say which it is.
        """
        ...

    def create(self, place: PlaceT_contra, data: bytes) -> bool:
        """Write a file if there is none; return whether it is this call's.

        Of several callers at once exactly one gets True, or those whose bytes are the same.
        """
        ...

    def replace(self, place: PlaceT_contra, data: bytes, *, expected: bytes) -> bool:
        """Write a file over one that holds ``expected``; return False if it holds something else.

        Of several callers at once one gets True where the storage compares and writes in one step:
        S3 and its like. Elsewhere another may come between the look and the write.
        """
        ...

    def delete(self, place: PlaceT_contra) -> None:
        """Remove a file; one that is not there is no error."""
        ...

    def list_tree(self, folder: PlaceT_contra) -> Mapping[str, StoredFile]:
        """Return every file under a folder by its path in it, with slashes; none: nothing there."""
        ...

    def upload(
        self, source: Path, place: PlaceT_contra, count: CountBytes = count_nothing
    ) -> Copied:
        """Write a file with the bytes of one on this disk, piece by piece, over one that is there.

        Raises:
            InputError: the source cannot be read, or is written to meanwhile.
        """
        ...

    def read_pieces(self, place: PlaceT_contra) -> Iterator[bytes]:
        """Yield all bytes of a file, of one version of it, piece by piece."""
        ...

    def has_bytes_of(self, source: Path, stored: StoredFile) -> bool | None:
        """Return whether a stored file has the bytes of one on this disk.

        None if only reading it can tell.
        """
        ...
