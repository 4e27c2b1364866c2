"""Problems of the rows of a file, collected so that a user sees all of them at once.

A check returns a value and its problem, ``(value, None)`` or ``(substitute, sentence)``.
A reader does one of two things with it:

- ``RowProblems.take`` notes the sentence and continues, so that every problem of a row is reported;
- ``needed`` ends the reading of the row with ``UnusableRowError``, if nothing can be read after the
  first mistake.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from prefpipe.artifacts.conversations import hint_for
from prefpipe.artifacts.tables.bad_rows import DEFAULT_HINT, BadRow, BadRowsError

Value = TypeVar("Value")


@dataclass
class Problems:
    """What is wrong with the rows of a file."""

    source: str
    rows: list[BadRow] = field(default_factory=list)

    def at(self, place: str) -> "RowProblems":
        """Return where the problems of one row are noted."""
        return RowProblems(self, place)

    def add(self, place: str, sentence: str, *, contradicted: Sequence[str] = ()) -> None:
        """Note one problem of a row.

        Args:
            place: of the row.
            sentence: what is wrong.
            contradicted: the places of the rows that say otherwise.
        """
        others = tuple(other for other in contradicted if other != place)
        self.rows.append(BadRow(self.source, place, sentence, contradicted=others))

    def raise_if_any(self, *, hint: str = DEFAULT_HINT) -> None:
        """Refuse the rows; the first eight problems are shown.

        Raises:
            BadRowsError: there is at least one problem.
        """
        if not self.rows:
            return
        word = "problem" if len(self.rows) == 1 else "problems"
        raise BadRowsError(
            self.source,
            self.rows,
            hint=hint_for([row.reason for row in self.rows], hint),
            summary=f"has {len(self.rows):,} {word}",
        )


class RowProblems:
    """What is wrong with one row; true if anything is."""

    # one is made for every row of a file
    __slots__ = ("_any", "_problems", "_row_place")

    def __init__(self, problems: Problems, place: str) -> None:
        self._problems = problems
        self._row_place = place
        self._any = False

    def __bool__(self) -> bool:
        return self._any

    def add(self, sentence: str | None) -> None:
        """Note what is wrong; None is nothing."""
        if sentence is not None:
            self._problems.add(self._row_place, sentence)
            self._any = True

    def take(self, checked: tuple[Value, str | None]) -> Value:
        """Return the value of a check, and note what is wrong with it."""
        value, problem = checked
        if problem is not None:
            self.add(problem)
        return value


class UnusableRowError(ValueError):
    """A row that cannot be used; the message is the sentence that says why."""


def needed(checked: tuple[Value, str | None]) -> Value:
    """Return the value of a check, without which nothing can be read of its row.

    Raises:
        UnusableRowError: something is wrong with it.
    """
    value, problem = checked
    if problem is not None:
        raise UnusableRowError(problem)
    return value
