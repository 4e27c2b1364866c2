"""The text of a user's file, and the rows of text formats before they are a table."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from prefpipe.artifacts.storage.local_copies import LocalFile
from prefpipe.artifacts.tables.bad_rows import BadRow, utf_8_hint
from prefpipe.artifacts.tables.locations import command_on
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


def read_text(file: LocalFile) -> str:
    """Return the text of a file without its byte order mark.

    Bytes that are no UTF-8 are escaped, see ``damage_of``.

    Raises:
        InputError: it cannot be read, or is UTF-16.
    """
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}", hint="check the path of the input file"
        ) from error
    if data.startswith(_UTF_16):
        command = f"iconv -f UTF-16 -t UTF-8 {{}} > converted{file.path.suffix}"
        raise InputError(
            f"{file}, line 1: not UTF-8, but UTF-16 (byte order mark {data[:2].hex(' ')})",
            hint=command_on(str(file), command),
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


def refuse_damaged_text(text: str, file: LocalFile) -> None:
    """Refuse a damaged file without one row per line, naming the first damaged line.

    Raises:
        InputError: there is one.
    """
    if damage_of(text) is None:
        return
    for number, line in enumerate(text.split("\n"), 1):
        damage = damage_of(line)
        if damage is not None:
            raise InputError(f"{file}, line {number}: {damage}", hint=utf_8_hint(str(file)))
