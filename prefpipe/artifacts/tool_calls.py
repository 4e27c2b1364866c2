"""Tools and tool calls of a prompt: checked, held in its turns, and stored beside them.

A turn maps names to texts: ``role`` and ``content``, and in some conversations more. ``tool_calls``
of an assistant's turn is the JSON of its calls; ``tool_call_id`` and ``name`` of a tool's turn say
what it answers; ``tools`` of the prompt's last turn is the JSON of what the model may call. So code
that passes turns on also passes these on, and conversations that differ in them are different.
`prefpipe.text.tool_turns` turns them into what chat templates and servers take.

In an artifact the column ``messages`` holds only role and content, for every reader. The full turns
are beside it, in the column `TEMPLATE_INPUT`, which an artifact has only if one of its prompts
needs it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefpipe.artifacts.tables.strict_json import parse_json
from prefpipe.errors import CorruptPartError, InputError

if TYPE_CHECKING:  # the command line reads conversations' names from here, and must not load Arrow
    import pyarrow as pa

TEMPLATE_INPUT = "template_input"
"""Column of candidates and groups: JSON of the prompt's turns with their calls, and of its tools.

Null without any.
"""
CALLS, TOOLS = "tool_calls", "tools"
KEYS_OF_TOOL_TURNS = ("tool_call_id", "name")
PLAIN_KEYS = {"role", "content"}


def checked_calls(value: Any) -> tuple[str | None, str | None]:
    """Return the calls of a turn as JSON text, and their problem, if any.

    Arguments that are JSON text, as OpenAI writes them, become the object that chat templates
    expect.

    Args:
        value: a list of calls as OpenAI or transformers write them, or its JSON.
    """
    calls, problem = _parsed(value, CALLS)
    if problem is not None:
        return None, problem
    if not isinstance(calls, list) or not calls:
        return None, f"has `{CALLS}` that are not a list of calls: {calls!r:.60}"

    checked = []
    for number, call in enumerate(calls):
        read, problem = _call(call)
        if problem is not None:
            return None, f"has a call that cannot be used (`{CALLS}[{number}]`): {problem}"
        checked.append(read)
    return _json_text(checked, CALLS)


def _call(call: Any) -> tuple[dict[str, Any], str | None]:
    """Return a call with its name and arguments under ``function``, and its problem, if any."""
    if not isinstance(call, Mapping):
        return {}, f"it is {call!r:.60}, which is not an object"
    # tables give each object of a column the keys of all, with nulls for what it has not
    outer = _without_nulls(call)
    if outer.get("type", "function") != "function":
        return {}, f"it is of type {outer['type']!r}, and only function calls are supported"

    # name and arguments may be in the call itself
    if "function" in outer:
        function = outer["function"]
    else:
        function = {key: outer.pop(key) for key in ("name", "arguments") if key in outer}
        outer = {"type": "function", **outer}
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        return {}, "it names no function"

    arguments, problem = _arguments(function.get("arguments"))
    if problem is not None:
        return {}, f"the arguments of {name!r} are {problem}"
    return {**outer, "function": {**_without_nulls(function), "arguments": arguments}}, None


def _arguments(value: Any) -> tuple[dict[str, Any], str | None]:
    """Return the arguments of a call as an object, and their problem, if any."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}, None
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            return {}, f"not JSON ({error})"
    if not isinstance(value, Mapping):
        return {}, f"{value!r:.60}, which is not an object"
    return dict(value), None


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: held for key, held in value.items() if held is not None}


def checked_tools(value: Any) -> tuple[str | None, str | None]:
    """Return the tools of a row as JSON text, and their problem, if any.

    Args:
        value: a list of JSON schemas, each bare or under ``function``, or its JSON.
    """
    tools, problem = _parsed(value, TOOLS)
    if problem is not None:
        return None, f"the row {problem}"
    if not isinstance(tools, list):
        return None, f"`{TOOLS}` is {tools!r:.60}, which is not a list of tools"

    for number, tool in enumerate(tools):
        if name_of_tool(tool) is None:
            return None, f"`{TOOLS}[{number}]` is {tool!r:.60}, which names no function"
    return _json_text(tools, TOOLS)


