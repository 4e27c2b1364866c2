"""Footers that one command reads once, however often it asks for them."""

from collections.abc import Mapping
from pathlib import Path

from prefpipe.artifacts import parts
from prefpipe.artifacts.bucket_footers import BucketFooters
from prefpipe.artifacts.parts import PartFooter
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.protocol import FileVersion
from prefpipe.artifacts.store import Artifact


class SeenFooters:
    """The footers of one check of a run, valid while their files are unchanged.

    A part's own status, its children and the sums over a run need the same ones. Folders in a
    bucket are listed once: what is read is what they held then.
    """

    def __init__(self) -> None:
        self._by_place: dict[Path, tuple[FileVersion, PartFooter]] = {}
        self._by_folder: dict[Url, BucketFooters] = {}

    def note_listing(self, folder: Url, listing: Mapping[str, FileVersion | None]) -> None:
        """Take a listing of a folder, so that it is not listed again."""
        self._by_folder[folder] = BucketFooters(folder, listing)

    def read(self, path: Location) -> PartFooter:
        """Return a footer, read once.

        Raises:
            CorruptPartError: as `parts.read_footer`.
        """
        if isinstance(path, Url):
            return self._in_bucket(path.parent).read(path)
        # Before the footer: a file that is replaced between the two is read again.
        version = files.version_of(path)
        place = path.absolute()
        seen = self._by_place.get(place)
        if seen is not None and seen[0] == version:
            return seen[1]
        return self._keep(place, version, parts.read_footer(path))

    def verify(self, path: Location) -> PartFooter:
        """Return a footer, every byte of the part compared with it now.

        In a bucket a part whose ETag is that of the bytes that were written needs no reading.

        Raises:
            CorruptPartError: as `parts.verify_part`.
        """
        if isinstance(path, Url):
            return self._in_bucket(path.parent).verify(path)
        version = files.version_of(path)
        return self._keep(path.absolute(), version, parts.verify_part(path))

    def missing(self, artifact: Artifact) -> list[int]:
        """Return the parts that are not there, in a bucket by the listing of `read`."""
        if not isinstance(artifact.path, Url):
            return artifact.missing()
        there = self._in_bucket(artifact.path).names()
        return [
            index
            for index in range(artifact.n_parts)
            if artifact.part_path(index).name not in there
        ]

    def _in_bucket(self, folder: Url) -> BucketFooters:
        return self._by_folder.setdefault(folder, BucketFooters(folder))

    def _keep(self, place: Path, version: FileVersion | None, footer: PartFooter) -> PartFooter:
        if version is not None:
            self._by_place[place] = (version, footer)
        return footer
