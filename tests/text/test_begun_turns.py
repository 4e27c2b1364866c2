"""Answers that are begun in the prompt: what templates write of them, and what raters are shown."""

import pytest
from support.chat_templates import TEMPLATES, make_tokenizer_with
from support.tiny_models import make_tokenizer_like

from prefpipe.text.begun_turns import answered, is_begun, with_whole_answer
from prefpipe.text.chat_template import ChatTemplate
from prefpipe.text.control_tokens import TemplateError
from prefpipe.training.encoding import Encoder

QUESTION = {"role": "user", "content": "Name a lake."}
TOOLS = '[{"name":"look"}]'


def begun(text):
    return [QUESTION, {"role": "assistant", "content": text}]


def test_an_answer_joins_its_beginning_in_one_turn():
    assert answered([QUESTION], "Chad.") == begun("Chad.")
    assert answered(begun("Lake "), "Chad.") == begun("Lake Chad.")
    assert with_whole_answer([QUESTION], "Chad.") == ([QUESTION], "Chad.")
    assert with_whole_answer(begun("Lake "), "Chad.") == ([QUESTION], "Lake Chad.")
    assert [is_begun(turns) for turns in ([], [QUESTION], begun("L"))] == [False, False, True]


def test_tools_move_to_the_last_turn_that_is_left():
    turns = [QUESTION, {"role": "assistant", "content": "Lake ", "tools": TOOLS}]
    before, answer = with_whole_answer(turns, "Chad.")
    assert before == [{**QUESTION, "tools": TOOLS}]
    assert answer == "Lake Chad."
    assert turns[0] == QUESTION, "the caller's turn is as it was"


@pytest.mark.parametrize("family", sorted(TEMPLATES.keys() - {"r1"}))
@pytest.mark.parametrize("beginning", ["Lake", "Lake ", "1.\n", "  Lake", "a <|im_end|> b"])
def test_the_prompt_ends_with_the_beginning_and_the_answer_goes_on_from_there(family, beginning):
    """Also with a space behind it, which a finished turn would lose: inside of one it stays."""
    template = ChatTemplate(make_tokenizer_with(family))
    prompt = template.ids(begun(beginning), add_generation_prompt=True)
    whole = template.conversation_ids(begun(beginning), "Chad.")
    assert whole[: len(prompt)] == prompt
    assert whole == template.conversation_ids([QUESTION], f"{beginning}Chad.")
    decode = template.tokenizer.decode
    assert decode(prompt).endswith(beginning.lstrip())
    assert decode(whole[len(prompt) :]).startswith("Chad.<|im_end|>")


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "unigram", "llama2"])
def test_the_prompt_is_what_transformers_continues(family):
    tokenizer = make_tokenizer_like(family)
    expected = tokenizer.apply_chat_template(
        begun("The lake of"), tokenize=False, continue_final_message=True
    )
    text = ChatTemplate(tokenizer).text(begun("The lake of"), add_generation_prompt=True)
    assert text == expected


@pytest.mark.parametrize(
    ("template", "beginning", "says"),
    [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "Lake",
            "nothing of 'Lake'",
        ),
        (
            "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
            "Lake",
            "another text of 'Lake'",
        ),
        (TEMPLATES["r1"], "<think>\nHm.\n</think>\nThe", "another text of"),
    ],
)
def test_a_template_that_cannot_continue_is_an_error(template, beginning, says):
    tokenizer = make_tokenizer_with("plain")
    tokenizer.chat_template = template
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(tokenizer).text(begun(beginning), add_generation_prompt=True)
    assert "cannot continue the assistant's last turn" in caught.value.why
    assert says in caught.value.why


@pytest.mark.parametrize("finished", [True, False])
def test_the_encoder_makes_the_same_tokens(finished):
    encoder = Encoder(make_tokenizer_with("qwen3"), [])
    encoded = encoder.encode("p", begun("Lake "), "Chad.", finished=finished)
    template = encoder.template
    assert encoded.prompt == template.ids(begun("Lake "), add_generation_prompt=True)
    end = "<|im_end|>" if finished else ""
    assert encoder.tokenizer.decode(encoded.response) == f"Chad.{end}"
    assert not encoded.is_apart
