"""A user's file as a table that records the place of each row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.tables.columns import column_values
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.errors import InputError


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

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return int(self.table.num_rows)

    def values(self, name: str) -> list[Any]:
        """Return a column's values as Python objects, JSON text decoded."""
        return column_values(self.table, name)

    def values_or_none(self, name: str | None) -> list[Any]:
        """Return a column's values, or a list of None if the file has no such column."""
        if name is None or name not in self.names:
            return [None] * self.n_rows
        return self.values(name)

    def has(self, names: Iterable[str]) -> bool:
        """Return whether all columns of these names are there."""
        return set(names) <= set(self.names)

    def first_name(self, names: Iterable[str]) -> str | None:
        """Return the first of several names that is a column, None if none is."""
        columns = self.names
        return next((name for name in names if name in columns), None)

    def require(self, names: Sequence[str], *, hint: str) -> None:
        """Refuse a file that lacks a column.

        Raises:
            MissingColumnsError: naming the first such column and those that are there.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise MissingColumnsError(self, f"has no column `{missing[0]}`", hint=hint)


class MissingColumnsError(InputError):
    """A file without the columns that are needed; the message names those that it has.

    Args:
        table: the file.
        problem: what it lacks, as the message goes on after the file's name.
        hint: what to do about it.
    """

    def __init__(self, table: UserTable, problem: str, *, hint: str | None = None) -> None:
        columns = ", ".join(table.names) or "none"
        super().__init__(f"{table.source} {problem}; its columns are: {columns}", hint=hint)


def read_user_table(source: str, *, text_columns: Sequence[str] = (), hint: str) -> UserTable:
    """Read a file of any kind that prefpipe reads.

    Args:
        source: path or ``hf:`` reference.
        text_columns: columns that are text in a CSV file, whatever they look like.
        hint: what the rows should hold, for the message about a file without rows.

    Raises:
        InputError: no rows, a missing or broken file.
        UsageError: a kind of file that is not read.
    """
    table, places = read_table(source, text_columns=text_columns)
    if table.num_rows == 0:
        raise InputError(f"{source} holds no rows", hint=hint)
    return UserTable(source, table, places)
