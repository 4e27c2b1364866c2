"""JSON and JSON lines: objects with their places."""

import json
from typing import Any

from prefpipe.artifacts.storage.local_copies import LocalFile
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.strict_json import RepeatedKeyError, explained, parse_json
from prefpipe.artifacts.tables.text_files import TextRows, damage_of, read_text, refuse_damaged_text
from prefpipe.errors import InputError

LISTS = ("instances",)
"""Keys under which tools wrap their rows: Online-RLHF and LMFlow."""


def read_json_lines(file: LocalFile) -> TextRows:
    """Read one object a line; blank lines are skipped, and count.

    Raises:
        InputError: the file cannot be read.
    """
    return _lines(read_text(file), file)


def _lines(text: str, file: LocalFile) -> TextRows:
    rows = TextRows()
    # split on newlines only: str.splitlines would also cut at U+2028 inside a JSON string
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        row: Any = None
        reason = damage_of(line)
        if reason is None:
            try:
                row = parse_json(line)
            except ValueError as error:
                reason = explained(error)
            else:
                if not isinstance(row, dict):
                    reason = f"a JSON object is needed, not {type(row).__name__}"
        if reason is None:
            rows.add(place, row)
        else:
            rows.bad.append(BadRow(str(file), place, reason, line))
    return rows


def read_json(file: LocalFile) -> TextRows:
    """Read a list of objects.

    Also such a list under a key of ``LISTS``, or one object a line under the name of a JSON file.

    Raises:
        InputError: the file cannot be read, is broken, or holds something else.
    """
    text = read_text(file)
    if not text.strip():
        return TextRows()
    try:
        rows = parse_json(text)
    except RepeatedKeyError as error:
        return _rows_around_repeated_keys(text, file, error)
    except json.JSONDecodeError as error:
        # JSON lines under the name of a JSON file
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _lines(text, file)
        # a damaged byte explains more than the parser's message
        refuse_damaged_text(text, file)
        raise _broken(file, error) from error
    except ValueError as error:
        refuse_damaged_text(text, file)
        raise InputError(f"{file}: {explained(error)}", hint="correct the file") from error

    # inside a text, a damaged byte is no fault to the parser
    refuse_damaged_text(text, file)
    if isinstance(rows, dict):
        wrapped = [rows[name] for name in LISTS if isinstance(rows.get(name), list)]
        rows = wrapped[0] if wrapped else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _no_list_of_objects(file)
    return TextRows(rows, [f"row {number}" for number in range(1, len(rows) + 1)])


def _broken(file: LocalFile, error: json.JSONDecodeError) -> InputError:
    place = f"{file}, line {error.lineno}"
    return InputError(f"{place}: {explained(error)}", hint="correct the file")


def _no_list_of_objects(file: LocalFile) -> InputError:
    return InputError(
        f"{file}: a JSON list of objects is needed",
        hint="if the file has one object per line, name it .jsonl",
    )


def _rows_around_repeated_keys(text: str, file: LocalFile, error: RepeatedKeyError) -> TextRows:
    """Read a list item by item, so that the rows with a key twice are known.

    Args:
        text: of the file, whose syntax is right up to the first such key.
        file: the file.
        error: of the first such key.

    Raises:
        InputError: it is no list of objects.
    """
    beginning = text.strip()
    if beginning.startswith("{") and "\n" in beginning:
        # one object a line, or an object around the list
        rows = _lines(text, file)
        if rows.rows:
            return rows
    if not beginning.startswith("["):
        raise InputError(f"{file}: {error}", hint="correct the file") from error

    # Python's own decoder tells where an item ends, also one with a key twice
    rows = TextRows()
    loose = json.JSONDecoder()
    position = _skip(text, text.index("[") + 1)
    number = 0
    while position < len(text) and text[position] != "]":
        number += 1
        place = f"row {number}"
        try:
            row, end = loose.raw_decode(text, position)
        except json.JSONDecodeError as fault:
            raise _broken(file, fault) from fault
        try:
            row = parse_json(text[position:end])
        except ValueError as fault:
            rows.bad.append(BadRow(str(file), place, explained(fault), row))
        else:
            if not isinstance(row, dict):
                raise _no_list_of_objects(file)
            rows.add(place, row)
        position = _skip(text, end)
    return rows


def _skip(text: str, position: int) -> int:
    """Return the position of the next item of a list, or of its end."""
    while position < len(text) and text[position] in " \t\r\n,":
        position += 1
    return position
