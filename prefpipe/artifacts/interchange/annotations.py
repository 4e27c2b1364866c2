"""Preferences between a policy and a baseline: AlpacaEval's or Arena-Hard's files, or a table.

Rows name their prompt by a key, never by their place. Preferences in AlpacaEval's format are
converted from 1..2 (0 is a draw in old files) to 0..1; in every other file they are 0..1 unless the
user says otherwise, and other values are refused.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import Any, NamedTuple

from prefpipe.artifacts.file_hashes import hash_file
from prefpipe.artifacts.fingerprint import canonical_json, fingerprint_of
from prefpipe.artifacts.interchange.arena_judgments import is_judgment_file, of_category, read_games
from prefpipe.artifacts.interchange.checked_values import checked_number
from prefpipe.artifacts.interchange.row_problems import Problems
from prefpipe.artifacts.interchange.user_table import (
    MissingColumnsError,
    UserTable,
    read_user_table,
)
from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.schemas import EVALUATION, VERDICTS
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.local_copies import local_copy
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.storage.unreadable import unreadable
from prefpipe.artifacts.store import has_record, open_input
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.artifacts.tables.reading import SUFFIXES
from prefpipe.artifacts.tables.values import shortened
from prefpipe.errors import InputError, UsageError

SCALES = ("0-1", "1-2")
TEXT_KEYS = ("instruction", "prompt", "messages")
LENGTHS = ("length_chars", "policy_length_chars", "a_length_chars")
BASELINE_LENGTHS = ("baseline_length_chars", "b_length_chars")
POLICY_NAMES = ("generator_2", "policy", "model")
BASELINE_NAMES = ("generator_1", "baseline", "baseline_model")
JUDGE_NAMES = ("annotator", "judge", "rater")
DIFFICULTIES = ("instruction_difficulty", "difficulty")
HINT = (
    "each row needs `preference`, and `prompt_id`, `prompt` or `instruction`; for length control "
    "`length_chars` and `baseline_length_chars`, or `response` and `baseline_response`"
)
OF_PREFERENCES = (EVALUATION.name, VERDICTS.name)
"""Artifacts that hold a preference in each row."""


class _Kind(NamedTuple):
    """The format of preferences in a kind of file: its scale, and the columns of both responses.

    ``draw_at_0``: old files of AlpacaEval, and no others, write a draw as 0.
    """

    name: str
    scale: str
    response: str
    baseline_response: str
    draw_at_0: bool


ALPACA_EVAL = _Kind("alpaca-eval", "1-2", "output_2", "output_1", draw_at_0=True)
ROWS = _Kind("rows", "0-1", "response", "baseline_response", draw_at_0=False)


@dataclass(frozen=True)
class Annotations:
    """Preferences row by row.

    Attributes:
        source: the file or folder.
        kind: its format.
        ids: prompt ids; a file has them, or ``texts``, or both.
        texts: the prompts.
        preferences: in [0, 1], or NaN.
        lengths: of the policy's responses in characters, where they are known.
        baseline_lengths: of the baseline's.
        difficulty: of the prompts.
        policy: as the file names it.
        baseline: as the file names it.
        judges: as the file names them.
        sha256: of the content.
        record: the run record of a folder.
        weights: those that Arena-Hard gives its games.
    """

    source: str
    kind: str
    ids: list[str] | None
    texts: list[str] | None
    preferences: list[float]
    lengths: list[float] | None
    baseline_lengths: list[float] | None
    difficulty: list[float] | None
    policy: str | None
    baseline: str | None
    judges: tuple[str, ...]
    sha256: str
    record: RunRecord | None = None
    weights: list[float] | None = None

    @property
    def keys(self) -> list[str]:
        """The rows' prompts: by id where the file has ids."""
        keys = self.ids if self.ids is not None else self.texts
        assert keys is not None
        return keys

    @property
    def n_missing(self) -> int:
        """Rows without a preference."""
        return sum(map(isnan, self.preferences))

    def prompts_sha256(self) -> str:
        """Return the hash of the set of prompts."""
        return digest_of(sorted(set(self.keys)))

    def text_of(self) -> dict[str, str]:
        """Return each prompt's text by its id; empty where the file does not have both."""
        if self.ids is None or self.texts is None:
            return {}
        return dict(zip(self.ids, self.texts, strict=True))

    def known(self) -> "Annotations":
        """Return the rows that have a preference."""
        kept = [row for row, value in enumerate(self.preferences) if not isnan(value)]
        return self.at(kept)

    def at(self, rows: Sequence[int]) -> "Annotations":
        """Return the rows of these numbers, in this order."""
        columns = (
            "ids",
            "texts",
            "preferences",
            "lengths",
            "baseline_lengths",
            "difficulty",
            "weights",
        )
        picked: dict[str, Any] = {}
        for name in columns:
            values = getattr(self, name)
            picked[name] = None if values is None else [values[row] for row in rows]
        return replace(self, **picked)


