"""A user's file as a table whose rows know their place, and everything wrong with it, gathered before it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.conversations import hint_for
from prefpipe.artifacts.tables.bad_rows import DEFAULT_HINT, BadRow, BadRowsError
from prefpipe.artifacts.tables.columns import column_values
from prefpipe.artifacts.tables.locations import refuse_scheme
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.artifacts.tables.strict_json import parse_json
from prefpipe.artifacts.tables.values import id_of, number_of
from prefpipe.errors import InputError

LONGEST_INDEX = 2**31 - 1  # sample_idx is an int32


@dataclass(frozen=True)
class UserTable:
    """Rows of a file: where it is, its columns, and the place of each row for messages."""

    source: str
    table: pa.Table
    places: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return list(self.table.column_names)

    def values(self, name: str) -> list[Any]:
        """Return a column's values as Python objects, JSON text decoded."""
        return column_values(self.table, name)

    def values_or_none(self, name: str | None) -> list[Any]:
        """Return a column's values, or a list of None where the file has no such column."""
        return (
            self.values(name)
            if name is not None and name in self.names
            else [None] * self.table.num_rows
        )

    def require(self, names: Sequence[str], *, hint: str) -> None:
        """Refuse a file that lacks a column.

        Raises:
            InputError: naming the first such column and those that are there.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise InputError(
                f"{self.source} has no column `{missing[0]}`; its columns are: {', '.join(self.names) or 'none'}",
                hint=hint,
            )


def read_user_table(source: str, *, text_columns: Sequence[str] = (), hint: str) -> UserTable:
    """Read a file of any kind that prefpipe reads.

    Args:
        source: path or ``hf:`` reference.
        text_columns: columns that are text in a CSV file, whatever they look like.
        hint: what the rows should hold, for the message about a file without rows.

    Raises:
        InputError: no rows, a missing or broken file. UsageError: a kind of file that is not read.
    """
    table, places = read_table(source, text_columns=text_columns)
    if table.num_rows == 0:
        raise InputError(f"{source} holds no rows", hint=hint)
    return UserTable(source, table, places)


@dataclass
class Problems:
    """What is wrong with the rows of a file."""

    source: str
    rows: list[BadRow] = field(default_factory=list)

    @property
    def found(self) -> list[str]:
        """Each problem with its place, as it is printed."""
        return [f"{row.place}: {row.reason}" for row in self.rows]

    def add(self, place: str, sentence: str, *, contradicted: Sequence[str] = ()) -> None:
        """Note one problem with the place of its row, and with the places of the rows that say otherwise."""
        others = tuple(other for other in contradicted if other != place)
        self.rows.append(BadRow(self.source, place, sentence, contradicted=others))

    def raise_if_any(self, *, hint: str = DEFAULT_HINT) -> None:
        """Refuse the rows; the first eight problems are shown.

        Raises:
            BadRowsError: there is at least one problem.
        """
        if self.rows:
            word = "problem" if len(self.rows) == 1 else "problems"
            what = f"has {len(self.rows):,} {word}"
            hint = hint_for([row.reason for row in self.rows], hint)
            raise BadRowsError(self.source, self.rows, hint=hint, what=what)


def told(value: Any) -> str:
    """Return a value for a message, shortened."""
    return f"{value!r:.60}"


def checked_text(value: Any, name: str) -> tuple[str, str | None]:
    """Return a text and what is wrong with it; an empty text is fine."""
    if value is None:
        return "", f"`{name}` is null"
    if not isinstance(value, str):
        return "", f"`{name}` is {told(value)}, which is no text"
    return value, surrogate_problem(value, name)


def checked_optional_text(value: Any, name: str) -> tuple[str | None, str | None]:
    """Return a text, None where there is none, and what is wrong with it."""
    if value is None or value == "":
        return None, None
    return checked_text(value, name)


def surrogate_problem(text: str, name: str) -> str | None:
    """Return what is wrong with a text that UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        return f"`{name}` holds half of a surrogate pair ({half}), which is no character"
    return None


def parsed_json(text: str) -> Any:
    """Return what a JSON text holds, None where it is none: lists stand in CSV, and often in Parquet, as JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def checked_list(value: Any, name: str) -> tuple[list[Any], str | None]:
    """Return a list and what is wrong with it; an empty one is wrong, and JSON text is read."""
    found = parsed_json(value) if isinstance(value, str) else value
    if value is None:
        return [], f"`{name}` is null"
    if not isinstance(found, list):
        return [], f"`{name}` is {told(value)}, which is no list"
    return found, None if found else f"`{name}` is an empty list"


def checked_id(value: Any, name: str) -> tuple[str | None, str | None]:
    """Return a prompt's id as text and what is wrong with it, by the rule of `id_of`."""
    text, reason = id_of(value)
    if text is None:
        return None, f"`{name}` {reason}"
    return text, surrogate_problem(text, name)


def checked_index(value: Any, name: str) -> tuple[int | None, str | None]:
    """Return a sample index and what is wrong with it; null is None, and 3.0 is 3."""
    number, problem = checked_number(value, name)
    if problem is None and number is None:
        return None, None
    if (
        problem is not None
        or number is None
        or not 0 <= number <= LONGEST_INDEX
        or number != int(number)
    ):
        return None, f"`{name}` is {told(value)}, which is no whole number from 0"
    return int(number), None


def checked_number(value: Any, name: str) -> tuple[float | None, str | None]:
    """Return a score and what is wrong with it, by the rule of `number_of`.

    Null is None; NaN and infinity are left for the rows' status.
    """
    number, reason = number_of(value)
    return number, None if reason is None else f"`{name}` {reason}"


def file_of(source: str) -> Path | None:
    """Return the path that a source names, or None for an ``hf:`` reference.

    Raises:
        UsageError: an address such as ``s3://``.
    """
    refuse_scheme(source, "input")
    return None if source.startswith("hf:") else Path(source)
