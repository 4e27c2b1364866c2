"""Prompts in a user's table: a text or turns in one column, and what stands beside it and belongs to the conversation.

Every reader of prompts goes through here, so that a file means the same to ``generate``, to every format of ``import`` and to
``--pairs``.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.conversations import (
    DEFAULT_RULES,
    LEAVE_OUT,
    NOT_CARRIED,
    TEXTS_FLAG,
    ReadingRules,
    Turns,
    is_blank,
    keys_left_out,
    problem_of_answer,
    transcript_of,
    turns_of,
    with_system,
)
from prefpipe.artifacts.interchange.score_columns import words_of
from prefpipe.artifacts.interchange.templated_prompts import (
    all_serialised,
    is_templated,
    marker_of,
    parsed_text,
    serialised_turns,
    untemplated,
)
from prefpipe.artifacts.interchange.user_table import checked_text, surrogate_problem, told
from prefpipe.artifacts.tool_calls import TOOLS, checked_tools

SYSTEM_COLUMNS = (
    ("system",),
    ("system", "prompt"),
    ("system", "message"),
    ("system", "instruction"),
    ("system", "instructions"),
)
"""Names of a column that holds the system prompt of the row, by their words: ``systemPrompt`` is one."""
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
"""Columns, also with *chosen*, *rejected*, *prompt* or *response* before or after, that elsewhere belong to a conversation."""
SIDE_WORDS = ("chosen", "rejected", "prompt", "response")
ALPACA_INPUT = ("instruction", "input")
"""Alpaca's columns: where the first is the prompt, the second is a part of it."""
TOOL_COLUMNS = {
    "functions": "defines tools",
    "chat_template_kwargs": "sets the chat template's options",
}
"""Columns that trainers hand to the chat template beside the turns and that are not carried, and what they do."""
LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
A_NAME = re.compile(r"[\w.:/+\-]+", re.ASCII)
"""What names a summariser or a model, and is no sentence to a model."""


class Beside(NamedTuple):
    """What stands beside a row's prompt and belongs to it: a system prompt, and the JSON of the tools."""

    system: str | None = None
    tools: str | None = None


NOTHING_BESIDE = Beside()


class BesidePrompts(NamedTuple):
    """What the columns beside the prompts say, row by row.

    ``rows``: system prompts and tools. ``problems``: why a row cannot be used. ``used``: columns that went into the conversation.
    ``notes``: what a user should know.
    """

    rows: list[Beside]
    problems: list[str | None]
    used: tuple[str, ...]
    notes: list[str]


def read_beside(
    names: Sequence[str],
    values_of: Callable[[str], list[Any]],
    n_rows: int,
    *,
    rules: ReadingRules = DEFAULT_RULES,
    taken: Collection[str | None] = (),
) -> BesidePrompts:
    """Read what belongs to the conversations of a table and stands beside them: system prompts and tools.

    Args:
        names: the table's columns.
        values_of: returns a column's values.
        n_rows: the table's length.
        rules: what the user says about them.
        taken: columns that hold something else, as the user says.
    """
    systems: list[str | None] = [None] * n_rows
    problems: list[str | None] = [None] * n_rows
    notes: list[str] = []
    by_words = {name: words_of(name) for name in names}
    named = sorted(
        (words for words in by_words.values() if words in SYSTEM_COLUMNS), key=SYSTEM_COLUMNS.index
    )
    system_names = [
        name for words in dict.fromkeys(named) for name in names if by_words[name] == words
    ]
    candidates = [
        name for name in system_names if name not in taken and name not in rules.leave_out
    ]
    held = {
        name: values
        for name in candidates
        if (values := _system_texts(values_of(name), name, notes)) is not None
    }

    for name, texts in held.items():
        for row, text in enumerate(texts):
            if systems[row] is not None and text and text != systems[row]:
                problems[row] = f"`{next(iter(held))}` and `{name}` hold two system prompts"
            systems[row] = systems[row] or text or None
    n_systems = sum(text is not None for text in systems)
    if n_systems:
        columns = " and ".join(f"`{name}`" for name in held)
        notes.append(
            f"{columns} is the system turn of {n_systems:,} of {n_rows:,} rows ({LEAVE_OUT} {next(iter(held))}: of none)"
        )

    for name, what in TOOL_COLUMNS.items():
        if name not in names or name in taken:
            continue
        values = values_of(name)
        rows = [row for row, value in enumerate(values) if _is_structure(value)]
        if rows and name in rules.leave_out:
            notes.append(
                f"`{name}` {what} in {len(rows):,} rows and is left out of the conversations ({LEAVE_OUT})"
            )
            continue
        for row in rows:
            problems[row] = problems[row] or f"`{name}` {what}, {NOT_CARRIED}: {told(values[row])}"

    tools: list[str | None] = [None] * n_rows
    if TOOLS in names and TOOLS not in taken:
        tools = _tools(values_of(TOOLS), rules, problems, notes)
    used = [*(held if n_systems else ()), *([TOOLS] if any(tools) else [])]
    notes.extend(
        _notes_of_columns_not_read(names, values_of, {*taken, *held, *rules.leave_out}, taken)
    )
    rows_beside = [Beside(system, text) for system, text in zip(systems, tools, strict=True)]
    return BesidePrompts(rows_beside, problems, tuple(used), notes)


