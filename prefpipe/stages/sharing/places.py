"""Where something is pushed to and pulled from: a bucket's folder, or a repository of the hub."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from prefpipe.artifacts.storage.protocol import Copied, CountBytes
from prefpipe.stages.sharing.manifest import Manifest, ManifestEntry


class HashedFile(NamedTuple):
    """A file to push, as it was when it was hashed; ``changed_at_ns``: of its bytes, then."""

    name: str
    path: Path
    n_bytes: int
    sha256: str
    changed_at_ns: int


class Stored(NamedTuple):
    """What lies at a place now.

    ``sizes`` in bytes by name, without the manifest. ``manifest``: None where no push wrote one.
    """

    sizes: Mapping[str, int]
    manifest: Manifest | None


class Checked(NamedTuple):
    """How the files that were sent were compared with what the store says of them."""

    n_by_digest: int
    n_by_size: int


class SharedPlace(Protocol):
    """A folder of a bucket, or a repository.

    Methods that read raise `OSError` for what cannot be read, methods that write `PrefpipeError`.
    """

    keeps_strangers: bool
    """Whether files that no push wrote may lie beside: a repository's own."""

    def __str__(self) -> str: ...

    def look(self) -> Stored:
        """Return what lies there, by one listing; nothing where there is nothing."""
        ...

    def holds(self, file: HashedFile) -> bool:
        """Return whether the last look has found a file with these bytes."""
        ...

    def begin(self, manifest: Manifest) -> None:
        """Say that a push is under way, before the first byte of it."""
        ...

    def batches(self, files: Sequence[HashedFile]) -> Iterator[Sequence[HashedFile]]:
        """Yield the files so that each batch is one call of `upload`."""
        ...

    def upload(self, files: Sequence[HashedFile], count: CountBytes) -> None:
        """Send the files of a batch."""
        ...

    def finish(self, manifest: Manifest, removed: Collection[str]) -> Checked:
        """Remove files, compare what is there with the manifest, and write it.

        Raises:
            InputError: something else is there than was sent.
        """
        ...

    def entry_of(self, name: str) -> ManifestEntry:
        """Return what the last look says of a file, with its digest where it has one."""
        ...

    def has_bytes_of(self, path: Path, name: str) -> bool:
        """Return whether a file has the bytes of one on this disk; it may be read for that."""
        ...

    def download(self, name: str, target: Path, count: CountBytes, *, sha256: str | None) -> Copied:
        """Write a file on this disk with the bytes of one there, whole or not at all."""
        ...

    def digest(self, name: str, count: CountBytes) -> Copied:
        """Read a file, and return its digest."""
        ...

    def close(self) -> None:
        """Remove what only helped to copy."""
        ...
