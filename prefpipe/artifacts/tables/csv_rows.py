"""CSV and TSV, strictly: RFC 4180 with a header, every row of as many fields.

Each row has the line on which it begins. An empty field is a missing value, a quoted empty one
(``""``) a text without characters. Python's ``csv`` distinguishes neither, and silently repairs
what is broken.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import pyarrow as pa

from prefpipe.artifacts.storage.local_copies import LocalFile
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.locations import command_on
from prefpipe.artifacts.tables.text_files import TextRows, damage_of, read_text
from prefpipe.artifacts.tables.values import LARGEST_EXACT
from prefpipe.errors import InputError

ALWAYS_TEXT: Final = ("prompt_id", "prompt", "messages")
"""Columns that are texts whatever they look like: an id of 007 is no number."""
_QUOTED: Final = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"')
"""A quoted field; ``*+`` never goes back, also where the closing quote is missing."""
_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
"""A whole number; ``007`` is none, for its zeros would be lost."""
_DECIMAL: Final = re.compile(
    r"""[-+]?(?: (?:0|[1-9][0-9]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?
               | [0-9]+[eE][-+]?[0-9]+
               | [0-9]+\.
               | inf
               | NaN)""",
    re.VERBOSE,
)
NAMES_OF_DELIMITERS: Final = {
    ",": ("a comma", "commas"),
    "\t": ("a tab", "tabs"),
    ";": ("a semicolon", "semicolons"),
}
OTHER_DELIMITERS: Final = (";", "\t", "|", ",")
_BOOLEAN: Final = re.compile(r"true|false", re.IGNORECASE)
Fields = list[str | None]


def read_csv(file: LocalFile, delimiter: str) -> TextRows:
    """Read a file with a header; blank lines are skipped, and count.

    Raises:
        InputError: it cannot be read, a quote is left open, a column's name stands twice.
    """
    text = read_text(file)
    rows = TextRows()
    header: list[str] | None = None
    position, line = 0, 1
    while position < len(text):
        begin = position
        fields, position, reason = _record(text, position, delimiter)
        if fields is None:
            raise InputError(
                f"{file}, line {line}: {reason}",
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
                    f"{file}, {place}: {reason}",
                    hint="the first line names the columns; save the file as UTF-8",
                )
            # the dialect first: names that another delimiter cut say nothing
            header = [name or "" for name in fields]
            _refuse_other_dialects(raw, header, delimiter, file)
            _refuse_repeated_names(header, file, place)
            continue

        if reason is None and len(fields) != len(header):
            comparison = "fewer" if len(fields) < len(header) else "more"
            reason = f"{comparison} fields than the header, {len(fields)} and not {len(header)}"
        if reason is not None:
            rows.bad.append(BadRow(str(file), place, reason, raw))
        else:
            rows.add(place, dict(zip(header, fields, strict=True)))
    rows.names = header
    return rows


def _record(text: str, position: int, delimiter: str) -> tuple[Fields | None, int, str | None]:
    """Read the row that begins at a position.

    Returns:
        Its fields, the position of the next row, and what is wrong with it. None for the fields: a
        quote is never closed, so that nothing behind it can be read.
    """
    # without a quote, which is most rows, a row is a line
    end = text.find("\n", position)
    line = text[position:end] if end >= 0 else text[position:]
    if '"' not in line:
        fields: Fields = [field or None for field in line.removesuffix("\r").split(delimiter)]
        return fields, position + len(line) + 1, None

    fields = []
    while True:
        if text.startswith('"', position):
            match = _QUOTED.match(text, position)
            if match is None:
                return None, position, "a double quote is left open"
            fields.append(match[1].replace('""', '"'))
            position = match.end()
        else:
            end = _end_of_line(text, position)
            stop = text.find(delimiter, position, end)
            if stop < 0:
                stop = end
                fields.append(text[position:stop].removesuffix("\r") or None)
            else:
                fields.append(text[position:stop] or None)
            position = stop

        # behind a field: another one, the end of the row, or something that should not be there
        if text.startswith(delimiter, position):
            position += 1
            continue
        if text.startswith("\r\n", position):
            position += 1
        if position >= len(text) or text[position] == "\n":
            return fields, position + 1, None
        next_row = min(_end_of_line(text, position) + 1, len(text))
        return fields, next_row, f"text follows the quote that closes field {len(fields)}"


def _end_of_line(text: str, position: int) -> int:
    """Return where the line ends in which a position is, before its newline."""
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _refuse_other_dialects(
    raw: str, header: Sequence[str], delimiter: str, file: LocalFile
) -> None:
    """Refuse a header as other programs write it.

    With another delimiter, Excel's first line, or an old Mac's ends of lines.
    """
    if re.fullmatch(r"sep=.", raw.strip(' "')):
        raise InputError(
            f"{file}, line 1: `{raw}` is a separator line of Excel, not a header",
            hint="remove the line, and save with commas",
        )
    if "\r" in raw:
        raise InputError(
            f"{file}, line 1: lines end with a carriage return alone",
            hint=command_on(str(file), f"tr '\\r' '\\n' < {{}} > converted{file.path.suffix}"),
        )
    # one column is a fair file, unless it holds what others separate fields with
    if len(header) > 1:
        return

    others = [sign for sign in OTHER_DELIMITERS if sign != delimiter and sign in raw]
    if others:
        other = others[0]
        name, plural = NAMES_OF_DELIMITERS[delimiter]
        other_name = NAMES_OF_DELIMITERS.get(other, (repr(other), ""))[0]
        hints = {"\t": "name the file .tsv", ",": "name the file .csv"}
        raise InputError(
            f"{file}, line 1: one column, `{raw[:60]}`: fields are separated by {other_name} and "
            f"not by {name}",
            hint=hints.get(other, f"save the file with {plural}"),
        )


def _refuse_repeated_names(header: Sequence[str], file: LocalFile, place: str) -> None:
    if header.count("") > 1:
        raise InputError(
            f"{file}, {place}: {header.count('')} columns have no name",
            hint="name them, or delete the empty columns of the sheet",
        )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{file}, {place}: two columns are called `{twice}`",
            hint="give every column a different name",
        )


def csv_table(rows: TextRows, text_columns: Collection[str]) -> pa.Table:
    """Return rows as a table, each column of the one type of all its values.

    Booleans, whole numbers or numbers; else texts, and the ``text_columns`` in any case.
    """
    names = rows.names or []
    columns = []
    for name in names:
        values = [row[name] for row in rows.rows]
        is_text = name in ALWAYS_TEXT or name in text_columns
        columns.append(pa.array(values, pa.large_string()) if is_text else _typed(values))
    return pa.table(columns, names=names)


def _typed(values: Sequence[str | None]) -> pa.Array:
    """Return a column of the one type of its values, else of texts.

    The types are those of polars' reader, on which fingerprints of plain files stand.
    """
    given = [value for value in values if value is not None]
    if not given:
        return pa.array(values, pa.large_string())

    if all(map(_BOOLEAN.fullmatch, given)):
        booleans = [value.lower() == "true" for value in given]
        return pa.array(_with_missing(values, booleans), pa.bool_())

    # whole numbers that no int64 holds stay texts: floats would lose their digits
    if all(map(_WHOLE.fullmatch, given)):
        whole = list(map(int, given))
        if min(whole) >= -(2**63) and max(whole) < 2**63:
            return pa.array(_with_missing(values, whole), pa.int64())
    elif all(map(_is_number, given)) and all(map(_is_exact, given)):
        return pa.array(_with_missing(values, list(map(float, given))), pa.float64())
    return pa.array(values, pa.large_string())


def _with_missing(values: Sequence[str | None], converted: Sequence[Any]) -> list[Any]:
    """Return converted values with None if the column has no value."""
    if len(converted) == len(values):
        return list(converted)
    rest = iter(converted)
    return [None if value is None else next(rest) for value in values]


def _is_number(text: str) -> bool:
    return _WHOLE.fullmatch(text) is not None or _DECIMAL.fullmatch(text) is not None


def _is_exact(text: str) -> bool:
    """Return whether a whole number keeps its digits beside numbers with a point."""
    return _WHOLE.fullmatch(text) is None or abs(int(text)) <= LARGEST_EXACT
