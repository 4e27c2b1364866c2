"""Which reader reads which format, and what a file is in a fingerprint."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules
from prefpipe.artifacts.file_hashes import hash_file, hash_files
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.interchange.arena_first_version import read_first_version
from prefpipe.artifacts.interchange.benchmark_answers import read_alpaca_outputs, read_arena_answers
from prefpipe.artifacts.interchange.long_rows import ColumnNames, read_long_rows
from prefpipe.artifacts.interchange.openai_batch import read_batch
from prefpipe.artifacts.interchange.pool import Pool
from prefpipe.artifacts.interchange.preference_rows import read_preferences
from prefpipe.artifacts.interchange.published_pairs import (
    read_helpsteer,
    read_helpsteer_preferences,
    read_pku,
    read_ranked,
)
from prefpipe.artifacts.interchange.response_lists import (
    ONLINE_RLHF,
    SIMPO,
    read_group_lines,
    read_lists,
    read_ultrafeedback,
)
from prefpipe.artifacts.interchange.user_table import file_of
from prefpipe.artifacts.interchange.wide_rows import WideColumns, read_wide
from prefpipe.artifacts.tables.bad_rows import BadRowsError
from prefpipe.artifacts.tables.columns import column_values, python_rows
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.errors import InputError

READERS: dict[str, Callable[..., Pool]] = {
    "simpo": partial(read_lists, layout=SIMPO),
    "online-rlhf": partial(read_lists, layout=ONLINE_RLHF),
    "ultrafeedback": read_ultrafeedback,
    "helpsteer2": read_helpsteer,
    "helpsteer3": read_helpsteer_preferences,
    "pku-saferlhf": read_pku,
    "trl": read_preferences,
    "nemo-rl": read_ranked,
    "jsonl": read_group_lines,
    "alpaca-eval": read_alpaca_outputs,
    "arena-hard": read_arena_answers,
}
SIGNS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("helpsteer3", ("context", "response1", "response2", "overall_preference")),
    ("helpsteer2", ("prompt", "response_1", "response_2", "preference_strength")),
    ("helpsteer2", ("prompt", "response", "helpfulness", "correctness")),
    ("pku-saferlhf", ("prompt", "response_0", "response_1", "better_response_id")),
    ("pku-saferlhf", ("prompt", "response_0", "response_1", "safer_response_id")),
    ("nemo-rl", ("context", "completions")),
    ("ultrafeedback", ("instruction", "completions")),
    ("ultrafeedback", ("generations", "ratings")),
    ("simpo", ("prompt", "all_generated_responses")),
    ("online-rlhf", ("prompt", "responses", "rewards")),
    ("jsonl", ("prompt_id", "messages", "responses", "pairs")),
    ("openai-batch", ("custom_id", "response")),
    ("alpaca-eval", ("instruction", "output", "generator")),
    ("arena-hard", ("uid", "ans_id", "messages")),
    ("trl", ("chosen", "rejected")),
    ("trl", ("prompt", "completion", "label")),
    ("rows", ("prompt", "response")),
    ("rows", ("messages", "response")),
)
"""Columns by which a format is known, the more particular first."""
REWARDBENCH_2 = (
    "a file of RewardBench 2: prefpipe eval rewardbench --pairs {source} --model MODEL --reward-model -o DIR",
    ("chosen", "rejected", "num_correct"),
)
ELSEWHERE: Sequence[tuple[str, tuple[str, ...]]] = (
    REWARDBENCH_2,
    (
        "a prompts file of IFEval: prefpipe generate {source} -o DIR --model MODEL, then prefpipe score DIR --scorer checks",
        ("prompt", "instruction_id_list", "kwargs"),
    ),
)
"""Files that are known, and that another command reads."""


def read_pool(
    source: str,
    kind: str,
    *,
    requests: str | None,
    names: ColumnNames,
    columns: Sequence[str] | None,
    reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
    wide: WideColumns | None = None,
) -> Pool:
    """Read a file of the format ``kind``.

    Args:
        source: path or ``hf:`` reference.
        kind: the format's name.
        requests: the requests of a batch, or the questions of Arena-Hard v0.1.
        names: column names of the long form.
        columns: the user's columns that pass through; None for all that belong to the prompts.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.
        wide: column names of the wide form.

    Raises:
        InputError: the file lacks columns of its format, with the format that it is of in the hint, or rows cannot be used.
    """
    try:
        if kind == "rows":
            return read_long_rows(source, names, columns=columns, reserved=reserved, rules=rules)
        if kind == "wide":
            assert wide is not None  # the stage sees to it
            return read_wide(source, wide, columns=columns, reserved=reserved, rules=rules)
        if kind == "openai-batch":
            assert requests is not None  # the config sees to it
            return read_batch(source, requests, rules=rules)
        if kind == "arena-hard" and requests is not None:
            return read_first_version(
                source, requests, columns=columns, reserved=reserved, rules=rules
            )
        return READERS[kind](source, columns=columns, reserved=reserved, rules=rules)
    except BadRowsError as error:
        if kind == "rows" and _holds_lists(source, names.response or "response"):
            error.hint = f"for a column of lists: --format wide --response-column {names.response or 'response'} --score-column S"
        if kind == "trl" and set(REWARDBENCH_2[1]) <= set(read_table(source).columns.column_names):
            error.hint = f"these are the columns of {REWARDBENCH_2[0].format(source=source)}"
        raise
    except InputError as error:
        hint = _hint_of_format(source, kind, error)
        if hint is not None:
            error.hint = f"{hint}; {error.hint}" if error.hint else hint
        raise


def _holds_lists(source: str, name: str) -> bool:
    """Return whether a column holds nothing but lists, and not of turns."""
    columns = read_table(source).columns
    values = (
        [value for value in column_values(columns, name) if value is not None]
        if name in columns.column_names
        else []
    )
    is_of_turns = any(
        isinstance(member, Mapping)
        for value in values
        if isinstance(value, list)
        for member in value
    )
    return bool(values) and all(isinstance(value, list) for value in values) and not is_of_turns


def _hint_of_format(source: str, kind: str, error: InputError) -> str | None:
    """Return what to type for a file that is of another format, as its columns say; None where nothing is known."""
    if "columns are:" not in error.message:
        return None
    columns = read_table(source).columns
    for sentence, signs in ELSEWHERE:
        if set(signs) <= set(columns.column_names):
            return f"these are the columns of {sentence.format(source=source)}"
    for name, signs in SIGNS:
        if name != kind and set(signs) <= set(columns.column_names):
            return f"these are the columns of --format {name}"
    return None


def content_hash(source: str) -> str:
    """Return the sha256 of a file's bytes, of a folder's files, or of the rows of a hub data set."""
    path = file_of(source)
    if path is None:
        digest = hashlib.sha256()
        for row in python_rows(read_table(source).columns):
            digest.update(
                canonical_json({name: repr(value) for name, value in row.items()}).encode()
            )
        return digest.hexdigest()
    return (
        hash_files(path, (item for item in path.rglob("*") if item.is_file()))
        if path.is_dir()
        else hash_file(path)
    )
