"""A LoRA adapter added to its base: ``W + scale * B A`` for every adapted matrix.

peft does the arithmetic: rank-stabilised scales, DoRA's magnitudes, whole modules in
``modules_to_save``. It runs in float32 whatever the base's stored precision, and rounding happens
once, at the end. This module does what peft leaves to its caller:

- tied embeddings of which the adapter changes one side: they are untied first, or the other side
  would change, too;
- a vocabulary that grew: the base grows to the adapter's rows before the adapter is loaded;
- an adapter that changes nothing, and rounding that cancels its changes: every matrix is compared
  before and after.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from prefpipe.errors import ModelError
from prefpipe.models.files import ADAPTER_CONFIG, MODEL_CONFIG, ModelFiles, require_tokenizer
from prefpipe.models.json_files import read_json
from prefpipe.models.weights import ADAPTER_WEIGHTS
from prefpipe.training.policy import old_names_of_peft, require_generation_config, turn_dropout_off

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = {
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
}
KIND_OF_TASK = {"CAUSAL_LM": "causal-lm", "SEQ_CLS": "sequence-classification"}
"""A key of `KINDS` by peft's ``task_type``; an adapter without a task has its base's."""


class Adapted(NamedTuple):
    """A base in float32 with its separate adapter, and notes on how they were fitted."""

    model: Any
    tokenizer: Any
    notes: list[str]


@dataclass
class Changes:
    """What merging did to the adapted matrices, in float32 and rounded to ``dtype``.

    ``norm2`` and ``update2`` are the squared norms of all matrices and of their updates; ``kept``
    is the scalar product of the exact and the rounded update.
    """

    dtype: torch.dtype
    n_matrices: int = 0
    unchanged: list[str] = field(default_factory=list)
    n_weights: int = 0
    n_changed: int = 0
    n_changed_rounded: int = 0
    norm2: float = 0.0
    update2: float = 0.0
    kept: float = 0.0

    def add(self, name: str, before: Tensor, after: Tensor) -> None:
        """Count one matrix."""
        update = after - before
        rounded = after.to(self.dtype).float() - before.to(self.dtype).float()
        n_changed_rounded = int((rounded != 0).sum())

        self.n_matrices += 1
        if n_changed_rounded == 0:
            self.unchanged.append(name)
        self.n_weights += before.numel()
        self.n_changed += int((update != 0).sum())
        self.n_changed_rounded += n_changed_rounded
        self.norm2 += float(before.double().square().sum())
        self.update2 += float(update.double().square().sum())
        self.kept += float((update.double() * rounded).sum())

    def figures(self) -> dict[str, Any]:
        """Return the figures of all matrices together.

        ``relative_update`` is the norm of the update over that of the matrices.
        """
        n_weights = max(1, self.n_weights)
        return {
            "n_matrices": self.n_matrices,
            "n_changed": self.n_matrices - len(self.unchanged),
            "unchanged": self.unchanged,
            "relative_update": sqrt(self.update2 / self.norm2) if self.norm2 else 0.0,
            "changed_share": self.n_changed / n_weights,
            "changed_share_rounded": self.n_changed_rounded / n_weights,
            "kept_share": self.kept / self.update2 if self.update2 else 0.0,
        }


def kind_of(files: ModelFiles) -> str:
    """Return the kind of an adapted model, a key of `KINDS`.

    Raises:
        ModelError: not an adapter, not LoRA, a quantised base, or an adapter for another task.
    """
    if files.base is None:
        raise ModelError(
            f"{files.path} is not an adapter: it has no adapter_config.json",
            hint="pass the folder that `prefpipe train --lora-r N` wrote, or another LoRA adapter",
        )
    config = read_json(files.path / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"the adapter in {files.path} is of the type {config.get('peft_type')}; prefpipe "
            "merges LORA only",
            hint="merge it with the tool that made it",
        )
    if "quantization_config" in read_json(files.base.path / MODEL_CONFIG):
        raise ModelError(
            f"the base {files.base.requested} is stored quantised: "
            "an adapter added to rounded weights would be mostly lost",
            hint="pass the unquantised base with --model BASE",
        )

    task = str(config.get("task_type"))
    kind = KIND_OF_TASK.get(task, files.base.kind)
    loses_head = files.base.kind == "sequence-classification" and kind == "causal-lm"
    if kind not in KINDS or loses_head:
        raise ModelError(
            f"the adapter in {files.path} is for {task}, but its base is a {files.base.kind} model",
            hint="pass an adapter of a causal language model or of a one-label sequence classifier",
        )
    return kind


def stored_dtype(files: ModelFiles) -> str:
    """Return the key of `DTYPES` that a model is stored in; float32 if it names none of them."""
    config = read_json(files.path / MODEL_CONFIG)
    dtype = str(config.get("dtype") or config.get("torch_dtype"))
    return dtype if dtype in DTYPES else "float32"


def load_adapted(files: ModelFiles, *, trust_remote_code: bool = False) -> Adapted:
    """Load base and adapter in float32, the adapter beside the base.

    Raises:
        ModelError: see `kind_of`; the adapter does not fit the base; a tokenizer with more tokens
            than rows; several labels.
    """
    kind = kind_of(files)
    require_tokenizer(files)
    base = files.base
    assert base is not None
    shapes = _shapes_of(files.path)
    is_classifier = kind == "sequence-classification"
    if is_classifier:
        # Before loading weights, which may take minutes.
        _require_one_label(files, base, shapes, trust_remote_code=trust_remote_code)

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(
        files.tokenizer_path, trust_remote_code=trust_remote_code
    )
    labels = {"num_labels": 1} if is_classifier else {}
    model = KINDS[kind].from_pretrained(
        base.path, dtype=torch.float32, trust_remote_code=trust_remote_code, **labels
    )
    require_generation_config(model, base.path)
    if is_classifier:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    turn_dropout_off(model)
    notes = _fit_vocabulary(model, tokenizer, shapes, files)

    config = PeftConfig.from_pretrained(files.path)
    try:
        with old_names_of_peft():
            model = PeftModel.from_pretrained(model, files.path, config=config)
    except (RuntimeError, ValueError, KeyError) as error:
        lines = str(error).strip().splitlines()
        raise ModelError(
            f"the adapter in {files.path} does not fit the base {base.requested}: "
            f"{' '.join(lines[:3])[:400]}",
            hint="pass the base of its training with --model BASE",
        ) from error
    return Adapted(model.eval().requires_grad_(requires_grad=False), tokenizer, notes)


def _shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def _require_one_label(
    files: ModelFiles,
    base: ModelFiles,
    shapes: dict[str, tuple[int, ...]],
    *,
    trust_remote_code: bool,
) -> None:
    config = AutoConfig.from_pretrained(base.path, trust_remote_code=trust_remote_code)
    n_labels = config.num_labels
    has_head = base.kind == "sequence-classification"
    for name, shape in shapes.items():
        if name.split(".")[-2] in ("score", "classifier") and len(shape) == 2:
            n_labels = shape[0]
            has_head = True
            break

    if not has_head:
        raise ModelError(
            f"the adapter in {files.path} is for a sequence classifier, but neither it nor "
            "its base has a head",
            hint="pass the classifier of its training with --model BASE",
        )
    if n_labels != 1:
        raise ModelError(
            f"the adapter in {files.path} is for a classifier with {n_labels} labels; a "
            "reward model has one",
            hint="merge it with peft itself",
        )


def _fit_vocabulary(
    model: Any, tokenizer: Any, shapes: dict[str, tuple[int, ...]], files: ModelFiles
) -> list[str]:
    """Resize the base's embeddings to the adapter's rows; return notes on it.

    Raises:
        ModelError: the adapter's own tokenizer has tokens without a row.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    n_rows = len(ends[0].weight)
    brought: set[int] = set()
    for name, module in model.named_modules():
        if any(module is end for end in ends):
            weight = f".{name.rpartition('.')[2]}.weight"
            brought |= {shape[0] for key, shape in shapes.items() if key.endswith(weight)}

    notes = []
    if len(brought) == 1 and brought != {n_rows}:
        [n_brought] = brought
        # The adapter's own rows replace them, so the new rows need no mean of the old.
        model.resize_token_embeddings(n_brought, mean_resizing=False)
        notes.append(
            f"the base's vocabulary goes from {n_rows:,} to the adapter's {n_brought:,} rows"
        )
        n_rows = n_brought

    # Some models are published with an unused token without a row: allowed in the base's own
    # tokenizer.
    is_bases = files.base is not None and files.tokenizer_hash == files.base.tokenizer_hash
    if len(tokenizer) > n_rows and not is_bases:
        raise ModelError(
            f"the tokenizer in {files.tokenizer_path} has {len(tokenizer):,} tokens, but the "
            f"model has {n_rows:,} rows: the added tokens have no embeddings",
            hint="save the adapter with its embeddings (save_embedding_layers=True), or remove the "
            "tokens from its tokenizer",
        )
    return notes


