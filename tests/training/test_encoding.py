"""Tokenising again gives what sampling would have stored, or stops."""

import pytest
from tiny_models import END_ID, make_tiny_tokenizer

from prefpipe.errors import InputError
from prefpipe.training.encoding import Encoder

TURNS = [{"role": "user", "content": "Name a colour."}]
TOKENIZER = make_tiny_tokenizer()


def encode(response, *, finished=True, tokenizer=TOKENIZER):
    return Encoder(tokenizer, [END_ID]).encode("p1", TURNS, response, finished=finished)


def test_prompt_ids_are_those_that_generation_starts_from():
    prompt, _ = encode("Red.")
    assert prompt == TOKENIZER.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("response", ["Red.", "", "  spaces \n", "émoji 🟥", "عربي"])
def test_a_finished_response_is_its_text_and_one_end_of_turn(response):
    """Not the newline that the template writes after the end of a turn: the model never sampled it."""
    _, ids = encode(response)
    assert ids == [*TOKENIZER(response, add_special_tokens=False)["input_ids"], END_ID]


def test_a_response_cut_at_the_limit_has_no_end_of_turn():
    """Training on one would teach the model to stop in the middle."""
    _, ids = encode("Red and", finished=False)
    assert ids == TOKENIZER("Red and", add_special_tokens=False)["input_ids"]


def test_a_template_that_rewrites_finished_turns_is_an_error():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    with pytest.raises(InputError, match=r"prompt p1: its .* tokens are not the first tokens of prompt plus response"):
        encode("Red.", tokenizer=tokenizer)


def test_a_template_that_refuses_the_conversation_is_an_error_for_people():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no user turns here') }}"
    with pytest.raises(InputError, match="prompt p1: the policy's chat template refuses its conversation: no user turns here"):
        encode("Red.", tokenizer=tokenizer)
