"""What counts as a prompt."""

from typing import Any

import pytest

from prefpipe.artifacts.conversations import turns_of


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


def test_keys_beside_role_and_content_are_left_out() -> None:
    assert turns_of([turn("user") | {"name": "me"}]) == ([turn("user")], None)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "the prompt is empty"),
        (" \n\t\u3000", "the prompt is empty"),
        (None, "it needs a text in `prompt` or a list of turns in `messages`"),
        (5, "it needs a text in `prompt` or a list of turns in `messages`"),
        ({"role": "user", "content": "q"}, "it needs a text in `prompt` or a list of turns in `messages`"),
        ([], "it has no user turn"),
        ([turn("system")], "it has no user turn"),
        ([turn("assistant")], "it has no user turn"),
        (["q"], "turn 0 needs `role` and `content`"),
        ([turn("user"), {"role": "assistant"}], "turn 1 needs `role` and `content`"),
        ([turn("tool")], "turn 0 has role 'tool': results of tools are not carried, roles are system, user, assistant"),
        ([turn("user", None)], "turn 0 has content that is no text"),
        ([turn("user", [{"type": "image"}])], "turn 0 has content that is no text (a part of type 'image')"),
        ([turn("user"), turn("assistant")], "its last turn is from the assistant, and a prompt ends with the user"),
        ([turn("user"), turn("user", " ")], "its last user turn is empty"),
        ([turn("user"), turn("system"), turn("user")], "a system turn stands after the first place"),
    ],
)
def test_what_is_wrong_is_said_in_words(value: Any, problem: str) -> None:
    assert turns_of(value)[1] == problem
