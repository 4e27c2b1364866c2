"""How large a model is, from its ``config.json`` alone: the model is built without weights, on PyTorch's meta device.

Exact for any architecture that transformers knows: what is counted are the parameters of the model that training would load.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging as transformers_logging

from prefpipe.errors import ModelError
from prefpipe.maths.compute.training_compute import ModelShape
from prefpipe.maths.compute.training_memory import MemoryShape
from prefpipe.models.bundled import PREFIX, find_bundled
from prefpipe.models.files import find_adapter_base
from prefpipe.models.gguf_conversion import convert_cached
from prefpipe.models.location import HUB_NAME
from prefpipe.models.tokenizer import find_tokenizer_files

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
SIZE_HINT = "or give its size, for example --model 8B"
EXPERT = re.compile(r"(^|\.)experts\.")
N_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
N_EXPERTS_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k")


class NamedShape(NamedTuple):
    """A model's shape, how many parameters it has in all and for one token, and what is to be known of the count."""

    shape: ModelShape
    n_parameters: int
    n_active_parameters: int
    notes: tuple[str, ...]


def named_shape(reference: str) -> NamedShape:
    """Return the shape of a model given as a folder, a ``.gguf`` file, ``bundled:NAME`` or ``org/name[@revision]``.

    Nothing is downloaded: a hub name must be in the cache, its ``config.json`` at least. Of an adapter the base counts.

    Raises:
        ModelError: nothing is there, no configuration, or one of another kind of model than training takes.
    """
    model, config = build_without_weights(_find_folder(reference))
    return shape_of(model, config)


def build_without_weights(folder: Path) -> tuple[nn.Module, PretrainedConfig]:
    """Return the model of a folder's configuration, its parameters on the meta device, and the configuration.

    Raises:
        ModelError: no configuration, or one of another kind of model than training takes.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"no {CONFIG} in the model folder {folder}",
            hint=f"give the folder that holds it, {SIZE_HINT}",
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
        transformers_logging.set_verbosity_error()  # what it says of settings concerns running the model
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        ImportError,
        StrictDataclassError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"no causal language model can be built from {folder / CONFIG}: {reason[:300]}",
            hint=f"pass a causal language model, {SIZE_HINT}",
        ) from error
    return model, config


def memory_shape(model: nn.Module, config: PretrainedConfig) -> MemoryShape:
    """Return what the memory of a training step depends on; of mixtures of experts the width is one expert's."""
    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    linear = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not output
    ]
    hidden = _first_number(config, ("hidden_size",)) or 0
    return MemoryShape(
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        rank_width=sum(module.in_features + module.out_features for module in linear),
        n_layers=_first_number(config, ("num_hidden_layers",)) or 0,
        hidden=hidden,
        inner=_first_number(config, ("intermediate_size",)) or 4 * hidden,
        n_vocabulary=int(output.weight.shape[0]),
    )


class FoldersOnDisk(NamedTuple):
    """Where a model's configuration is, and its tokenizer: an adapter brings the one, and the base the other or both."""

    config: Path
    tokenizer: Path


def folders_on_disk(reference: str) -> FoldersOnDisk:
    """Return where a model's configuration and tokenizer are; weights are neither needed nor looked at.

    Raises:
        ModelError: nothing is there, or not on this machine.
    """
    try:
        own, whole = _own_folder(reference), _find_folder(reference)
    except ModelError as error:
        hint = "give a folder, bundled:NAME, or an org/name[@revision] that is in the hub cache"
        raise ModelError(error.message.replace(" and not a size", ""), hint=hint) from error
    return FoldersOnDisk(whole, own if find_tokenizer_files(own) else whole)


def shape_of(model: nn.Module, config: PretrainedConfig) -> NamedShape:
    """Return the shape of a causal language model, built with or without weights.

    Parameters of one dimension (norms, biases) and embedding tables take part in no matrix product. A table that is tied to
    the output projection counts once, as the output projection.
    """
    notes: list[str] = []
    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    share = _share_of_experts(model, config, notes)
    n_layers = n_active = 0.0
    n_all = 0
    for name, parameter in model.named_parameters():
        of_one_token = parameter.numel() * (share if EXPERT.search(name) else 1.0)
        n_all += parameter.numel()
        n_active += of_one_token
        is_product = (
            parameter.ndim > 1 and not name.endswith("bias") and id(parameter) not in tables
        )
        if is_product and parameter is not output.weight:
            n_layers += of_one_token
    width = _attention_width(config, notes)
    return NamedShape(
        ModelShape(n_layers, output.weight.numel(), width), n_all, round(n_active), tuple(notes)
    )


