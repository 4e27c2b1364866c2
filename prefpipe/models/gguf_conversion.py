"""A GGUF file, as an ordinary Hugging Face folder.

Only the llama architecture with a byte-level BPE tokenizer is converted. Anything else, including
every unknown tensor, is refused by name, because a model that is nearly right answers fluently and
wrongly.

Layout of the file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from prefpipe.artifacts.atomic import make_folder, sync_folder
from prefpipe.artifacts.file_hashes import cache_folder, hash_file
from prefpipe.errors import ModelError
from prefpipe.models.files import inspect_model

CONVERTER_VERSION = 1
"""Part of the cached folder's name: a corrected converter never meets the old one's result."""

WHOLE_MODEL_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4

NEEDED_METADATA = (
    "general.architecture",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.eos_token_id",
    "llama.attention.layer_norm_rms_epsilon",
)
SAFETENSORS_HINT = "use the model's safetensors release from the hub: org/name"


def convert_cached(gguf_path: Path) -> Path:
    """Convert a GGUF file once and return its folder in the cache.

    It is called ``models/<name>-<sha12>-v<converter>``.
    """
    require_gguf(gguf_path)
    name = re.sub(r"[^\w.-]+", "-", gguf_path.stem)
    folder = cache_folder() / "models" / f"{name}-{hash_file(gguf_path)[:12]}-v{CONVERTER_VERSION}"
    return folder if folder.is_dir() else convert_gguf(gguf_path, folder)


def convert_gguf(gguf_path: Path, out_dir: Path) -> Path:
    """Write the model, tokenizer and chat template of a GGUF file to ``out_dir``, and return that.

    Weights keep their values exactly: float16 tensors stay float16, everything else (quantised
    tensors among them) becomes float32. The folder appears under its name when it is whole. When
    two processes convert at once, the first one's folder stays and both return it.

    Raises:
        ModelError: the file is not GGUF, its architecture, tokenizer or a tensor is not supported,
            or ``out_dir`` holds something else.
    """
    metadata, tensors = _read_gguf(gguf_path)
    _check_supported(gguf_path, metadata)

    make_folder(out_dir.parent)
    temporary = Path(
        tempfile.mkdtemp(prefix=f".{out_dir.name}.", suffix=".tmp", dir=out_dir.parent)
    )
    try:
        weights = _convert_tensors(gguf_path, metadata, tensors)
        _write_folder(temporary, gguf_path, metadata, weights)
        _take_name(temporary, out_dir)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot write the converted model to {out_dir}: {error}",
            hint="free some space or choose another folder (set PREFPIPE_CACHE to move the cache)",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out_dir


def _write_folder(
    folder: Path,
    gguf_path: Path,
    metadata: dict[str, Any],
    weights: dict[str, np.ndarray[Any, Any]],
) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _model_config(metadata, weights))
    _write_json(folder / "generation_config.json", _special_ids(metadata))
    _build_tokenizer(gguf_path, metadata).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(metadata))
    if "tokenizer.chat_template" in metadata:
        template = metadata["tokenizer.chat_template"]
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    # mkdtemp makes folders that only their owner can read
    folder.chmod(0o755)


def _take_name(temporary: Path, out_dir: Path) -> None:
    """Give the finished folder its name.

    A folder that has the name already stays if it is the same model.
    """
    try:
        temporary.rename(out_dir)
    except OSError:
        # The name may be taken: by another process that was first, or by something else.
        if not out_dir.is_dir():
            raise
        converted = inspect_model(temporary, temporary.name)
        if converted.identity() != inspect_model(out_dir, out_dir.name).identity():
            raise ModelError(
                f"{out_dir} already holds another model", hint="choose an empty folder with -o"
            ) from None
    sync_folder(out_dir.parent)


def require_gguf(gguf_path: Path) -> None:
    """Raise a ModelError when there is no such file."""
    if not gguf_path.is_file():
        raise ModelError(f"no GGUF file at {gguf_path}", hint="check the path")


def _read_gguf(gguf_path: Path) -> tuple[dict[str, Any], list[Any]]:
    require_gguf(gguf_path)
    try:
        reader = GGUFReader(gguf_path)
        return {key: field.contents() for key, field in reader.fields.items()}, reader.tensors
    except (ValueError, IndexError, KeyError) as error:
        raise ModelError(
            f"{gguf_path} is not a complete GGUF file: {error}",
            hint="download or copy the file again",
        ) from error


def _check_supported(gguf_path: Path, metadata: dict[str, Any]) -> None:
    """Refuse, by name, what the conversion does not support."""
    n_heads = metadata.get("llama.attention.head_count", 1)
    head_dim = metadata.get("llama.embedding_length", 0) // n_heads
    # None: the file does not say, which is fine.
    supported = {
        "general.architecture": ("llama", None),
        "tokenizer.ggml.model": ("gpt2", None),
        "tokenizer.ggml.pre": ("smollm", "gpt-2"),
        "tokenizer.ggml.add_bos_token": (False, None),
        "llama.rope.scaling.type": ("none", None),
        "llama.rope.dimension_count": (head_dim, None),
        "llama.attention.key_length": (head_dim, None),
        "llama.expert_count": (0, None),
    }
    for key, values in supported.items():
        value = metadata.get(key)
        if value not in values:
            raise ModelError(
                f"{gguf_path} cannot be converted: {key} is {value!r}, supported: {values[0]!r}",
                hint=SAFETENSORS_HINT,
            )
    for key in NEEDED_METADATA:
        if key not in metadata:
            raise ModelError(
                f"{gguf_path} cannot be converted: its metadata lacks {key}",
                hint=SAFETENSORS_HINT,
            )


def _convert_tensors(
    gguf_path: Path, metadata: dict[str, Any], tensors: list[Any]
) -> dict[str, np.ndarray[Any, Any]]:
    n_heads = metadata["llama.attention.head_count"]
    n_key_heads = metadata.get("llama.attention.head_count_kv", n_heads)
    heads = {"attn_q": n_heads, "attn_k": n_key_heads}

    weights = {}
    for tensor in tensors:
        name = tensor.name.removesuffix(".weight")
        layer, _, part = name.removeprefix("blk.").partition(".")
        if name in WHOLE_MODEL_TENSORS:
            target = WHOLE_MODEL_TENSORS[name]
        elif name.startswith("blk.") and part in LAYER_TENSORS:
            target = f"model.layers.{layer}.{LAYER_TENSORS[part]}"
        else:
            raise ModelError(
                f"{gguf_path} cannot be converted: its tensor {tensor.name} is not part of a plain "
                "Llama model",
                hint=SAFETENSORS_HINT,
            )

        is_half = tensor.tensor_type == GGMLQuantizationType.F16
        dtype = np.float16 if is_half else np.float32
        values = dequantize(tensor.data, tensor.tensor_type).astype(dtype)
        if part in heads:
            values = _unpermute(values, heads[part])
        weights[f"{target}.weight"] = np.ascontiguousarray(values)
    return weights


def _unpermute(values: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """Undo the row order of GGUF's query and key matrices.

    GGUF rotates neighbouring pairs of a head's dimensions, Hugging Face the first half against the
    second. So the exporter interleaved the two halves of each head: rows (head, pair, half) become
    (head, half, pair).
    """
    pairs = values.shape[0] // n_heads // 2
    return values.reshape(n_heads, pairs, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _model_config(
    metadata: dict[str, Any], weights: dict[str, np.ndarray[Any, Any]]
) -> dict[str, Any]:
    n_heads = metadata["llama.attention.head_count"]
    matrices = {str(values.dtype) for values in weights.values() if values.ndim == 2}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "dtype": "float16" if matrices == {"float16"} else "float32",
        "head_dim": metadata["llama.embedding_length"] // n_heads,
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": n_heads,
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv", n_heads),
        "rms_norm_eps": _shortest_float32(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {
            "rope_theta": _shortest_float32(metadata.get("llama.rope.freq_base", 10_000.0)),
            "rope_type": "default",
        },
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "vocab_size": weights["model.embed_tokens.weight"].shape[0],
        **_special_ids(metadata),
    }


def _shortest_float32(value: float) -> float:
    """Return the decimal that the author wrote.

    1e-05, where GGUF's float32 reads 9.999999747378752e-06.
    """
    return float(str(np.float32(value)))


def _special_ids(metadata: dict[str, Any]) -> dict[str, int]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {name: index for name, index in ids.items() if index is not None}


def _build_tokenizer(gguf_path: Path, metadata: dict[str, Any]) -> Tokenizer:
    """Return the byte-level BPE tokenizer."""
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    vocabulary = {text: index for index, text in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ModelError(
            f"{gguf_path} cannot be converted: a token occurs twice", hint=SAFETENSORS_HINT
        )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        # digits one by one, before the GPT-2 pattern
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()

    types = metadata.get("tokenizer.ggml.token_type", [])
    # A file without types tells no control tokens from the others.
    for text, kind in zip(tokens, types, strict=False):
        if kind == CONTROL_TOKEN:
            tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
        elif kind == USER_DEFINED_TOKEN:
            tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
    return tokenizer


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    keys = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        **{name: tokens[index] for name, index in ids.items() if index is not None},
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
