"""JSON and JSON lines: objects with their places."""

import json
from pathlib import Path
from typing import Any

from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.strict_json import RepeatedKeyError, explained, parse_json
from prefpipe.artifacts.tables.text_files import TextRows, damage_of, read_text, refuse_damaged_text
from prefpipe.errors import InputError

LISTS = ("instances",)
"""Keys under which tools wrap their rows: Online-RLHF and LMFlow."""


def read_json_lines(path: Path) -> TextRows:
    """Read one object a line; blank lines are skipped, and count.

    Raises:
        InputError: the file cannot be read.
    """
    return _lines(read_text(path), path)


def _lines(text: str, path: Path) -> TextRows:
    found = TextRows()
    # split on newlines only: str.splitlines would also cut at U+2028 inside a JSON string
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        reason = damage_of(line)
        row: Any = None
        if reason is None:
            try:
                row = parse_json(line)
            except ValueError as error:
                reason = explained(error)
        if reason is None and not isinstance(row, dict):
            reason = f"a JSON object is needed, not {type(row).__name__}"
        if reason is not None:
            found.bad.append(BadRow(str(path), place, reason, line))
        else:
            found.add(place, row)
    return found


def read_json(path: Path) -> TextRows:
    """Read a list of objects, such a list under a key of ``LISTS``, or one object a line under this name.

    Raises:
        InputError: the file cannot be read, is broken, or holds something else.
    """
    text = read_text(path)
    if not text.strip():
        return TextRows()
    try:
        rows = parse_json(text)
    except RepeatedKeyError as error:
        return _named(text, path, error)
    except ValueError as error:
        is_lines = (
            isinstance(error, json.JSONDecodeError)
            and error.msg == "Extra data"
            and text.lstrip().startswith("{")
        )
        if is_lines:
            return _lines(text, path)
        refuse_damaged_text(text, path)
        place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{path}{place}: {explained(error)}", hint="correct the file") from error

    refuse_damaged_text(text, path)
    if isinstance(rows, dict):
        rows = next((rows[name] for name in LISTS if isinstance(rows.get(name), list)), rows)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{path}: a JSON list of objects is needed",
            hint="for one object a line name the file .jsonl",
        )
    return TextRows(rows, [f"row {number}" for number in range(1, len(rows) + 1)])


def _named(text: str, path: Path, error: RepeatedKeyError) -> TextRows:
    """Read a list item by item, so that the rows with a key twice are known."""
    beginning = text.lstrip()
    if (
        beginning.startswith("{") and "\n" in beginning.rstrip()
    ):  # one object a line, or an object around the list
        first = _lines(text, path)
        if first.rows:
            return first
    if not beginning.startswith("["):
        raise InputError(f"{path}: {error}", hint="correct the file") from error

    found = TextRows()
    loose = json.JSONDecoder()
    position = text.index("[") + 1
    number = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position >= len(text) or text[position] == "]":
            return found
        number += 1
        row, end = loose.raw_decode(
            text, position
        )  # its syntax is that of the whole, which was read up to the key
        piece = text[position:end]
        position = end
        try:
            strict = parse_json(piece)
        except ValueError as again:
            found.bad.append(BadRow(str(path), f"row {number}", explained(again), row))
            continue
        if not isinstance(strict, dict):
            raise InputError(
                f"{path}: a JSON list of objects is needed",
                hint="for one object a line name the file .jsonl",
            )
        found.add(f"row {number}", strict)