def _share_of_experts(model: nn.Module, config: PretrainedConfig, notes: list[str]) -> float:
    """Return the share of the experts' parameters that one token meets, 1 without experts."""
    if not any(EXPERT.search(name) for name, _ in model.named_parameters()):
        return 1.0
    n_experts, n_used = _first_number(config, N_EXPERTS), _first_number(config, N_EXPERTS_A_TOKEN)
    if n_experts is None or n_used is None:
        notes.append(
            "its configuration does not say how many experts a token meets: all of them are counted"
        )
        return 1.0
    notes.append(f"{n_used} of {n_experts} experts are counted, those that a token meets")
    return n_used / n_experts


def _attention_width(config: PretrainedConfig, notes: list[str]) -> float:
    """Return the sum over attention layers of heads x (query width + value width)."""
    n_layers, n_heads = (
        _first_number(config, ("num_hidden_layers",)),
        _first_number(config, ("num_attention_heads",)),
    )
    hidden = _first_number(config, ("hidden_size",))
    if n_layers is None or n_heads is None or hidden is None:
        notes.append(
            "its configuration does not give layers and heads by the usual names: attention is left out"
        )
        return 0.0
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if kinds:
        n_layers = sum("attention" in kind and "linear" not in kind for kind in kinds)
        if any("sliding" in kind or "chunked" in kind for kind in kinds):
            notes.append(
                "layers with a sliding window are counted as full attention: an upper bound for long sequences"
            )
    if getattr(config, "kv_lora_rank", None) and getattr(
        config, "qk_nope_head_dim", None
    ):  # multi-head latent attention
        return float(
            n_layers
            * n_heads
            * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
        )
    head = _first_number(config, ("head_dim",)) or hidden // n_heads
    return float(n_layers * n_heads * 2 * head)


def _first_number(config: PretrainedConfig, names: tuple[str, ...]) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _find_folder(reference: str) -> Path:
    """Return the folder with the configuration, of an adapter its base's; only what is on this disk."""
    folder = _own_folder(reference)
    named = find_adapter_base(folder)
    if named is None:
        return folder
    beside = folder / named.reference
    if not Path(named.reference).is_dir() and beside.is_dir():
        return _own_folder(str(beside))
    return _own_folder(f"{named.reference}@{named.revision}" if named.revision else named.reference)


def _own_folder(reference: str) -> Path:
    if reference.startswith(PREFIX):
        bundled = find_bundled(reference)
        return convert_cached(bundled) if bundled.suffix == ".gguf" else bundled
    path = Path(reference).expanduser()
    if reference and path.is_dir():
        return path
    if path.suffix == ".gguf":
        return convert_cached(path)
    name = HUB_NAME.fullmatch(reference)
    if name is None or reference.startswith((".", "~")):
        raise ModelError(
            f"no model at {reference!r}: it is not a folder here, not a hub name and not a size",
            hint="give a folder, bundled:smollm2-135m, org/name[@revision], or a size such as 8B or 135M",
        )
    return _cached_snapshot(name["repo"], name["revision"])


def _cached_snapshot(repo: str, revision: str | None) -> Path:
    """Return the folder of the cached snapshot that holds a configuration."""
    for file in (CONFIG, ADAPTER_CONFIG):
        try:
            found = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
        except ValueError as error:  # a name that no repository can have
            raise ModelError(
                f"{repo!r} is no hub name: {error}", hint=f"look at the name, {SIZE_HINT}"
            ) from error
        if isinstance(found, str):
            return Path(found).parent
    place = f"{repo}@{revision}" if revision else repo
    how = f"hf download {repo} {CONFIG}" + (f" --revision {revision}" if revision else "")
    raise ModelError(
        f"the model {place} is not in the hub cache of this machine, and nothing is downloaded for an estimate",
        hint=f"run: {how}; {SIZE_HINT}",
    )
