"""The content of one choice of a chat completion.

The choice comes from a server while sampling, or from a line of a batch that is read later. Servers
differ in what they put into a message. Every form is read: as text, as separate thoughts, or as a
reason why there is no text. Halves of characters become U+FFFD, for no file holds them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prefpipe.surrogates import replace_lone_surrogates

THOUGHT_FIELDS = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "thinking_blocks",
    "reasoning_details",
)
"""Where servers put thoughts that they return apart.

Several of them hold the same text, so the first that is there counts.
"""
THOUGHT_PARTS = ("thinking", "reasoning", "redacted_thinking", "reasoning_content")
TEXT_PARTS = ("text", "output_text")
TEXT_KEYS = ("text", "thinking", "content", "summary")

ENDED_BY_ITSELF = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "end_of_turn")
ENDED_BY_LENGTH = ("length", "max_tokens", "max_length", "max_output_tokens", "model_length")
"""One fact as OpenAI, vLLM, SGLang, TGI, Anthropic, Mistral and Gemini call it, in any case."""


class NoCompletionError(ValueError):
    """What is no chat completion; where a server sent it, the next try may bring one."""


class Message(NamedTuple):
    """What a choice holds.

    ``text`` is None if the message has none, and ``problem`` says why what it has is no text.
    ``thoughts`` is what the server returned apart from the text, ``""`` where there are some that
    it does not show, None if there is none. ``tools`` are the names of the tools that it calls.
    """

    text: str | None
    problem: str | None
    thoughts: str | None
    refusal: str | None
    tools: tuple[str, ...]
    finish_reason: str | None

    @property
    def ending(self) -> str | None:
        """How the answer ended, ``stop`` or ``length``; None for everything that is neither."""
        word = (self.finish_reason or "").lower()
        if word in ENDED_BY_ITSELF:
            return "stop"
        if word in ENDED_BY_LENGTH:
            return "length"
        return None


class _Content(NamedTuple):
    """The content of a message by its kinds of parts, None for what it has not.

    ``problem`` says why it is no text.
    """

    text: str | None = None
    problem: str | None = None
    thoughts: str | None = None
    refusal: str | None = None


def read_choice(choice: Any) -> Message:
    """Return what a completion's choice holds.

    Raises:
        NoCompletionError: no message in it, or a message with neither words nor a reason why.
    """
    values = choice if isinstance(choice, Mapping) else {}
    message = values.get("message")
    if message is None and isinstance(values.get("text"), str):
        # as the older completions endpoint answers
        message = {"content": values["text"]}
    if not isinstance(message, Mapping):
        raise NoCompletionError(f"the answer holds no message: {shown(choice)}")

    content = _content(message.get("content"))
    finish_reason = values.get("finish_reason")
    if finish_reason is not None:
        finish_reason = replace_lone_surrogates(str(finish_reason))

    read = Message(
        text=content.text,
        problem=content.problem,
        thoughts=_thoughts(message) if content.thoughts is None else content.thoughts,
        refusal=_words(message.get("refusal")) or content.refusal,
        tools=_tools(message),
        finish_reason=finish_reason,
    )
    # a finish reason alone, such as `content_filter`, says why there is nothing
    is_without_words = read.text is None and read.problem is None and read.thoughts is None
    if is_without_words and not read.refusal and not read.tools and read.finish_reason is None:
        raise NoCompletionError("the answer holds no text, and no reason why")
    return read


def places_of_thoughts(choice: Any) -> set[str]:
    """Return where a choice holds thoughts: keys of its message, types of parts of its content."""
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping):
        return set()

    places = {name for name in THOUGHT_FIELDS if message.get(name)}
    content = message.get("content")
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, Mapping) and part.get("type") in THOUGHT_PARTS:
            places.add(f"content.{part['type']}")
    return places


def _content(content: Any) -> _Content:
    """Return what the content of a message holds.

    Some servers of reasoning models write it in parts: ``[{"type": "thinking", ...}, {"type":
    "text", ...}]``.
    """
    if content is None:
        return _Content()
    if isinstance(content, str):
        return _Content(replace_lone_surrogates(content))
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        return _Content(problem=f"the answer's content is {shown(content)}, which is no text")

    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in THOUGHT_PARTS:
            thoughts.append(_words(part) or "")
        elif kind == "refusal":
            refusals.append(_words(part.get("refusal")) or "without a reason")
        elif _is_text_part(part):
            texts.append(part["text"])
        else:
            return _Content(problem=f"the answer's content holds {shown(part)}, which is no text")

    return _Content(
        replace_lone_surrogates("".join(texts)),
        thoughts="\n".join(thoughts) if thoughts else None,
        refusal="\n".join(refusals) if refusals else None,
    )


def _is_text_part(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    return part.get("type") in (*TEXT_PARTS, None) and isinstance(part.get("text"), str)


def _thoughts(message: Mapping[str, Any]) -> str | None:
    """Return the thoughts beside a message's content.

    ``""`` where there are some that the server does not show, None if there is none.
    """
    is_there = False
    for name in THOUGHT_FIELDS:
        value = message.get(name)
        if not value:
            continue
        is_there = True
        words = _words(value)
        if words:
            return words
    return "" if is_there else None


def _words(value: Any, depth: int = 0) -> str | None:
    """Return what a value of any shape says, None if nothing: a text, or the texts of its parts."""
    if isinstance(value, str):
        return replace_lone_surrogates(value) or None
    # without a bound, a value of absurd nesting would end in a RecursionError
    if value is None or isinstance(value, bool) or depth > 8:
        return None

    if isinstance(value, list):
        texts = [_words(item, depth + 1) for item in value]
        return "\n".join(text for text in texts if text is not None) or None

    if isinstance(value, Mapping):
        for key in TEXT_KEYS:
            words = _words(value.get(key), depth + 1)
            if words is not None:
                return words
        return None

    return str(value)[:200]


def _tools(message: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the tools that a message calls."""
    calls = message.get("tool_calls") or []
    if isinstance(calls, Mapping):
        calls = [calls]
    if not isinstance(calls, list):
        return (shown(calls),)
    # one call, as OpenAI's protocol had it before `tool_calls`
    if message.get("function_call"):
        calls = [*calls, {"function": message["function_call"]}]

    names = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        names.append(replace_lone_surrogates(name) if isinstance(name, str) else "without a name")
    return tuple(names)


def shown(value: Any) -> str:
    """Return a value as a message can show it, short and without halves of characters."""
    return repr(value)[:200]
