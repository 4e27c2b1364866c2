"""A user's file as a table whose rows know their place, and everything wrong with it, gathered before it is told."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from prefpipe.artifacts.conversations import hint_for
from prefpipe.artifacts.rows import column_values, read_rows
from prefpipe.errors import InputError

MAX_PROBLEMS_SHOWN = 8
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
        return self.values(name) if name is not None and name in self.names else [None] * self.table.num_rows

    def require(self, names: Sequence[str], *, hint: str) -> None:
        """Refuse a file that lacks a column.

        Errors:
            InputError: naming the first such column and those that are there.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise InputError(
                f"{self.source} has no column `{missing[0]}`; its columns are: {', '.join(self.names) or 'none'}", hint=hint
            )


def read_user_table(source: str, *, text_columns: Sequence[str] = (), hint: str) -> UserTable:
    """Read a file of any kind that prefpipe reads.

    Args:
        source: path or ``hf:`` reference.
        text_columns: columns that are text in a CSV file, whatever they look like.
        hint: what the rows should hold, for the message about a file without rows.

    Errors:
        InputError: no rows, a missing or broken file. UsageError: a kind of file that is not read.
    """
    table, places = read_rows(source, text_columns=text_columns)
    if table.num_rows == 0:
        raise InputError(f"{source} holds no rows", hint=hint)
    return UserTable(source, table, places)


@dataclass
class Problems:
    """What is wrong with the rows of a file."""

    source: str
    found: list[str] = field(default_factory=list)

    def add(self, place: str, sentence: str) -> None:
        """Note one problem with the place of its row."""
        self.found.append(f"{place}: {sentence}")

    def raise_if_any(self, *, hint: str = "correct or remove these rows") -> None:
        """Tell the first of them.

        Errors:
            InputError: there is at least one.
        """
        if self.found:
            self._raise(hint_for(self.found, hint))

    def _raise(self, hint: str) -> NoReturn:
        shown = "\n  ".join(self.found[:MAX_PROBLEMS_SHOWN])
        n_more = len(self.found) - MAX_PROBLEMS_SHOWN
        more = f"\n  and {n_more} more" if n_more > 0 else ""
        word = "problem" if len(self.found) == 1 else "problems"
        raise InputError(f"{self.source} has {len(self.found):,} {word}:\n  {shown}{more}", hint=hint)


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
        return json.loads(text)
    except (ValueError, RecursionError):
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
    """Return a prompt's id as text and what is wrong with it: texts and whole numbers are ids."""
    if isinstance(value, str) and value:
        return value, surrogate_problem(value, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), None
    if value is None or value == "":
        return None, f"`{name}` is empty"
    return None, f"`{name}` is {told(value)}; an id is a text or a whole number"


def checked_index(value: Any, name: str) -> tuple[int | None, str | None]:
    """Return a sample index and what is wrong with it; null is None."""
    if value is None:
        return None, None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST_INDEX:
        return None, f"`{name}` is {told(value)}, which is no whole number from 0"
    return value, None


def checked_number(value: Any, name: str) -> tuple[float | None, str | None]:
    """Return a score and what is wrong with it; null is None, NaN and infinity are left for the rows' status."""
    if value is None:
        return None, None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, f"`{name}` is {told(value)}, which is no number"
    try:
        return float(value), None
    except OverflowError:
        return None, f"`{name}` is {told(value)}, which is too large a number"


def file_of(source: str) -> Path | None:
    """Return the path that a source names, or None for an ``hf:`` reference."""
    return None if source.startswith("hf:") else Path(source)
