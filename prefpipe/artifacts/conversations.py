"""Rules for a conversation, in one place: text or turns in, checked turns out, problems named.

A turn is a role and a text. Anything else in a turn belongs to one of three classes:

- tool calls, and the fields that link a tool's turn to its call, are kept, see
  `prefpipe.artifacts.tool_calls`;
- other keys that a chat template reads (thoughts, pictures) are refused by name, because a
conversation without them is a different conversation; - every other key is left out, and readers
report in how many rows.
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
NOT_CARRIED = "and prefpipe reads only text"
NOT_CARRIED_NAME = re.compile(rf"`(?:body\.)?(\w+)`[^`]*{NOT_CARRIED}")
ENDS_WITH_USER = "a prompt must end with a user turn"
OTHER_SYSTEM = "has a different system turn here than at"
SYSTEM_OF_TURNS = "the row has one system prompt in a column and a different one in its turns"
LEAVE_OUT = "--leave-out"
TEXTS_FLAG = "--prompts-are-text"


class ReadingRules(NamedTuple):
    """The user's options for a file's conversations.

    ``prompts_are_text``: a text that looks like a templated or serialised conversation is a text
    anyway. ``leave_out``: keys of turns, and columns beside them, that are knowingly not part
    of the conversation. ``on_duplicate``: what several scores of one response come to: ``mean``,
    ``first`` or ``refuse``; None is the format's own rule. ``continue_final_message``: a last turn
    of the assistant's is the beginning of the answer, and no answer that is there by mistake.
    """

    prompts_are_text: bool = False
    leave_out: Collection[str] = ()
    on_duplicate: str | None = None
    continue_final_message: bool = False


DEFAULT_RULES = ReadingRules()


def turns_of(
    value: Any, *, leave_out: Collection[str] = (), may_be_begun: bool = False
) -> tuple[Turns, str | None]:
    """Return a prompt's turns and, if it cannot be used, its problem.

    Args:
        value: a text (one user turn) or a sequence of ``{"role", "content"}``.
        leave_out: keys of turns that are left out although chat templates read them.
        may_be_begun: whether the last turn may be the beginning of the answer.
    """
    if isinstance(value, str):
        problem = None if value.strip() else "the prompt is empty"
        return [{"role": "user", "content": value}], problem

    turns, problem = transcript_of(value, leave_out=leave_out)
    return turns, problem or _problem(turns, may_be_begun=may_be_begun)


def transcript_of(value: Any, *, leave_out: Collection[str] = ()) -> tuple[Turns, str | None]:
    """Return the turns of a conversation, whoever speaks last, and the problem of one of them.

    Args:
        value: a sequence of ``{"role", "content"}``.
        leave_out: keys of turns that are left out although chat templates read them.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [], "it needs text in `prompt` or a list of turns in `messages`"

    turns: Turns = []
    for number, turn in enumerate(value):
        read, problem = _turn_of(turn, leave_out)
        if problem is not None:
            return [], f"turn {number} {problem}"
        turns.append(read)
    return turns, None


def _turn_of(turn: Any, leave_out: Collection[str]) -> tuple[dict[str, str], str | None]:
    """Return a turn's role and text, with its tool calls, and its problem."""
    if not isinstance(turn, Mapping):
        return {}, "needs `role` and `content`"

    carried = carried_keys(turn)
    # first, for it says more: a turn of nothing but pictures or calls may lack a content as well
    problem = problem_of_keys(turn, {*leave_out, *carried})
    if problem is not None:
        return {}, problem

    kept = [key for key in carried if key not in leave_out]
    may_lack_content = bool(leave_out) or CALLS in kept
    if "role" not in turn or not ("content" in turn or may_lack_content):
        is_sharegpt = {"from", "value"} <= turn.keys()
        note = " (it has `from` and `value`, ShareGPT's names)" if is_sharegpt else ""
        return {}, f"needs `role` and `content`{note}"
    role = turn["role"]
    problem = _problem_of_role(role)
    if problem is not None:
        return {}, problem

    content, problem = content_text(turn.get("content"))
    # a turn may be nothing but its call, or nothing but what is left out
    if is_blank(turn.get("content")):
        is_left_out = any(not is_blank(turn.get(key)) for key in leave_out)
        if CALLS in kept or is_left_out:
            content, problem = "", None

    read = {"role": role, "content": content or ""}
    for key in kept:
        text, flaw = checked_calls(turn[key]) if key == CALLS else _text_of(turn[key], key)
        problem = problem or flaw
        read[key] = text or ""
    return read, problem


def _problem_of_role(role: Any) -> str | None:
    if role in (*ROLES, TOOL):
        return None
    if role in TOOL_ROLES:
        return f"has role {role!r}: tool results need the role {TOOL!r}"
    return f"has role {role!r}; roles are {', '.join(ROLES)}"


def carried_keys(turn: Mapping[str, Any]) -> list[str]:
    """Return the keys beside role and content that belong to the conversation and say something."""
    keys = {"assistant": (CALLS,), TOOL: KEYS_OF_TOOL_TURNS}.get(str(turn.get("role")), ())
    return [key for key in keys if not is_blank(turn.get(key))]


def _text_of(value: Any, key: str) -> tuple[str | None, str | None]:
    if isinstance(value, str):
        return value, None
    return None, f"has a `{key}` that is not text: {value!r:.60}"


