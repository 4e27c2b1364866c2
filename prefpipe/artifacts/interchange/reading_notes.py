"""Notes for the user on how the conversations of a file were read, with numbers of rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from prefpipe.artifacts.conversations import (
    DEFAULT_RULES,
    TEXTS_FLAG,
    ReadingRules,
    keys_left_out,
)
from prefpipe.artifacts.interchange.serialised_turns import all_serialised, serialised_turns
from prefpipe.artifacts.interchange.templated_prompts import is_templated


def notes_of_keys_left_out(
    columns: Mapping[str, Sequence[Any]], rules: ReadingRules = DEFAULT_RULES
) -> list[str]:
    """Return notes on keys of turns that are left out, and on turns whose text is a conversation.

    Args:
        columns: the values of each column that can hold turns.
        rules: the user's options for the file's conversations.
    """
    counts: Counter[str] = Counter()
    n_templated = 0
    for row in zip(*columns.values(), strict=True):
        keys: set[str] = set()
        for value in row:
            keys |= keys_left_out(value, rules.leave_out)
        counts.update(keys)
        n_templated += any(map(_holds_templated_turn, row))

    notes = []
    if n_templated:
        notes.append(
            "user turns that look like templated conversations and are read unchanged: "
            f"{_rows(n_templated)}"
        )
    if counts:
        shown = ", ".join(f"`{key}` ({_rows(count)})" for key, count in sorted(counts.items()))
        notes.append(f"keys of turns that are left out of the conversations: {shown}")
    return notes


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count > 1 else ''}"


def _holds_templated_turn(value: Any) -> bool:
    """Return whether a list of turns has one of the user's that went through a chat template."""
    if not isinstance(value, list):
        return False
    for turn in value:
        if not isinstance(turn, Mapping) or turn.get("role") != "user":
            continue
        content = turn.get("content")
        if isinstance(content, str) and is_templated(content):
            return True
    return False


def notes_of_texts_read_back(
    prompts: Sequence[Any], rules: ReadingRules, responses: Sequence[Sequence[Any]] = ()
) -> list[str]:
    """Return how many texts were conversations, by a template or as a list, and were read as turns.

    Args:
        prompts: the values of the column of prompts.
        rules: the user's options for the file's conversations.
        responses: the values of the columns of responses.
    """
    if rules.prompts_are_text:
        return []

    n_prompts = 0
    # rows often repeat their prompt: each text is looked at once
    for text, count in Counter(value for value in prompts if isinstance(value, str)).items():
        if is_templated(text) or serialised_turns(text)[0] is not None:
            n_prompts += count

    read_as_turns = []
    if n_prompts:
        read_as_turns.append(f"the prompts of {n_prompts:,} rows")
    are_turns = all_serialised(responses)
    if are_turns:
        read_as_turns.append("the responses of all rows")
    notes = []
    if read_as_turns:
        notes.append(
            f"{' and '.join(read_as_turns)} are conversations written as text and are read as "
            f"turns (pass {TEXTS_FLAG} to read them unchanged)"
        )
    if not are_turns:
        notes += _notes_of_serialised_responses(responses)
    return notes


def _notes_of_serialised_responses(responses: Sequence[Sequence[Any]]) -> list[str]:
    """Return how many responses are lists of turns in a text.

    They stay texts because others of the file are none.
    """
    texts = [value for value in chain.from_iterable(responses) if isinstance(value, str)]
    n_lists = sum(serialised_turns(text)[0] is not None for text in texts)
    if not n_lists:
        return []
    note = (
        "responses that are lists of turns written as text, and stay text because others are "
        f"not: {n_lists:,} of {len(texts):,}"
    )
    return [note]