def digest_of(keys: Sequence[str]) -> str:
    """Return the sha256 of a list of texts."""
    return hashlib.sha256(canonical_json(list(keys)).encode()).hexdigest()


def read_annotations(
    source: str, *, scale: str | None = None, category: str | None = None
) -> Annotations:
    """Read preferences.

    Args:
        source: AlpacaEval's ``annotations.json``, Arena-Hard's
            ``model_judgment/<judge>/<model>.jsonl``, a JSONL, JSON, CSV or Parquet file, or a
            folder of prefpipe's with a column ``preference``, such as `prefpipe eval` and `judge`
            write.
        scale: ``0-1`` or ``1-2``; None is what the format says: 1-2 of AlpacaEval's, else 0-1.
        category: of Arena-Hard's prompts, where a file has several.

    Raises:
        InputError: missing columns, a preference outside the scale, a response that is no text; all
            such rows are gathered.
        UsageError: an option that does not go with the file.
    """
    table, record, sha256 = _opened(source)
    # Arena-Hard's files hold games, and no column `preference`
    if is_judgment_file(table):
        return _arena_annotations(of_category(table, category), sha256, scale)
    if category is not None:
        raise UsageError(
            f"--category is for Arena-Hard's judgments, and {source} holds none",
            hint="leave it out",
        )

    table.require(["preference"], hint=HINT)
    # the columns say which scale it is, never the values: elsewhere a 2 is refused without --scale
    kind = ALPACA_EVAL if table.has(("preference", "output_1", "output_2")) else ROWS
    text_column = table.first_name(TEXT_KEYS)
    if text_column is None and "prompt_id" not in table.names:
        problem = "has no column that names the prompt of a row"
        raise MissingColumnsError(table, problem, hint=HINT)

    problems = Problems(source)
    ids = _keys(table, table.first_name(["prompt_id"]), problems)
    texts = _keys(table, text_column, problems)
    if ids is not None and texts is not None:
        _note_shared_ids(table, ids, texts, problems)
    # preferences before lengths: a row without a verdict needs no response
    preferences = _preferences(table, scale or kind.scale, problems, draw_at_0=kind.draw_at_0)
    lengths = _lengths(table, LENGTHS, kind.response, preferences, problems)
    baseline_lengths = _lengths(
        table, BASELINE_LENGTHS, kind.baseline_response, preferences, problems
    )
    difficulty = None
    difficulty_column = table.first_name(DIFFICULTIES)
    if difficulty_column is not None:
        difficulty = _numbers(table, difficulty_column, problems)
    problems.raise_if_any(hint=_hint(problems))

    return Annotations(
        source=source,
        kind=kind.name,
        ids=ids,
        texts=texts,
        preferences=preferences,
        lengths=lengths,
        baseline_lengths=baseline_lengths,
        difficulty=difficulty,
        policy=_one_name(table, POLICY_NAMES),
        baseline=_one_name(table, BASELINE_NAMES),
        judges=_names(table, JUDGE_NAMES) or _judges_of(record),
        sha256=sha256,
        record=record,
    )


