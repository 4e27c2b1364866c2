"""Lists of turns that were written into a text, as JSON or as Python or numpy print them."""

import ast
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from prefpipe.artifacts.conversations import ROLES, TOOL_ROLES
from prefpipe.artifacts.tables.strict_json import RepeatedKeyError, parse_json

LIST_OF_TURNS = re.compile(
    r"""\A\s*(?:\[|array\(\[)\s*\{\s*['"](?:role|content|from|value)['"]\s*:"""
)
"""How such a list begins."""
KNOWN_ROLES = (*ROLES, *TOOL_ROLES, "developer")
SHAREGPT_NAMES = ("human", "gpt", "system", "user", "assistant", "tool")


def serialised_turns(text: str) -> tuple[list[Any] | None, str | None]:
    """Return the list of turns that is in a text, and why it cannot be read.

    Returns:
        The list and None; None and None if the text is no such list; None and a problem where it
        is one that cannot be read.
    """
    turns = parsed_text(text)
    if turns is None:
        looks_like_one = LIST_OF_TURNS.match(text) is not None
        # a list as numpy prints it ends as one; a text that quotes a list goes on behind it
        if looks_like_one and text.rstrip().endswith(("]", ")")):
            return None, "it is a list of turns written as text that cannot be read back"
        return None, None

    if isinstance(turns, dict):
        turns = [turns]
    if not turns or not all(isinstance(turn, dict) for turn in turns):
        return None, None
    if all(_is_turn(turn) for turn in turns):
        return turns, None
    if all(turn.get("from") in SHAREGPT_NAMES and "value" in turn for turn in turns):
        return None, (
            "it is a list of turns written as text, with `from` and `value` in place of `role` and "
            "`content`"
        )
    return None, None


def _is_turn(turn: dict[Any, Any]) -> bool:
    """Return whether an object is a turn.

    A text of one's own may hold objects that speak of other roles.
    """
    return turn.get("role") in KNOWN_ROLES and ("content" in turn or "tool_calls" in turn)


def parsed_text(text: str) -> Any:
    """Return the list or object that a text holds as JSON or as a Python literal, None for none."""
    # nearly every text ends here, and is not parsed
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "{}"):
        return None
    try:
        return parse_json(stripped)
    except RepeatedKeyError:
        return None  # as a literal of Python's, the last of the two would count in silence
    except ValueError:
        pass

    if LIST_OF_TURNS.match(stripped) is None and not stripped.startswith("{"):
        return None
    try:
        return ast.literal_eval(stripped)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def turns_or_value(value: Any) -> Any:
    """Return the turns that were written into a text; everything else as it is."""
    return serialised_turns(value)[0] if isinstance(value, str) else value


def all_serialised(columns: Sequence[Sequence[Any]]) -> bool:
    """Return whether every text of several columns is a list of turns that was written into it."""
    texts = [value for value in chain.from_iterable(columns) if isinstance(value, str)]
    return bool(texts) and all(serialised_turns(text)[0] is not None for text in texts)
