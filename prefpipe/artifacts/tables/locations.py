"""Where a user's source is: on this machine's disks, in a bucket, or on the hub."""

import re
from pathlib import Path
from typing import Final

from prefpipe.artifacts.storage.location import (
    Location,
    parse_location,
    without_credentials,
)
from prefpipe.errors import UsageError

HUB: Final = "hf:"
_NOT_READ: Final = {
    "http": "download the file first: curl -LO {source}",
    "https": "download the file first: curl -LO {source}",
    "hf": "name a dataset of the hub as hf:org/name[@revision][:split]",
}
"""Addresses that are read from nowhere, each with what to do."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""``s3://b`` or, after pathlib has had it, ``s3:/b``; a letter alone is a drive of Windows."""
HINT: Final = "copy the files here, or mount the bucket and pass the mounted path"


def scheme_of(path: str | Path) -> str | None:
    """Return the scheme of an address such as ``s3://bucket/x``, None for a path."""
    match = _SCHEME.match(str(path))
    return None if match is None else match[1]


def scheme_problem(path: str | Path) -> str | None:
    """Return what is wrong with an address, None for a path of this machine."""
    scheme = scheme_of(path)
    if scheme is None:
        return None
    # both spellings become one: the pattern takes one slash of two
    address = _SCHEME.sub(rf"{scheme}://", str(path), count=1).replace(":///", "://")
    return f"{address}: this command reads and writes only local paths, not {scheme}://"


def refuse_scheme(path: str | Path, what: str) -> None:
    """Refuse an address: taken for a path it would make a folder ``s3:`` here.

    Args:
        path: as it was given.
        what: the argument or option, for the message.

    Raises:
        UsageError: it is an address.
    """
    problem = scheme_problem(path)
    if problem is not None:
        raise UsageError(f"{what} {problem}", hint=HINT)


def place_of(source: str) -> Location | None:
    """Return where a source is, a path or a URL of a bucket; None for a data set of the hub.

    Raises:
        UsageError: an address that nothing is read from, or a URL that names no place.
    """
    address = re.match(r"(https?|hf)://", source, re.IGNORECASE)
    if address is not None:
        shown = without_credentials(source)
        raise UsageError(
            f"{shown} is no file and no place in a bucket",
            hint=_NOT_READ[address[1].lower()].format(source=shown),
        )
    return None if source.startswith(HUB) else parse_location(source)


def command_on(source: str, command: str) -> str:
    """Return a shell command for a hint: on a file, or on the download of one in a bucket.

    Args:
        source: the file.
        command: with ``{}`` where the file's name goes.
    """
    if "://" not in source:
        return command.replace("{}", source)
    return f"download it, then {command.replace('{}', source.rpartition('/')[2])}"
