"""Preferences between a policy and a baseline: AlpacaEval's or Arena-Hard's files, a table, or a folder of prefpipe's.

Rows know their prompt by a key, never by their place. Of AlpacaEval's format, preferences are turned from 1..2 (0 is a draw
in old files) to 0..1; of every other file they are 0..1 unless the user says otherwise, and what does not fit is refused.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import Any

from prefpipe.artifacts.fingerprint import canonical_json, fingerprint_of
from prefpipe.artifacts.interchange.arena_judgments import is_judgment_file, of_category, read_games
from prefpipe.artifacts.interchange.user_table import (
    Problems,
    UserTable,
    checked_number,
    read_user_table,
    told,
)
from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.schemas import EVALUATION, VERDICTS
from prefpipe.artifacts.store import open_input
from prefpipe.artifacts.tables.reading import SUFFIXES
from prefpipe.errors import InputError, UsageError

SCALES = ("0-1", "1-2")
ALPACA_EVAL = ("preference", "output_1", "output_2")
"""What tells the format: output_1 is the baseline's, output_2 the policy's response."""
TEXT_KEYS = ("instruction", "prompt", "messages")
LENGTHS = ("length_chars", "policy_length_chars", "a_length_chars")
BASELINE_LENGTHS = ("baseline_length_chars", "b_length_chars")
RESPONSES = {"alpaca-eval": ("output_2", "output_1"), "rows": ("response", "baseline_response")}
POLICY_NAMES, BASELINE_NAMES = (
    ("generator_2", "policy", "model"),
    ("generator_1", "baseline", "baseline_model"),
)
JUDGE_NAMES = ("annotator", "judge", "rater")
DIFFICULTIES = ("instruction_difficulty", "difficulty")
HINT = (
    "each row needs `preference`, and `prompt_id`, `prompt` or `instruction`; for length control `length_chars` and "
    "`baseline_length_chars`, or `response` and `baseline_response`"
)
OF_PREFERENCES = (EVALUATION.name, VERDICTS.name)
"""Artifacts that hold a preference in each row."""


@dataclass(frozen=True)
class Annotations:
    """Preferences row by row: the prompt's keys, the preference in [0, 1] or NaN, the lengths in characters where they are known.

    ``ids`` are the file's prompt ids, ``texts`` the prompts; a file has one or both. ``policy``, ``baseline`` and ``judges``
    are what the file names. ``record`` is the run record of a folder. ``weights`` are those that Arena-Hard gives its games.
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
        return (
            dict(zip(self.ids, self.texts, strict=True))
            if self.ids is not None and self.texts is not None
            else {}
        )

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
        picked: dict[str, Any] = {
            name: None
            if getattr(self, name) is None
            else [getattr(self, name)[row] for row in rows]
            for name in columns
        }
        return replace(self, **picked)


def digest_of(keys: Sequence[str]) -> str:
    """Return the sha256 of a list of texts."""
    return hashlib.sha256(canonical_json(list(keys)).encode()).hexdigest()


def read_annotations(
    source: str, *, scale: str | None = None, category: str | None = None
) -> Annotations:
    """Read preferences.

    Args:
        source: AlpacaEval's ``annotations.json``, Arena-Hard's ``model_judgment/<judge>/<model>.jsonl``, a JSONL, JSON, CSV or
            Parquet file, or a folder of prefpipe's with a column ``preference``, such as `prefpipe eval` and `judge` write.
        scale: ``0-1`` or ``1-2``; None is what the format says: 1-2 of AlpacaEval's, else 0-1.
        category: of Arena-Hard's prompts, where a file has several.

    Raises:
        InputError: missing columns, a preference outside the scale, a response that is no text; all such rows are gathered.
    """
    table, record, sha256 = _opened(source)
    if is_judgment_file(table):
        return _arena_annotations(of_category(table, category), sha256, scale)
    if category is not None:
        raise UsageError(
            f"--category is for Arena-Hard's judgments, and {source} holds none",
            hint="leave it out",
        )
    kind = "alpaca-eval" if all(name in table.names for name in ALPACA_EVAL) else "rows"
    table.require(["preference"], hint=HINT)
    problems = Problems(source)
    ids = _keys(table, "prompt_id", problems) if "prompt_id" in table.names else None
    text = next((name for name in TEXT_KEYS if name in table.names), None)
    texts = _keys(table, text, problems) if text is not None else None
    if ids is None and texts is None:
        raise InputError(
            f"{source} does not say of which prompt a row is; its columns are: {', '.join(table.names)}",
            hint=HINT,
        )
    if ids is not None and texts is not None:
        _one_text_an_id(table, ids, texts, problems)
    ours, theirs = RESPONSES[kind]
    preferences = _preferences(
        table,
        scale or ("1-2" if kind == "alpaca-eval" else "0-1"),
        problems,
        draw_at_0=kind == "alpaca-eval",
    )
    lengths = _lengths(table, LENGTHS, ours, preferences, problems)
    baseline_lengths = _lengths(table, BASELINE_LENGTHS, theirs, preferences, problems)
    difficulty = next((name for name in DIFFICULTIES if name in table.names), None)
    difficulties = _numbers(table, difficulty, problems) if difficulty is not None else None
    scales = (
        f"say how preferences are written with --scale {'|'.join(SCALES)}, or correct these rows"
    )
    is_of_scale = all("`preference` is" in sentence for sentence in problems.found)
    problems.raise_if_any(hint=scales if is_of_scale else f"correct these rows; {HINT}")
    return Annotations(
        source,
        kind,
        ids,
        texts,
        preferences,
        lengths,
        baseline_lengths,
        difficulties,
        _one_name(table, POLICY_NAMES),
        _one_name(table, BASELINE_NAMES),
        _names(table, JUDGE_NAMES) or _judges_of(record),
        sha256,
        record,
    )


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
        table.source,
        "arena-hard",
        games.ids,
        None,
        games.preferences,
        None,
        None,
        None,
        _one_name(table, POLICY_NAMES),
        _one_name(table, BASELINE_NAMES),
        _names(table, JUDGE_NAMES),
        sha256,
        weights=games.weights,
    )