def _hint(problems: Problems) -> str:
    """Return the hint: if every problem is a preference, the scale may be wrong."""
    if all("`preference` is" in row.reason for row in problems.rows):
        return (
            f"name the scale of the preferences with --scale {'|'.join(SCALES)}, or correct "
            "these rows"
        )
    return f"correct these rows; {HINT}"


def _arena_annotations(table: UserTable, sha256: str, scale: str | None) -> Annotations:
    """Return Arena-Hard's games as rows; they hold no responses."""
    if scale is not None:
        raise UsageError(
            f"--scale is for numbers, and {table.source} holds Arena-Hard's labels",
            hint="leave it out",
        )

    problems = Problems(table.source)
    games = read_games(table, problems)
    problems.raise_if_any()

    return Annotations(
        source=table.source,
        kind="arena-hard",
        ids=games.ids,
        texts=None,
        preferences=games.preferences,
        lengths=None,
        baseline_lengths=None,
        difficulty=None,
        policy=_one_name(table, POLICY_NAMES),
        baseline=_one_name(table, BASELINE_NAMES),
        judges=_names(table, JUDGE_NAMES),
        sha256=sha256,
        weights=games.weights,
    )


def _opened(source: str) -> tuple[UserTable, RunRecord | None, str]:
    """Return the rows, the record of a folder, and a hash of the content."""
    place = place_of(source)
    if place is not None and _is_folder(place):
        table, record = _opened_folder(place, source)
        return table, record, record.fingerprint

    table = read_user_table(source, text_columns=(*TEXT_KEYS, "uid", "question_id"), hint=HINT)
    # a data set of the hub is no file
    return table, None, "" if place is None else _digest_of(place)


def _is_folder(place: Location) -> bool:
    try:
        return files.is_folder(place)
    except OSError as error:
        raise unreadable(place, error) from error


def _digest_of(place: Location) -> str:
    """Return the sha256 of a file's bytes."""
    with local_copy(place) as file:
        return hash_file(file.path)


def _opened_folder(place: Location, source: str) -> tuple[UserTable, RunRecord]:
    if not has_record(place):
        raise InputError(
            f"{source} is not a folder that a prefpipe stage wrote",
            hint=f"pass a file ({', '.join(SUFFIXES)}) or such a folder",
        )

    record = read_run_record(place)
    artifact = record.kind
    if artifact not in OF_PREFERENCES:
        raise InputError(
            f"ANNOTATIONS: {place} holds {artifact} (made by `prefpipe {record.stage}`), not "
            "preferences",
            hint="pass a folder that `prefpipe eval` or `prefpipe judge` wrote",
        )

    # the evaluation's own fingerprint says what the rows are: the parts are not hashed again
    rows = open_input(place, schema=artifact, name="ANNOTATIONS").read_all()
    places = [f"row {number}" for number in range(1, rows.num_rows + 1)]
    return UserTable(source, rows, places), record


def key_of(value: Any) -> str:
    """Return a value that names a prompt, an id, a text or turns, as text."""
    return value if isinstance(value, str) else canonical_json(value)


def _keys(table: UserTable, name: str | None, problems: Problems) -> list[str] | None:
    """Return a column's values as texts, None if there is no column; nulls are problems."""
    if name is None:
        return None
    keys = []
    for place, value in zip(table.places, table.values(name), strict=True):
        if value is None or value == "":
            problems.add(place, f"`{name}` is empty")
        # also of an empty one: keys and places stay side by side until all problems are raised
        keys.append(key_of(value))
    return keys


