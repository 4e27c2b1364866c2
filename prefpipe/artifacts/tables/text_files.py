"""The text of a user's file, and the rows of text formats before they are a table."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.errors import InputError

_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
"""How Python holds a byte that is no UTF-8, with ``errors="surrogateescape"``."""


@dataclass
class TextRows:
    """Rows with their places, and those that could not be read.

    ``names`` are the columns, if a header has them.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    names: list[str] | None = None

    def add(self, place: str, row: dict[str, Any]) -> None:
        """Append a row."""
        self.rows.append(row)
        self.places.append(place)


def read_text(path: Path) -> str:
    """Return the text of a file without its byte order mark.

    Bytes that are no UTF-8 are escaped, see ``damage_of``.

    Raises:
        InputError: it cannot be read, or is UTF-16.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", hint="check the path of the input file"
        ) from error
    if data.startswith(_UTF_16):
        raise InputError(
            f"{path}, line 1: not UTF-8, but UTF-16 (byte order mark {data[:2].hex(' ')})",
            hint=f"iconv -f UTF-16 -t UTF-8 {path} > converted{path.suffix}",
        )
    # not strict: every damaged byte is to be named with its line
    return data.decode("utf-8-sig", errors="surrogateescape")


def damage_of(text: str) -> str | None:
    """Return the problem of the characters of a line, None if they are fine."""
    if text.isascii() and "\0" not in text:
        return None
    if "\0" in text:
        return "it holds a NUL byte: the file was cut off by a crash, or is UTF-16"
    escaped = _ESCAPED_BYTE.search(text)
    if escaped is not None:
        return f"the byte 0x{ord(escaped[0]) - 0xDC00:02x} is not UTF-8"
    return None


def refuse_damaged_text(text: str, path: Path) -> None:
    """Refuse a damaged file without one row per line, naming the first damaged line.

    Raises:
        InputError: there is one.
    """
    if damage_of(text) is None:
        return
    for number, line in enumerate(text.split("\n"), 1):
        damage = damage_of(line)
        if damage is not None:
            raise InputError(
                f"{path}, line {number}: {damage}",
                hint=f"save the file as UTF-8: iconv -f LATIN1 -t UTF-8 {path} > converted",
            )
