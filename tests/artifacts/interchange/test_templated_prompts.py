"""Templated prompts become the turns they were made of, or are refused: never one user turn with a template in it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment
from support.tiny_models import CHAT_TEMPLATE

from prefpipe.artifacts.interchange.serialised_turns import serialised_turns
from prefpipe.artifacts.interchange.templated_prompts import (
    begins_templated,
    is_templated,
    untemplated,
)

LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)
HUMAN = "{% for m in messages %}\n\n{{ 'Human' if m.role == 'user' else 'Assistant' }}: {{ m.content }}{% endfor %}\n\nAssistant:"
TEMPLATES = {"chatml": CHAT_TEMPLATE, "llama3": LLAMA3, "gemma": GEMMA, "human": HUMAN}


def render(name: str, messages: list[dict[str, str]]) -> str:
    return (
        Environment(keep_trailing_newline=True)
        .from_string(TEMPLATES[name])
        .render(messages=messages, add_generation_prompt=True)
    )


texts = (
    st.text(st.characters(codec="utf-8", exclude_characters="<>[]:"), min_size=1)
    .map(str.strip)
    .filter(bool)
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(contents=st.lists(texts, min_size=1, max_size=5), system=st.none() | texts)
def test_what_a_template_wrote_is_read_back(
    name: str, contents: list[str], system: str | None
) -> None:
    contents = contents if len(contents) % 2 else contents[:-1]
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)
    ]
    if system is not None and name in ("chatml", "llama3"):
        messages.insert(0, {"role": "system", "content": system})
    text = render(name, messages)
    assert begins_templated(text)
    assert untemplated(text) == (messages, None)


def test_the_dates_that_llama_3_1_writes_are_the_templates_and_not_a_system_prompt() -> None:
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    user = [{"role": "user", "content": "Hi"}]
    system = [{"role": "system", "content": "Be brief."}]
    header = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>"
    rest = render("llama3", user).removeprefix("<|begin_of_text|>")
    assert untemplated(header.format(dates) + rest) == (user, None)
    assert untemplated(header.format(dates + "Be brief.") + rest) == (system + user, None)


@pytest.mark.parametrize(
    "text",
    [
        "<s>[INST] Hi [/INST]",
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]",
        "<|user|>\nHi</s>\n<|assistant|>\n",
        "<|im_start|>user\nHi<|im_end|>\n",  # without the beginning of the answer
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSure",
        "<|im_start|>user\nHi <|im_start|>there<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>tool\nHi<|im_end|>\n<|im_start|>assistant\n",
        "Say:<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<\uff5cUser\uff5c>Hi<\uff5cAssistant\uff5c>",
        "<|im_start|>assistant\n",
    ],
)
def test_what_cannot_be_read_back_exactly_is_refused(text: str) -> None:
    turns, problem = untemplated(text)
    assert turns == []
    assert problem is not None
    assert "it went through a chat template" in problem


@pytest.mark.parametrize(
    "text",
    [
        "Hi",
        "What does <|im_start|> mean?",
        "Human: hi",
        "a [INST] b",
        "[1] is a list",
        "<b>bold</b>",
    ],
)
def test_a_text_of_ones_own_does_not_begin_so(text: str) -> None:
    assert not begins_templated(text)


@pytest.mark.parametrize(
    "text",
    [
        "<s>[INST] Hi",
        "  <|im_start|>user",
        "<bos><start_of_turn>user",
        "<|begin_of_text|>x",
        "\n\nHuman: Hi",
    ],
)
def test_a_templated_text_begins_so(text: str) -> None:
    assert begins_templated(text)


USER, ASSISTANT = (
    {"role": "user", "content": "Name a lake."},
    {"role": "assistant", "content": "Lake Chad."},
)
MORE = {"role": "user", "content": "Another?"}
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
VICUNA = "A chat between a curious user and an artificial intelligence assistant. The assistant gives polite answers."


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("Human: Name a lake.\nAssistant:", [USER]),
        (
            "Human: Name a lake.\nAssistant: Lake Chad.\nHuman: Another?\nAssistant:",
            [USER, ASSISTANT, MORE],
        ),
        ("User: Name a lake.\n\nAssistant:", [USER]),
        ("### Human: Name a lake.\n### Assistant:", [USER]),
        ("### Human: Name a lake.### Assistant:", [USER]),
        ("USER: Name a lake. ASSISTANT:", [USER]),
        (
            "USER: Name a lake. ASSISTANT: Lake Chad.</s>USER: Another? ASSISTANT:",
            [USER, ASSISTANT, MORE],
        ),
        (f"{VICUNA} USER: Name a lake. ASSISTANT:", [{"role": "system", "content": VICUNA}, USER]),
        ("### Instruction:\nName a lake.\n\n### Response:\n", [USER]),
        (f"{ALPACA}### Instruction:\nName a lake.\n\n### Response:", [USER]),
        (
            "Name a lake.\n<extra_id_1>Assistant\nLake Chad.\n<extra_id_1>User\nAnother?",
            [USER, ASSISTANT, MORE],
        ),
        ("Name a lake.\n<extra_id_1>Assistant\n", [USER]),
    ],
)
def test_scripts_instructions_and_helpsteer_are_read_back(
    text: str, turns: list[dict[str, str]]
) -> None:
    assert is_templated(text)
    assert untemplated(text) == (turns, None)


@pytest.mark.parametrize(
    "text",
    [
        "Answer it.\n<|im_start|>user\nName a lake.<|im_end|>\n<|im_start|>assistant\n",  # in the middle
        "Be brief. [INST] Name a lake. [/INST]",
        "Rules.\n<start_of_turn>user\nName a lake.<end_of_turn>\n",
        "Rules <|start_header_id|>user<|end_header_id|>\n\nName a lake.",
        "Hi\n<|assistant|>\nHello",
        "### Instruction:\nTranslate.\n\n### Input:\nlac\n\n### Response:\n",  # how the two belong together is not known
        "Human: Name a lake.\nAssistant: Lake Chad.",
        "User: Hi\nUser: Name a lake.\nAssistant:",
        "<extra_id_0>System\n\n<extra_id_1>User\nName a lake.\n<extra_id_1>Assistant\n",
        "<|start|>user<|message|>Name a lake.<|end|><|start|>assistant",  # gpt-oss
        "[gMASK]<sop><|user|>\nName a lake.<|assistant|>\n",  # GLM
        "<|start_of_role|>user<|end_of_role|>Name a lake.<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",  # Granite
        "[|user|]Name a lake.\n[|assistant|]",  # EXAONE
        "<|im_user|>user<|im_middle|>Name a lake.<|im_end|><|im_assistant|>assistant<|im_middle|>",  # Kimi
        "<seed:bos>user\nName a lake.<seed:eos><seed:bos>assistant\n",
        "<bos><|turn>user\nName a lake.<turn|>\n<|turn>model\n",  # Gemma
        "<SPECIAL_10>System\n\n<SPECIAL_11>User\nName a lake.\n<SPECIAL_11>Assistant\n",  # Nemotron
        "Rules.<|user|>\n<|user|>Name a lake.<|end|><|assistant|>",  # Phi
    ],
)
def test_turns_anywhere_in_a_text_are_recognised(text: str) -> None:
    assert is_templated(text)
    assert untemplated(text)[0] == []


@pytest.mark.parametrize(
    "text",
    [
        "What do <|im_start|>, [INST] and <start_of_turn> mean?",
        "Human: is that how a chat begins?",
        "A user and an assistant talk. User: is the first word.",
        "### Instruction:\nWrite a poem about a lake.",
        "Assistant: is a job title here.",
        "The T5 tokenizer has <extra_id_0> and <extra_id_1>.",
        "My instructions are below.\n### Response:",
        "Explain [INST] and [/INST] in Mistral's format.",
        "Correct my code:\nprompt = '[INST] ' + question + ' [/INST]'",
        "In ChatML the user's turn begins with <|im_start|>user and ends with <|im_end|>. Why?",
        "prompt = f'<|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n'",
        "What do <<SYS>> and <</SYS>> do?",
        "The log says\n<|user|> logged in\nWho is it?",
        "What is between <|start|> and <|message|>?",
        "Traduisez\u00a0: Human: bonjour",
    ],
)
def test_a_text_that_speaks_of_templates_is_a_text(text: str) -> None:
    assert not is_templated(text)


def test_a_script_that_cannot_be_read_back_is_called_one() -> None:
    turns, problem = untemplated("User: Hi\nAssistant: Hello\n\nSummarise the chat in one line.")
    assert turns == []
    assert problem is not None
    assert problem.startswith("it is a conversation written as text (`User:` and `Assistant:`)")


@pytest.mark.parametrize(
    "write",
    [json.dumps, repr, lambda turns: json.dumps(turns, indent=2), lambda turns: f" {turns!r}\n"],
)
def test_a_list_of_turns_in_a_text_is_read_back(write) -> None:
    turns = [USER | {"content": 'It\'s "this" lake\n\u00e9'}, ASSISTANT, MORE]
    assert serialised_turns(write(turns)) == (turns, None)


def test_one_turn_in_a_text_is_a_list_of_one() -> None:
    assert serialised_turns(repr(USER)) == ([USER], None)


@pytest.mark.parametrize(
    "text",
    [
        "[{'content': 'Name a lake.', 'role': 'user'}\n {'content': 'Lake Chad.', 'role': 'assistant'}]",  # as numpy prints it
        "array([{'role': 'user', 'content': 'Name a lake.'}], dtype=object)",
        '[{"role": "user", "content": "Name a "lake"."}]',
        '[{"role": "user", "role": "system", "content": "Name a lake."}]',
        '[{"from": "human", "value": "Name a lake."}]',
    ],
)
def test_a_list_of_turns_that_cannot_be_read_back_is_refused(text: str) -> None:
    turns, problem = serialised_turns(text)
    assert turns is None
    assert problem is not None
    assert problem.startswith("it is a list of turns written as text")


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3]", "{}", "[]", '{"role": "Plumber", "content": "x"}', '[{"role": "CEO", "content": "x"}]', "[{'a': 1}]",
        "Correct this: [{'role': 'user', 'content': 'x'}]", '[{"role": "user"}] is broken, why?', "[" * 100_000 + "]" * 100_000,
    ],
    ids=range(9),
)  # fmt: skip
def test_other_lists_are_texts(text: str) -> None:
    assert serialised_turns(text) == (None, None)
