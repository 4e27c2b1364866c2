"""Looks ratings up: granular human or AI scores in a file, joined by key.

    {"prompt_id": "a1", "sample_idx": 3, "rating": 7.5}
    {"prompt_id": "a1", "response": "the whole text", "rating": 7.5}

The key is ``(prompt_id, sample_idx)``, or ``(prompt_id, response)`` in a file without the column
``sample_idx``. Rows are never joined by position.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import fsum, isfinite
from pathlib import Path
from typing import Any, NamedTuple

from prefpipe.artifacts.interchange.checked_values import (
    checked_id,
    checked_index,
    checked_number,
    checked_text,
)
from prefpipe.artifacts.interchange.formats import content_hash
from prefpipe.artifacts.interchange.row_problems import Problems
from prefpipe.artifacts.interchange.user_table import UserTable, read_user_table
from prefpipe.artifacts.tables.bad_rows import read_without_bad_rows
from prefpipe.artifacts.tables.values import shortened
from prefpipe.backends.protocol import Score, ScoreRequest
from prefpipe.errors import InputError

Key = tuple[str, int | str]
"""``(prompt_id, sample_idx)`` or ``(prompt_id, response)``."""

HINT = "each row needs prompt_id, sample_idx (or response) and rating"

SECOND_RATING = "second rating"

JOINED = ("mean", "first")
"""The functions of ``on_duplicate`` that combine several ratings."""


class _Rating(NamedTuple):
    value: float
    place: str


class Ratings(NamedTuple):
    """The ratings of a file, by key.

    ``joined_by`` is the column that completes the key: ``sample_idx`` or ``response``.
    ``n_repeated`` counts further rows of a rated candidate; ``notes`` describe how several ratings
    were combined.
    """

    joined_by: str
    by_key: dict[Key, _Rating]
    n_repeated: int
    notes: list[str]


class RatingsScorer:
    """Gives each candidate the rating that a file holds for it.

    Args:
        path: a table of any kind that prefpipe reads.
        rating_column: the column of the ratings.
        on_duplicate: how several ratings of one candidate are combined, ``mean`` or ``first``;
            without it differing ones are refused.
        skip_bad_rows: whether to skip unusable rows, which ``skipped`` then holds.

    Raises:
        InputError: an unreadable file, a missing column, or unusable rows, each with its place: an
            incomplete key, a key with two different ratings, or a rating that is empty, not a
            number, NaN or infinite.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        rating_column: str = "rating",
        on_duplicate: str | None = None,
        skip_bad_rows: bool = False,
    ) -> None:
        self.path = Path(path)
        self.rating_column = rating_column
        self.on_duplicate = on_duplicate
        read = partial(read_ratings, str(path), rating_column, on_duplicate)
        ratings, self.skipped = read_without_bad_rows(read) if skip_bad_rows else (read(), [])
        self._sha256 = content_hash(str(path))
        self.joined_by, self._ratings, self.n_repeated, self.notes_of_reading = ratings

    def __len__(self) -> int:
        return len(self._ratings)

    def identity(self) -> dict[str, str]:
        """Return the fingerprint fields.

        They are the bytes of the file, the column, and the rule for duplicates.
        """
        identity = {"ratings_sha256": self._sha256, "rating_column": self.rating_column}
        if self.on_duplicate is not None:
            identity["on_duplicate"] = self.on_duplicate
        return identity

    def unknown_keys(self, candidates: Iterable[tuple[str, int, str]]) -> list[str]:
        """Return each rating without a candidate, as key and place in words, in file order.

        ``candidates`` are the ``(prompt_id, sample_idx, response)`` of the whole artifact, not of
        one part or shard.
        """
        by_index = self.joined_by == "sample_idx"
        known: set[Key] = {
            (prompt_id, index if by_index else text) for prompt_id, index, text in candidates
        }
        return [
            f"{_describe(key)} ({rating.place})"
            for key, rating in self._ratings.items()
            if key not in known
        ]

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Return one score for each request.

        Its status is ``ok``, or ``unrated`` for a candidate missing from the file.
        """
        by_index = self.joined_by == "sample_idx"
        unrated = f"{self.path.name} has no rating for this prompt_id and {self.joined_by}"
        scores = []
        for request in requests:
            completion = request.sample_idx if by_index else request.response
            rating = self._ratings.get((request.prompt_id, completion))
            scores.append(Score(rating.value) if rating else Score(None, "unrated", unrated))
        return scores

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def read_ratings(source: str, rating_column: str, on_duplicate: str | None) -> Ratings:
    """Read a file of ratings.

    Args:
        source: path or ``hf:`` reference.
        rating_column: the column of the ratings.
        on_duplicate: see `RatingsScorer`.

    Raises:
        InputError: see `RatingsScorer`.
    """
    table = read_user_table(source, text_columns=("response",), hint=HINT)
    joined_by = _find_key_column(table, rating_column)

    problems = Problems(source)
    ratings_of: dict[Key, list[_Rating]] = {}
    columns = [table.values(name) for name in ("prompt_id", joined_by, rating_column)]
    for place, prompt_id, completion, value in zip(table.places, *columns, strict=True):
        key, sentences = _checked_key(prompt_id, completion, joined_by)
        rating, sentence = _checked_rating(value, rating_column)
        if sentence is not None:
            sentences.append(sentence)
        if key is not None and rating is not None:
            ratings_of.setdefault(key, []).append(_Rating(rating, place))
        for each in sentences:
            problems.add(place, each)
    if on_duplicate not in JOINED:
        _refuse_contradictions(ratings_of, problems)
    problems.raise_if_any(hint=_hint(problems))

    # The first of several: they agree, or it was requested, or their mean replaces it below.
    by_key = {key: ratings[0] for key, ratings in ratings_of.items()}
    repeated = {key: ratings for key, ratings in ratings_of.items() if len(ratings) > 1}
    n_repeated = sum(len(ratings) - 1 for ratings in repeated.values())
    if not repeated or on_duplicate not in JOINED:
        return Ratings(joined_by, by_key, n_repeated, [])

    if on_duplicate == "mean":
        for key, ratings in repeated.items():
            # Summed exactly, so that the order of the rows does not matter.
            mean = fsum(rating.value for rating in ratings) / len(ratings)
            by_key[key] = ratings[0]._replace(value=mean)
    first, second = next(iter(repeated.values()))[:2]
    note = (
        f"{Path(source).name}: {len(repeated):,} candidates have several ratings, first at "
        f"{first.place} and {second.place}; --on-duplicate {on_duplicate} takes their "
        f"{on_duplicate}"
    )
    return Ratings(joined_by, by_key, n_repeated, [note])


def _refuse_contradictions(ratings_of: Mapping[Key, Sequence[_Rating]], problems: Problems) -> None:
    """Refuse rows that rate one candidate differently: it is unknown which one is right."""
    for key, ratings in ratings_of.items():
        first = ratings[0]
        for rating in ratings[1:]:
            if rating.value != first.value:
                problems.add(
                    rating.place,
                    f"{SECOND_RATING} {rating.value:g} for {_describe(key)}; "
                    f"{first.place} says {first.value:g}",
                    contradicted=[each.place for each in ratings],
                )


def _hint(problems: Problems) -> str:
    if any(row.reason.startswith(SECOND_RATING) for row in problems.rows):
        return (
            "if several people rated one candidate, take their mean with --on-duplicate mean; "
            "otherwise correct these rows"
        )
    return "correct these rows, delete those without a rating, or skip them with --skip-bad-rows"


def _find_key_column(table: UserTable, rating_column: str) -> str:
    missing = [name for name in ("prompt_id", rating_column) if name not in table.names]
    if not {"sample_idx", "response"} & set(table.names):
        missing.append("sample_idx (or response)")
    if missing:
        has_ratings = rating_column in table.names
        raise InputError(
            f"{table.source} has no column {', '.join(missing)}; it has {', '.join(table.names)}",
            hint=HINT if has_ratings else "name the column of the ratings with --rating-column",
        )
    return "sample_idx" if "sample_idx" in table.names else "response"


def _checked_key(prompt_id: Any, completion: Any, joined_by: str) -> tuple[Key | None, list[str]]:
    """Return a row's key, or its problem if it has none."""
    checked_prompt, id_problem = checked_id(prompt_id, "prompt_id")
    checked: int | str | None
    if joined_by == "sample_idx":
        checked, problem = checked_index(completion, "sample_idx")
        if checked is None and problem is None:
            problem = "`sample_idx` is empty"
    else:
        checked, problem = checked_text(completion, "response")

    sentences = [sentence for sentence in (id_problem, problem) if sentence is not None]
    if checked_prompt is None or checked is None or sentences:
        return None, sentences
    return (checked_prompt, checked), []


def _checked_rating(value: Any, name: str) -> tuple[float | None, str | None]:
    """Return a rating, or its problem if it cannot be one."""
    rating, problem = checked_number(value, name)
    if problem is None and rating is None:
        return None, f"`{name}` is empty"
    if rating is not None and not isfinite(rating):
        return None, f"`{name}` is {shortened(value)}, which is not finite"
    return rating, problem


def _describe(key: Key) -> str:
    prompt_id, completion = key
    if isinstance(completion, int):
        return f"prompt_id {prompt_id!r}, sample_idx {completion}"
    text = completion if len(completion) <= 40 else completion[:39] + "…"
    return f"prompt_id {prompt_id!r}, response {text!r}"
