"""Prompts and responses in a user's table: texts, or turns, in one column.

Every reader of prompts goes through here, so that a file means the same to ``generate``, to every
format of ``import`` and to ``--pairs``.
"""

from collections.abc import Sequence
from typing import Any

from prefpipe.artifacts.conversations import (
    DEFAULT_RULES,
    ReadingRules,
    Turns,
    is_blank,
    problem_of_answer,
    transcript_of,
    turns_of,
)
from prefpipe.artifacts.interchange.checked_values import checked_text, surrogate_problem
from prefpipe.artifacts.interchange.serialised_turns import (
    all_serialised,
    parsed_text,
    serialised_turns,
    turns_or_value,
)
from prefpipe.artifacts.interchange.system_and_tools import (
    NEITHER,
    SystemAndTools,
    with_system_and_tools,
)
from prefpipe.artifacts.interchange.templated_prompts import is_templated, marker_of, untemplated
from prefpipe.artifacts.interchange.user_table import MissingColumnsError, UserTable


def prompt_column(table: UserTable, given: str | None, *, hint: str, otherwise: str = "") -> str:
    """Return the column of the prompts: the one that the user names, or the only usual one.

    Args:
        table: the file.
        given: what the user names.
        hint: for a file that has both of the usual ones.
        otherwise: for a file that has none; default as ``hint``.

    Raises:
        MissingColumnsError: none is named, and not one of the usual ones is there alone.
    """
    if given is not None:
        return given
    usual = [name for name in ("prompt", "messages") if name in table.names]
    if len(usual) == 1:
        return usual[0]
    if usual:
        raise MissingColumnsError(table, "has both `prompt` and `messages`", hint=hint)
    problem = "has neither `prompt` nor `messages`"
    raise MissingColumnsError(table, problem, hint=otherwise or hint)


def checked_prompt(
    value: Any,
    name: str,
    *,
    is_strict: bool = False,
    rules: ReadingRules = DEFAULT_RULES,
    system_and_tools: SystemAndTools = NEITHER,
) -> tuple[Turns, str | None]:
    """Return the turns of a text or a list of turns and, when they cannot be used, why not.

    Args:
        value: what the file holds. A conversation that was written into a text, by a chat template
            or as a list, is read back into turns, or refused.
        name: the column, for messages.
        is_strict: take a marker of a template anywhere for a templated text, and not at its
            beginning or around a turn alone.
        rules: the user's options for the file's conversations.
        system_and_tools: of the row.
    """
    if system_and_tools.problem is not None:
        return [], system_and_tools.problem

    if name == "messages" and isinstance(value, str):
        value = parsed_text(value)  # turns that are in CSV or Parquet as text
    elif isinstance(value, str) and not rules.prompts_are_text:
        value, problem = _turns_in_text(value, is_strict=is_strict)
        if problem is not None:
            return [], f"`{name}`: {problem}"

    turns, problem = turns_of(
        value, leave_out=rules.leave_out, may_be_begun=rules.continue_final_message
    )
    if problem is None:
        turns, problem = with_system_and_tools(turns, system_and_tools)
    if problem is not None:
        return turns, f"`{name}`: {problem}"

    # last, so that the row's system prompt and tools are looked at as well
    for turn in turns:
        for text in turn.values():
            problem = surrogate_problem(text, name)
            if problem is not None:
                return turns, problem
    return turns, None


def _turns_in_text(text: str, *, is_strict: bool) -> tuple[Any, str | None]:
    """Return the turns that were written into a text, or why they cannot be read.

    The text itself if it holds none.
    """
    # lists first: a turn of one may hold a template's markers, and is read as it stands
    turns, problem = serialised_turns(text)
    if turns is not None or problem is not None:
        return turns, problem
    if is_templated(text) or (is_strict and marker_of(text) is not None):
        return untemplated(text)
    return text, None


def checked_response(value: Any, name: str, rules: ReadingRules) -> tuple[str | Turns, str | None]:
    """Return a response and its problem.

    It is a text, or turns of which the last is the assistant's.
    """
    if not isinstance(value, list):
        return _checked_plain_response(value, name, rules)
    if not value:
        return [], f"`{name}` is an empty list"

    turns, problem = transcript_of(value, leave_out=rules.leave_out)
    problem = problem or problem_of_answer(turns)
    if problem is not None:
        return [], f"`{name}`: {problem}"
    last = turns[-1]
    if last["role"] != "assistant":
        return [], (
            f"`{name}`: its last turn is from the {last['role']}, but a response must be an "
            "assistant turn"
        )

    # a turn whose words all stand under keys that are left out holds no response
    says_more = any(not is_blank(value[-1].get(key)) for key in rules.leave_out)
    if says_more and is_blank(value[-1].get("content")):
        return [], (
            f"`{name}`: the response has no text once the rest is left out, and a candidate "
            "needs text"
        )
    return turns, surrogate_problem(last["content"], name)


def checked_response_text(value: Any, name: str, rules: ReadingRules) -> tuple[str, str | None]:
    """Return the text of a response, itself a text or the assistant's turn, and its problem."""
    if not isinstance(value, list | dict):
        return _checked_plain_response(value, name, rules)

    turns, problem = checked_response([value] if isinstance(value, dict) else value, name, rules)
    if problem is not None:
        return "", problem
    assert isinstance(turns, list)
    if len(turns) > 1:
        return "", (
            f"`{name}` is a conversation of {len(turns)} turns, but only the assistant's answer "
            "is allowed"
        )
    return turns[0]["content"], None


def _checked_plain_response(value: Any, name: str, rules: ReadingRules) -> tuple[str, str | None]:
    """Return a response that should be a text, and its problem.

    Nobody writes a list of turns as numpy prints it, and a policy would learn to write it.
    """
    text, problem = checked_text(value, name)
    if problem is None and not rules.prompts_are_text:
        _, problem = serialised_turns(text)
        if problem is not None:
            problem = f"`{name}`: {problem}"
    return text, problem


def unwrapped_responses(values: Sequence[Any], rules: ReadingRules) -> list[Any]:
    """Return responses; as turns if every text of the file is a list of turns."""
    if rules.prompts_are_text or not all_serialised([values]):
        return list(values)
    return list(map(turns_or_value, values))
