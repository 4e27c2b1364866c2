"""Turns with tools and tool calls, as chat templates take them, as servers take them, and as people read them.

A turn maps names to texts, see `prefpipe.artifacts.tool_calls`: its calls are JSON, and so are the tools, which stand in the
prompt's last turn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CALLS, TOOLS = "tool_calls", "tools"
NO_TOOLS = "leave the tools out, knowingly, with --leave-out tools"
NO_ROWS = "take these rows out"
NO_CALLS = "take these rows out, or leave the calls out, knowingly, with --leave-out tool_calls"
Turn = Mapping[str, Any]


def for_template(turns: Sequence[Turn]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return turns and tools as a chat template takes them: the arguments of a call are an object."""
    tools: list[Any] | None = None
    found = []
    for turn in turns:
        told = dict(turn)
        if isinstance(told.get(TOOLS), str):
            tools = json.loads(told.pop(TOOLS))
        if isinstance(told.get(CALLS), str):
            told[CALLS] = json.loads(told[CALLS])
        found.append(told)
    return found, tools


def for_server(turns: Sequence[Turn]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return turns and tools as OpenAI's protocol takes them: the arguments of a call are JSON text."""
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


class Change(NamedTuple):
    """A conversation without one thing: what it is, the way through for whoever can do without it, turns and tools."""

    what: str
    flag: str
    turns: list[dict[str, Any]]
    tools: list[Any] | None


def without_each(turns: Sequence[dict[str, Any]], tools: Sequence[Any] | None) -> Iterator[Change]:
    """Yield the conversation without each of its tools, calls, arguments and results, as `for_template` returns them.

    A template that tells all of them writes another text of each.
    """
    whole, tools = list(turns), list(tools or ())
    for place, tool in enumerate(tools):
        function = tool.get("function", tool)
        yield Change(
            f"the tool {function['name']!r}", NO_TOOLS, whole, tools[:place] + tools[place + 1 :]
        )
        if function.get("parameters"):
            bare = function | {"parameters": {}}
            changed = tool | {"function": bare} if "function" in tool else bare
            what = f"the parameters of the tool {function['name']!r}"
            yield Change(what, NO_TOOLS, whole, [*tools[:place], changed, *tools[place + 1 :]])

    # results without their calls are no conversation, and are refused
    no_calls = NO_ROWS if any(turn["role"] == "tool" for turn in whole) else NO_CALLS
    for number, turn in enumerate(whole):
        calls = turn.get(CALLS, [])
        for place, call in enumerate(calls):
            what = f"the call of {call['function']['name']!r} in turn {number}"
            yield Change(
                what,
                no_calls,
                _with(whole, number, CALLS, calls[:place] + calls[place + 1 :]),
                tools,
            )
            if call["function"]["arguments"]:
                bare = call | {"function": call["function"] | {"arguments": {}}}
                changed = [*calls[:place], bare, *calls[place + 1 :]]
                yield Change(
                    f"the arguments of {what}",
                    no_calls,
                    _with(whole, number, CALLS, changed),
                    tools,
                )
        if turn["role"] == "tool":
            what = f"the result of a tool in turn {number}"
            yield Change(
                what, NO_ROWS, _with(whole, number, "content", f"{turn['content']}."), tools
            )


def _with(
    turns: Sequence[dict[str, Any]], number: int, key: str, value: Any
) -> list[dict[str, Any]]:
    """Return turns of which one has another value; a turn without calls has no such key."""
    changed = {name: held for name, held in turns[number].items() if name != key}
    if value or key != CALLS:
        changed[key] = value
    return [*turns[:number], changed, *turns[number + 1 :]]


def readable_turns(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Return a role and a text for each turn: calls are told as JSON, tools before all turns."""
    found = []
    for turn in turns:
        said = [str(turn["content"])] if turn["content"] or CALLS not in turn else []
        if CALLS in turn:
            said.append(f"{CALLS}: {turn[CALLS]}")
        found.append((str(turn["role"]), "\n".join(said)))
    tools = [("tools", str(turn[TOOLS])) for turn in turns if TOOLS in turn]
    return [*tools, *found]
