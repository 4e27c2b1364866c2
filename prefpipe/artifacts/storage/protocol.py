"""What a storage does: eight operations, each whole or not at all."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

from prefpipe.artifacts.storage.location import Location

PlaceT_contra = TypeVar("PlaceT_contra", bound=Location, contravariant=True)


class FileVersion(NamedTuple):
    """What tells a file from one that was written in its place.

    ``stamp``: on a disk inode and time of change, in a bucket the ETag.
    """

    n_bytes: int
    stamp: str


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
