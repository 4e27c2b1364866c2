"""Prompts from a user's file: keyed, checked, with the user's columns beside them.

Reads JSONL, JSON (a list of objects), CSV, Parquet, a folder written by ``datasets.save_to_disk``
and ``hf:org/name[@revision][:split]``. A row brings ``prompt`` (text) or ``messages`` (turns),
optionally ``prompt_id``, ``system`` and ``tools``; every other column passes through untouched.
Every problem of the file is found before the first is reported.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from prefpipe.artifacts.conversations import (
    DEFAULT_RULES,
    ENDS_WITH_USER,
    ReadingRules,
    Turns,
    hint_for,
    with_system,
)
from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.artifacts.interchange.conversation_columns import checked_prompt, prompt_column
from prefpipe.artifacts.interchange.reading_notes import (
    notes_of_keys_left_out,
    notes_of_texts_read_back,
)
from prefpipe.artifacts.interchange.system_and_tools import (
    SystemAndToolsColumns,
    read_system_and_tools,
)
from prefpipe.artifacts.interchange.user_table import UserTable
from prefpipe.artifacts.prompt_shares import PromptShare
from prefpipe.artifacts.tables.bad_rows import DEFAULT_HINT, BadRow, BadRowsError
from prefpipe.artifacts.tables.columns import python_rows
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.artifacts.tables.values import id_of
from prefpipe.artifacts.tool_calls import holds_tools
from prefpipe.errors import InputError, UsageError

OWN_COLUMNS = ("prompt_id", "prompt", "messages")


class Prompt(NamedTuple):
    """A prompt with its key.

    ``messages`` end with a turn of the user or of a tool, or with the beginning of the answer.
    """

    prompt_id: str
    messages: Turns


@dataclass(frozen=True)
class Prompts:
    """All prompts of a run, in file order, and the user's columns row by row beside them.

    ``notes``: notes for the user on how the file was read. ``carries_tools``: whether any
    prompt of the file, in whichever part, has tools or tool calls.
    """

    rows: list[Prompt]
    columns: pa.Table
    notes: tuple[str, ...] = ()
    carries_tools: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def n_parts(self, part_size: int) -> int:
        """Return how many parts of ``part_size`` prompts there are."""
        return -(-len(self.rows) // part_size)

    def part(self, index: int, part_size: int) -> "Prompts":
        """Return the prompts of one part."""
        start = index * part_size
        rows = self.rows[start : start + part_size]
        columns = self.columns.slice(start, len(rows))  # a part size may be beyond 64 bits
        return Prompts(rows, columns, carries_tools=self.carries_tools)

    def of_share(self, share: PromptShare, source: str) -> "Prompts":
        """Return the prompts of one share, in the order of the file.

        Args:
            share: which share.
            source: the file, for the message.

        Raises:
            InputError: fewer prompts than shares.
        """
        places = share.places([prompt.prompt_id for prompt in self.rows], source)
        rows = [self.rows[place] for place in places]
        columns = self.columns.take(pa.array(places, pa.int64()))
        return Prompts(rows, columns, self.notes, self.carries_tools)

    def sha256(self) -> str:
        """Return the content hash of ids, messages and user columns, in order."""
        digest = hashlib.sha256()
        for prompt in self.rows:
            digest.update(canonical_json([prompt.prompt_id, prompt.messages]).encode())
        digest.update(str(self.columns.schema).encode())
        # `repr` takes what JSON does not have, dates and bytes of the user's columns
        for row in python_rows(self.columns):
            digest.update(repr(sorted(row.items())).encode(errors="surrogatepass"))
        return digest.hexdigest()


def load_prompts(
    source: str,
    *,
    system_prompt: str | None = None,
    keep_columns: Sequence[str] | None = None,
    drop_duplicates: bool = False,
    reserved: Sequence[str] = (),
    rules: ReadingRules = DEFAULT_RULES,
) -> Prompts:
    """Read a prompts file.

    Args:
        source: path or ``hf:`` reference.
        system_prompt: put before every conversation; refused when one brings its own. It is not
            part of ``prompt_id``.
        keep_columns: the user's columns to pass through; None for all.
        drop_duplicates: keep the first of prompts with the same id instead of refusing.
        reserved: column names that the artifact uses itself.
        rules: the user's options for the file's conversations.

    Raises:
        InputError: no rows, broken rows, duplicate ids, prompts without a user turn; lists the
            first eight.
    """
    table = UserTable(source, *read_table(source))
    if table.n_rows == 0:
        raise InputError(f"{source} holds no prompts", hint="each row needs `prompt` or `messages`")

    hint = (
        "give each row `prompt` (text) or `messages` (a list of role and content). A column takes "
        "another name in Python: polars.read_csv(FILE), read_ndjson or read_parquet, "
        '.rename({"question": "prompt"}).write_parquet("prompts.parquet")'
    )
    prompts = prompt_column(table, None, hint=hint)
    extras = read_system_and_tools(table, rules=rules)
    # what went into the conversation passes through only where --columns names it
    used = tuple(name for name in extras.used if name not in (keep_columns or ()))
    columns = _user_columns(table.table, keep_columns, reserved, source, conversation=used)
    rows, problems, notes = _check_rows(table, prompts, extras, rules)
    if problems:
        bad_rows = [BadRow(source, line, problem) for line, problem in problems]
        hint = hint_for([problem for _, problem in problems], _hint_for_last_turns(problems))
        noun = "prompts" if len(bad_rows) > 1 else "prompt"
        summary = f"has {len(bad_rows):,} {noun} that cannot be used"
        raise BadRowsError(source, bad_rows, hint=hint, summary=summary)

    rows, columns = _deduplicate(rows, columns, table.places, source, drop=drop_duplicates)
    # behind the ids, of which it is no part
    if system_prompt:
        rows = _with_system(rows, system_prompt, source)
    carries_tools = any(holds_tools(prompt.messages) for prompt in rows)
    return Prompts(rows, columns, (*extras.notes, *notes), carries_tools)


def _hint_for_last_turns(problems: Sequence[tuple[str, str]]) -> str:
    """Return the hint if answers follow the prompts: they may be meant as beginnings."""
    if any(f"from the assistant, and {ENDS_WITH_USER}" in problem for _, problem in problems):
        return (
            "remove the answers; if the last turns are beginnings for the model to continue, "
            "pass --continue-final-message"
        )
    return DEFAULT_HINT


def _check_rows(
    table: UserTable, name: str, extras: SystemAndToolsColumns, rules: ReadingRules
) -> tuple[list[Prompt], list[tuple[str, str]], list[str]]:
    """Return the prompts, the problems of the others, and what was left out of turns."""
    values = table.values(name)
    has_ids = "prompt_id" in table.names
    ids = table.values_or_none("prompt_id")

    rows: list[Prompt] = []
    problems: list[tuple[str, str]] = []
    for row, (line, given_id, value) in enumerate(zip(table.places, ids, values, strict=True)):
        turns, problem = checked_prompt(value, name, rules=rules, system_and_tools=extras.rows[row])
        prompt_id = None
        if has_ids:
            prompt_id, reason = id_of(given_id)
            problem = problem if reason is None else f"`prompt_id` {reason}"
        if problem is not None:
            problems.append((line, problem))
            continue
        if prompt_id is None:
            prompt_id = prompt_id_of(turns)
        rows.append(Prompt(prompt_id, turns))

    read_back = notes_of_texts_read_back(values, rules) if name == "prompt" else []
    return rows, problems, [*read_back, *notes_of_keys_left_out({name: values}, rules)]


def _user_columns(
    table: pa.Table,
    keep: Sequence[str] | None,
    reserved: Sequence[str],
    source: str,
    *,
    conversation: Sequence[str] = (),
) -> pa.Table:
    """Return the columns that pass through: all that are not part of the ``conversation``."""
    names = [name for name in table.column_names if name not in (*OWN_COLUMNS, *conversation)]
    if keep is not None:
        unknown = [name for name in keep if name not in names]
        if unknown:
            raise UsageError(
                f"--columns names `{unknown[0]}`, which {source} does not have; it has: "
                f"{', '.join(names)}"
            )
        names = list(keep)

    clash = [name for name in names if name in reserved]
    if clash:
        rest = ",".join(name for name in names if name not in reserved)
        raise InputError(
            f"{source} has a column `{clash[0]}`, a name reserved for prefpipe's own column",
            hint=f"rename it, or leave it out with --columns {rest or 'none'}",
        )
    return table.select(names)


def _deduplicate(
    rows: list[Prompt], columns: pa.Table, lines: Sequence[str], source: str, *, drop: bool
) -> tuple[list[Prompt], pa.Table]:
    n_distinct = len({prompt.prompt_id for prompt in rows})
    if n_distinct == len(rows):
        return rows, columns

    first: dict[str, int] = {}
    for position, prompt in enumerate(rows):
        earlier = first.setdefault(prompt.prompt_id, position)
        if earlier != position and not drop:
            raise InputError(
                f"{source} has {len(rows) - n_distinct} duplicate prompt ids: {prompt.prompt_id} "
                f"stands at {lines[earlier]} and {lines[position]}",
                hint="give them different `prompt_id`s, or keep the first of each with "
                "--drop-duplicate-prompts",
            )
    # in the order of the file, for that is the order of insertion
    kept = list(first.values())
    return [rows[position] for position in kept], columns.take(kept)


def _with_system(rows: list[Prompt], system_prompt: str, source: str) -> list[Prompt]:
    prompts = []
    for prompt in rows:
        if prompt.messages[0]["role"] == "system":
            raise InputError(
                f"{source}: prompt {prompt.prompt_id} has its own system turn, and "
                "--system-prompt was given",
                hint="leave out --system-prompt, or remove the system turns from the file",
            )
        messages, _ = with_system(prompt.messages, system_prompt)
        prompts.append(prompt._replace(messages=messages))
    return prompts
