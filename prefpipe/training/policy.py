"""Loads the policy, and saves it as a folder that every tool reads.

Trained weights. Without LoRA all weights, in float32; ``bf16`` computes under autocast and keeps
float32 weights, because at learning rates near 1e-6 an update is smaller than the spacing of
bfloat16 numbers and would be lost. With LoRA the adapter is float32, and the frozen base is
bfloat16 with ``bf16``, or 4-bit with ``load_in_4bit``.

Starting from an adapter folder. With LoRA the adapter itself is trained further (its rank and
modules must match the flags), so that the result names the same base model. Without LoRA it is
merged into its base first, and the result is a whole model.

Dropout is off in the model, so that policy and reference agree at the start; only ``lora_dropout``
turns some on.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from prefpipe.artifacts.atomic import atomic_write, settle_file, sync_folder
from prefpipe.errors import ModelError, UsageError
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.training.quantisation import NF4, keep_one_kernel, nf4_config, require_bitsandbytes
from prefpipe.training.ranks import loading_whole

SAVED_SUFFIX = ".saving"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (arXiv 2106.09685).

    Empty ``target_modules`` means every linear layer except the output.
    """

    r: int
    alpha: float
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()


class Policy(NamedTuple):
    """A model ready to be trained, and its tokenizer.

    ``adapter_base``: the base that a saved adapter names; None for a whole model.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    adapter_base: ModelFiles | None


def load_policy(
    files: ModelFiles,
    *,
    lora: LoraSettings | None,
    bf16: bool,
    seed: int,
    load_in_4bit: bool = False,
    trust_remote_code: bool = False,
) -> Policy:
    """Load a model for training.

    Args:
        files: a checked model folder: a causal language model, or an adapter of one.
        lora: train adapters of this shape; None trains all weights.
        bf16: see the module's text.
        seed: of the adapter's random start.
        load_in_4bit: keep the frozen base in 4 bits; only with ``lora``.
        trust_remote_code: run Python files that come with the model.

    Raises:
        ModelError: not a causal language model, no tokenizer or chat template.
        UsageError: ``lora`` disagrees with the adapter it starts from, or names modules the model
            lacks; no bitsandbytes.
    """
    whole = _require_causal(files)
    require_chat_template(files)
    transformers_logging.disable_progress_bar()
    # NumPy's and Python's randomness, too: adapters start from random numbers.
    set_seed(seed)

    dtype = torch.bfloat16 if bf16 and lora is not None else torch.float32
    with loading_whole(fsdp_sends=True):
        model = _load_weights(
            whole, dtype, load_in_4bit=load_in_4bit, trust_remote_code=trust_remote_code
        )
    tokenizer = AutoTokenizer.from_pretrained(
        files.tokenizer_path, trust_remote_code=trust_remote_code
    )
    turn_dropout_off(model)

    if files.base is None:
        if lora is None:
            return Policy(model, tokenizer, None)
        return Policy(_add_lora(model, lora), tokenizer, files)

    with old_names_of_peft():
        model = PeftModel.from_pretrained(model, files.path, is_trainable=lora is not None)
    if lora is None:
        merged = model.merge_and_unload().requires_grad_(requires_grad=True)
        return Policy(merged, tokenizer, None)
    _check_same_lora(model.peft_config["default"], lora, files.path)
    return Policy(model, tokenizer, files.base)


def end_token_ids(model: Any, tokenizer: Any) -> set[int]:
    """Return the ids that end a response: the tokenizer's, and those that generation stops at."""
    generation = getattr(model, "generation_config", None)
    stops = getattr(generation, "eos_token_id", None)
    if not isinstance(stops, list):
        stops = [stops]
    return {tokenizer.eos_token_id, *stops} - {None}


