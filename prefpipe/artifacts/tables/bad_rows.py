"""Rows of a user's file that cannot be used: refused together, or left out and counted.

A reader refuses with ``BadRowsError``. ``read_without_bad_rows`` calls it again without the rows
that it named, until it names none: the result is that of a file from which those rows were deleted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from prefpipe.artifacts.tables.locations import command_on
from prefpipe.errors import InputError

MAX_ROWS_SHOWN: Final = 8
DEFAULT_HINT: Final = "correct or remove these rows"
Read = TypeVar("Read")
_VALUES: Final = re.compile(
    r"""'(?:[^'\\]|\\.)*'
      | "(?:[^"\\]|\\.)*"
      | [{\[].*[}\]]
      | [-+]?\b\d[\w.]*\b
      | \bline\ \d+
      | \brow\ \d+""",
    re.VERBOSE,
)
"""What differs between two reasons that are the same: texts, numbers, lists, places."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        source: its file.
        place: where it is in it, such as ``line 7``.
        reason: why it cannot be used.
        content: what it holds.
        contradicted: places of the rows that contradict it. It is unknown which is right, so all
        are left out.
    """

    source: str
    place: str
    reason: str
    content: Any = None
    contradicted: tuple[str, ...] = ()


class BadRowsError(InputError):
    """Rows of one file that cannot be used; the first eight are shown with their places."""

    def __init__(
        self,
        source: str,
        rows: Sequence[BadRow],
        *,
        hint: str = DEFAULT_HINT,
        summary: str | None = None,
    ) -> None:
        self.rows = list(rows)
        if summary is None and len(rows) == 1:
            super().__init__(f"{source}, {rows[0].place}: {rows[0].reason}", hint=hint)
            return

        shown = "\n  ".join(f"{row.place}: {row.reason}" for row in rows[:MAX_ROWS_SHOWN])
        n_more = len(rows) - MAX_ROWS_SHOWN
        more = f"\n  and {n_more:,} more" if n_more > 0 else ""
        summary = summary or f"has {len(rows):,} rows that cannot be read"
        super().__init__(f"{source} {summary}:\n  {shown}{more}", hint=hint)


_left_out: ContextVar[dict[str, dict[str, BadRow]] | None] = ContextVar(
    "rows that are left out, by file and place", default=None
)


class NoRowsLeftError(InputError):
    """Every row of a file was left out."""


def read_without_bad_rows(read: Callable[[], Read]) -> tuple[Read, list[BadRow]]:
    """Call a reader until it names no more rows that it cannot use.

    Each call leaves out the rows named before.

    Args:
        read: reads its files through ``read_table``.

    Returns:
        What it read, and the rows that were left out, in the order of the files.

    Raises:
        BadRowsError: it names a row that is left out already, so that leaving out does not help.
        InputError: a fault of a whole file, such as a missing column; or no row is left.
    """
    left_out: dict[str, dict[str, BadRow]] = {}
    first: BadRowsError | None = None
    token = _left_out.set(left_out)  # read_table looks there, however deep in the reader it is
    try:
        while True:
            try:
                content = read()
            except BadRowsError as error:
                first = first or error
                new = [row for row in error.rows if row.place not in left_out.get(row.source, {})]
                # it would go on for ever
                if not new:
                    raise
                _leave_out(left_out, new)
            except NoRowsLeftError:
                assert first is not None
                # that nothing is left says less than what was wrong at first
                raise first from None
            else:
                return content, [row for rows in left_out.values() for row in rows.values()]
    finally:
        _left_out.reset(token)


def _leave_out(left_out: dict[str, dict[str, BadRow]], new: Iterable[BadRow]) -> None:
    """Add rows to those that are left out; two problems of one row become one reason."""
    merged: dict[tuple[str, str], BadRow] = {}
    for row in new:
        key = row.source, row.place
        merged[key] = _with_both_reasons(merged[key], row) if key in merged else row

    # which of several rows that contradict each other is right nobody knows
    for row in list(merged.values()):
        for place in row.contradicted:
            other = BadRow(row.source, place, f"{row.place} contradicts it")
            merged.setdefault((row.source, place), other)

    for row in merged.values():
        left_out.setdefault(row.source, {})[row.place] = row


def _with_both_reasons(row: BadRow, again: BadRow) -> BadRow:
    return replace(
        row,
        reason=f"{row.reason}; {again.reason}",
        contradicted=(*row.contradicted, *again.contradicted),
    )


def rows_to_keep(
    source: str, places: Sequence[str], bad: Sequence[BadRow], content: Callable[[int], Any]
) -> list[int] | None:
    """Return the numbers of the rows that stay, None for all of them.

    Args:
        source: the file.
        places: the place of each row that could be read.
        bad: the rows that could not.
        content: gives what the row of a number holds.

    Raises:
        BadRowsError: ``bad`` names a row that is not left out.
        NoRowsLeftError: none stays.
    """
    known = (_left_out.get() or {}).get(source, {})
    new = [row for row in bad if row.place not in known]
    if new:
        raise BadRowsError(source, new, hint=_hint(new))
    if not known:
        return None

    kept = []
    for number, place in enumerate(places):
        if place not in known:
            kept.append(number)
        # for the file of skipped rows; a row that could not be read has its content already
        elif known[place].content is None:
            known[place] = replace(known[place], content=content(number))
    if not kept:
        raise NoRowsLeftError(f"{source} has no usable row")
    return kept


def _hint(rows: Sequence[BadRow]) -> str:
    reasons = [row.reason for row in rows]
    if any("not UTF-8" in reason for reason in reasons):
        return utf_8_hint(rows[0].source)
    if any("fields than the header" in reason for reason in reasons):
        return (
            'put a text with commas or line breaks into "double quotes", and write an empty field '
            "for a missing value"
        )
    return "correct or remove the line" if len(rows) == 1 else DEFAULT_HINT


def utf_8_hint(source: str) -> str:
    """Return what to do about a file that is not UTF-8."""
    command = command_on(source, "iconv -f LATIN1 -t UTF-8 {} > converted")
    return f"save the file as UTF-8: {command}"


def count_by_reason(rows: Iterable[BadRow]) -> Mapping[str, int]:
    """Return how many rows have each reason, the most frequent first.

    Reasons that differ only in values count as one.
    """
    counts = Counter(_VALUES.sub("...", row.reason) for row in rows)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
