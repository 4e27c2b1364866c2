"""A GGUF file becomes the model it was made from, exactly, or is refused by name."""

import json
import os
import stat
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from support.tiny_models import make_tiny_causal_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefpipe.errors import ModelError, PrefpipeError
from prefpipe.models.files import inspect_model, require_chat_template
from prefpipe.models.gguf_conversion import convert_cached, convert_gguf

N_HEADS, N_KV_HEADS, HIDDEN = 4, 2, 32
TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *"abcdefghijklmnopqrstuvwxyz0123456789",
    "Ġ",
    "Ċ",
    "ab",
    "12",
    "Ġa",
]
TYPES = [3, 3, 3] + [1] * (len(TOKENS) - 3)
MERGES = ["a b", "1 2", "Ġ a"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
METADATA = {
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": N_HEADS,
    "llama.attention.head_count_kv": N_KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "llama.rope.freq_base": 12345.0,
    "llama.rope.dimension_count": HIDDEN // N_HEADS,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": TYPES,
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.chat_template": TEMPLATE,
}


def interleave(rows, n_heads):
    """The exporter's order of each head's rows.

    The first of the second half follows the first of the first half.
    """
    size = rows.shape[0] // n_heads
    order = [
        head * size + half * size // 2 + pair
        for head in range(n_heads)
        for pair in range(size // 2)
        for half in (0, 1)
    ]
    return rows[order]


def write_gguf(path, tensors, architecture="llama", **changes):
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (METADATA | changes).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, values in tensors.items():
        quantised = gguf.GGMLQuantizationType.Q8_0 if values.dtype == np.uint8 else None
        writer.add_tensor(name, values, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensors(model, dtype=np.float32):
    """The tensors of a Hugging Face Llama under GGUF's names, in GGUF's row order."""
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attn_output",
    }
    parts |= {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"} | {
        f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")
    }
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {
        f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}"
        for layer in (0, 1)
        for ours, theirs in parts.items()
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        target = names[name.removesuffix(".weight")]
        values = tensor.numpy()
        if target.endswith(("attn_q", "attn_k")):
            values = interleave(values, N_HEADS if target.endswith("q") else N_KV_HEADS)
        tensors[f"{target}.weight"] = values.astype(dtype if values.ndim == 2 else np.float32)
    return tensors


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model with the vocabulary of TOKENS."""
    from support.tiny_models import tiny_config
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = tiny_config(vocab_size=len(TOKENS), rms_norm_eps=1e-6)
        config.rope_parameters = {"rope_theta": 12345.0, "rope_type": "default"}
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def gguf_path(tiny, tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", gguf_tensors(tiny))


def test_weights_settings_and_logits_are_those_of_the_original(tiny, gguf_path, tmp_path):
    folder = convert_gguf(gguf_path, tmp_path / "out")
    converted, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    original = tiny.state_dict()
    assert converted.state_dict().keys() == original.keys()
    assert all(
        torch.equal(tensor, original[name]) for name, tensor in converted.state_dict().items()
    )
    assert converted.config.rms_norm_eps == 1e-6
    assert converted.config.rope_parameters["rope_theta"] == 12345.0
    ids = torch.tensor([[1, 5, 9, 14, 2]])
    assert torch.equal(converted(ids).logits, tiny(ids).logits)


def test_no_output_matrix_means_tied_embeddings(tiny, tmp_path):
    tensors = gguf_tensors(tiny)
    del tensors["output.weight"]
    folder = convert_gguf(write_gguf(tmp_path / "tied.gguf", tensors), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_half_precision_stays_half_and_quantised_tensors_become_exact_float32(tiny, tmp_path):
    half = convert_gguf(
        write_gguf(tmp_path / "half.gguf", gguf_tensors(tiny, np.float16)), tmp_path / "half"
    )
    assert json.loads((half / "config.json").read_text())["dtype"] == "float16"
    values = AutoModelForCausalLM.from_pretrained(
        half, dtype=torch.float32
    ).model.embed_tokens.weight
    assert torch.equal(values, tiny.model.embed_tokens.weight.half().float())

    blocks = (
        np.array([1.0, -0.5, 0.25, 127.0] * 8, dtype=np.float32)
        .reshape(1, 32)
        .repeat(len(TOKENS), axis=0)
    )
    packed = gguf.quants.quantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    path = write_gguf(tmp_path / "q8.gguf", gguf_tensors(tiny) | {"token_embd.weight": packed})
    folder = convert_gguf(path, tmp_path / "q8")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    embedded = AutoModelForCausalLM.from_pretrained(folder).model.embed_tokens.weight
    expected = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    assert torch.equal(embedded, torch.from_numpy(expected))


def test_the_tokenizer_splits_digits_and_keeps_special_tokens_whole(gguf_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(convert_gguf(gguf_path, tmp_path / "out"))
    ids = tokenizer("<|im_start|>ab 12 a<|im_end|>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|im_start|>",
        "ab",
        "Ġ",
        "1",
        "2",
        "Ġa",
        "<|im_end|>",
    ]
    assert tokenizer.decode(ids) == "<|im_start|>ab 12 a<|im_end|>"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    turns = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|im_start|>ab<|im_end|>"


def test_a_gpt2_pre_tokenizer_keeps_digits_together(tiny, tmp_path):
    path = write_gguf(tmp_path / "gpt2.gguf", gguf_tensors(tiny), **{"tokenizer.ggml.pre": "gpt-2"})
    tokenizer = AutoTokenizer.from_pretrained(convert_gguf(path, tmp_path / "out"))
    assert tokenizer.tokenize("12") == ["12"]


def test_a_file_without_a_template_makes_a_folder_without_one(tiny, tmp_path):
    path = write_gguf(tmp_path / "t.gguf", gguf_tensors(tiny), **{"tokenizer.chat_template": None})
    model = inspect_model(convert_gguf(path, tmp_path / "out"), "t")
    with pytest.raises(ModelError, match="no chat template"):
        require_chat_template(model)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("qwen2", {}, "general.architecture is 'qwen2', supported: 'llama'"),
        ("llama", {"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ("llama", {"tokenizer.ggml.pre": "llama-bpe"}, "tokenizer.ggml.pre is 'llama-bpe'"),
        ("llama", {"tokenizer.ggml.add_bos_token": True}, "tokenizer.ggml.add_bos_token is True"),
        ("llama", {"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        (
            "llama",
            {"llama.rope.dimension_count": 4},
            "llama.rope.dimension_count is 4, supported: 8",
        ),
        ("llama", {"llama.expert_count": 8}, "llama.expert_count is 8"),
        ("llama", {"tokenizer.ggml.merges": None}, "its metadata lacks tokenizer.ggml.merges"),
        (
            "llama",
            {"tokenizer.ggml.eos_token_id": None},
            "its metadata lacks tokenizer.ggml.eos_token_id",
        ),
    ],
)
def test_what_would_be_converted_wrongly_is_refused_by_name(
    tmp_path, architecture, changes, message
):
    path = write_gguf(
        tmp_path / "x.gguf", {"a.weight": np.zeros((2, 2), np.float32)}, architecture, **changes
    )
    with pytest.raises(ModelError) as caught:
        convert_gguf(path, tmp_path / "out")
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert not (tmp_path / "out").exists()


def test_an_unknown_tensor_is_refused_and_nothing_is_left_behind(tiny, tmp_path):
    path = write_gguf(
        tmp_path / "x.gguf", gguf_tensors(tiny) | {"rope_freqs.weight": np.ones(4, np.float32)}
    )
    with pytest.raises(
        ModelError, match=r"its tensor rope_freqs\.weight is not part of a plain Llama model"
    ):
        convert_gguf(path, tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, only text"])
def test_a_file_that_is_not_gguf_is_refused(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.gguf is not a complete GGUF file"):
        convert_gguf(tmp_path / "x.gguf", tmp_path / "out")


def test_a_truncated_file_is_refused(gguf_path, tmp_path):
    data = gguf_path.read_bytes()
    for share in (0.3, 0.6, 0.99):
        gguf_path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ModelError, match=r"tiny\.gguf is not a complete GGUF file"):
            convert_gguf(gguf_path, tmp_path / "out")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no GGUF file at .*absent\.gguf"):
        convert_gguf(tmp_path / "absent.gguf", tmp_path / "out")


def test_the_cache_is_filled_once_and_others_may_read_it(gguf_path, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFPIPE_CACHE", str(tmp_path / "cache"))
    folder = convert_cached(gguf_path)
    before = (folder / "model.safetensors").stat()
    assert folder.parent == tmp_path / "cache" / "models"
    assert folder.name.startswith("tiny-")
    assert convert_cached(gguf_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.slow
def test_two_processes_converting_at_once_both_end_well(gguf_path, tmp_path):
    code = (
        "import sys; from pathlib import Path; "
        "from prefpipe.models.gguf_conversion import convert_cached;"
        "print(convert_cached(Path(sys.argv[1])))"
    )
    environment = os.environ | {"PREFPIPE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(gguf_path)]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folders = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    (folder,) = folders
    assert inspect_model(folder, "tiny").kind == "causal-lm"
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 1, "no temporary folders stay"


def test_a_folder_with_another_model_is_never_taken_for_the_result(gguf_path, tmp_path):
    make_tiny_causal_lm(tmp_path / "other")
    with pytest.raises(ModelError, match="other already holds another model"):
        convert_gguf(gguf_path, tmp_path / "other")
    assert convert_gguf(gguf_path, tmp_path / "out") == convert_gguf(gguf_path, tmp_path / "out")


def test_an_unwritable_place_is_a_clear_error(gguf_path, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrefpipeError, match=r"cannot write .*file"):
        convert_gguf(gguf_path, tmp_path / "file" / "out")
