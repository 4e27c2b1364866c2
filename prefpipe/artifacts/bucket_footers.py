"""Footers of an artifact in a bucket: thousands of them in a few requests.

Beside the parts lies a hidden file, ``.footers.json``, in which those who wrote parts list their
footers with the version (ETag and size) that the bucket gave to the very bytes they sent. A reader
lists the folder and believes an entry only if the listing shows the same version: then these are
the bytes that were written. All other footers are read from their parts, several at a time.

The file is a cache. It may be removed, lack parts, or list parts that are gone or were replaced:
nothing but the time changes.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from prefpipe.artifacts import parts
from prefpipe.artifacts.parts import PART_PATTERN, PartFooter
from prefpipe.artifacts.storage import ahead, files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.protocol import FileVersion
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.errors import PrefpipeError

FILE_NAME = ".footers.json"
FORMAT = 1
MOST_FOOTERS_AHEAD = 64
MOST_PARTS_AHEAD = 4
"""Parts to verify: each is in memory, some 5 to 50 MB."""
SAVE_S = 60.0
MOST_TRIES = 5
"""To add to the file while other workers do so, too."""


class KnownFooter(NamedTuple):
    """The footer of a part, and the file that it is the footer of."""

    version: FileVersion
    footer: PartFooter


class BucketFooters:
    """The footers of one folder, as one listing shows it.

    Args:
        folder: the artifact.
        listing: that listing, where somebody has made it; None to make it when it is needed.
    """

    def __init__(
        self, folder: Url, listing: Mapping[str, FileVersion | None] | None = None
    ) -> None:
        self._folder, self._listing = folder, listing
        self._lock = threading.Lock()
        self._names: list[str] | None = None
        """Parts of the listing in their order; None before it."""
        self._places: dict[str, int] = {}
        """The place of each in the list."""
        self._sizes: dict[str, int] = {}
        self._known: dict[str, PartFooter] = {}
        self._footers: dict[str, Future[PartFooter]] = {}
        self._verified: dict[str, Future[PartFooter]] = {}
        self._n_ahead = 1

    def read(self, place: Location) -> PartFooter:
        """Return a part's footer.

        Raises:
            CorruptPartError: as `parts.read_footer`.
            InputError: likewise; the folder cannot be listed.
        """
        with self._lock:
            known = self._known_or_begun(place, self._footers)
            if known is None:
                self._begin(place, self._footers, self._read_footer, self._n_ahead)
                # whoever asks for one may want no other; whoever goes on asking wants them all
                self._n_ahead = min(2 * self._n_ahead, MOST_FOOTERS_AHEAD)
                known = self._footers.get(place.name)
        return parts.read_footer(place) if known is None else _result(known)

    def names(self) -> Collection[str]:
        """Return the names of the parts that the listing shows.

        Raises:
            InputError: the folder cannot be listed.
        """
        with self._lock:
            self._look()
            return self._places.keys()

    def verify(self, place: Location) -> PartFooter:
        """Return a part's footer: of the bytes that were written, or every byte compared now.

        Raises:
            CorruptPartError: as `parts.verify_part`; it is not in the listing.
            InputError: likewise; the folder cannot be listed.
        """
        with self._lock:
            known = self._known_or_begun(place, self._verified)
            if known is None:
                self._begin(place, self._verified, parts.verify_part, MOST_PARTS_AHEAD)
                known = self._verified.get(place.name)
        if known is None:
            raise parts.missing_part(place)
        return _result(known)

    def _read_footer(self, place: Location) -> PartFooter:
        return parts.read_footer(place, self._sizes.get(place.name))

    def _known_or_begun(
        self, place: Location, begun: "Mapping[str, Future[PartFooter]]"
    ) -> "PartFooter | Future[PartFooter] | None":
        self._look()
        return self._known.get(place.name) or begun.get(place.name)

    def _look(self) -> None:
        if self._names is None:
            self._names = self._list()
            self._places = {name: place for place, name in enumerate(self._names)}

    def _begin(
        self,
        place: Location,
        begun: "dict[str, Future[PartFooter]]",
        look: Callable[[Location], PartFooter],
        n_ahead: int,
    ) -> None:
        """Begin to look at a part and those behind it; one that came since the listing is none."""
        start = self._places.get(place.name)
        if self._names is None or start is None:
            return
        n_begun = 0
        for name in self._names[start:]:
            if name in self._known or name in begun:
                continue
            begun[name] = ahead.begin(partial(look, self._folder / name))
            n_begun += 1
            if n_begun == n_ahead:
                return

    def _list(self) -> list[str]:
        """Return the names of the parts, and note the footers that are known of them."""
        try:
            listing = self._listing or files.list_folder(self._folder)
        except FileNotFoundError:
            listing = {}
        except OSError as error:
            raise unreadable(self._folder, error) from error
        if FILE_NAME in listing:
            for name, known in _read_known(self._folder).items():
                if listing.get(name) == known.version:
                    self._known[name] = known.footer
        for name, version in listing.items():
            if version is not None:
                self._sizes[name] = version.n_bytes
        return sorted(name for name in listing if PART_PATTERN.fullmatch(name))


def _result(known: "PartFooter | Future[PartFooter]") -> PartFooter:
    return known if isinstance(known, PartFooter) else known.result()


class KeptFooters:
    """Footers of the parts that this process writes, on their way to `FILE_NAME`.

    Args:
        folder: the artifact.
        n_parts: parts of the whole artifact; those of a run with another number are dropped.
    """

    def __init__(self, folder: Url, n_parts: int) -> None:
        self._folder, self._n_parts = folder, n_parts
        self._new: dict[str, KnownFooter] = {}
        self._lock = threading.Lock()
        self._saved_at = time.monotonic()

    def add(self, version: FileVersion, footer: PartFooter) -> None:
        """Add a part that was written; now and then all of them are saved."""
        with self._lock:
            self._new[footer.name] = KnownFooter(version, footer)
        if time.monotonic() - self._saved_at > SAVE_S:
            self.save()

    def save(self) -> None:
        """Write the file, with what others have added to it."""
        with self._lock:
            new, self._new = self._new, {}
            self._saved_at = time.monotonic()
        if new:
            save_footers(self._folder, self._n_parts, new)


def save_footers(folder: Url, n_parts: int, new: Mapping[str, KnownFooter]) -> None:
    """Add parts to `FILE_NAME`; what cannot be written costs time, never the run.

    Args:
        folder: the artifact.
        n_parts: parts of the whole artifact.
        new: by name, each with the version that the storage gave to its bytes when it was written.
    """
    place = folder / FILE_NAME
    for _ in range(MOST_TRIES):
        try:
            before = _bytes_or_none(place)
            entries = {} if before is None else _entries(before)
            entries |= {name: _entry(known) for name, known in new.items()}
            data = _to_bytes({name: entries[name] for name in entries if _is_of(name, n_parts)})
            if before is None:
                is_written = files.create(place, data)
            else:
                is_written = files.replace(place, data, expected=before)
        except (OSError, PrefpipeError):
            return
        if is_written:
            return


def _read_known(folder: Url) -> dict[str, KnownFooter]:
    """Return what the file lists; nothing where it is damaged or of another release."""
    try:
        data = _bytes_or_none(folder / FILE_NAME)
    except OSError:
        return {}
    known = {}
    for name, entry in _entries(data or b"").items():
        try:
            n_bytes, stamp, text = entry
            footer = parts.footer_from_json(text.encode(), folder / name)
            known[name] = KnownFooter(FileVersion(int(n_bytes), str(stamp)), footer)
        except (ValueError, TypeError, AttributeError, PrefpipeError):
            continue
    return known


def _bytes_or_none(place: Url) -> bytes | None:
    try:
        return files.read(place)
    except FileNotFoundError:
        return None


def _entries(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
        entries = values["parts"]
        is_whole = values["format"] == FORMAT and values["sha256"] == _digest(entries)
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return dict(entries) if is_whole else {}


def _entry(known: KnownFooter) -> list[Any]:
    return [known.version.n_bytes, known.version.stamp, parts.footer_to_json(known.footer)]


def _to_bytes(entries: Mapping[str, Any]) -> bytes:
    values = {"format": FORMAT, "sha256": _digest(entries), "parts": entries}
    return json.dumps(values, sort_keys=True).encode()


def _digest(entries: Mapping[str, Any]) -> str:
    return sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _is_of(name: str, n_parts: int) -> bool:
    match = PART_PATTERN.fullmatch(name)
    return match is not None and int(match[2]) == n_parts
