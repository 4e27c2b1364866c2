"""Turns with tools and tool calls, for chat templates, servers and human readers.

A turn maps names to texts, see `prefpipe.artifacts.tool_calls`: its calls are JSON, and so are the
tools, which are in the prompt's last turn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CALLS, TOOLS = "tool_calls", "tools"
NO_TOOLS = "drop the tools with --leave-out tools"
NO_ROWS = "remove these rows"
NO_CALLS = "remove these rows, or drop the calls with --leave-out tool_calls"
Turn = Mapping[str, Any]


def for_template(turns: Sequence[Turn]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return turns and tools for a chat template: a call's arguments are an object."""
    tools: list[Any] | None = None
    messages = []
    for turn in turns:
        message = dict(turn)
        if isinstance(message.get(TOOLS), str):
            tools = json.loads(message.pop(TOOLS))
        if isinstance(message.get(CALLS), str):
            message[CALLS] = json.loads(message[CALLS])
        messages.append(message)
    return messages, tools


def for_server(turns: Sequence[Turn]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return turns and tools for OpenAI's protocol: a call's arguments are JSON text."""
    messages, tools = for_template(turns)
    for message in messages:
        if CALLS in message:
            message[CALLS] = [_server_call(call) for call in message[CALLS]]
    if tools is not None:
        tools = [
            tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
        ]
    return messages, tools


def _server_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def holds_tools(turns: Sequence[Turn]) -> bool:
    """Return whether a conversation holds tools, calls of them, or their results."""
    return any(CALLS in turn or TOOLS in turn or turn["role"] == "tool" for turn in turns)


class Omission(NamedTuple):
    """A conversation without one thing.

    ``what`` names it, and ``way_out`` is the hint for users who can do without it.
    """

    what: str
    way_out: str
    turns: list[dict[str, Any]]
    tools: list[Any] | None


def without_each(
    turns: Sequence[dict[str, Any]], tools: Sequence[Any] | None
) -> Iterator[Omission]:
    """Yield the conversation without each of its tools, calls, arguments and results.

    A template that writes all of them gives a different text for each.

    Args:
        turns: as `for_template` returns them.
        tools: the same.
    """
    whole, tools = list(turns), list(tools or ())
    yield from _without_each_tool(whole, tools)

    # Results without their calls are not a valid conversation and are refused.
    way_out = NO_ROWS if any(turn["role"] == "tool" for turn in whole) else NO_CALLS
    for number, turn in enumerate(whole):
        calls = turn.get(CALLS, [])
        for place, call in enumerate(calls):
            what = f"the call of {call['function']['name']!r} in turn {number}"
            others = calls[:place] + calls[place + 1 :]
            yield Omission(what, way_out, _with(whole, number, CALLS, others), tools)

            if call["function"]["arguments"]:
                bare = call | {"function": call["function"] | {"arguments": {}}}
                changed = _with(whole, number, CALLS, _replaced(calls, place, bare))
                yield Omission(f"the arguments of {what}", way_out, changed, tools)

        if turn["role"] == "tool":
            # Changed, not removed: a template may refuse a call without a result.
            what = f"the result of a tool in turn {number}"
            changed = _with(whole, number, "content", f"{turn['content']}.")
            yield Omission(what, NO_ROWS, changed, tools)


def _without_each_tool(turns: list[dict[str, Any]], tools: list[Any]) -> Iterator[Omission]:
    for place, tool in enumerate(tools):
        function = tool.get("function", tool)
        name = f"the tool {function['name']!r}"
        yield Omission(name, NO_TOOLS, turns, tools[:place] + tools[place + 1 :])

        if function.get("parameters"):
            bare = function | {"parameters": {}}
            changed = tool | {"function": bare} if "function" in tool else bare
            others = _replaced(tools, place, changed)
            yield Omission(f"the parameters of {name}", NO_TOOLS, turns, others)


def _replaced(items: Sequence[Any], place: int, item: Any) -> list[Any]:
    return [*items[:place], item, *items[place + 1 :]]


def _with(
    turns: Sequence[dict[str, Any]], number: int, key: str, value: Any
) -> list[dict[str, Any]]:
    """Return turns with one value changed; a turn without calls has no such key."""
    changed = {name: held for name, held in turns[number].items() if name != key}
    if value or key != CALLS:
        changed[key] = value
    return _replaced(turns, number, changed)


def readable_turns(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Return a role and a text for each turn: calls are JSON, tools come before all turns."""
    tools = [("tools", str(turn[TOOLS])) for turn in turns if TOOLS in turn]
    readable = []
    for turn in turns:
        texts = []
        # A turn of only calls has no text, not even an empty one.
        if turn["content"] or CALLS not in turn:
            texts.append(str(turn["content"]))
        if CALLS in turn:
            texts.append(f"{CALLS}: {turn[CALLS]}")
        readable.append((str(turn["role"]), "\n".join(texts)))
    return tools + readable
