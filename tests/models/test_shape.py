"""A model's size from its configuration.

It is counted by hand, and compared with the model itself for several architectures.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.tiny_models import VOCAB_SIZE, make_tiny_adapter, make_tiny_causal_lm, tiny_config
from transformers import (
    DeepseekV3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaForCausalLM,
    MixtralConfig,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from prefpipe.errors import ModelError
from prefpipe.maths.compute.training_compute import ModelShape
from prefpipe.models.shape import named_shape, shape_of

LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
"""A layer of the tiny Llama.

Queries, keys and values of two heads, output, and the three matrices of the MLP.
"""
TINY = ModelShape(
    n_layer_parameters=2 * LAYER,
    n_output_parameters=32 * VOCAB_SIZE,
    attention_width=2 * 4 * (8 + 8),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_causal_lm(tmp_path_factory.mktemp("model"))


def write(folder: Path, config, **changes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(config.to_dict() | changes, default=str), encoding="utf-8"
    )
    return str(folder)


def test_named_shape_equals_a_count_by_hand(model: Path) -> None:
    found = named_shape(str(model))
    assert found.shape == TINY
    assert found.n_parameters == sum(
        parameter.numel() for parameter in LlamaForCausalLM(tiny_config()).parameters()
    )
    assert found.n_active_parameters == found.n_parameters
    assert found.notes == ()


def test_named_shape_needs_config_json_alone(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "config.json", tmp_path)
    assert named_shape(str(tmp_path)) == named_shape(str(model))


def test_a_tied_table_counts_once_as_the_output_projection(tmp_path: Path) -> None:
    found = named_shape(write(tmp_path, tiny_config(tie_word_embeddings=True)))
    assert found.shape == TINY
    assert found.n_parameters == 2 * LAYER + 32 * VOCAB_SIZE + 5 * 32  # five norms


def test_an_adapter_is_as_large_as_its_base(model: Path, tmp_path: Path) -> None:
    assert named_shape(str(make_tiny_adapter(tmp_path / "adapter", model))).shape == TINY


def test_gpt2_has_matrices_of_another_class_and_a_table_of_positions(tmp_path: Path) -> None:
    found = named_shape(write(tmp_path, GPT2Config()))
    assert found.shape == ModelShape(12 * 12 * 768 * 768, 768 * 50257, 12 * 2 * 768)
    assert found.n_parameters == 124_439_808


def test_of_experts_those_count_that_a_token_meets(tmp_path: Path) -> None:
    """Mixtral 8x7B: 46.7 billion parameters, 12.9 for one token."""
    found = named_shape(write(tmp_path, MixtralConfig()))
    attention, router, expert = 2 * 4096 * 4096 + 2 * 4096 * 1024, 8 * 4096, 3 * 4096 * 14336
    assert found.shape == ModelShape(
        32 * (attention + router + 2 * expert), 4096 * 32000, 32 * 32 * 2 * 128
    )
    assert found.n_parameters == 46_702_792_704
    assert found.n_active_parameters == 12_879_925_248
    assert found.notes == ("2 of 8 experts are counted, the number that each token uses",)


def test_experts_whose_number_is_unknown_all_count(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(num_hidden_layers=2, num_experts=4, num_experts_per_tok=2)
    few = named_shape(write(tmp_path, config))
    with torch.device("meta"):
        model = Qwen3MoeForCausalLM(config)
    all_of_them = shape_of(model, tiny_config())  # a configuration that says nothing of experts
    assert all_of_them.notes == (
        "its configuration does not say how many experts a token uses, so all of them are counted",
    )
    assert all_of_them.shape.n_layer_parameters > few.shape.n_layer_parameters
    assert all_of_them.n_active_parameters == all_of_them.n_parameters


def test_latent_attention_has_queries_and_values_of_other_widths(tmp_path: Path) -> None:
    """DeepSeek-V3: 671 billion parameters, 37 for one token.

    128 heads with 128 + 64 for queries and 128 for values.
    """
    found = named_shape(write(tmp_path, DeepseekV3Config()))
    assert found.shape.attention_width == 61 * 128 * (192 + 128)
    assert (round(found.n_parameters / 1e9), round(found.n_active_parameters / 1e9)) == (671, 38)


def test_named_shape_notes_a_sliding_window(tmp_path: Path) -> None:
    found = named_shape(write(tmp_path, Gemma3TextConfig(num_hidden_layers=6)))
    assert found.shape.attention_width == 6 * 8 * 2 * 256
    note = (
        "layers with a sliding window are counted as full attention, an upper bound for long "
        "sequences"
    )
    assert found.notes == (note,)


def test_a_name_of_the_hub_is_looked_up_in_the_cache(
    model: Path, tmp_path: Path, monkeypatch
) -> None:
    commit = "a" * 40
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(commit)
    shutil.copy(model / "config.json", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert named_shape("org/name").shape == TINY
    assert named_shape(f"org/name@{commit}").shape == TINY
    with pytest.raises(
        ModelError, match="the model org/other@v2 is not in the hub cache"
    ) as caught:
        named_shape("org/other@v2")
    assert (
        caught.value.hint == "run: hf download org/other config.json --revision v2; or pass its "
        "size, for example --model 8B"
    )


@pytest.mark.parametrize("reference", ["nowhere", "./nowhere", "", "bundled:nowhere", "a/b/c"])
def test_what_is_no_model_is_an_error_with_a_hint(reference: str) -> None:
    with pytest.raises(ModelError) as caught:
        named_shape(reference)
    assert caught.value.hint


@pytest.mark.slow
def test_a_folder_that_is_no_language_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json in the model folder"):
        named_shape(str(tmp_path))
    for content in (
        '{"model_type": "bert"',
        '{"model_type": "nothing-known"}',
        '{"model_type": "vit"}',
        "[]",
        '{"model_type": "llama", "hidden_size": "wide"}',
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(
            ModelError, match="no causal language model can be built from"
        ) as caught:
            named_shape(str(tmp_path))
        assert "--model 8B" in (caught.value.hint or "")


@pytest.mark.models
def test_named_shape_takes_a_bundled_model() -> None:
    found = named_shape("bundled:smollm2-135m")
    assert found.n_parameters == 134_515_008
    assert found.shape == ModelShape(106_168_320, 49152 * 576, 30 * 9 * 2 * 64)
