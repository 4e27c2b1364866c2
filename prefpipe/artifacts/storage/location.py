"""The name of a place: a path on a disk, or the URL of something in a bucket."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from prefpipe.errors import UsageError

URL_PATTERN = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<key>.*)", re.DOTALL)
EATEN_SLASH = re.compile(r"(?:s3|s3a|gs|gcs|az|abfs|abfss|memory):/[^/]")
"""What `pathlib` makes of a URL."""
ANY_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""A letter alone is a drive of Windows."""
NO_STORAGE = {
    "http": "download the files first: a web server cannot be written to",
    "https": "download the files first: a web server cannot be written to",
    "hf": "copy it with `prefpipe pull`, or name a model or dataset of the hub as org/name",
}
"""Schemes that fsspec knows and artifacts cannot lie under, each with what to do."""


@dataclass(frozen=True, order=True)
class Url:
    """A place in a bucket: ``s3://bucket/runs/a/candidates``.

    A name and nothing else: `prefpipe.artifacts.storage.files` reads and writes. It is
    no `os.PathLike`, so that nothing takes it for a path on the disk.

    ``key`` begins with the bucket, and neither begins nor ends with a slash.
    """

    scheme: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.scheme, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part of the key without what follows its last dot."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last dot of the last part of the key, and what follows it."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Self:
        """The place that holds this one; that of a bucket is the bucket."""
        folder = self.key.rpartition("/")[0]
        return type(self)(self.scheme, folder) if folder else self

    @property
    def parents(self) -> list[Self]:
        """The places that hold this one, the nearest first."""
        found: list[Self] = []
        place = self
        while place.parent != place:
            place = place.parent
            found.append(place)
        return found

    @property
    def bucket(self) -> str:
        """The first part of the key."""
        return self.key.partition("/")[0]

    def absolute(self) -> Self:
        """Return this place: a URL has no folder that it is seen from."""
        return self

    def resolve(self) -> Self:
        """Return this place: a bucket has no links."""
        return self

    def is_relative_to(self, other: "Location") -> bool:
        """Return whether this place is ``other`` or lies inside it."""
        if not isinstance(other, Url) or other.scheme != self.scheme:
            return False
        return self.key == other.key or self.key.startswith(f"{other.key}/")


Location = Path | Url
"""Where an artifact or one of its files is."""


def url_in(path: str | Path) -> str | None:
    """Return the URL that a text is, or that pathlib has made a path of; None for a path.

    For messages: a user and a password in it are not shown.
    """
    text = str(path)
    match = ANY_URL.match(text)
    if match is None:
        return None
    # both spellings become one: pathlib keeps one slash of two
    return without_credentials(f"{match[1]}://{text[match.end() :].lstrip('/')}")


def without_credentials(url: str) -> str:
    """Return a URL for messages: what is before an @ in its first part is not shown."""
    return re.sub(r"^([^/]+)://[^/]*@", r"\1://***@", url)


def local_path(place: Location, what: str) -> Path:
    """Return a place that has to be on a disk.

    Args:
        place: as it was given.
        what: the flag or argument, for the message.

    Raises:
        UsageError: it is in a bucket.
    """
    if isinstance(place, Url):
        raise UsageError(
            f"{what} {place}: this is read from a disk",
            hint=f"copy it with `prefpipe pull {place} FOLDER`, and pass FOLDER",
        )
    return place


def recorded_location(text: str) -> Location:
    """Return the place that a file of ours names, which anybody may have edited."""
    try:
        return parse_location(text)
    except UsageError:
        return Path(text)


def seen_from(folder: Location, text: str) -> Location:
    """Return the place that a text names for whoever stands in a folder."""
    place = recorded_location(text)
    if isinstance(place, Url):
        return place
    return folder / str(place) if isinstance(folder, Url) else folder / place.expanduser()


def pieces_below(place: Location, folder: Location) -> tuple[str, ...]:
    """Return the names that lead from a folder to what lies inside it."""
    if isinstance(place, Path) and isinstance(folder, Path):
        return place.relative_to(folder).parts
    n_of_folder = len(str(folder).split("/"))
    return tuple(str(place).split("/")[n_of_folder:])


def place_below(folder: Location, pieces: Iterable[str]) -> Location:
    """Return what lies at some names below a folder."""
    for piece in pieces:
        folder = folder / piece
    return folder


def is_within(place: Location, folder: Location) -> bool:
    """Return whether a place is ``folder`` or lies inside it, by their names."""
    if isinstance(place, Url):
        return place.is_relative_to(folder)
    return isinstance(folder, Path) and place.is_relative_to(folder)


def parse_location(text: str) -> Location:
    """Return the place that a flag, an argument or a YAML value names.

    Raises:
        UsageError: a URL that names no place, one with credentials in it, or one of a kind that
            artifacts cannot lie under.
    """
    match = URL_PATTERN.fullmatch(text)
    if match is None:
        if EATEN_SLASH.match(text):
            raise UsageError(
                f"{text} is neither a path nor a URL: a slash is missing after the colon",
                hint=f"write {text.replace(':/', '://', 1)}; in Python pass the URL as a str, "
                "which pathlib.Path would shorten",
            )
        return Path(text)

    scheme, key = match["scheme"].lower(), match["key"]
    if scheme == "file":
        return Path(key)
    if scheme in NO_STORAGE:
        raise UsageError(
            f"{without_credentials(text)}: no artifact can lie there", hint=NO_STORAGE[scheme]
        )
    # before anything that would show the URL: it may hold a secret
    if "@" in key.partition("/")[0]:
        raise UsageError(
            "credentials in a URL would be written into run.json: "
            f"{without_credentials(f'{scheme}://{key}')}",
            hint="give them to the library: environment variables (AWS_ACCESS_KEY_ID, "
            "AWS_PROFILE), a profile, or fsspec's configuration",
        )
    parts = key.rstrip("/").split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise UsageError(
            f"{text} names no place in a bucket",
            hint=f"write {scheme}://BUCKET/FOLDER, with no empty part, `.` or `..`",
        )
    return Url(scheme, "/".join(parts))