def merge_weights(adapted: Adapted, dtype: torch.dtype) -> tuple[Any, Changes]:
    """Add the adapter to its base and round to ``dtype``; do not use the passed model afterwards.

    Returns:
        The plain model, and the changes of the adapted matrices.

    Raises:
        ModelError: a merged matrix, or a rounded one, holds a number that is not finite.
    """
    _untie_changed_embeddings(adapted.model)
    changes = Changes(dtype)
    with warnings.catch_warnings():
        # At the end, peft says of each layer that it is merged already.
        warnings.simplefilter("ignore")
        # Layer by layer: the comparison needs the memory of only one matrix.
        for name, module in list(adapted.model.named_modules()):
            for suffix, before, after in _merge_module(module):
                changes.add(name.removeprefix("base_model.model.") + suffix, before, after)
        model = adapted.model.merge_and_unload()

    # A saved model is read by its configuration; peft only updates the top level.
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is not None and output.weight.data_ptr() != embeddings.weight.data_ptr():
        model.config.get_text_config().tie_word_embeddings = False
    _require_finite(model, dtype)
    return model.to(dtype), changes


def _merge_module(module: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Merge the adapter of one module; yield each matrix's suffix, before and after."""
    if isinstance(module, ModulesToSaveWrapper):
        # Trained as a whole: it replaces the base's module.
        trained = module.modules_to_save[module.active_adapters[0]]
        for name, before in module.original_module.named_parameters():
            yield f".{name}", before, trained.get_parameter(name)
    elif isinstance(module, BaseTunerLayer) and hasattr(module, "merge"):
        before = _matrix_of(module).clone()
        module.merge()
        yield "", before, _matrix_of(module)


def _matrix_of(layer: Any) -> Tensor:
    """Return the frozen matrix that a peft layer adapts: a parameter, or a module's weight."""
    is_parameter = hasattr(layer, "parameter_name")
    matrix: Tensor = layer.get_param() if is_parameter else layer.get_base_layer().weight
    return matrix


def _require_finite(model: Any, dtype: torch.dtype) -> None:
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or bool(torch.isfinite(value.to(dtype)).all()):
            continue
        is_rounding = bool(torch.isfinite(value).all())
        problem = (
            f"does not fit into {dtype}" if is_rounding else "holds numbers that are not finite"
        )
        raise ModelError(
            f"the merged {name} {problem}",
            hint="check the adapter, or pass --dtype float32 or bfloat16",
        )


def _inside(module: Any) -> Any:
    """Return the module that holds the weights of an embedding or projection, wrapped or not."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        return _inside(module.original_module)
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _untie_changed_embeddings(model: Any) -> None:
    """Give input and output their own copy of a tied matrix of which the adapter changes one."""
    causal = model.get_base_model()
    embeddings, output = causal.get_input_embeddings(), causal.get_output_embeddings()
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    if output is None or not (isinstance(embeddings, wrappers) or isinstance(output, wrappers)):
        return

    inner = _inside(output)
    if inner.weight is _inside(embeddings).weight:
        inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
