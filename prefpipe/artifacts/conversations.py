"""Rules for a prompt's messages, in one place: text or turns in, checked turns out, problems named."""

from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
Turns = list[dict[str, str]]


def turns_of(value: Any) -> tuple[Turns, str | None]:
    """Return a prompt's turns and, when it cannot be used, what is wrong with it.

    Args:
        value: a text (one user turn) or a sequence of ``{"role", "content"}``.
    """
    if isinstance(value, str):
        return ([{"role": "user", "content": value}], None if value.strip() else "the prompt is empty")
    if not isinstance(value, Sequence):
        return [], "it needs a text in `prompt` or a list of turns in `messages`"
    turns: Turns = []
    for number, turn in enumerate(value):
        if not isinstance(turn, Mapping) or not {"role", "content"} <= turn.keys():
            return [], f"turn {number} needs `role` and `content`"
        role, content = turn["role"], turn["content"]
        if role not in ROLES:
            return [], f"turn {number} has role {role!r}; roles are {', '.join(ROLES)}"
        if not isinstance(content, str):
            return [], f"turn {number} has content that is no text"
        turns.append({"role": role, "content": content})
    return turns, _problem(turns)


def _problem(turns: Turns) -> str | None:
    if not any(turn["role"] == "user" for turn in turns):
        return "it has no user turn"
    if turns[-1]["role"] != "user":
        return f"its last turn is from the {turns[-1]['role']}, and a prompt ends with the user"
    if not turns[-1]["content"].strip():
        return "its last user turn is empty"
    if any(turn["role"] == "system" for turn in turns[1:]):
        return "a system turn stands after the first place"
    return None
