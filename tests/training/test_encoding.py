"""Tokenising again gives what sampling would have stored, or stops."""

import pytest
from support.tiny_models import END_ID, make_tiny_tokenizer, make_tokenizer_like

from prefpipe.errors import InputError
from prefpipe.training.encoding import Encoder, EncodingError

TURNS = [{"role": "user", "content": "Name a colour."}]
TOKENIZER = make_tiny_tokenizer()


def encode(response, *, finished=True, tokenizer=TOKENIZER):
    return Encoder(tokenizer, [END_ID]).encode("p1", TURNS, response, finished=finished)


def test_prompt_ids_are_those_that_generation_starts_from():
    prompt = encode("Red.").prompt
    assert prompt == TOKENIZER.apply_chat_template(
        TURNS, add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize("response", ["Red.", "", "  spaces \n", "émoji 🟥", "عربي"])
def test_a_finished_response_is_its_text_and_one_end_of_turn(response):
    """Not the newline that the template writes after the end of a turn.

    The model never sampled it.
    """
    ids = encode(response).response
    assert ids == [*TOKENIZER(response, add_special_tokens=False)["input_ids"], END_ID]


def test_a_response_cut_at_the_limit_has_no_end_of_turn():
    """Training on one would teach the model to stop in the middle."""
    ids = encode("Red and", finished=False).response
    assert ids == TOKENIZER("Red and", add_special_tokens=False)["input_ids"]


def test_a_template_that_rewrites_finished_turns_is_an_error():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]<think>{% endif %}"
    with pytest.raises(
        InputError, match="prompt p1: its text is not the beginning of prompt plus response"
    ):
        encode("Red.", tokenizer=tokenizer)


def test_a_template_that_refuses_the_conversation_is_an_error_for_people():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no user turns here') }}"
    with pytest.raises(
        InputError,
        match="prompt p1: the policy's chat template refuses its conversation: no user turns here",
    ):
        encode("Red.", tokenizer=tokenizer)


@pytest.mark.parametrize(
    "response",
    ["It ends with <|im_end|> and goes on.", "<|im_end|>", "a<|im_end|>\n<|im_start|>user\nb"],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_response_that_names_the_end_of_a_turn_is_whole(response, finished):
    """A token a letter, the end of the turn behind them, nothing cut."""
    encoded = encode(response, finished=finished)
    letters = TOKENIZER(response, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(letters) == len(response)
    assert encoded.response == ([*letters, END_ID] if finished else letters)
    assert encoded.holds_control_text
    assert not encode("It ends.").holds_control_text


def test_an_ordinary_token_that_ends_turns_does_not_cut_a_response_that_holds_it():
    """Where a full stop ends turns, a response of two sentences has two.

    The template's own is the last.
    """
    tokenizer = make_tiny_tokenizer()
    stop = tokenizer(".", add_special_tokens=False)["input_ids"][0]
    tokenizer.eos_token = "."
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '.' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    encoder = Encoder(tokenizer, [stop])
    encoder.eos_token_ids = {stop}
    encoder.template.control_tokens.pop(
        stop, None
    )  # a letter of the vocabulary, and no added token
    encoded = encoder.encode("p1", TURNS, "One. Two", finished=True)
    assert tokenizer.decode(encoded.response) == "One. Two."


@pytest.mark.parametrize("response", ["\nRed.", "\n x", "\n"])
def test_a_response_that_would_join_with_the_prompt_is_tokenised_apart(response):
    """The prompt ends with two newlines.

    Jointly, three are one token, and the prompt is another.
    """
    tokenizer = make_tokenizer_like("llama3")
    tokenizer.chat_template = tokenizer.chat_template.replace(" | trim", "")
    encoder = Encoder(tokenizer, [])
    joint = tokenizer.apply_chat_template(
        [*TURNS, {"role": "assistant", "content": response}], return_dict=False
    )
    encoded = encoder.encode("p1", TURNS, response, finished=True)
    assert encoded.prompt == tokenizer.apply_chat_template(
        TURNS, add_generation_prompt=True, return_dict=False
    )
    assert joint[: len(encoded.prompt)] != encoded.prompt
    eos = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert encoded.response == [*tokenizer(response, add_special_tokens=False)["input_ids"], eos]
    assert encoded.is_apart
    assert tokenizer.decode([*encoded.prompt, *encoded.response]) == tokenizer.decode(joint)
    assert encoder.notes()[0].startswith(
        "1 of 1 responses are tokenised separately from their prompts"
    )


def test_apart_means_no_space_where_the_tokenizer_puts_one_in_front_of_every_text():
    """An anchor keeps it from being the first.

    The same tokens as jointly, where jointly is possible.
    """
    tokenizer = make_tokenizer_like("llama2")
    encoder = Encoder(tokenizer, [])
    whole = encoder.encode("p1", TURNS, "Red.", finished=True)
    assert not whole.is_apart
    assert encoder._apart("Red.</s>") == whole.response
    assert tokenizer("Red.</s>", add_special_tokens=False)["input_ids"] != whole.response


def test_both_at_once_a_newline_first_and_a_control_token_behind_it():
    tokenizer = make_tokenizer_like("llama3")
    tokenizer.chat_template = tokenizer.chat_template.replace(" | trim", "")
    encoded = Encoder(tokenizer, []).encode("p1", TURNS, "\nSay <|eot_id|> now", finished=True)
    eos = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert encoded.response.count(eos) == 1
    assert tokenizer.decode(encoded.response) == "\nSay <|eot_id|> now<|eot_id|>"
    assert (encoded.is_apart, encoded.holds_control_text) == (True, True)


def test_problems_are_told_apart():
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages | length > 1 %}{{ 1 // 0 }}{% endif %}{{ messages[0].content }}"
    )
    with pytest.raises(EncodingError, match=r"prompt p1: .*: ZeroDivisionError") as caught:
        encode("Red.", tokenizer=tokenizer)
    assert caught.value.problem == "template_error"
    tokenizer.chat_template = "{{ messages[0].content + messages | length | string }}"
    with pytest.raises(EncodingError) as caught:
        encode("Red.", tokenizer=tokenizer)
    assert caught.value.problem == "not_prefix"