def _tools(
    values: Sequence[Any], rules: ReadingRules, problems: list[str | None], notes: list[str]
) -> list[str | None]:
    """Return the tools of each row as JSON; a column that defines none anywhere is the user's own.

    Args:
        values: of the column.
        rules: what the user says about the file's conversations.
        problems: of the rows, where what is wrong is noted.
        notes: what a user should know.
    """
    texts: list[str | None] = [None] * len(values)
    defining = [
        row for row, value in enumerate(values) if _is_structure(value) or _begins_like_tools(value)
    ]
    if defining and TOOLS in rules.leave_out:
        notes.append(
            f"`{TOOLS}` defines tools in {len(defining):,} rows and is left out of the conversations ({LEAVE_OUT})"
        )
        return texts
    if not defining:
        return texts

    for row, value in enumerate(values):
        is_empty = is_blank(value) or (
            isinstance(value, str) and value.strip() in ("", "[]", "null")
        )
        if not is_empty:
            texts[row], problem = checked_tools(value)
            problems[row] = problems[row] or problem
    n_defining = sum(text is not None for text in texts)
    if n_defining:
        notes.append(
            f"`{TOOLS}` defines the tools of {n_defining:,} of {len(values):,} rows, which the chat template is given "
            f"({LEAVE_OUT} {TOOLS}: of none)"
        )
    return texts


def _notes_of_columns_not_read(
    names: Sequence[str],
    values_of: Callable[[str], list[Any]],
    known: Collection[str | None],
    taken: Collection[str | None],
) -> list[str]:
    """Return a note on columns that elsewhere belong to a conversation, with the number of rows in which each says something."""
    shown = []
    for name in names:
        if name in known:
            continue
        words = [word for word in words_of(name) if word not in SIDE_WORDS]
        is_input = name == ALPACA_INPUT[1] and ALPACA_INPUT[0] in taken
        if "_".join(words) not in OFTEN_READ and not is_input:
            continue
        n_rows = sum(not is_blank(value) for value in values_of(name))
        if n_rows:
            shown.append(f"`{name}` ({n_rows:,} row{'s' if n_rows > 1 else ''})")
    return [f"columns that are no part of the conversations: {', '.join(shown)}"] if shown else []


def _system_texts(values: Sequence[Any], name: str, notes: list[str]) -> list[str | None] | None:
    """Return a column of system prompts; None where it holds no texts, or the names of systems."""
    said = [value for value in values if not is_blank(value)]
    if not said or not all(isinstance(value, str) for value in said):
        return None
    if all(A_NAME.fullmatch(value.strip()) for value in said):
        notes.append(
            f"`{name}` holds names such as {told(said[0])}, and is taken for no system prompt"
        )
        return None
    return [value if isinstance(value, str) and value.strip() else None for value in values]


