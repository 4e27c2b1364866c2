"""Rules for a conversation, in one place: text or turns in, checked turns out, problems named.

A turn is a role and a text. What else a turn may hold is sorted in three: tool calls, and what says which call a tool's turn
answers, are carried, see `prefpipe.artifacts.tool_calls`; other keys that a chat template reads (thoughts, pictures) are refused
by name, because a conversation without them is another conversation; every other key is left out, and the readers count in how
many rows.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe.artifacts.tool_calls import CALLS, KEYS_OF_TOOL_TURNS, checked_calls

ROLES = ("system", "user", "assistant")
TOOL = "tool"
TOOL_ROLES = ("tool", "function", "ipython", "observation")
"""Roles under which the results of tools stand."""
Turns = list[dict[str, str]]

MEANT_FOR_TEMPLATES = {
    "tool_calls": "tool calls",
    "function_call": "a tool call",
    "tool_call_id": "a tool's result",
    "reasoning_content": "thoughts",
    "reasoning": "thoughts",
    "thinking": "thoughts",
    "images": "pictures",
    "image": "a picture",
    "audio": "sound",
    "videos": "films",
}
"""Keys of a turn that chat templates read, and what they hold."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of the parts of a content that are text."""
NOT_CARRIED = "and prefpipe carries texts alone"
NOT_CARRIED_NAME = re.compile(rf"`(?:body\.)?(\w+)`[^`]*{NOT_CARRIED}")
OTHER_SYSTEM = "has another system turn here than at"
SYSTEM_OF_TURNS = "the row has a system prompt in a column and another one in its turns"
LEAVE_OUT = "--leave-out"
TEXTS_FLAG = "--prompts-are-text"


class ReadingRules(NamedTuple):
    """What the user says about a file's conversations.

    ``prompts_are_text``: a text that looks like a templated or serialised conversation is a text all the same. ``leave_out``:
    keys of turns, and columns beside them, that are knowingly not part of the conversation. ``on_duplicate``: what several
    scores of one response come to: ``mean``, ``first`` or ``refuse``; None is the format's own rule.
    """

    prompts_are_text: bool = False
    leave_out: Collection[str] = ()
    on_duplicate: str | None = None


DEFAULT_RULES = ReadingRules()


def turns_of(value: Any, *, leave_out: Collection[str] = ()) -> tuple[Turns, str | None]:
    """Return a prompt's turns and, when it cannot be used, what is wrong with it.

    Args:
        value: a text (one user turn) or a sequence of ``{"role", "content"}``.
        leave_out: keys of turns that are left out although chat templates read them.
    """
    if isinstance(value, str):
        return [
            {"role": "user", "content": value}
        ], None if value.strip() else "the prompt is empty"

    turns, problem = transcript_of(value, leave_out=leave_out)
    return turns, problem or _problem(turns)


def transcript_of(value: Any, *, leave_out: Collection[str] = ()) -> tuple[Turns, str | None]:
    """Return the turns of a conversation, whoever speaks last, and what is wrong with one of them.

    Args:
        value: a sequence of ``{"role", "content"}``.
        leave_out: keys of turns that are left out although chat templates read them.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [], "it needs a text in `prompt` or a list of turns in `messages`"

    turns: Turns = []
    for number, turn in enumerate(value):
        read, problem = _turn_of(turn, leave_out)
        if problem is not None:
            return [], f"turn {number} {problem}"
        turns.append(read)
    return turns, None


def _turn_of(turn: Any, leave_out: Collection[str]) -> tuple[dict[str, str], str | None]:
    """Return a turn's role and text, with its tool calls, and what is wrong with it."""
    if not isinstance(turn, Mapping):
        return {}, "needs `role` and `content`"

    carried = carried_keys(turn)
    problem = problem_of_keys(turn, {*leave_out, *carried})
    if problem is not None:
        return {}, problem

    names = [key for key in carried if key not in leave_out]
    if "role" not in turn or not ("content" in turn or leave_out or CALLS in names):
        named_otherwise = (
            " (it has `from` and `value`, ShareGPT's names)"
            if {"from", "value"} <= turn.keys()
            else ""
        )
        return {}, f"needs `role` and `content`{named_otherwise}"

    role = turn["role"]
    if role in TOOL_ROLES and role != TOOL:
        return {}, f"has role {role!r}: results of tools are carried in turns of role {TOOL!r}"
    if role not in (*ROLES, TOOL):
        return {}, f"has role {role!r}; roles are {', '.join(ROLES)}"

    content, problem = content_text(turn.get("content"))
    has_no_words = is_blank(turn.get("content"))
    if has_no_words and (CALLS in names or any(not is_blank(turn.get(key)) for key in leave_out)):
        content, problem = "", None  # the call is what is said
    found = {"role": role, "content": content or ""}
    for name in names:
        text, flaw = checked_calls(turn[name]) if name == CALLS else _name(turn[name], name)
        problem = problem or flaw
        found[name] = text or ""
    return found, problem


