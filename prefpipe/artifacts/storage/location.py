"""The name of a place: a path on a disk, or the URL of something in a bucket."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prefpipe.errors import UsageError

URL_PATTERN = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<key>.*)", re.DOTALL)
EATEN_SLASH = re.compile(r"(?:s3|s3a|gs|gcs|az|abfs|abfss|memory):/[^/]")
"""What `pathlib` makes of a URL."""
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
    def parent(self) -> Self:
        """The place that holds this one; that of a bucket is the bucket."""
        folder = self.key.rpartition("/")[0]
        return type(self)(self.scheme, folder) if folder else self

    @property
    def bucket(self) -> str:
        """The first part of the key."""
        return self.key.partition("/")[0]

    def is_relative_to(self, other: "Location") -> bool:
        """Return whether this place is ``other`` or lies inside it."""
        if not isinstance(other, Url) or other.scheme != self.scheme:
            return False
        return self.key == other.key or self.key.startswith(f"{other.key}/")


Location = Path | Url
"""Where an artifact or one of its files is."""


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
        raise UsageError(f"{text}: no artifact can lie there", hint=NO_STORAGE[scheme])
    # before anything that would show the URL: it may hold a secret
    authority = key.partition("/")[0]
    if "@" in authority:
        place = key.partition("@")[2]
        raise UsageError(
            f"credentials in a URL would be written into run.json: {scheme}://***@{place}",
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
