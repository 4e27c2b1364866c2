"""How large a model is, from its ``config.json`` alone.

The model is built without weights, on PyTorch's meta device. That is exact for any architecture
that transformers knows: what is counted are the parameters of the model that training would load.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging as transformers_logging

from prefpipe.errors import ModelError
from prefpipe.maths.compute.training_compute import ModelShape
from prefpipe.maths.compute.training_memory import MemoryShape
from prefpipe.models.files import MODEL_CONFIG
from prefpipe.models.location import SIZE_HINT, find_whole_on_disk

EXPERT = re.compile(r"(^|\.)experts\.")
N_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
N_EXPERTS_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k")

NO_MODEL_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OSError,
    ImportError,
    StrictDataclassError,
)
"""Errors of transformers for a configuration that is not a causal language model."""


class NamedShape(NamedTuple):
    """A model's shape, its parameters in all and for one token, and notes on the count."""

    shape: ModelShape
    n_parameters: int
    n_active_parameters: int
    notes: tuple[str, ...]


def named_shape(reference: str) -> NamedShape:
    """Return the shape of a model; of an adapter the base counts.

    Nothing is downloaded: a hub name must be in the cache, its ``config.json`` at least.

    Args:
        reference: a folder, a ``.gguf`` file, ``bundled:NAME`` or ``org/name[@revision]``.

    Raises:
        ModelError: nothing is there, no configuration, or one of another kind of model than
            training takes.
    """
    model, config = build_without_weights(find_whole_on_disk(reference, sizes_count=True))
    return shape_of(model, config)


def build_without_weights(folder: Path) -> tuple[nn.Module, PretrainedConfig]:
    """Return the model of a folder's configuration, on the meta device, and the configuration.

    Raises:
        ModelError: no configuration, or one of another kind of model than training takes.
    """
    if not (folder / MODEL_CONFIG).is_file():
        raise ModelError(
            f"no {MODEL_CONFIG} in the model folder {folder}",
            hint=f"pass the folder that holds it, {SIZE_HINT}",
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
        # Its warnings about settings concern running the model.
        transformers_logging.set_verbosity_error()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except NO_MODEL_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"no causal language model can be built from {folder / MODEL_CONFIG}: {reason[:300]}",
            hint=f"pass a causal language model, {SIZE_HINT}",
        ) from error
    return model, config


def memory_shape(model: nn.Module, config: PretrainedConfig) -> MemoryShape:
    """Return the dimensions that determine the memory of a training step.

    Of a mixture of experts, the width is one expert's.
    """
    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    rank_width = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not output:
            rank_width += module.in_features + module.out_features

    hidden = _first_number(config, ("hidden_size",)) or 0
    return MemoryShape(
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        rank_width=rank_width,
        n_layers=_first_number(config, ("num_hidden_layers",)) or 0,
        hidden=hidden,
        inner=_first_number(config, ("intermediate_size",)) or 4 * hidden,
        n_vocabulary=int(output.weight.shape[0]),
    )


def shape_of(model: nn.Module, config: PretrainedConfig) -> NamedShape:
    """Return the shape of a causal language model, built with or without weights.

    Parameters of one dimension (norms, biases) and embedding tables take part in no matrix product.
    A table that is tied to the output projection counts once, as the output projection.
    """
    notes: list[str] = []
    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    share = _share_of_experts(model, config, notes)

    n_all = 0
    n_active = n_layers = 0.0
    for name, parameter in model.named_parameters():
        n_of_one_token = parameter.numel() * (share if EXPERT.search(name) else 1.0)
        n_all += parameter.numel()
        n_active += n_of_one_token

        is_matrix = parameter.ndim > 1 and not name.endswith("bias")
        if is_matrix and id(parameter) not in tables and parameter is not output.weight:
            n_layers += n_of_one_token

    shape = ModelShape(n_layers, output.weight.numel(), _attention_width(config, notes))
    return NamedShape(shape, n_all, round(n_active), tuple(notes))


def _share_of_experts(model: nn.Module, config: PretrainedConfig, notes: list[str]) -> float:
    """Return the share of the experts' parameters that one token uses, 1 without experts."""
    if not any(EXPERT.search(name) for name, _ in model.named_parameters()):
        return 1.0

    n_experts = _first_number(config, N_EXPERTS)
    n_used = _first_number(config, N_EXPERTS_A_TOKEN)
    if n_experts is None or n_used is None:
        notes.append(
            "its configuration does not say how many experts a token uses, so all of them are "
            "counted"
        )
        return 1.0
    notes.append(f"{n_used} of {n_experts} experts are counted, the number that each token uses")
    return n_used / n_experts


def _attention_width(config: PretrainedConfig, notes: list[str]) -> float:
    """Return the sum over attention layers of heads x (query width + value width)."""
    n_layers = _first_number(config, ("num_hidden_layers",))
    n_heads = _first_number(config, ("num_attention_heads",))
    hidden = _first_number(config, ("hidden_size",))
    if n_layers is None or n_heads is None or hidden is None:
        notes.append(
            "its configuration does not name layers and heads in the usual way, so attention is "
            "left out"
        )
        return 0.0

    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if kinds:
        # Linear attention has no product of all tokens with all.
        n_layers = sum("attention" in kind and "linear" not in kind for kind in kinds)
        if any("sliding" in kind or "chunked" in kind for kind in kinds):
            notes.append(
                "layers with a sliding window are counted as full attention, an upper bound for "
                "long sequences"
            )

    # multi-head latent attention
    if getattr(config, "kv_lora_rank", None) and getattr(config, "qk_nope_head_dim", None):
        widths = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
        return float(n_layers * n_heads * widths)

    head = _first_number(config, ("head_dim",)) or hidden // n_heads
    return float(n_layers * n_heads * 2 * head)


def _first_number(config: PretrainedConfig, names: tuple[str, ...]) -> int | None:
    """Return the first of these settings that is a positive whole number."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
