"""The rater that looks ratings up: granular human or AI scores in a file, joined by key.

    {"prompt_id": "a1", "sample_idx": 3, "rating": 7.5}
    {"prompt_id": "a1", "response": "the whole text", "rating": 7.5}

The key is ``(prompt_id, sample_idx)``, or ``(prompt_id, response)`` in a file without the column ``sample_idx``. Position
never joins anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, isfinite
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.interchange.formats import content_hash
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_id,
    checked_index,
    checked_number,
    checked_text,
    read_user_table,
    told,
)
from prefpipe.backends.protocol import Score, ScoreRequest
from prefpipe.errors import InputError

Key = tuple[str, int | str]
"""``(prompt_id, sample_idx)`` or ``(prompt_id, response)``."""

HINT = "each row needs prompt_id, sample_idx (or response) and rating"

SECOND_RATING = "second rating"


class _Rating(NamedTuple):
    value: float
    place: str


class RatingsScorer:
    """Gives each candidate the rating that a file holds for it.

    ``path`` is a table of any kind that prefpipe reads. ``on_duplicate`` says what several ratings of one candidate come to,
    ``mean`` or ``first``; without it they are refused where they differ.

    Raises:
        InputError: a file that cannot be read, a missing column, or rows that cannot be used, each with its place: a key that
            is incomplete or has two different ratings, a rating that is empty, no number, NaN or infinite.
    """

    def __init__(self, path: Path | str, *, rating_column: str = "rating", on_duplicate: str | None = None) -> None:
        self.path = Path(path)
        self.rating_column = rating_column
        self.on_duplicate = on_duplicate
        table = read_user_table(str(path), text_columns=("response",), hint=HINT)
        self._sha256 = content_hash(str(path))
        self.joined_by = _find_key_column(table, rating_column)
        """The column that completes the key: ``sample_idx`` or ``response``."""
        self._ratings: dict[Key, _Rating] = {}
        self.n_repeated = 0
        """Rows that say again what an earlier row said."""
        self.notes: list[str] = []
        """What was made of several ratings of one candidate."""
        self._read(table)

    def __len__(self) -> int:
        return len(self._ratings)

    def identity(self) -> dict[str, str]:
        """Return what the fingerprint needs to know: the bytes of the file, the column, and what duplicates come to."""
        found = {"ratings_sha256": self._sha256, "rating_column": self.rating_column}
        return found if self.on_duplicate is None else {**found, "on_duplicate": self.on_duplicate}

    def unknown_keys(self, candidates: Iterable[tuple[str, int, str]]) -> list[str]:
        """Return, in the order of the file, each rating of no candidate: its key and place in words.

        ``candidates`` are the ``(prompt_id, sample_idx, response)`` of the whole artifact, not of one part or shard.
        """
        by_index = self.joined_by == "sample_idx"
        known: set[Key] = {(prompt_id, index if by_index else text) for prompt_id, index, text in candidates}
        return [f"{_describe(key)} ({rating.place})" for key, rating in self._ratings.items() if key not in known]

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one score for each request: ``ok``, or ``unrated`` for a candidate that the file does not have."""
        by_index = self.joined_by == "sample_idx"
        unrated = f"{self.path.name} has no rating for this prompt_id and {self.joined_by}"
        scores = []
        for request in requests:
            found = self._ratings.get((request.prompt_id, request.sample_idx if by_index else request.response))
            scores.append(Score(found.value) if found else Score(None, "unrated", unrated))
        return scores

    def close(self) -> None:
        """Hold nothing open, release nothing."""

    def _read(self, table: UserTable) -> None:
        problems = Problems(table.source)
        several: dict[Key, list[_Rating]] = {}
        columns = [table.values(name) for name in ("prompt_id", self.joined_by, self.rating_column)]
        for place, prompt_id, other, value in zip(table.places, *columns, strict=True):
            key, sentences = _checked_key(prompt_id, other, self.joined_by)
            rating, sentence = _checked_rating(value, self.rating_column)
            if sentence is not None:
                sentences.append(sentence)
            if key is not None and rating is not None:
                several.setdefault(key, []).append(_Rating(rating, place))
                sentences += self._add(key, _Rating(rating, place))
            for each in sentences:
                problems.add(place, each)
        problems.raise_if_any(hint=_hint(problems))
        if self.on_duplicate in ("mean", "first"):
            self._join({key: ratings for key, ratings in several.items() if len(ratings) > 1}, self.on_duplicate)

    def _join(self, several: Mapping[Key, Sequence[_Rating]], on_duplicate: str) -> None:
        """Make one rating of several of one candidate, and note it."""
        if not several:
            return
        if on_duplicate == "mean":
            for key, ratings in several.items():
                self._ratings[key] = ratings[0]._replace(value=fsum(rating.value for rating in ratings) / len(ratings))
        first, second = next(iter(several.values()))[:2]
        self.notes.append(
            f"{self.path.name}: {len(several):,} candidates have several ratings, first at {first.place} and {second.place}: "
            f"their {on_duplicate} is taken (--on-duplicate {on_duplicate})"
        )

    def _add(self, key: Key, rating: _Rating) -> list[str]:
        """Keep a rating, and return what is wrong with it."""
        earlier = self._ratings.setdefault(key, rating)
        if earlier is rating:
            return []
        if earlier.value != rating.value and self.on_duplicate not in ("mean", "first"):
            return [f"{SECOND_RATING} {rating.value:g} for {_describe(key)}; {earlier.place} says {earlier.value:g}"]
        self.n_repeated += 1
        return []


def _hint(problems: Problems) -> str:
    if any(row.reason.startswith(SECOND_RATING) for row in problems.rows):
        return "where several people rated one candidate, take their mean with --on-duplicate mean; else correct these rows"
    return "correct these rows, or delete those of candidates that nobody rated"


def _find_key_column(table: UserTable, rating_column: str) -> str:
    missing = [name for name in ("prompt_id", rating_column) if name not in table.names]
    if not {"sample_idx", "response"} & set(table.names):
        missing.append("sample_idx (or response)")
    if missing:
        raise InputError(
            f"{table.source} has no column {', '.join(missing)}; it has {', '.join(table.names)}",
            hint="name the column of the ratings with --rating-column",
        )
    return "sample_idx" if "sample_idx" in table.names else "response"


def _checked_key(prompt_id: Any, other: Any, joined_by: str) -> tuple[Key | None, list[str]]:
    """Return a row's key and, where it has none, what is wrong."""
    text, problem = checked_id(prompt_id, "prompt_id")
    second: int | str | None
    if joined_by == "sample_idx":
        second, its_problem = checked_index(other, "sample_idx")
        if second is None and its_problem is None:
            its_problem = "`sample_idx` is empty"
    else:
        second, its_problem = checked_text(other, "response")
    sentences = [sentence for sentence in (problem, its_problem) if sentence is not None]
    if text is None or second is None or sentences:
        return None, sentences
    return (text, second), []


def _checked_rating(value: Any, name: str) -> tuple[float | None, str | None]:
    """Return a rating and, where it cannot be one, why."""
    rating, problem = checked_number(value, name)
    if problem is None and rating is None:
        return None, f"`{name}` is empty"
    if rating is not None and not isfinite(rating):
        return None, f"`{name}` is {told(value)}, which is not finite"
    return rating, problem


def _describe(key: Key) -> str:
    prompt_id, other = key
    if isinstance(other, int):
        return f"prompt_id {prompt_id!r}, sample_idx {other}"
    return f"prompt_id {prompt_id!r}, response {other if len(other) <= 40 else other[:39] + '…'!r}"
