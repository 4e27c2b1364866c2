"""Prompts whose last turn begins the answer, and the answer joined with it.

A response is the text after the beginning. Raters and chat templates, which read the whole answer,
get both in one turn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.text.tool_turns import TOOLS

ASSISTANT = "assistant"
Turn = Mapping[str, Any]


def is_begun(turns: Sequence[Turn]) -> bool:
    """Return whether the last turn of a prompt is the beginning of the answer."""
    return bool(turns) and turns[-1]["role"] == ASSISTANT


def answered(turns: Sequence[Turn], response: str) -> list[Turn]:
    """Return a conversation with its answer as the last turn."""
    if is_begun(turns):
        last = turns[-1]
        return [*turns[:-1], {**last, "content": last["content"] + response}]
    return [*turns, {"role": ASSISTANT, "content": response}]


def with_whole_answer(turns: Sequence[Turn], response: str) -> tuple[list[Turn], str]:
    """Return the turns before the answer, and the answer with its beginning."""
    if not is_begun(turns):
        return list(turns), response

    before, last = list(turns[:-1]), turns[-1]
    # A prompt's tools are in its last turn.
    if TOOLS in last and before:
        before[-1] = {**before[-1], TOOLS: last[TOOLS]}
    return before, last["content"] + response
