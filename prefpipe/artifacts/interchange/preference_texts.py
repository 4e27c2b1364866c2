"""The prompt and the responses of a preference row, however its columns split them.

The prompt is in its own column, or every response is the whole conversation.
"""

from collections.abc import Sequence
from typing import Any

from prefpipe.artifacts.conversations import DEFAULT_RULES, ReadingRules, Turns
from prefpipe.artifacts.interchange.checked_values import parsed_json
from prefpipe.artifacts.interchange.conversation_columns import checked_prompt, checked_response
from prefpipe.artifacts.interchange.row_problems import UnusableRowError, needed
from prefpipe.artifacts.interchange.serialised_turns import all_serialised, turns_or_value
from prefpipe.artifacts.interchange.system_and_tools import (
    NEITHER,
    SystemAndTools,
    with_system_and_tools,
)
from prefpipe.artifacts.interchange.templated_prompts import read_transcript
from prefpipe.artifacts.interchange.user_table import UserTable
from prefpipe.artifacts.tables.values import shortened


def unpacked_column(table: UserTable, name: str) -> list[Any]:
    """Return a column of texts and turns; turns that are in a CSV field as JSON are turns."""
    values = table.values_or_none(name)
    # every other kind of file can hold turns as turns, and a text there is a text
    if not table.source.lower().endswith((".csv", ".tsv")):
        return values
    return list(map(_turns_of_csv, values))


def _turns_of_csv(value: Any) -> Any:
    """Return turns that are in a CSV field, as JSON text, as turns; any other text stays one."""
    turns = parsed_json(value) if isinstance(value, str) else None
    if not isinstance(turns, list) or not turns:
        return value
    are_turns = all(isinstance(turn, dict) and "role" in turn for turn in turns)
    return turns if are_turns else value


def response_columns(
    table: UserTable, names: Sequence[str], rules: ReadingRules
) -> dict[str, list[Any]]:
    """Return the columns of responses, texts and turns.

    A response may be a list of turns in a text, and that is a text like any other. Where every
    response of the file is one, they are conversations that were written as text, and become turns
    again. So do whole conversations in hh-rlhf's layout, where the file has no column of prompts.
    """
    columns = {name: unpacked_column(table, name) for name in names}
    if rules.prompts_are_text:
        return columns

    if all_serialised(list(columns.values())):
        return {name: list(map(turns_or_value, values)) for name, values in columns.items()}
    if "prompt" not in table.names and all(map(_are_transcripts, columns.values())):
        return {name: list(map(_transcript_or_value, values)) for name, values in columns.items()}
    return columns


def _are_transcripts(values: Sequence[Any]) -> bool:
    """Return whether all responses of a column begin as hh-rlhf's conversations do."""
    texts = [value for value in values if value is not None]
    return all(isinstance(text, str) and text.startswith("\n\nHuman:") for text in texts)


def _transcript_or_value(value: Any) -> Any:
    if not value:
        return value
    return read_transcript(value) or value


def split_row(
    prompt: Any,
    responses: Sequence[Any],
    names: Sequence[str],
    *,
    rules: ReadingRules = DEFAULT_RULES,
    system_and_tools: SystemAndTools = NEITHER,
) -> tuple[Turns, list[str]]:
    """Return a row's prompt and its responses' texts.

    Args:
        prompt: text, turns, or None if the responses hold the whole conversation.
        responses: each a text, the assistant's turn in a list, or the whole conversation in a list.
        names: the responses' columns, for messages.
        rules: the user's options for the file's conversations.
        system_and_tools: of the row.

    Raises:
        UnusableRowError: what is wrong with the row.
    """
    if system_and_tools.problem is not None:
        raise UnusableRowError(system_and_tools.problem)

    checked = []
    for value, name in zip(responses, names, strict=True):
        turns_or_text = [value] if isinstance(value, dict) else value
        checked.append(needed(checked_response(turns_or_text, name, rules)))

    whole = [turns for turns in checked if isinstance(turns, list) and len(turns) > 1]
    if prompt is None and len(whole) < len(checked):
        raise UnusableRowError(
            f"there is no `prompt`, and `{names[0]}` is not the whole conversation, a list of turns"
        )
    if not whole:
        turns = needed(
            checked_prompt(prompt, "prompt", rules=rules, system_and_tools=system_and_tools)
        )
        return turns, list(map(_text_of, checked))
    if len(whole) < len(checked):
        raise UnusableRowError(
            f"one of {' and '.join(names)} is a whole conversation, but the other is not"
        )

    beginning = whole[0][:-1]
    if any(conversation[:-1] != beginning for conversation in whole):
        raise UnusableRowError(
            f"`{names[0]}` and `{names[-1]}` differ before their last turn, so they do not share "
            "one prompt"
        )
    turns = needed(checked_prompt(beginning, names[0]))
    if prompt is not None and not _is_beginning(prompt, turns, rules):
        raise UnusableRowError(f"`{names[0]}` does not begin with `prompt`: {shortened(prompt)}")
    # after the comparison: the column `prompt` does not hold the row's system prompt
    turns = needed(with_system_and_tools(turns, system_and_tools))
    return turns, [conversation[-1]["content"] for conversation in whole]


def _text_of(response: str | Turns) -> str:
    """Return the text of a response that is a text or the assistant's one turn."""
    return response if isinstance(response, str) else response[0]["content"]


def _is_beginning(prompt: Any, turns: Turns, rules: ReadingRules) -> bool:
    """Return whether a row's own prompt is its conversation's beginning.

    The same turns, or the text of a user turn of it.
    """
    if isinstance(prompt, str):
        # the H4 sets put the user's text alone there, whatever is before it
        texts = [turn["content"] for turn in turns if turn["role"] == "user"]
        if prompt in texts:
            return True
    prompt_turns, problem = checked_prompt(prompt, "prompt", rules=rules)
    return problem is None and prompt_turns == turns
