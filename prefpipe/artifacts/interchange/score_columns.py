"""Which columns hold scores, by their names: one rule for all spellings.

A name is its words: ``chosen-rating``, ``chosen_ratings``, ``ChosenRating`` and ``rating_chosen``
are all *chosen* and *rating*. A pair of columns that differ only in *chosen* and *rejected*, and
name a score, are the scores of the two responses.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.interchange.checked_values import parsed_json
from prefpipe.artifacts.interchange.user_table import UserTable
from prefpipe.artifacts.tables.values import number_of

SCORE_WORDS = ("score", "rating", "reward", "grade", "quality")
PLAIN_WORDS = ("score", "rating", "reward")
"""Words that name scores whatever the column holds: no numbers in it is a mistake."""
COUNTING_WORDS = (
    "id",
    "idx",
    "index",
    "row",
    "rank",
    "position",
    "turn",
    "seed",
    "length",
    "len",
    "char",
    "word",
    "token",
    "n",
    "num",
    "count",
    "total",
    "time",
    "timestamp",
    "date",
    "year",
    "cost",
    "version",
    "std",
)
"""Words of columns that number, count or measure something else than how good a response is."""
SIDES = ("chosen", "rejected")


class PairOfColumns(NamedTuple):
    """The scores of chosen and rejected responses: the scorer's name, and the two columns."""

    scorer: str
    chosen: str
    rejected: str

    @property
    def columns(self) -> tuple[str, str]:
        """Both columns."""
        return self.chosen, self.rejected


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a column's name in lower case, plurals of scores in the singular."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", parted) if word]
    return tuple(_SINGULAR.get(word, word) for word in words)


_SINGULAR = {f"{word}s": word for word in (*SCORE_WORDS, *COUNTING_WORDS)}


def pairs_of_columns(table: UserTable) -> tuple[list[PairOfColumns], list[str]]:
    """Return the pairs of score columns, and a note on columns that look like scores and are none.

    The plainly named pairs come first. Of several spellings of one scorer's columns the plain one
    is taken, ``score_chosen`` or ``chosen_score``, else the first.
    """
    by_scorer: dict[str, dict[str, str]] = {}
    left_out: list[str] = []
    plain_first = sorted(table.names, key=lambda name: not _is_plain(name))
    for name in plain_first:
        words = words_of(name)
        sides = [word for word in words if word in SIDES]
        rest = tuple(word for word in words if word not in SIDES)
        if len(sides) != 1 or not speaks_of_scores(rest):
            continue

        scorer = "_".join(rest)
        # a scorer's name is an identifier: --reward names it
        if not rest[0].isidentifier():
            scorer = f"score_{scorer}"
        columns = by_scorer.setdefault(scorer, {})
        is_score = _is_plain(name) or holds_numbers(table.values(name))
        if is_score and sides[0] not in columns:
            columns[sides[0]] = name
        else:
            left_out.append(name)

    pairs = []
    for scorer, columns in by_scorer.items():
        if len(columns) == len(SIDES):
            pairs.append(PairOfColumns(scorer, columns["chosen"], columns["rejected"]))
        else:
            left_out += columns.values()
    if not left_out:
        return pairs, []
    note = (
        "columns that look like scores and are not used (a pair needs two numeric columns, such "
        f"as score_chosen and score_rejected): {', '.join(sorted(set(left_out)))}"
    )
    return pairs, [note]


def single_columns(table: UserTable) -> dict[str, str]:
    """Return the score columns of rows with one response: scorer to column.

    Their names are nothing but a score's.
    """
    columns: dict[str, str] = {}
    # the plain spellings first: of several columns of one scorer the first is taken
    for name in sorted(table.names, key=lambda name: name not in PLAIN_WORDS):
        words = words_of(name)
        is_score = len(words) == 1 and words[0] in PLAIN_WORDS
        if is_score and (name in PLAIN_WORDS or holds_numbers(table.values(name))):
            columns.setdefault(words[0], name)
    return columns


def speaks_of_scores(words: Sequence[str]) -> bool:
    """Return whether a name's words speak of a score, and not of the number of something."""
    if any(word in COUNTING_WORDS for word in words):
        return False
    return any(word in SCORE_WORDS for word in words)


def counts_something(name: str) -> bool:
    """Return whether a column's name says that it numbers, counts or measures something else.

    pandas writes its index under no name, as ``Unnamed: 0`` or as ``__index_level_0__``.
    """
    words = words_of(name)
    return not words or words[0] == "unnamed" or any(word in COUNTING_WORDS for word in words)


def _is_plain(name: str) -> bool:
    """Return whether people publish pairs under a name: ``score_chosen``, ``rejected_reward``."""
    first, _, second = name.partition("_")
    return (first in SIDES and second in PLAIN_WORDS) or (first in PLAIN_WORDS and second in SIDES)


def holds_numbers(values: Sequence[Any]) -> bool:
    """Return whether a column holds numbers, nulls beside them, and nothing else."""
    given = [value for value in values if value is not None and value != ""]
    return bool(given) and all(map(is_number, given))


def holds_lists_of_numbers(values: Sequence[Any]) -> bool:
    """Return whether a column holds lists of numbers: several ratings of each response."""
    given = [numbers_of(value) for value in values if value is not None]
    return bool(given) and all(given)


def numbers_of(value: Any) -> list[Any] | None:
    """Return a list of numbers, nulls among them, also one that is in a text.

    None if a value is none.
    """
    if isinstance(value, str) and value.startswith("["):
        value = parsed_json(value)
    if not isinstance(value, list):
        return None
    if all(member is None or is_number(member) for member in value):
        return value
    return None


def is_number(value: Any) -> bool:
    """Return whether a value is a number, also one that is written as text."""
    number, reason = number_of(value)
    return number is not None and reason is None