def _begins_like_tools(value: Any) -> bool:
    """Return whether a text is meant to be a list of objects, whether or not it can be read."""
    return isinstance(value, str) and LIST_OF_OBJECTS.match(value) is not None


def _is_structure(value: Any) -> bool:
    """Return whether a value is a list or an object that holds something, also written as text."""
    found = parsed_text(value) if isinstance(value, str) else value
    members = found if isinstance(found, list) else [found]
    return any(
        isinstance(member, dict) and not all(map(is_blank, member.values())) for member in members
    )


def checked_prompt(
    value: Any,
    name: str,
    *,
    is_strict: bool = False,
    rules: ReadingRules = DEFAULT_RULES,
    beside: Beside = NOTHING_BESIDE,
) -> tuple[Turns, str | None]:
    """Return the turns of a text or a list of turns and, when they cannot be used, why not.

    Args:
        value: what the file holds. A conversation that was written into a text, by a chat template or as a list, is
            read back into turns, or refused.
        name: the column, for messages.
        is_strict: take a marker of a template anywhere for a templated text, and not at its beginning or around a turn alone.
        rules: what the user says about the file's conversations.
        beside: what stands in columns beside it.
    """
    if name == "messages" and isinstance(value, str):  # turns that stand in CSV or Parquet as text
        value = parsed_text(value)
    elif isinstance(value, str) and not rules.prompts_are_text:
        value, problem = _unwrapped(value, is_strict=is_strict)
        if problem is not None:
            return [], f"`{name}`: {problem}"

    turns, problem = turns_of(value, leave_out=rules.leave_out)
    if problem is None:
        turns, problem = with_beside(turns, beside)
    if problem is not None:
        return turns, f"`{name}`: {problem}"
    texts = [text for turn in turns for text in turn.values()]
    return turns, next((found for text in texts if (found := surrogate_problem(text, name))), None)


def with_beside(turns: Turns, beside: Beside) -> tuple[Turns, str | None]:
    """Return a prompt's turns with what stands beside them, and what is wrong where they have another system turn already."""
    turns, problem = with_system(turns, beside.system)
    if problem is None and beside.tools is not None:
        turns = [*turns[:-1], turns[-1] | {TOOLS: beside.tools}]
    return turns, problem


def _unwrapped(text: str, *, is_strict: bool) -> tuple[Any, str | None]:
    """Return the turns that were written into a text, or the text where there are none, and why they cannot be read."""
    turns, problem = serialised_turns(text)
    if turns is not None or problem is not None:
        return turns, problem
    if is_templated(text) or (is_strict and marker_of(text) is not None):
        return untemplated(text)
    return text, None


def checked_response(value: Any, name: str, rules: ReadingRules) -> tuple[str | Turns, str | None]:
    """Return a response, a text or turns of which the last is the assistant's, and what is wrong with it."""
    if not isinstance(value, list):
        text, problem = checked_text(value, name)
        return text, problem or _problem_of_printed_turns(text, name, rules)
    if not value:
        return [], f"`{name}` is an empty list"

    turns, problem = transcript_of(value, leave_out=rules.leave_out)
    problem = problem or problem_of_answer(turns)
    if problem is not None:
        return [], f"`{name}`: {problem}"
    if turns[-1]["role"] != "assistant":
        return (
            [],
            f"`{name}`: its last turn is from the {turns[-1]['role']}, and a response is the assistant's",
        )
    if is_blank(value[-1].get("content")) and any(
        not is_blank(value[-1].get(key)) for key in rules.leave_out
    ):
        return (
            [],
            f"`{name}`: the response has no text beside what is left out, and a candidate is a text",
        )
    return turns, checked_text(turns[-1]["content"], name)[1]


def checked_response_text(value: Any, name: str, rules: ReadingRules) -> tuple[str, str | None]:
    """Return the text of a response, itself a text or the assistant's turn, and what is wrong with it."""
    if not isinstance(value, list | dict):
        text, problem = checked_text(value, name)
        return text, problem or _problem_of_printed_turns(text, name, rules)
    found, problem = checked_response([value] if isinstance(value, dict) else value, name, rules)
    if problem is not None:
        return "", problem
    assert isinstance(found, list)
    if len(found) > 1:
        return (
            "",
            f"`{name}` is a conversation of {len(found)} turns, where the assistant's answer alone is needed",
        )
    return found[0]["content"], None