def carried_keys(turn: Mapping[str, Any]) -> list[str]:
    """Return the keys of a turn beside role and content that belong to the conversation and say something."""
    keys = {"assistant": (CALLS,), TOOL: KEYS_OF_TOOL_TURNS}.get(str(turn.get("role")), ())
    return [key for key in keys if not is_blank(turn.get(key))]


def _name(value: Any, name: str) -> tuple[str | None, str | None]:
    return (
        (value, None)
        if isinstance(value, str)
        else (None, f"has a `{name}` that is no text: {value!r:.60}")
    )


def problem_of_keys(turn: Mapping[str, Any], leave_out: Collection[str] = ()) -> str | None:
    """Return why a turn is more than its text: a key that chat templates read, and that nobody said is to be left out."""
    for key, what in MEANT_FOR_TEMPLATES.items():
        if key not in leave_out and not is_blank(turn.get(key)):
            return f"holds {what} (`{key}`), {NOT_CARRIED}"
    return None


def problem_of_answer(turns: Turns) -> str | None:
    """Return why the last of checked turns is no response: a response is a text, and a call of a tool is none."""
    if turns and CALLS in turns[-1]:
        return f"turn {len(turns) - 1} holds {MEANT_FOR_TEMPLATES[CALLS]} (`{CALLS}`), {NOT_CARRIED} in responses"
    return None


def content_text(content: Any) -> tuple[str | None, str | None]:
    """Return a content as one text, None where there is none, and what is wrong with it.

    The text parts of a list are joined as they are, which is what chat templates do with them.
    """
    if isinstance(content, str):
        return content, None
    if not isinstance(content, Sequence) or not content:
        return None, "has content that is no text"

    texts: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if (
            kind not in TEXT_PARTS
            or not isinstance(part, Mapping)
            or not isinstance(part.get("text"), str)
        ):
            return None, f"has content that is no text (a part of type {kind!r})"
        texts.append(part["text"])
    return "".join(texts), None


def _problem(turns: Turns) -> str | None:
    """Return why turns are no prompt."""
    if not any(turn["role"] == "user" for turn in turns):
        return "it has no user turn"
    if turns[-1]["role"] not in ("user", TOOL):
        return f"its last turn is from the {turns[-1]['role']}, and a prompt ends with the user"
    if turns[-1]["role"] == "user" and not turns[-1]["content"].strip():
        return "its last user turn is empty"
    if any(turn["role"] == "system" for turn in turns[1:]):
        return "a system turn stands after the first place"
    for number, turn in enumerate(turns):
        if turn["role"] == TOOL and not any(CALLS in before for before in turns[:number]):
            return (
                f"turn {number} has role {TOOL!r}, and no turn before it calls a tool (`{CALLS}`)"
            )
    return None


def with_system(turns: Turns, system: str | None) -> tuple[Turns, str | None]:
    """Return turns that begin with a system turn, and what is wrong where they have another one already."""
    if not system:
        return turns, None
    first = {"role": "system", "content": system}
    if not turns or turns[0]["role"] != "system":
        return [first, *turns], None
    if turns[0] == first:
        return turns, None
    return turns, SYSTEM_OF_TURNS


def is_blank(value: Any) -> bool:
    """Return whether a key is there and says nothing: null, an empty text, list or object, or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_blank, value))
    return value is None or (isinstance(value, (str, Mapping)) and not value)


def keys_left_out(value: Any, leave_out: Collection[str] = ()) -> set[str]:
    """Return the keys of a conversation's turns, and of their parts, that `transcript_of` leaves out and that say something.

    Args:
        value: what the file holds.
        leave_out: as `transcript_of` was given it.
    """
    found: set[str] = set()
    turns = [value] if isinstance(value, Mapping) else value
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        return found

    for turn in turns:
        if not isinstance(turn, Mapping) or "role" not in turn:
            continue
        carried = {"role", "content", *(key for key in carried_keys(turn) if key not in leave_out)}
        found |= {key for key, held in turn.items() if key not in carried and not is_blank(held)}
        parts = turn.get("content")
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, Mapping):
                found |= {
                    f"content.{key}"
                    for key, held in part.items()
                    if key not in ("type", "text") and not is_blank(held)
                }
    return found


def hint_for(sentences: Sequence[str], otherwise: str) -> str:
    """Return the hint for problems of conversations: the flag that reads the file all the same, where there is one."""
    names = list(
        dict.fromkeys(name for sentence in sentences for name in NOT_CARRIED_NAME.findall(sentence))
    )
    if names:
        flags = " ".join(f"{LEAVE_OUT} {name}" for name in names)
        return f"take these rows out, or read the texts alone, knowingly, with {flags}"
    if any(OTHER_SYSTEM in sentence or SYSTEM_OF_TURNS in sentence for sentence in sentences):
        return (
            "a prompt has one system turn; where the column is something else, leave it out of the conversation with "
            f"{LEAVE_OUT} system, or name it, such as --model-column system"
        )
    if any("chat template" in sentence or "written as text" in sentence for sentence in sentences):
        return (
            "give the file the turns instead (`messages`, or a list of role and content in `prompt`), or, where these texts are "
            f"what the user says, read them as they stand with {TEXTS_FLAG}"
        )
    return otherwise
