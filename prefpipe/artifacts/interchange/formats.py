"""Which reader reads which format, and what a file is in a fingerprint.

A new format is a function ``(source, options) -> Pool`` in its own file and an entry in
``FORMATS``; its name also goes into the choices of ``--format`` (``configs/import_files.py``).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from prefpipe.artifacts.file_hashes import hash_file, hash_files
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.interchange.benchmark_answers import read_alpaca_outputs, read_arena_hard
from prefpipe.artifacts.interchange.helpsteer import read_helpsteer2, read_helpsteer3
from prefpipe.artifacts.interchange.long_rows import read_long_rows
from prefpipe.artifacts.interchange.nemo_ranked import read_ranked
from prefpipe.artifacts.interchange.openai_batch import read_batch
from prefpipe.artifacts.interchange.pku_saferlhf import read_pku
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.preference_rows import read_preferences
from prefpipe.artifacts.interchange.read_options import ReadOptions
from prefpipe.artifacts.interchange.response_lists import (
    read_group_lines,
    read_online_rlhf,
    read_simpo,
    read_ultrafeedback,
)
from prefpipe.artifacts.interchange.user_table import MissingColumnsError
from prefpipe.artifacts.interchange.wide_rows import read_wide
from prefpipe.artifacts.storage.local_copies import local_copy
from prefpipe.artifacts.tables.bad_rows import BadRowsError
from prefpipe.artifacts.tables.columns import column_values, python_rows
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.artifacts.tables.reading import SAVED_DATASET, read_table

Columns = tuple[str, ...]


class Format(NamedTuple):
    """The reader of a format, and sets of columns by which its files are recognised."""

    read: Callable[[str, ReadOptions], Pool]
    known_by: Sequence[Columns] = ()


FORMATS: Mapping[str, Format] = {
    "helpsteer3": Format(
        read_helpsteer3, [("context", "response1", "response2", "overall_preference")]
    ),
    "helpsteer2": Format(
        read_helpsteer2,
        [
            ("prompt", "response_1", "response_2", "preference_strength"),
            ("prompt", "response", "helpfulness", "correctness"),
        ],
    ),
    "pku-saferlhf": Format(
        read_pku,
        [
            ("prompt", "response_0", "response_1", "better_response_id"),
            ("prompt", "response_0", "response_1", "safer_response_id"),
        ],
    ),
    "nemo-rl": Format(read_ranked, [("context", "completions")]),
    "ultrafeedback": Format(
        read_ultrafeedback, [("instruction", "completions"), ("generations", "ratings")]
    ),
    "simpo": Format(read_simpo, [("prompt", "all_generated_responses")]),
    "online-rlhf": Format(read_online_rlhf, [("prompt", "responses", "rewards")]),
    "jsonl": Format(read_group_lines, [("prompt_id", "messages", "responses", "pairs")]),
    "openai-batch": Format(read_batch, [("custom_id", "response")]),
    "alpaca-eval": Format(read_alpaca_outputs, [("instruction", "output", "generator")]),
    "arena-hard": Format(read_arena_hard, [("uid", "ans_id", "messages")]),
    "trl": Format(read_preferences, [("chosen", "rejected"), ("prompt", "completion", "label")]),
    "rows": Format(read_long_rows, [("prompt", "response"), ("messages", "response")]),
    "wide": Format(read_wide),
}
"""The formats by name; where a file could be of several, the more particular stands first."""

REWARDBENCH_2 = ("chosen", "rejected", "num_correct")
READ_ELSEWHERE: Mapping[Columns, str] = {
    REWARDBENCH_2: (
        "a file of RewardBench 2: prefpipe eval rewardbench --pairs {source} --model MODEL "
        "--reward-model -o DIR"
    ),
    ("prompt", "instruction_id_list", "kwargs"): (
        "a prompts file of IFEval: prefpipe generate {source} -o DIR --model MODEL, then "
        "prefpipe score DIR --scorer checks"
    ),
}
"""Columns of files that another command reads, and which."""


def read_pool(source: str, kind: str, options: ReadOptions) -> Pool:
    """Read a file of the format ``kind``.

    Args:
        source: path or ``hf:`` reference.
        kind: the format's name.
        options: the user's options for the file.

    Raises:
        InputError: the file lacks columns of its format, with the format that it is of in the hint,
            or rows cannot be used.
    """
    try:
        return FORMATS[kind].read(source, options)
    except BadRowsError as error:
        error.hint = _hint_for_rows(source, kind, options) or error.hint
        raise
    except MissingColumnsError as error:
        hint = _hint_for_columns(source, kind)
        if hint is not None:
            error.hint = f"{hint}; {error.hint}" if error.hint else hint
        raise


def _hint_for_rows(source: str, kind: str, options: ReadOptions) -> str | None:
    """Return the hint for a file whose rows have another format; None if there is none."""
    if kind not in ("rows", "trl"):
        return None
    columns = read_table(source).columns
    if kind == "trl":
        if set(REWARDBENCH_2) <= set(columns.column_names):
            return _command_for(REWARDBENCH_2, source)
        return None

    response = options.names.response or "response"
    if response in columns.column_names and _are_lists(column_values(columns, response)):
        return f"for a column of lists: --format wide --response-column {response} --score-column S"
    return None


def _are_lists(values: Sequence[Any]) -> bool:
    """Return whether a column holds only lists that are not turns."""
    given = [value for value in values if value is not None]
    if not given or not all(isinstance(value, list) for value in given):
        return False
    members = chain.from_iterable(given)
    return not any(isinstance(member, Mapping) for member in members)


def _hint_for_columns(source: str, kind: str) -> str | None:
    """Return the hint for a file with the columns of another format; None if there is none."""
    names = set(read_table(source).columns.column_names)
    for columns in READ_ELSEWHERE:
        if set(columns) <= names:
            return _command_for(columns, source)
    for name, form in FORMATS.items():
        if name != kind and any(set(columns) <= names for columns in form.known_by):
            return f"these are the columns of --format {name}"
    return None


def _command_for(columns: Columns, source: str) -> str:
    return f"these are the columns of {READ_ELSEWHERE[columns].format(source=source)}"


def content_hash(source: str) -> str:
    """Return the sha256 of a file's bytes, a folder's files, or the rows of a hub data set."""
    place = place_of(source)
    if place is not None:
        with local_copy(place, folder_marks=SAVED_DATASET) as file:
            if file.path.is_dir():
                members = (item for item in file.path.rglob("*") if item.is_file())
                return hash_files(file.path, members)
            return hash_file(file.path)

    digest = hashlib.sha256()
    for row in python_rows(read_table(source).columns):
        # as Python prints them: a table holds values, NaN and dates, that JSON does not
        printed = {name: repr(value) for name, value in row.items()}
        digest.update(canonical_json(printed).encode())
    return digest.hexdigest()