def problem_of_keys(turn: Mapping[str, Any], leave_out: Collection[str] = ()) -> str | None:
    """Return why a turn holds more than its text.

    It has a key that chat templates read and that the user did not leave out.
    """
    for key, what in MEANT_FOR_TEMPLATES.items():
        if key not in leave_out and not is_blank(turn.get(key)):
            return f"holds {what} (`{key}`), {NOT_CARRIED}"
    return None


def problem_of_answer(turns: Turns) -> str | None:
    """Return why the last of checked turns is not a response.

    A response is text; a tool call is not.
    """
    if not turns or CALLS not in turns[-1]:
        return None
    held = f"{MEANT_FOR_TEMPLATES[CALLS]} (`{CALLS}`)"
    return f"turn {len(turns) - 1} holds {held}, {NOT_CARRIED} in responses"


def content_text(content: Any) -> tuple[str | None, str | None]:
    """Return a content as one text, None if there is none, and its problem.

    The text parts of a list are joined as they are, which is what chat templates do with them.
    """
    if isinstance(content, str):
        return content, None
    if not isinstance(content, Sequence) or not content:
        return None, "has content that is not text"

    texts: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            kind = type(part).__name__
            return None, f"has content that is not text (a part of type {kind!r})"
        kind = part.get("type", "text")
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            return None, f"has content that is not text (a part of type {kind!r})"
        texts.append(part["text"])
    return "".join(texts), None


def _problem(turns: Turns, *, may_be_begun: bool) -> str | None:
    """Return why turns are not a prompt."""
    if not any(turn["role"] == "user" for turn in turns):
        return "it has no user turn"
    last = turns[-1]
    if last["role"] == "assistant" and may_be_begun:
        if CALLS in last:
            return f"its last turn calls a tool (`{CALLS}`), and text cannot follow a call"
        if not last["content"].strip():
            return "its last turn is an empty assistant turn: there is nothing to continue"
    elif last["role"] not in ("user", TOOL):
        return f"its last turn is from the {last['role']}, and {ENDS_WITH_USER}"
    if last["role"] == "user" and not last["content"].strip():
        return "its last user turn is empty"
    if any(turn["role"] == "system" for turn in turns[1:]):
        return "a system turn is not the first turn"
    for number, turn in enumerate(turns):
        if turn["role"] == TOOL and not any(CALLS in before for before in turns[:number]):
            return f"turn {number} has role {TOOL!r}, but no earlier turn calls a tool (`{CALLS}`)"
    return None


def with_system(turns: Turns, system: str | None) -> tuple[Turns, str | None]:
    """Return turns that begin with a system turn, and a problem if they have another."""
    if not system:
        return turns, None
    first = {"role": "system", "content": system}
    if not turns or turns[0]["role"] != "system":
        return [first, *turns], None
    if turns[0] == first:
        return turns, None
    return turns, SYSTEM_OF_TURNS


def is_blank(value: Any) -> bool:
    """Return whether a value says nothing: null, an empty text or object, or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_blank, value))
    return value is None or (isinstance(value, (str, Mapping)) and not value)


def keys_left_out(value: Any, leave_out: Collection[str] = ()) -> set[str]:
    """Return the keys that `transcript_of` leaves out and that say something.

    They are keys of a conversation's turns, and of the parts of their contents.

    Args:
        value: what the file holds.
        leave_out: as `transcript_of` was given it.
    """
    turns = [value] if isinstance(value, Mapping) else value
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        return set()

    keys: set[str] = set()
    for turn in turns:
        if not isinstance(turn, Mapping) or "role" not in turn:
            continue
        carried = {key for key in carried_keys(turn) if key not in leave_out}
        keys |= _telling_keys(turn) - carried - {"role", "content"}

        parts = turn.get("content")
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, Mapping):
                keys |= {f"content.{key}" for key in _telling_keys(part) - {"type", "text"}}
    return keys


def _telling_keys(value: Mapping[str, Any]) -> set[str]:
    """Return the keys of an object that say something."""
    return {key for key, held in value.items() if not is_blank(held)}


def hint_for(sentences: Sequence[str], otherwise: str) -> str:
    """Return the hint for problems of conversations.

    It names the flag that reads the file anyway, if any.
    """
    names: dict[str, None] = {}
    for sentence in sentences:
        names |= dict.fromkeys(NOT_CARRIED_NAME.findall(sentence))
    if names:
        flags = " ".join(f"{LEAVE_OUT} {name}" for name in names)
        return f"remove these rows, or read only their text with {flags}"

    if _any_holds(sentences, OTHER_SYSTEM, SYSTEM_OF_TURNS):
        return (
            "a prompt has one system turn; if the column is something else, leave it out of the "
            f"conversation with {LEAVE_OUT} system, or say what it is, such as --model-column "
            "system"
        )
    if _any_holds(sentences, "chat template", "written as text"):
        return (
            "put the turns into the file (`messages`, or a list of role and content in "
            "`prompt`); or, if these texts are what the user says, read them unchanged with "
            f"{TEXTS_FLAG}"
        )
    return otherwise


def _any_holds(sentences: Sequence[str], *phrases: str) -> bool:
    return any(phrase in sentence for sentence in sentences for phrase in phrases)
