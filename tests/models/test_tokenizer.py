"""The tokenizer hash follows what turns text into ids, through loading and saving."""

import json

import pytest
from support.tiny_models import CHAT_TEMPLATE, make_tiny_tokenizer
from transformers import AutoTokenizer

from prefpipe.models.tokenizer import find_eos_ids, hash_tokenizer, read_chat_template


@pytest.fixture
def folder(tmp_path):
    make_tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_loading_and_saving_keeps_the_hash(folder, tmp_path):
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded(
        ["a", "bb"], padding=True, truncation=True, max_length=8
    )  # switches padding and truncation on
    loaded.save_pretrained(tmp_path / "again")
    assert hash_tokenizer(tmp_path / "again") == hash_tokenizer(folder)


def test_no_post_processor_equals_one_that_adds_nothing(folder):
    before = hash_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    for no_op in (
        None,
        {"type": "ByteLevel"},
        {"type": "TemplateProcessing", "single": [], "special_tokens": {}},
    ):
        (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": no_op}))
        assert hash_tokenizer(folder) == before


def test_a_vocabulary_entry_changes_the_hash(folder):
    before = hash_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["new"] = len(content["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert hash_tokenizer(folder) != before


def test_a_special_token_may_be_written_as_text_or_as_an_object(folder):
    before = hash_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["eos_token"] = {"content": config["eos_token"], "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert hash_tokenizer(folder) == before


def test_vocabulary_files_count_without_tokenizer_json(folder):
    (folder / "tokenizer.json").unlink()
    assert hash_tokenizer(folder) is None
    (folder / "vocab.txt").write_text("a\nb\n")
    first = hash_tokenizer(folder)
    (folder / "vocab.txt").write_text("a\nc\n")
    assert None is not hash_tokenizer(folder) != first


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", CHAT_TEMPLATE),
        ("chat_template.json", json.dumps({"chat_template": CHAT_TEMPLATE})),
        ("tokenizer_config.json", json.dumps({"chat_template": CHAT_TEMPLATE})),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "default", "template": CHAT_TEMPLATE}]}),
        ),
    ],
)
def test_the_template_is_found_wherever_it_is_kept(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    assert read_chat_template(tmp_path) == CHAT_TEMPLATE


def test_read_chat_template_is_none_without_a_template(tmp_path):
    assert read_chat_template(tmp_path) is None


@pytest.mark.parametrize(
    ("generation", "model", "tokenizer_eos", "expected"),
    [
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 9}, 3, {3, 7, 8}),
        ({"eos_token_id": 7}, {"eos_token_id": 9}, None, {7}),
        ({"temperature": 0.6}, {"eos_token_id": 9}, 3, {3, 9}),
        (None, {"eos_token_id": [9, 10]}, 9, {9, 10}),
        (None, {}, 3, {3}),
    ],
)
def test_every_end_that_the_model_or_its_tokenizer_names_counts(
    tmp_path, generation, model, tokenizer_eos, expected
):
    (tmp_path / "config.json").write_text(json.dumps(model))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert find_eos_ids(tmp_path, tokenizer_eos) == expected
