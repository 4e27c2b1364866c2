"""What a reward model reads: the templated conversation with the response as a finished turn."""

from tiny_models import make_tiny_tokenizer

from prefpipe.text.conversation_ids import conversation_ids

TURNS = [{"role": "user", "content": "Hi"}]


def test_the_response_is_a_finished_turn_with_what_the_template_adds_behind_it():
    tokenizer = make_tiny_tokenizer()
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    assert conversation_ids(tokenizer, TURNS, "Ho") == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert TURNS == [{"role": "user", "content": "Hi"}]


def test_half_characters_are_read_as_the_replacement_sign():
    tokenizer = make_tiny_tokenizer()
    assert conversation_ids(tokenizer, TURNS, "a\ud800") == conversation_ids(tokenizer, TURNS, "a\ufffd")
