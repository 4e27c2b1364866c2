"""CSV and TSV, strictly: RFC 4180 with a header, every row of as many fields, each row with the line on which it begins.

An empty field is a missing value, a quoted empty one (``""``) a text without characters.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.text_files import TextRows, damage_of, read_text
from prefpipe.errors import InputError

ALWAYS_TEXT: Final = ("prompt_id", "prompt", "messages")
"""Columns that are texts whatever they look like: an id of 007 is no number."""
_QUOTED: Final = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"')
_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
"""A whole number; ``007`` is none, for its zeros would be lost."""
_DECIMAL: Final = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?|inf|NaN|[0-9]+[eE][-+]?[0-9]+|[0-9]+\.)"
)
NAMES_OF_DELIMITERS: Final = {
    ",": ("a comma", "commas"),
    "\t": ("a tab", "tabs"),
    ";": ("a semicolon", "semicolons"),
}
OTHER_DELIMITERS: Final = (";", "\t", "|", ",")
_BOOLEAN: Final = re.compile(r"true|false", re.IGNORECASE)
Fields = list[str | None]


def read_csv(path: Path, delimiter: str) -> TextRows:
    """Read a file with a header; blank lines are skipped, and count.

    Raises:
        InputError: it cannot be read, a quote is left open, a column's name stands twice.
    """
    text = read_text(path)
    found = TextRows()
    header: list[str] | None = None
    position, line = 0, 1
    while position < len(text):
        begin = position
        fields, position, reason = _record(text, position, delimiter)
        if fields is None:
            raise InputError(
                f"{path}, line {line}: {reason}",
                hint='close the quote; a quote inside a text is written ""',
            )
        place, raw = f"line {line}", text[begin:position].rstrip("\r\n")
        line += text.count("\n", begin, position)
        if not raw:
            continue
        reason = damage_of(raw) or reason
        if header is None:
            if reason is not None:
                raise InputError(
                    f"{path}, {place}: {reason}",
                    hint="the first line names the columns; save the file as UTF-8",
                )
            header = [name or "" for name in fields]
            _refuse_other_dialects(raw, header, delimiter, path)
            _refuse_repeated_names(header, path, place)
            continue
        if reason is None and len(fields) != len(header):
            comparison = "fewer" if len(fields) < len(header) else "more"
            reason = f"{comparison} fields than the header, {len(fields)} and not {len(header)}"
        if reason is not None:
            found.bad.append(BadRow(str(path), place, reason, raw))
        else:
            found.add(place, dict(zip(header, fields, strict=True)))
    found.names = header
    return found


def _record(text: str, position: int, delimiter: str) -> tuple[Fields | None, int, str | None]:
    """Return the fields of the row that begins at a position, where the next one begins, and what is wrong with it.

    None for the fields: a quote is never closed, so that nothing behind it can be read.
    """
    end = text.find("\n", position)
    end = len(text) if end < 0 else end
    line = text[position:end]
    if '"' not in line:
        fields: Fields = [field or None for field in line.removesuffix("\r").split(delimiter)]
        return fields, end + 1, None

    fields = []
    while True:
        if text.startswith('"', position):
            match = _QUOTED.match(text, position)
            if match is None:
                return None, position, "a double quote is left open"
            fields.append(match[1].replace('""', '"'))
            position = match.end()
        else:
            stops = [
                stop
                for stop in (text.find(delimiter, position), text.find("\n", position))
                if stop >= 0
            ]
            stop = min(stops, default=len(text))
            fields.append(
                text[position:stop].removesuffix(
                    "\r" if not text.startswith(delimiter, stop) else ""
                )
                or None
            )
            position = stop
        if text.startswith(delimiter, position):
            position += 1
            continue
        if text.startswith("\r\n", position):
            position += 1
        if position >= len(text) or text[position] == "\n":
            return fields, position + 1, None
        end = text.find("\n", position)
        return (
            fields,
            len(text) if end < 0 else end + 1,
            f"text follows the quote that closes field {len(fields)}",
        )


def _refuse_other_dialects(raw: str, header: Sequence[str], delimiter: str, path: Path) -> None:
    """Refuse a header as other programs write it: with another delimiter, Excel's first line, or an old Mac's ends of lines."""
    name, meant = NAMES_OF_DELIMITERS[delimiter]
    if re.fullmatch(r"sep=.", raw.strip(' "')):
        raise InputError(
            f"{path}, line 1: `{raw}` is a line of Excel's, and no header",
            hint="remove the line, and save with commas",
        )
    if "\r" in raw:
        raise InputError(
            f"{path}, line 1: lines end with a carriage return alone",
            hint=f"tr '\\r' '\\n' < {path} > converted{path.suffix}",
        )
    if len(header) > 1:
        return
    other = next(
        (sign for sign in OTHER_DELIMITERS if sign != delimiter and raw.count(sign) > 0), None
    )
    if other is not None:
        spelled = NAMES_OF_DELIMITERS.get(other, (repr(other), ""))[0]
        way = (
            "name the file .tsv"
            if other == "\t"
            else "name the file .csv"
            if other == ","
            else f"save the file with {meant}"
        )
        raise InputError(
            f"{path}, line 1: one column, `{raw[:60]}`: fields are separated by {spelled} and not by {name}",
            hint=way,
        )


def _refuse_repeated_names(header: Sequence[str], path: Path, place: str) -> None:
    if header.count("") > 1:
        raise InputError(
            f"{path}, {place}: {header.count('')} columns have no name",
            hint="name them, or delete the empty columns of the sheet",
        )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}, {place}: two columns are called `{twice}`",
            hint="name every column differently",
        )


def csv_table(found: TextRows, text_columns: Collection[str]) -> pa.Table:
    """Return rows as a table: whole numbers, numbers and booleans where all values of a column are, else texts."""
    names = found.names or []
    columns = []
    for name in names:
        values = [row[name] for row in found.rows]
        is_text = name in ALWAYS_TEXT or name in text_columns
        columns.append(pa.array(values, pa.large_string()) if is_text else _typed(values))
    return pa.table(columns, names=names)


def _typed(values: Sequence[str | None]) -> pa.Array:
    given = [value for value in values if value is not None]
    if given and all(map(_BOOLEAN.fullmatch, given)):
        return pa.array(
            [None if value is None else value.lower() == "true" for value in values], pa.bool_()
        )
    if given and all(map(_WHOLE.fullmatch, given)):
        whole = [None if value is None else int(value) for value in values]
        if all(number is None or -(2**63) <= number < 2**63 for number in whole):
            return pa.array(whole, pa.int64())
    elif given and all(_WHOLE.fullmatch(value) or _DECIMAL.fullmatch(value) for value in given):
        numbers = [None if value is None else float(value) for value in values]
        if all(map(_is_exact, given)):
            return pa.array(numbers, pa.float64())
    return pa.array(values, pa.large_string())


def _is_exact(text: str) -> bool:
    """Return whether a whole number keeps its digits beside numbers with a point."""
    return _WHOLE.fullmatch(text) is None or abs(int(text)) <= 2**53
