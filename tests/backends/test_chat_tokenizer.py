"""Conversations to ids and back, with the tiny byte-level tokenizer."""

import json

import pytest
from support.tiny_models import BOS_ID, END_ID, START_ID, make_tiny_tokenizer

from prefpipe.backends.chat_tokenizer import ChatTokenizer
from prefpipe.errors import InputError, ModelError
from prefpipe.models.files import ModelFiles

HELLO = [{"role": "user", "content": "hé"}]


def write_model(folder, **tokenizer_changes):
    tokenizer = make_tiny_tokenizer()
    for name, value in tokenizer_changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": END_ID}))
    return ModelFiles("tiny", folder, "causal-lm", None, "", "", "")


def test_the_generation_prompt_is_included_and_the_text_reads_back(tmp_path):
    chat = ChatTokenizer(write_model(tmp_path), trust_remote_code=False)
    ids = chat.encode(HELLO)
    assert all(type(token) is int for token in ids)
    assert chat.tokenizer.decode(ids) == "<|im_start|>user\nhé<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(START_ID) == 2


def test_a_response_loses_its_end_and_special_tokens_in_the_text_only(tmp_path):
    chat = ChatTokenizer(write_model(tmp_path), trust_remote_code=False)
    body = chat.tokenizer.encode("fine", add_special_tokens=False)
    assert chat.decode([*body, END_ID]) == "fine"
    assert chat.decode(body) == "fine"
    assert chat.decode([END_ID]) == chat.decode([]) == ""


def test_an_end_that_is_no_special_token_is_not_in_the_text_either(tmp_path):
    model = write_model(tmp_path)
    chat = ChatTokenizer(model, trust_remote_code=False)
    dot = chat.tokenizer.encode(".", add_special_tokens=False)[0]
    chat.eos_ids = {dot}
    assert chat.decode([*chat.tokenizer.encode("a.b", add_special_tokens=False), dot]) == "a.b"


def test_a_template_that_refuses_a_turn_is_an_input_error(tmp_path):
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    chat = ChatTokenizer(write_model(tmp_path, chat_template=template), trust_remote_code=False)
    with pytest.raises(InputError, match="no system turns"):
        chat.encode([{"role": "system", "content": "be brief"}])


def test_two_bos_are_refused(tmp_path):
    template = "{{ bos_token + bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = ChatTokenizer(write_model(tmp_path, chat_template=template), trust_remote_code=False)
    assert chat.tokenizer.bos_token_id == BOS_ID
    with pytest.raises(ModelError, match=r"two <\|bos\|> tokens"):
        chat.encode(HELLO)