def check_lora(
    files: ModelFiles,
    lora: LoraSettings,
    *,
    load_in_4bit: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Check the LoRA settings against the model's configuration.

    No weights are loaded.

    Raises:
        ModelError: not a causal language model.
        UsageError: as `load_policy` would raise.
    """
    whole = _require_causal(files)
    if load_in_4bit:
        require_bitsandbytes()
    if files.base is not None:
        _check_same_lora(PeftConfig.from_pretrained(files.path), lora, files.path)
        return

    config = AutoConfig.from_pretrained(whole.path, trust_remote_code=trust_remote_code)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # noqa: BLE001 - its code may need real weights; loading will show
        return
    # The adapters are built without weights, too.
    _add_lora(model, lora, low_cpu_mem_usage=True)


def load_reference(
    files: ModelFiles, *, dtype: str, merge_adapter: bool = False, trust_remote_code: bool = False
) -> Any:
    """Load a model whose log-probabilities are a reference: frozen, without dropout.

    Args:
        files: a checked model folder: a causal language model, or an adapter of one.
        dtype: ``float32`` and ``mixed`` have float32 weights, ``bfloat16`` has bfloat16 weights,
            ``nf4-float32`` and ``nf4-bfloat16`` have 4-bit weights as `load_policy` would.
        merge_adapter: add an adapter to its base's weights, like a policy whose weights are all
            trained, instead of computing it beside them, like one whose adapter is trained further.
            The two differ in the last digits.
        trust_remote_code: run Python files that come with the model.

    Raises:
        ModelError: not a causal language model.
        UsageError: no bitsandbytes.
    """
    whole = _require_causal(files)
    transformers_logging.disable_progress_bar()

    is_quantised = dtype in NF4
    torch_dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    with loading_whole():
        model = _load_weights(
            whole,
            NF4.get(dtype, torch_dtype),
            load_in_4bit=is_quantised,
            trust_remote_code=trust_remote_code,
        )
    turn_dropout_off(model)

    if files.base is not None:
        with old_names_of_peft():
            model = PeftModel.from_pretrained(model, files.path)
        if merge_adapter:
            model = model.merge_and_unload()
    return model.eval().requires_grad_(requires_grad=False)


def computes_in_bfloat16(dtype: str) -> bool:
    """Return whether a reference of this ``--dtype`` is measured under bfloat16 autocast."""
    return dtype in ("mixed", "bfloat16", "nf4-bfloat16")


def _load_weights(
    whole: ModelFiles, dtype: torch.dtype, *, load_in_4bit: bool, trust_remote_code: bool
) -> Any:
    quantisation = {"quantization_config": nf4_config(dtype)} if load_in_4bit else {}
    model = AutoModelForCausalLM.from_pretrained(
        whole.path, dtype=dtype, trust_remote_code=trust_remote_code, **quantisation
    )
    require_generation_config(model, whole.path)
    if load_in_4bit:
        keep_one_kernel(model)
    return model


def require_generation_config(model: Any, folder: Path) -> None:
    """Give a model the generation configuration of its folder, if any.

    transformers ignores a ``generation_config.json`` that it cannot open. Such a model would stop
    at other tokens, and its saved copy would lose the file.

    Raises:
        OSError: the file exists and cannot be read.
    """
    if (folder / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)


def turn_dropout_off(model: nn.Module) -> None:
    """Set every dropout probability of a model to 0.

    This covers modules, and the attribute that attention functions read.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        name = "attention_dropout"
        if isinstance(getattr(module, name, None), float):
            setattr(module, name, 0.0)


def save_policy(
    policy: Policy, folder: Path, card: str, *, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write the policy: safetensors, configuration, tokenizer, chat template and a model card.

    A whole model, or an adapter that names its base and the base's revision. Everything is written
    to a hidden folder beside and then moved file by file, ``config.json`` or
    ``adapter_config.json`` last: without it a folder is not a model.

    Args:
        policy: as loaded, trained.
        folder: an existing folder; other files in it are not touched.
        card: text of ``README.md``.
        weights: all weights of the model, if its own are sharded over devices.
    """
    staging = folder / SAVED_SUFFIX
    # Leftovers of a killed save.
    with suppress(FileNotFoundError):
        shutil.rmtree(staging)

    model = policy.model
    options: dict[str, Any] = {}
    if policy.adapter_base is not None:
        config = model.peft_config["default"]
        config.base_model_name_or_path = policy.adapter_base.requested
        config.revision = policy.adapter_base.revision
        # peft writes a set in the order of its hashes, which differs between processes.
        for name, value in list(vars(config).items()):
            if isinstance(value, set):
                setattr(config, name, sorted(value))
        # Embeddings are never trained by an adapter here; "auto" would ask the hub whether they
        # changed.
        options["save_embedding_layers"] = False
    if weights is not None:
        options["state_dict"] = dict(weights)

    # The trainer turns the cache off, but a saved model without it generates many times slower.
    # Training may continue after a save, without the cache.
    uses_cache = model.config.use_cache
    model.config.use_cache = True
    model.save_pretrained(staging, **options)
    model.config.use_cache = uses_cache
    policy.tokenizer.save_pretrained(staging)
    with atomic_write(staging / "README.md") as file:
        file.write(card.encode())

    last = {"config.json", "adapter_config.json"}
    for path in sorted(staging.iterdir(), key=lambda path: (path.name in last, path.name)):
        settle_file(path)
        path.replace(folder / path.name)
    staging.rmdir()
    sync_folder(folder)


def model_card(
    policy: Policy, source: ModelFiles, facts: Mapping[str, Any], kind: str = "A model"
) -> str:
    """Return a short model card: the start model, the result, and the settings.

    ``kind`` is the name of a whole model.
    """
    library = "transformers"
    if policy.adapter_base is not None:
        kind, library = "A LoRA adapter", "peft"
    start = source.requested
    if source.base is not None:
        start += f" (an adapter of {source.base.requested})"

    lines = ["---", f"library_name: {library}", "tags: [prefpipe]"]
    # The hub takes only its own names: no path, no bundled:NAME.
    if not Path(start).exists() and ":" not in start:
        lines.append(f"base_model: {start}")
    lines += ["---", "", f"{kind} trained by prefpipe from `{start}`.", ""]
    lines += ["| setting | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(lines) + "\n"


@contextmanager
def old_names_of_peft() -> Iterator[None]:
    """Hide a warning about peft's own code from users.

    peft uses transformers' old name of gradient checkpointing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing.* is deprecated", category=FutureWarning
        )
        yield


def _require_causal(files: ModelFiles) -> ModelFiles:
    """Return the model itself, or the base of an adapter, if it is a causal language model."""
    whole = files.base if files.base is not None else files
    if whole.kind != "causal-lm":
        raise ModelError(
            f"{whole.path} is a {whole.kind} model; a policy is a causal language model",
            hint="pass a causal language model with --model",
        )
    return whole


def _add_lora(model: Any, lora: LoraSettings, *, low_cpu_mem_usage: bool = False) -> Any:
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        with old_names_of_peft():
            return get_peft_model(model, config, low_cpu_mem_usage=low_cpu_mem_usage)
    except ValueError as error:
        raise UsageError(
            f"--lora-target-modules {', '.join(lora.target_modules)}: {error}",
            hint="leave --lora-target-modules out to adapt every linear layer",
        ) from error


def _check_same_lora(adapter: Any, lora: LoraSettings, path: Path) -> None:
    """Refuse LoRA settings that differ from the adapter whose training continues.

    Raises:
        UsageError: names every difference.
    """
    differences = []
    if adapter.r != lora.r:
        differences.append(f"r is {adapter.r} there, {lora.r} here")
    if adapter.lora_alpha != lora.alpha:
        differences.append(f"alpha is {adapter.lora_alpha} there, {lora.alpha} here")
    if lora.target_modules and set(adapter.target_modules) != set(lora.target_modules):
        differences.append(f"modules are {', '.join(sorted(adapter.target_modules))} there")
    if differences:
        raise UsageError(
            f"the adapter in {path} does not match the --lora-* flags: {'; '.join(differences)}",
            hint="pass the adapter's own --lora-* values, or leave --lora-r out to merge it and "
            "train all weights",
        )