def _note_shared_ids(
    table: UserTable, ids: Sequence[str], texts: Sequence[str], problems: Problems
) -> None:
    """Record prompts that share an id: they would be averaged as one."""
    first: dict[str, str] = {}
    for place, prompt_id, text in zip(table.places, ids, texts, strict=True):
        if first.setdefault(prompt_id, text) != text:
            problems.add(
                place,
                f"prompt_id {shortened(prompt_id)} named a different prompt in an earlier row",
            )


def _preferences(
    table: UserTable, scale: str, problems: Problems, *, draw_at_0: bool
) -> list[float]:
    """Return preferences in [0, 1], NaN for null."""
    preferences = []
    for place, value in zip(table.places, table.values("preference"), strict=True):
        written, problem = checked_number(value, "preference")
        preference = nan if written is None else written
        # NaN stays NaN
        if scale == "1-2":
            is_draw = draw_at_0 and preference == 0.0
            preference = 0.5 if is_draw else preference - 1.0
        if preference < 0.0 or preference > 1.0:  # NaN is neither
            bounds = scale.replace("-", " to ")
            problem = f"`preference` is {written:g}, and this file's are {bounds}"
        if problem is not None:
            problems.add(place, problem)
        preferences.append(preference)
    return preferences


def _lengths(
    table: UserTable,
    columns: Sequence[str],
    response: str,
    preferences: Sequence[float],
    problems: Problems,
) -> list[float] | None:
    """Return lengths in characters, from a column of them or of responses.

    They may be missing in a row without a preference.
    """
    name = table.first_name(columns)
    if name is not None:
        return _numbers(table, name, problems, preferences)
    if response not in table.names:
        return None

    lengths = []
    rows = zip(table.places, table.values(response), preferences, strict=True)
    for place, value, preference in rows:
        if isinstance(value, str):
            lengths.append(float(len(value)))
            continue
        if not isnan(preference):
            problems.add(place, f"`{response}` is {shortened(value)}, which is not text")
        lengths.append(nan)
    return lengths


def _numbers(
    table: UserTable, name: str, problems: Problems, preferences: Sequence[float] | None = None
) -> list[float]:
    """Return a column of numbers; a number may be missing in a row without a preference.

    Args:
        table: the file.
        name: the column.
        problems: where what is wrong is noted.
        preferences: of the rows; None if every row needs a number.
    """
    numbers = []
    for row, (place, value) in enumerate(zip(table.places, table.values(name), strict=True)):
        number, problem = checked_number(value, name)
        is_needed = preferences is None or not isnan(preferences[row])
        is_missing = number is None or isnan(number)
        if problem is None and is_needed and is_missing:
            problem = f"`{name}` is {value}"
        if problem is not None:
            problems.add(place, problem)
        numbers.append(nan if number is None else number)
    return numbers


def _names(table: UserTable, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the first of several columns that the file has."""
    values = table.values_or_none(table.first_name(columns))
    return tuple(sorted({str(value) for value in values if value is not None}))


def _judges_of(record: RunRecord | None) -> tuple[str, ...]:
    """Return the judge of a folder's rows, or the reward expression of an evaluation."""
    if record is None:
        return ()
    judge = record.identity.get("judge", record.identity.get("reward"))
    if judge is None:
        return ()
    if not isinstance(judge, dict):
        return (str(judge),)
    # its hashes stand under `judged_by`
    names = [str(judge[name]) for name in ("kind", "model", "served") if judge.get(name)]
    return (" ".join([*names, fingerprint_of(judge)[:12]]),)


def _one_name(table: UserTable, columns: Sequence[str]) -> str | None:
    """Return the one name that all rows share.

    Several in one file would be averaged into one figure.

    Raises:
        InputError: several names.
    """
    names = _names(table, columns)
    if len(names) > 1:
        raise InputError(
            f"{table.source} has {len(names)} models in one column: {', '.join(names[:4])}",
            hint="make one file per model and pass them all: they are compared on the same prompts",
        )
    return names[0] if names else None
