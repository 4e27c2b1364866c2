"""Where a user's path points to: this machine's disks, and nothing else yet."""

import re
from pathlib import Path
from typing import Final

from prefpipe.errors import UsageError

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
