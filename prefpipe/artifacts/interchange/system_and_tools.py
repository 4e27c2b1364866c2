"""System prompts and tools, which are in separate columns beside a table's prompts."""

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import (
    DEFAULT_RULES,
    LEAVE_OUT,
    NOT_CARRIED,
    ReadingRules,
    Turns,
    is_blank,
    with_system,
)
from prefpipe.artifacts.interchange.score_columns import words_of
from prefpipe.artifacts.interchange.serialised_turns import parsed_text
from prefpipe.artifacts.interchange.user_table import UserTable
from prefpipe.artifacts.tables.values import shortened
from prefpipe.artifacts.tool_calls import TOOLS, checked_tools

SYSTEM_NAMES = (
    ("system",),
    ("system", "prompt"),
    ("system", "message"),
    ("system", "instruction"),
    ("system", "instructions"),
)
"""Names of a column that holds the row's system prompt, by their words: ``systemPrompt`` is one."""
OFTEN_READ = (
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
    "reasoning_content",
    "reasoning",
    "thinking",
    "thoughts",
    "history",
    "documents",
)
"""Columns that elsewhere belong to a conversation.

Also with *chosen*, *rejected*, *prompt* or *response* before or after.
"""
SIDE_WORDS = ("chosen", "rejected", "prompt", "response")
ALPACA_INPUT = ("instruction", "input")
"""Alpaca's columns: where the first is the prompt, the second is a part of it."""
NOT_CARRIED_COLUMNS = {
    "functions": "defines tools",
    "chat_template_kwargs": "sets the chat template's options",
}
"""Columns that trainers hand to the chat template and that are not carried, and what they do."""
LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
A_NAME = re.compile(r"[\w.:/+\-]+", re.ASCII)
"""What names a summariser or a model, and is no sentence to a model."""


class SystemAndTools(NamedTuple):
    """What belongs to one row's prompt: a system prompt, and the JSON of the tools.

    ``problem`` says why the row cannot be used.
    """

    system: str | None = None
    tools: str | None = None
    problem: str | None = None


NEITHER = SystemAndTools()


class SystemAndToolsColumns(NamedTuple):
    """The system prompts and tools of a table.

    ``rows``: one each. ``used``: columns that went into the conversations. ``notes``: what a user
    should know.
    """

    rows: list[SystemAndTools]
    used: tuple[str, ...]
    notes: list[str]


def read_system_and_tools(
    table: UserTable,
    *,
    rules: ReadingRules = DEFAULT_RULES,
    taken: Collection[str | None] = (),
) -> SystemAndToolsColumns:
    """Read the system prompts and tools of a table.

    Args:
        table: the file.
        rules: the user's options for its conversations.
        taken: columns that hold something else, as the user or the format says.
    """
    problems: list[str | None] = [None] * table.n_rows
    notes: list[str] = []
    # only the first of several problems of a row is reported
    system_columns = _system_columns(table, rules, taken, notes)
    systems = _systems(system_columns, problems, notes)
    _note_columns_not_carried(table, rules, taken, problems, notes)
    tools = _tools(table, rules, taken, problems, notes)

    # a column that gave nothing is the user's own, and may pass through
    used: list[str] = []
    if any(systems):
        used += system_columns
    if any(tools):
        used.append(TOOLS)
    known = {*taken, *system_columns, *rules.leave_out}
    notes += _notes_of_columns_not_read(table, known, taken)

    rows = list(map(SystemAndTools, systems, tools, problems))
    return SystemAndToolsColumns(rows, tuple(used), notes)


def _system_columns(
    table: UserTable, rules: ReadingRules, taken: Collection[str | None], notes: list[str]
) -> dict[str, list[str | None]]:
    """Return the columns of system prompts, the plainest name first."""
    columns = {}
    for words in SYSTEM_NAMES:
        for name in table.names:
            if words_of(name) != words or name in taken or name in rules.leave_out:
                continue
            texts = _system_texts(table.values(name), name, notes)
            if texts is not None:
                columns[name] = texts
    return columns


def _system_texts(values: Sequence[Any], name: str, notes: list[str]) -> list[str | None] | None:
    """Return a column of system prompts; None if it holds no texts, or the names of systems."""
    given = [value for value in values if not is_blank(value)]
    if not given or not all(isinstance(value, str) for value in given):
        return None
    if all(A_NAME.fullmatch(value.strip()) for value in given):
        notes.append(
            f"`{name}` holds names such as {shortened(given[0])}, and is not used as the system "
            "prompt"
        )
        return None

    # blank values beside texts may be of any type
    texts: list[str | None] = []
    for value in values:
        says_something = isinstance(value, str) and value.strip() != ""
        texts.append(value if says_something else None)
    return texts


