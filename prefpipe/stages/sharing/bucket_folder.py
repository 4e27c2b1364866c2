"""A folder of a bucket, or of a disk, that is pushed to and pulled from."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.storage import files as storage
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.protocol import Copied, CountBytes, StoredFile, count_nothing
from prefpipe.errors import InputError
from prefpipe.stages.sharing.belongings import MANIFEST_FILE, WORKING_FOLDERS
from prefpipe.stages.sharing.manifest import Manifest, ManifestEntry, require_safe_names
from prefpipe.stages.sharing.places import Checked, HashedFile, Stored


class BucketFolder:
    """A folder; see `SharedPlace`. The manifest in it is written last."""

    keeps_strangers = False

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._listing: Mapping[str, StoredFile] = {}
        self._manifest: Manifest | None = None
        self._sent_md5s: dict[str, str] = {}

    def __str__(self) -> str:
        return str(self._folder)

    def look(self) -> Stored:
        """List the folder, and read its manifest."""
        listing = dict(storage.list_tree(self._folder))
        self._manifest = None
        if listing.pop(MANIFEST_FILE, None) is not None:
            place = self._folder / MANIFEST_FILE
            self._manifest = Manifest.from_bytes(storage.read(place), str(place))
        # what the workers of a command in this bucket need while they run
        self._listing = {name: file for name, file in listing.items() if not _is_working(name)}
        require_safe_names(self._listing, str(self._folder))
        sizes = {name: file.version.n_bytes for name, file in self._listing.items()}
        return Stored(sizes, self._manifest)

    def holds(self, file: HashedFile) -> bool:
        """Compare sizes, then digests: of the manifest or of the store."""
        stored = self._listing.get(file.name)
        if stored is None or stored.version.n_bytes != file.n_bytes:
            return False
        entry = self._manifest.files.get(file.name) if self._manifest else None
        if entry is not None and entry.stamp and entry.stamp == stored.version.stamp:
            return entry.sha256 == file.sha256
        return storage.has_bytes_of(file.path, self._folder, stored) is True

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest of a push that has not ended."""
        storage.write(self._folder / MANIFEST_FILE, manifest.to_bytes())

    def batches(self, files: Sequence[HashedFile]) -> Iterator[Sequence[HashedFile]]:
        """Yield each file alone."""
        for file in files:
            yield [file]

    def upload(self, files: Sequence[HashedFile], count: CountBytes) -> None:
        """Send files.

        Raises:
            InputError: one was changed since it was hashed.
        """
        for file in files:
            copied = storage.upload(file.path, self._folder / file.name, count)
            if copied.sha256 != file.sha256:
                raise changed_since(file)
            self._sent_md5s[file.name] = copied.md5

    def finish(self, manifest: Manifest, removed: Collection[str]) -> Checked:
        """Remove, list, compare, and write the manifest.

        Raises:
            InputError: something else is there than was sent.
        """
        for name in sorted(removed):
            storage.delete(self._folder / name)

        self._listing = storage.list_tree(self._folder)
        entries = {}
        for name, entry in manifest.files.items():
            stored = self._listing.get(name)
            if stored is None:
                raise self._not_what_was_sent(name, "is not there")
            if stored.version.n_bytes != entry.n_bytes:
                sizes = f"has {stored.version.n_bytes:,} bytes instead of {entry.n_bytes:,}"
                raise self._not_what_was_sent(name, sizes)
            entries[name] = entry._replace(stamp=stored.version.stamp)

        n_by_digest = self._compare_digests()
        written = replace(manifest, files=entries)
        storage.write(self._folder / MANIFEST_FILE, written.to_bytes())
        return Checked(n_by_digest, len(self._sent_md5s) - n_by_digest)

    def _compare_digests(self) -> int:
        """Compare the MD5s of what was sent with those of the listing; return how many agree.

        Raises:
            InputError: one differs, in a store that tells MD5s.
        """
        same = set()
        for name, md5 in self._sent_md5s.items():
            if md5 and self._listing[name].md5 == md5:
                same.add(name)

        # Where all of a kind differ they are none: encrypted objects have another ETag, and in some
        # stores those that were sent in pieces.
        kinds = {"-" in self._sent_md5s[name] for name in same}
        for name, md5 in self._sent_md5s.items():
            is_told = md5 and self._listing[name].md5 and ("-" in md5) in kinds
            if is_told and name not in same:
                raise self._not_what_was_sent(name, "has another MD5")
        return len(same)

    def _not_what_was_sent(self, name: str, what: str) -> InputError:
        return InputError(
            f"{self._folder / name} {what} after it was sent",
            hint="see that nobody else writes there, then run the same command again",
        )

    def entry_of(self, name: str) -> ManifestEntry:
        """Return size and stamp; a store knows no sha256."""
        version = self._listing[name].version
        return ManifestEntry(version.n_bytes, "", version.stamp)

    def has_bytes_of(self, path: Path, name: str) -> bool:
        """Compare by what the store says, else by reading."""
        told = storage.has_bytes_of(path, self._folder, self._listing[name])
        if told is not None:
            return told
        return self.digest(name, count_nothing).sha256 == hash_file(path)

    def download(self, name: str, target: Path, count: CountBytes, *, sha256: str | None) -> Copied:
        """Copy a file."""
        return storage.download(self._folder / name, target, count, sha256=sha256)

    def digest(self, name: str, count: CountBytes) -> Copied:
        """Read a file."""
        return storage.digest(self._folder / name, count)

    def close(self) -> None:
        """Do nothing: nothing helped to copy."""


def changed_since(file: HashedFile) -> InputError:
    """Return the error of a file that was written to between its hash and its copy."""
    return InputError(
        f"{file.path} was written to while it was copied",
        hint="wait until the command that writes it has ended, then run the same command again",
    )


def _is_working(name: str) -> bool:
    pieces = name.split("/")
    return any(piece in WORKING_FOLDERS for piece in pieces[:-1]) or pieces[-1].startswith(".")
