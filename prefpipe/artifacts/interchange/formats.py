"""Which reader reads which format, and what a file is in a fingerprint."""

import hashlib
from collections.abc import Callable, Sequence
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
from prefpipe.artifacts.interchange.response_lists import ONLINE_RLHF, SIMPO, read_group_lines, read_lists, read_ultrafeedback
from prefpipe.artifacts.interchange.user_table import file_of
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.artifacts.tables.reading import read_table

READERS: dict[str, Callable[..., Pool]] = {
    "simpo": partial(read_lists, layout=SIMPO), "online-rlhf": partial(read_lists, layout=ONLINE_RLHF),
    "ultrafeedback": read_ultrafeedback, "trl": read_preferences, "jsonl": read_group_lines,
    "alpaca-eval": read_alpaca_outputs, "arena-hard": read_arena_answers,
}  # fmt: skip


def read_pool(
    source: str, kind: str, *, requests: str | None, names: ColumnNames, columns: Sequence[str] | None, reserved: Sequence[str],
    rules: ReadingRules = DEFAULT_RULES,
) -> Pool:  # fmt: skip
    """Read a file of the format ``kind``.

    Args:
        source: path or ``hf:`` reference.
        kind: the format's name.
        requests: the requests of a batch, or the questions of Arena-Hard v0.1.
        names: column names of the long form.
        columns: the user's columns that pass through; None for all that belong to the prompts.
        reserved: names that the artifact uses itself.
        rules: what the user says about the file's conversations.
    """
    if kind == "rows":
        return read_long_rows(source, names, columns=columns, reserved=reserved, rules=rules)
    if kind == "openai-batch":
        assert requests is not None  # the config sees to it
        return read_batch(source, requests, rules=rules)
    if kind == "arena-hard" and requests is not None:
        return read_first_version(source, requests, columns=columns, reserved=reserved, rules=rules)
    return READERS[kind](source, columns=columns, reserved=reserved, rules=rules)


def content_hash(source: str) -> str:
    """Return the sha256 of a file's bytes, of a folder's files, or of the rows of a hub data set."""
    path = file_of(source)
    if path is None:
        digest = hashlib.sha256()
        for row in python_rows(read_table(source).columns):
            digest.update(canonical_json({name: repr(value) for name, value in row.items()}).encode())
        return digest.hexdigest()
    return hash_files(path, (item for item in path.rglob("*") if item.is_file())) if path.is_dir() else hash_file(path)