def _systems(
    columns: dict[str, list[str | None]], problems: list[str | None], notes: list[str]
) -> list[str | None]:
    """Return the system prompt of each row; two in one row are a problem of it."""
    systems: list[str | None] = [None] * len(problems)
    first = next(iter(columns), "")
    for name, texts in columns.items():
        for row, text in enumerate(texts):
            if systems[row] is None:
                systems[row] = text
            elif text is not None and text != systems[row]:
                problems[row] = f"`{first}` and `{name}` hold two system prompts"

    n_systems = sum(text is not None for text in systems)
    if n_systems:
        shown = " and ".join(f"`{name}`" for name in columns)
        notes.append(
            f"{shown} is the system turn of {n_systems:,} of {len(systems):,} rows (pass "
            f"{LEAVE_OUT} {first} to use none)"
        )
    return systems


def _note_columns_not_carried(
    table: UserTable,
    rules: ReadingRules,
    taken: Collection[str | None],
    problems: list[str | None],
    notes: list[str],
) -> None:
    """Refuse rows in which a column says something to the chat template that is not carried."""
    for name, purpose in NOT_CARRIED_COLUMNS.items():
        if name not in table.names or name in taken:
            continue
        values = table.values(name)
        rows = [row for row, value in enumerate(values) if _is_structure(value)]
        if name not in rules.leave_out:
            for row in rows:
                sentence = f"`{name}` {purpose}, {NOT_CARRIED}: {shortened(values[row])}"
                problems[row] = problems[row] or sentence
        elif rows:
            notes.append(
                f"`{name}` {purpose} in {len(rows):,} rows and is left out of the conversations "
                f"({LEAVE_OUT})"
            )


def _tools(
    table: UserTable,
    rules: ReadingRules,
    taken: Collection[str | None],
    problems: list[str | None],
    notes: list[str],
) -> list[str | None]:
    """Return the tools of each row as JSON.

    A column that defines none anywhere is the user's own.
    """
    tools: list[str | None] = [None] * table.n_rows
    if TOOLS not in table.names or TOOLS in taken:
        return tools
    values = table.values(TOOLS)
    n_defining = sum(_is_structure(value) or _begins_like_tools(value) for value in values)
    if not n_defining:
        return tools
    if TOOLS in rules.leave_out:
        notes.append(
            f"`{TOOLS}` defines tools in {n_defining:,} rows and is left out of the conversations "
            f"({LEAVE_OUT})"
        )
        return tools

    for row, value in enumerate(values):
        # where some rows define tools, whatever another one holds must be tools, too
        is_empty = is_blank(value)
        if isinstance(value, str):
            is_empty = value.strip() in ("", "[]", "null")
        if not is_empty:
            tools[row], problem = checked_tools(value)
            problems[row] = problems[row] or problem

    n_with_tools = sum(text is not None for text in tools)
    if n_with_tools:
        notes.append(
            f"`{TOOLS}` defines the tools of {n_with_tools:,} of {len(values):,} rows, which the "
            f"chat template receives (pass {LEAVE_OUT} {TOOLS} to use none)"
        )
    return tools


def _notes_of_columns_not_read(
    table: UserTable, known: Collection[str | None], taken: Collection[str | None]
) -> list[str]:
    """Return a note on columns that elsewhere belong to a conversation.

    With the number of rows in which each says something.
    """
    shown = []
    for name in table.names:
        if name in known:
            continue
        words = [word for word in words_of(name) if word not in SIDE_WORDS]
        is_input = name == ALPACA_INPUT[1] and ALPACA_INPUT[0] in taken
        if "_".join(words) not in OFTEN_READ and not is_input:
            continue
        n_rows = sum(not is_blank(value) for value in table.values(name))
        if n_rows:
            shown.append(f"`{name}` ({n_rows:,} row{'s' if n_rows > 1 else ''})")
    return [f"columns that are not part of the conversations: {', '.join(shown)}"] if shown else []


def _begins_like_tools(value: Any) -> bool:
    """Return whether a text is meant to be a list of objects, whether or not it can be read."""
    return isinstance(value, str) and LIST_OF_OBJECTS.match(value) is not None


def _is_structure(value: Any) -> bool:
    """Return whether a value is a list or an object that says something, also written as text."""
    if isinstance(value, str):
        value = parsed_text(value)
    members = value if isinstance(value, list) else [value]
    return any(
        isinstance(member, dict) and not all(map(is_blank, member.values())) for member in members
    )


def with_system_and_tools(turns: Turns, parts: SystemAndTools) -> tuple[Turns, str | None]:
    """Return a prompt's turns with what belongs to them.

    The problem is another system turn among them already.
    """
    turns, problem = with_system(turns, parts.system)
    if problem is None and parts.tools is not None:
        # `prefpipe.artifacts.tool_calls` looks for them in the last turn
        turns = [*turns[:-1], turns[-1] | {TOOLS: parts.tools}]
    return turns, problem