def _problem_of_printed_turns(text: str, name: str, rules: ReadingRules) -> str | None:
    """Return that a response is a list of turns as numpy prints it, which nobody writes and a policy would learn to write."""
    problem = None if rules.prompts_are_text else serialised_turns(text)[1]
    return None if problem is None else f"`{name}`: {problem}"


def unwrapped_responses(values: Sequence[Any], rules: ReadingRules) -> list[Any]:
    """Return responses; where every text of the file is a list of turns that was written as text, the turns."""
    if rules.prompts_are_text or not all_serialised([values]):
        return list(values)
    return [serialised_turns(value)[0] if isinstance(value, str) else value for value in values]


def notes_of_keys_left_out(
    columns: Mapping[str, Sequence[Any]], rules: ReadingRules = DEFAULT_RULES
) -> list[str]:
    """Return sentences on keys of turns that are left out, and on turns whose text is a conversation, with numbers of rows.

    Args:
        columns: the values of each column that can hold turns.
        rules: what the user says about the file's conversations.
    """
    counts: Counter[str] = Counter()
    n_templated = 0
    for row in zip(*columns.values(), strict=True):
        keys: set[str] = set()
        for value in row:
            keys |= keys_left_out(value, rules.leave_out)
        counts.update(keys)
        n_templated += any(_holds_templated_turn(value) for value in row)
    notes = []
    if n_templated:
        rows = f"{n_templated:,} row{'s' if n_templated > 1 else ''}"
        notes.append(
            f"turns of the user that look like templated conversations, and are read as they stand: {rows}"
        )
    if not counts:
        return notes
    shown = ", ".join(
        f"`{key}` ({count:,} row{'s' if count > 1 else ''})"
        for key, count in sorted(counts.items())
    )
    return [*notes, f"keys of turns that are left out of the conversations: {shown}"]


def _holds_templated_turn(value: Any) -> bool:
    """Return whether a list of turns has one of the user's whose text went through a chat template already."""
    turns = (
        [turn for turn in value if isinstance(turn, Mapping) and turn.get("role") == "user"]
        if isinstance(value, list)
        else []
    )
    return any(
        isinstance(turn.get("content"), str) and is_templated(turn["content"]) for turn in turns
    )


def notes_of_texts_read_back(
    prompts: Sequence[Any], rules: ReadingRules, responses: Sequence[Sequence[Any]] = ()
) -> list[str]:
    """Return how many texts were conversations, written by a template or as a list, and were read as turns.

    Args:
        prompts: the values of the column of prompts.
        rules: what the user says about the file's conversations.
        responses: the values of the columns of responses.
    """
    if rules.prompts_are_text:
        return []
    texts = Counter(value for value in prompts if isinstance(value, str))
    n_prompts = sum(
        count
        for text, count in texts.items()
        if is_templated(text) or serialised_turns(text)[0] is not None
    )
    counts = [f"the prompts of {n_prompts:,} rows"] if n_prompts else []
    if all_serialised(responses):
        counts.append("the responses of all rows")
    which = " and ".join(counts)
    notes = (
        [
            f"{which} are conversations in a text, and are read as turns ({TEXTS_FLAG}: as they stand)"
        ]
        if counts
        else []
    )
    return [*notes, *_notes_of_serialised_responses(responses)]


def _notes_of_serialised_responses(responses: Sequence[Sequence[Any]]) -> list[str]:
    """Return how many responses are lists of turns in a text, and stay texts because others of the file are not."""
    if all_serialised(responses):
        return []
    texts = [value for column in responses for value in column if isinstance(value, str)]
    n_lists = sum(serialised_turns(text)[0] is not None for text in texts)
    what = "responses that are lists of turns written as text, and stay texts since others are none"
    return [f"{what}: {n_lists:,} of {len(texts):,}"] if n_lists else []