def _opened(source: str) -> tuple[UserTable, RunRecord | None, str]:
    """Return the rows, the record of a folder, and a hash of the content."""
    path = Path(source)
    if path.is_dir() and (path / "run.json").exists():
        record = read_run_record(path)
        kind = record.schema.partition("/")[0]
        if kind not in OF_PREFERENCES:
            raise InputError(
                f"ANNOTATIONS: {path} holds {kind} (made by `prefpipe {record.stage}`), and no preferences",
                hint="pass a folder that `prefpipe eval` or `prefpipe judge` wrote",
            )
        table = open_input(path, schema=kind, name="ANNOTATIONS").read_all()
        places = [f"row {number}" for number in range(1, table.num_rows + 1)]
        return UserTable(source, table, places), record, record.fingerprint
    if path.is_dir():
        raise InputError(
            f"{source} is a folder that no stage wrote",
            hint=f"pass a file ({', '.join(SUFFIXES)}) or such a folder",
        )
    table = read_user_table(source, text_columns=(*TEXT_KEYS, "uid", "question_id"), hint=HINT)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return table, None, digest


def _keys(table: UserTable, name: str, problems: Problems) -> list[str]:
    """Return a column's values as texts; nulls are problems."""
    found = []
    for place, value in zip(table.places, table.values(name), strict=True):
        if value is None or value == "":
            problems.add(place, f"`{name}` is empty")
        found.append(value if isinstance(value, str) else canonical_json(value))
    return found


def _one_text_an_id(
    table: UserTable, ids: Sequence[str], texts: Sequence[str], problems: Problems
) -> None:
    """Note prompts that bear another's id: they would be averaged as one."""
    first: dict[str, str] = {}
    for place, name, text in zip(table.places, ids, texts, strict=True):
        if first.setdefault(name, text) != text:
            problems.add(place, f"prompt_id {told(name)} stood for another prompt further up")


def _preferences(
    table: UserTable, scale: str, problems: Problems, *, draw_at_0: bool
) -> list[float]:
    """Return preferences in [0, 1], NaN for null. Old files of AlpacaEval, and no others, write a draw as 0."""
    found = []
    for place, value in zip(table.places, table.values("preference"), strict=True):
        number, problem = checked_number(value, "preference")
        if number is not None and not isnan(number):
            if scale == "1-2":
                number = 0.5 if number == 0.0 and draw_at_0 else number - 1.0
            if not 0.0 <= number <= 1.0:
                problem = (
                    f"`preference` is {value:g}, and this file's are {scale.replace('-', ' to ')}"
                )
        if problem is not None:
            problems.add(place, problem)
        found.append(nan if number is None else number)
    return found


def _lengths(
    table: UserTable,
    columns: Sequence[str],
    response: str,
    preferences: Sequence[float],
    problems: Problems,
) -> list[float] | None:
    """Return lengths in characters, from a column of them or of responses; of a row without a preference they may be missing."""
    name = next((column for column in columns if column in table.names), None)
    if name is not None:
        return _numbers(table, name, problems, preferences)
    if response not in table.names:
        return None
    found = []
    for place, value, preference in zip(
        table.places, table.values(response), preferences, strict=True
    ):
        if not isinstance(value, str) and not isnan(preference):
            problems.add(place, f"`{response}` is {told(value)}, which is no text")
        found.append(float(len(value)) if isinstance(value, str) else nan)
    return found


def _numbers(
    table: UserTable, name: str, problems: Problems, preferences: Sequence[float] | None = None
) -> list[float]:
    found = []
    for row, (place, value) in enumerate(zip(table.places, table.values(name), strict=True)):
        number, problem = checked_number(value, name)
        is_needed = preferences is None or not isnan(preferences[row])
        if problem is None and is_needed and (number is None or isnan(number)):
            problem = f"`{name}` is {value}"
        if problem is not None:
            problems.add(place, problem)
        found.append(nan if number is None else number)
    return found


def _names(table: UserTable, columns: Sequence[str]) -> tuple[str, ...]:
    name = next((column for column in columns if column in table.names), None)
    return tuple(sorted({str(value) for value in table.values_or_none(name) if value is not None}))


def _judges_of(record: RunRecord | None) -> tuple[str, ...]:
    """Return who judged the rows of a folder: the judge, or the reward expression of an evaluation."""
    if record is None:
        return ()
    found = record.identity.get("judge", record.identity.get("reward"))
    if isinstance(found, dict):  # its hashes stand under `judged_by`
        names = [str(found[name]) for name in ("kind", "model", "served") if found.get(name)]
        return (" ".join([*names, fingerprint_of(found)[:12]]),)
    return () if found is None else (str(found),)


def _one_name(table: UserTable, columns: Sequence[str]) -> str | None:
    """Return the one name that all rows bear; several in one file would be averaged into one figure.

    Raises:
        InputError: several names.
    """
    names = _names(table, columns)
    if len(names) > 1:
        raise InputError(
            f"{table.source} is of {len(names)} models in one column: {', '.join(names[:4])}",
            hint="make a file for each, and give them all: they are compared on the same prompts",
        )
    return names[0] if names else None
