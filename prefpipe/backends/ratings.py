"""The rater that looks ratings up: granular human or AI scores in a file, joined by key.

    {"prompt_id": "a1", "sample_idx": 3, "rating": 7.5}
    {"prompt_id": "a1", "response": "the whole text", "rating": 7.5}

The key is ``(prompt_id, sample_idx)``, or ``(prompt_id, response)`` in a file without the column ``sample_idx``. Position
never joins anything.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from prefpipe.backends.protocol import Score, ScoreRequest
from prefpipe.backends.rating_files import Row, read_rows
from prefpipe.errors import InputError

Key = tuple[str, int | str]
"""``(prompt_id, sample_idx)`` or ``(prompt_id, response)``."""

_MOST_PROBLEMS_TOLD: Final = 20


class _Rating(NamedTuple):
    value: float
    place: str


class RatingsScorer:
    """Gives each candidate the rating that a file holds for it.

    ``path`` is JSONL, JSON (a list of objects), CSV or Parquet. Raises ``InputError``, with every problem and its place, on a
    file that cannot be read, a missing column, a key that is incomplete or has two different ratings, and a rating that
    is empty, no number, NaN or infinite.
    """

    def __init__(self, path: Path | str, *, rating_column: str = "rating") -> None:
        self.path = Path(path)
        self.rating_column = rating_column
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the ratings file {self.path}: {error.strerror}", hint="give the file as --scorer ratings:PATH"
            ) from error
        self._sha256 = sha256(data).hexdigest()
        rows = read_rows(data, self.path)
        self.joined_by = _find_key_column(rows, self.path, rating_column)
        """The column that completes the key: ``sample_idx`` or ``response``."""
        self._ratings: dict[Key, _Rating] = {}
        self.n_repeated = 0
        """Rows that say again what an earlier row said."""
        self._read(rows)

    def __len__(self) -> int:
        return len(self._ratings)

    def identity(self) -> dict[str, str]:
        """Return what the fingerprint needs to know: the bytes of the file and the column."""
        return {"ratings_sha256": self._sha256, "rating_column": self.rating_column}

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

    def _read(self, rows: Iterable[Row]) -> None:
        problems = []
        for place, values in rows:
            try:
                self._add(_read_key(values, self.joined_by), _Rating(_read_rating(values.get(self.rating_column)), place))
            except ValueError as error:
                problems.append(f"{self.path}, {place}: {error}")
        if problems:
            more = len(problems) - _MOST_PROBLEMS_TOLD
            told = problems[:_MOST_PROBLEMS_TOLD] + ([f"and {more} more problems"] if more > 0 else [])
            raise InputError("\n".join(told), hint="correct these rows, or delete those of candidates that nobody rated")

    def _add(self, key: Key, rating: _Rating) -> None:
        earlier = self._ratings.setdefault(key, rating)
        if earlier is rating:
            return
        if earlier.value != rating.value:
            raise ValueError(
                f"second rating {rating.value:g} for {_describe(key)}; {earlier.place} says {earlier.value:g} "
                "(average several raters before this step)"
            )
        self.n_repeated += 1


def _find_key_column(rows: Sequence[Row], path: Path, rating_column: str) -> str:
    if not rows:
        raise InputError(f"no ratings in {path}", hint="each row needs prompt_id, sample_idx (or response) and rating")
    columns = {name: None for _, values in rows for name in values}
    missing = [name for name in ("prompt_id", rating_column) if name not in columns]
    if not {"sample_idx", "response"} & set(columns):
        missing.append("sample_idx (or response)")
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(columns)}",
            hint="name the column of the ratings with --rating-column",
        )
    return "sample_idx" if "sample_idx" in columns else "response"


def _read_key(values: Mapping[str, Any], joined_by: str) -> Key:
    prompt_id = values.get("prompt_id")
    if isinstance(prompt_id, int) and not isinstance(prompt_id, bool):
        prompt_id = str(prompt_id)
    if not isinstance(prompt_id, str) or not prompt_id:
        raise ValueError(f"prompt_id must be a text, got {prompt_id!r}")
    if joined_by == "response":
        response = values.get("response")
        if not isinstance(response, str):
            raise ValueError(f"response must be a text, got {response!r}")
        return prompt_id, response
    return prompt_id, _read_index(values.get("sample_idx"))


def _read_index(value: Any) -> int:
    """Return a sample_idx; tables keep integers beside blanks as floats, and CSV everything as text."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0 and number == int(number)):
        raise ValueError(f"sample_idx must be a whole number from 0, got {value!r}")
    return int(number)


def _read_rating(value: Any) -> float:
    if value is None or value == "":
        raise ValueError("the rating is empty")
    if isinstance(value, bool):
        raise ValueError(f"the rating must be a number, got {value!r}")  # noqa: TRY004 - reported with its row
    try:
        rating = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"the rating must be a number, got {value!r}") from None
    if not math.isfinite(rating):
        raise ValueError(f"the rating must be finite, got {value!r}")
    return rating


def _describe(key: Key) -> str:
    prompt_id, other = key
    if isinstance(other, int):
        return f"prompt_id {prompt_id!r}, sample_idx {other}"
    return f"prompt_id {prompt_id!r}, response {other if len(other) <= 40 else other[:39] + '…'!r}"
