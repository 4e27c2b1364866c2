"""Footers that one command reads once, however often it asks for them."""

from pathlib import Path

from prefpipe.artifacts import parts
from prefpipe.artifacts.parts import PartFooter
from prefpipe.artifacts.store import FileVersion


class SeenFooters:
    """The footers of one check of a run, valid while their files are unchanged.

    A part's own status, its children and the sums over a run need the same ones.
    """

    def __init__(self) -> None:
        self._by_place: dict[Path, tuple[FileVersion, PartFooter]] = {}

    def read(self, path: Path) -> PartFooter:
        """Return a footer, read once.

        Raises:
            CorruptPartError: as `parts.read_footer`.
        """
        # Before the footer: a file that is replaced between the two is read again.
        version = FileVersion.of(path)
        place = path.absolute()
        seen = self._by_place.get(place)
        if seen is not None and seen[0] == version:
            return seen[1]
        return self._keep(place, version, parts.read_footer(path))

    def verify(self, path: Path) -> PartFooter:
        """Return a footer, every byte of the part compared with it now.

        Raises:
            CorruptPartError: as `parts.verify_part`.
        """
        version = FileVersion.of(path)
        return self._keep(path.absolute(), version, parts.verify_part(path))

    def _keep(self, place: Path, version: FileVersion | None, footer: PartFooter) -> PartFooter:
        if version is not None:
            self._by_place[place] = (version, footer)
        return footer