def name_of_tool(tool: Any) -> str | None:
    """Return the name of a tool, None if it has none."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) and name else None


def _parsed(value: Any, name: str) -> tuple[Any, str | None]:
    if not isinstance(value, str):
        return value, None
    try:
        return parse_json(value), None
    except ValueError as error:
        return None, f"has `{name}` that are not JSON ({error})"


def _json_text(value: Any, name: str) -> tuple[str | None, str | None]:
    try:
        return _dumped(value), None
    except (TypeError, ValueError) as error:
        return None, f"has `{name}` that JSON cannot hold ({error})"


def _dumped(value: Any) -> str:
    """Return JSON whose keys keep their order, which templates write."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def holds_tools(turns: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a conversation holds more than roles and contents."""
    return any(turn.keys() - PLAIN_KEYS for turn in turns)


def template_input_of(turns: Sequence[Mapping[str, str]]) -> str | None:
    """Return the value of the column `TEMPLATE_INPUT`.

    None for a conversation of only roles and contents.
    """
    if not holds_tools(turns):
        return None
    messages, tools = messages_and_tools(turns)
    return _dumped({"messages": messages, TOOLS: tools})


def messages_and_tools(
    turns: Sequence[Mapping[str, str]],
) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return turns with their calls as objects, and the tools."""
    messages: list[dict[str, Any]] = []
    tools = None
    for turn in turns:
        message: dict[str, Any] = dict(turn)
        if TOOLS in message:
            tools = json.loads(message.pop(TOOLS))
        if CALLS in message:
            message[CALLS] = json.loads(message[CALLS])
        messages.append(message)
    return messages, tools


def refuse_tools(
    turns: Sequence[Mapping[str, str]], prompt_id: str, written: str, *, hint: str
) -> None:
    """Refuse to write a conversation where its tools and tool calls have no place.

    Args:
        turns: the conversation.
        prompt_id: for messages.
        written: what is written, such as a format's name.
        hint: the way through.

    Raises:
        InputError: it has tools or tool calls.
    """
    names: set[str] = set()
    for turn in turns:
        names |= turn.keys() - PLAIN_KEYS
    if names:
        shown = ", ".join(f"`{name}`" for name in sorted(names))
        raise InputError(f"prompt {prompt_id} has {shown}, which {written} omits", hint=hint)


def with_template_input(turns: Sequence[Mapping[str, str]], text: str) -> list[dict[str, str]]:
    """Return the turns of a row with the additions of its `TEMPLATE_INPUT`.

    Raises:
        CorruptPartError: it is not what prefpipe writes, or is of other turns.
    """
    try:
        read = parse_json(text)
        whole = [_turn(turn) for turn in read["messages"]]
        if read[TOOLS]:
            whole[-1][TOOLS] = _dumped(read[TOOLS])
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise _corrupt(f"is not what prefpipe writes ({type(error).__name__}: {error})") from error
    if _plain_turns(whole) != _plain_turns(turns):
        raise _corrupt("does not match the turns of `messages`")
    return whole


def _plain_turns(turns: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in turns]


def _turn(message: Mapping[str, Any]) -> dict[str, str]:
    """Return a turn of texts from an entry of `TEMPLATE_INPUT`."""
    turn = {key: _dumped(held) if key == CALLS else held for key, held in message.items()}
    if not PLAIN_KEYS <= turn.keys() <= {*PLAIN_KEYS, CALLS, *KEYS_OF_TOOL_TURNS}:
        raise ValueError(f"a turn with {', '.join(turn)}")
    if not all(isinstance(held, str) for held in turn.values()):
        raise ValueError("a turn that holds something else than text")
    return turn


def _corrupt(what: str) -> CorruptPartError:
    return CorruptPartError(
        f"the column `{TEMPLATE_INPUT}` of a part {what}",
        hint="make the artifact again; a column of that name in a user's file needs another name",
    )


def rows_of(table: "pa.Table") -> list[dict[str, Any]]:
    """Return a table's rows as Python values, their ``messages`` with tools and tool calls.

    Raises:
        CorruptPartError: as `with_template_input`.
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    if TEMPLATE_INPUT not in table.column_names or "messages" not in table.column_names:
        return rows
    for row in rows:
        text = row.pop(TEMPLATE_INPUT)
        if text is not None:
            row["messages"] = with_template_input(row["messages"], text)
    return rows
