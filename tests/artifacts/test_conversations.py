"""What counts as a prompt."""

from typing import Any

import pytest

from prefpipe.artifacts.conversations import hint_for, keys_left_out, turns_of


def turn(role: str, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "turns",
    [
        [turn("user")],
        [turn("system"), turn("user")],
        [turn("user"), turn("assistant"), turn("user")],
        [turn("user"), turn("user")],
        [turn("system", ""), turn("user"), turn("assistant", ""), turn("user", "\0")],
    ],
)
def test_conversations_that_end_with_the_user_are_fine(turns: list[dict[str, Any]]) -> None:
    assert turns_of(turns) == (turns, None)
    assert turns_of(tuple(turns)) == (turns, None)


def test_a_text_is_one_user_turn() -> None:
    assert turns_of(" q ") == ([turn("user", " q ")], None)


def test_keys_beside_role_and_content_are_left_out_and_named() -> None:
    turns = [turn("user") | {"name": "me", "weight": None}, turn("user") | {"train": False}]
    assert turns_of(turns) == ([turn("user"), turn("user")], None)
    assert keys_left_out(turns) == {"name", "train"}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"function_call": {"name": "f", "arguments": "{}"}}, "function_call"),
        ({"reasoning_content": "I think"}, "reasoning_content"),
        ({"reasoning": "I think"}, "reasoning"),
        ({"thinking": "I think"}, "thinking"),
        ({"images": ["a.png"]}, "images"),
    ],
)
def test_what_a_chat_template_reads_is_refused_by_name_or_left_out_knowingly(
    more: dict[str, Any], key: str
) -> None:
    turns = [turn("user"), turn("assistant") | more, turn("user")]
    problem = turns_of(turns)[1]
    assert problem is not None
    assert problem.startswith("turn 1 holds ")
    assert problem.endswith(f"(`{key}`), and prefpipe reads only text")
    assert (
        hint_for([problem], "")
        == f"remove these rows, or read only their text with --leave-out {key}"
    )
    assert turns_of(turns, leave_out=[key]) == (
        [turn("user"), turn("assistant"), turn("user")],
        None,
    )
    assert keys_left_out(turns) == {key}


def test_calls_and_what_tools_returned_are_carried_or_left_out_knowingly() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"b": 1, "a": null}'}}
    turns = [
        turn("user"),
        turn("assistant", None) | {"tool_calls": [call]},
        turn("tool") | {"tool_call_id": "c", "name": "f"},
    ]
    carried = '[{"id":"c","function":{"name":"f","arguments":{"b":1,"a":null}}}]'
    expected = [
        turn("user"),
        turn("assistant", "") | {"tool_calls": carried},
        turn("tool") | {"tool_call_id": "c", "name": "f"},
    ]
    assert turns_of(turns) == (expected, None)
    assert turns_of(expected) == (expected, None), "what was read is read the same again"
    assert keys_left_out(turns) == set()

    known = [*turns[:2], turn("user")]
    assert turns_of(known, leave_out=["tool_calls"]) == (
        [turn("user"), turn("assistant", ""), turn("user")],
        None,
    )
    assert keys_left_out(known, ["tool_calls"]) == {"tool_calls"}


@pytest.mark.parametrize("blank", [None, "", [], {}, [None]])
def test_a_key_that_says_nothing_is_none(blank: Any) -> None:
    """Tables of turns pad every turn with the keys of all others."""
    turns = [
        turn("user"),
        turn("assistant") | {"tool_calls": blank, "reasoning_content": blank},
        turn("user"),
    ]
    assert turns_of(turns) == ([turn("user"), turn("assistant"), turn("user")], None)
    assert keys_left_out(turns) == set()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a lake"}], "a lake"),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "lake"}], "a lake"),
        (["a ", {"type": "input_text", "text": "lake"}], "a lake"),
        ([{"type": "text", "text": "a lake", "image_url": None}], "a lake"),
    ],
)
def test_text_parts_are_one_text(content: list[Any], text: str) -> None:
    assert turns_of([turn("user", content)]) == ([turn("user", text)], None)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"type": "input_audio", "input_audio": {}}, "input_audio"),
        ({"type": "thinking", "thinking": "hm"}, "thinking"),
        ({"type": "text", "text": None}, "text"),
    ],
)
def test_other_parts_are_refused_by_name(part: dict[str, Any], kind: str) -> None:
    parts = [{"type": "text", "text": "a"}, part]
    assert (
        turns_of([turn("user", parts)])[1]
        == f"turn 0 has content that is not text (a part of type {kind!r})"
    )


def test_sharegpt_names_are_named() -> None:
    assert turns_of([{"from": "human", "value": "q"}])[1] == (
        "turn 0 needs `role` and `content` (it has `from` and `value`, ShareGPT's names)"
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "the prompt is empty"),
        (" \n\t\u3000", "the prompt is empty"),
        (None, "it needs text in `prompt` or a list of turns in `messages`"),
        (5, "it needs text in `prompt` or a list of turns in `messages`"),
        (
            {"role": "user", "content": "q"},
            "it needs text in `prompt` or a list of turns in `messages`",
        ),
        ([], "it has no user turn"),
        ([turn("system")], "it has no user turn"),
        ([turn("assistant")], "it has no user turn"),
        (["q"], "turn 0 needs `role` and `content`"),
        ([turn("user"), {"role": "assistant"}], "turn 1 needs `role` and `content`"),
        ([turn("tool")], "it has no user turn"),
        (
            [turn("user"), turn("tool")],
            "turn 1 has role 'tool', but no earlier turn calls a tool (`tool_calls`)",
        ),
        (
            [turn("function")],
            "turn 0 has role 'function': tool results need the role 'tool'",
        ),
        ([turn("user", None)], "turn 0 has content that is not text"),
        (
            [turn("user", [{"type": "image"}])],
            "turn 0 has content that is not text (a part of type 'image')",
        ),
        (
            [turn("user"), turn("assistant")],
            "its last turn is from the assistant, and a prompt must end with a user turn",
        ),
        ([turn("user"), turn("user", " ")], "its last user turn is empty"),
        (
            [turn("user"), turn("system"), turn("user")],
            "a system turn is not the first turn",
        ),
    ],
)
def test_conversations_that_are_no_prompt_are_named(value: Any, problem: str) -> None:
    assert turns_of(value)[1] == problem
