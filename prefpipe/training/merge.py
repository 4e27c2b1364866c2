"""A LoRA adapter added to its base: ``W + scale * B A`` for every adapted matrix, and what else the adapter brings.

peft does the arithmetic (rank-stabilised scales, DoRA's magnitudes, whole modules in ``modules_to_save``), in float32 whatever
the base is stored in, and rounding happens once, at the end. What peft leaves to its caller is done here:

- tied embeddings of which the adapter changes one side: they come apart first, or the other side would change with it;
- a vocabulary that grew: the base grows to the adapter's rows before the adapter is loaded;
- an adapter that changes nothing, and rounding that swallows what it changes: every matrix is compared before and after.
"""

import warnings
from collections.abc import Iterable, Iterator
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
from prefpipe.models.files import ModelFiles, require_tokenizer
from prefpipe.models.json_files import read_json
from prefpipe.training.policy import old_names_of_peft, require_generation_config, turn_dropout_off

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = {
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
}
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Adapted(NamedTuple):
    """A base in float32 with its adapter beside, and what it is: a key of ``KINDS``."""

    model: Any
    tokenizer: Any
    kind: str
    notes: tuple[str, ...]


class Change(NamedTuple):
    """What merging did to one matrix: squared norms of matrix and update, and weights that changed, in float32 and rounded.

    ``kept`` is the scalar product of the update that rounding leaves and the exact one.
    """

    name: str
    n_weights: int
    norm2: float
    update2: float
    kept: float
    n_changed: int
    n_changed_rounded: int


def kind_of(files: ModelFiles) -> str:
    """Return what an adapter makes of its base, a key of ``KINDS``.

    Raises:
        ModelError: no adapter, no LoRA, a quantised base, or an adapter for something else.
    """
    if files.base is None:
        raise ModelError(
            f"{files.path} is no adapter: there is no adapter_config.json, and nothing to merge",
            hint="pass the folder that `prefpipe train --lora-r N` wrote, or another LoRA adapter",
        )
    config = read_json(files.path / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"the adapter in {files.path} is of the type {config.get('peft_type')}, and LORA is what is merged here",
            hint="merge it with the tool that made it",
        )
    if "quantization_config" in read_json(files.base.path / "config.json"):
        raise ModelError(
            f"the base {files.base.requested} is stored quantised: adding an adapter to rounded weights loses most of it",
            hint="pass the base as it was before with --model BASE",
        )
    task = str(config.get("task_type"))
    kind = {"SEQ_CLS": "sequence-classification", "CAUSAL_LM": "causal-lm"}.get(
        task, files.base.kind
    )
    if kind not in KINDS or (files.base.kind, kind) == ("sequence-classification", "causal-lm"):
        raise ModelError(
            f"the adapter in {files.path} is for {task}, its base is a {files.base.kind} model",
            hint="adapters of causal language models and of one-label sequence classifiers are merged",
        )
    return kind


def stored_dtype(files: ModelFiles) -> str:
    """Return the number format that a base is stored in, by its configuration; float32 where it says none of ours."""
    config = read_json(files.path / "config.json")
    found = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return found if found in DTYPES else "float32"


def load_adapted(files: ModelFiles, *, trust_remote_code: bool = False) -> Adapted:
    """Load base and adapter in float32, the adapter beside the base.

    Raises:
        ModelError: see `kind_of`; the adapter does not fit the base; a tokenizer with more tokens than rows; several labels.
    """
    kind = kind_of(files)
    require_tokenizer(files)
    assert files.base is not None
    transformers_logging.disable_progress_bar()
    shapes = _shapes_of(files.path)
    how: dict[str, Any] = {"num_labels": 1} if kind == "sequence-classification" else {}
    if how:
        _require_one_label(
            files,
            shapes,
            AutoConfig.from_pretrained(files.base.path, trust_remote_code=trust_remote_code),
        )
    tokenizer = AutoTokenizer.from_pretrained(
        files.tokenizer_path, trust_remote_code=trust_remote_code
    )
    model = KINDS[kind].from_pretrained(
        files.base.path, dtype=torch.float32, trust_remote_code=trust_remote_code, **how
    )
    require_generation_config(model, files.base.path)
    if how:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    turn_dropout_off(model)
    notes = tuple(_fit_vocabulary(model, tokenizer, shapes, files))
    config = PeftConfig.from_pretrained(files.path)
    try:
        with old_names_of_peft():
            model = PeftModel.from_pretrained(model, files.path, config=config)
    except (RuntimeError, ValueError, KeyError) as error:
        what = str(error).strip().splitlines()
        raise ModelError(
            f"the adapter in {files.path} does not fit the base {files.base.requested}: {' '.join(what[:3])[:400]}",
            hint="pass the base that it was trained on with --model BASE",
        ) from error
    return Adapted(model.eval().requires_grad_(requires_grad=False), tokenizer, kind, notes)


def _shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _require_one_label(files: ModelFiles, shapes: dict[str, tuple[int, ...]], config: Any) -> None:
    assert files.base is not None
    heads = [
        shape[0]
        for name, shape in shapes.items()
        if name.split(".")[-2] in ("score", "classifier") and len(shape) == 2
    ]
    if not heads and files.base.kind != "sequence-classification":
        raise ModelError(
            f"the adapter in {files.path} is of a sequence classifier and brings no head, nor does its base",
            hint="pass the classifier that it was trained on with --model BASE",
        )
    n_labels = heads[0] if heads else config.num_labels
    if n_labels != 1:
        raise ModelError(
            f"the adapter in {files.path} is of a classifier with {n_labels} labels, and a reward model has one",
            hint="merge it with peft itself",
        )


def _fit_vocabulary(
    model: Any, tokenizer: Any, shapes: dict[str, tuple[int, ...]], files: ModelFiles
) -> Iterator[str]:
    """Grow or shrink the base's embeddings to the rows that the adapter brings; refuse tokens without a row."""
    n_rows = len(model.get_input_embeddings().weight)
    ends = [
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if module is model.get_input_embeddings()
        or (hasattr(model, "lm_head") and module is model.get_output_embeddings())
    ]
    brought = {
        shape[0]
        for name, shape in shapes.items()
        if name.endswith(tuple(f".{end}.weight" for end in ends))
    }
    if len(brought) == 1 and brought != {n_rows}:
        [n_new] = brought
        model.resize_token_embeddings(n_new, mean_resizing=False)
        yield f"the base's vocabulary goes from {n_rows:,} to the adapter's {n_new:,} rows"
        n_rows = n_new
    if len(tokenizer) > n_rows and (
        files.base is None or files.tokenizer_hash != files.base.tokenizer_hash
    ):
        raise ModelError(
            f"the tokenizer in {files.tokenizer_path} has {len(tokenizer):,} tokens and the model {n_rows:,} rows: "
            "added tokens were never given embeddings",
            hint="save the adapter with its embeddings (save_embedding_layers=True), or remove the tokens from its tokenizer",
        )


def merge_weights(adapted: Adapted, dtype: torch.dtype) -> tuple[Any, list[Change]]:
    """Add the adapter to its base, round to ``dtype``, and return the plain model and what happened to each matrix.

    The model that was passed is used up.

    Raises:
        ModelError: a merged matrix, or a rounded one, holds a number that is not finite.
    """
    _untie_changed_embeddings(adapted.model)
    found: list[Change] = []
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft says of each layer, at the end, that it is merged already
        for name, module in list(adapted.model.named_modules()):
            if isinstance(module, BaseTunerLayer) and hasattr(module, "merge"):
                before = _matrix_of(module).clone()
                module.merge(safe_merge=False)
                found.append(_compare(_plain(name), before, _matrix_of(module), dtype))
            elif isinstance(module, ModulesToSaveWrapper):
                found += _compare_modules(_plain(name), module, dtype)
        was_tied = bool(adapted.model.config.get_text_config().tie_word_embeddings)
        model = adapted.model.merge_and_unload()
    model.config.get_text_config().tie_word_embeddings = (
        was_tied  # peft changes it by its own rules
    )
    _say_whether_tied(model)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value.to(dtype)).all()):
            what = (
                "holds numbers that are not finite"
                if not bool(torch.isfinite(value).all())
                else f"does not fit into {dtype}"
            )
            raise ModelError(
                f"the merged {name} {what}",
                hint="look at the adapter, or pass --dtype float32 or bfloat16",
            )
    return model.to(dtype), found


def _matrix_of(layer: Any) -> Tensor:
    """Return the frozen matrix that a layer of peft adapts."""
    matrix: Tensor = (
        layer.get_param() if hasattr(layer, "parameter_name") else layer.get_base_layer().weight
    )
    return matrix.detach()


def _compare_modules(name: str, wrapper: Any, dtype: torch.dtype) -> Iterator[Change]:
    trained = dict(wrapper.modules_to_save[wrapper.active_adapters[0]].named_parameters())
    for own, before in wrapper.original_module.named_parameters():
        yield _compare(f"{name}.{own}", before.detach(), trained[own].detach(), dtype)


def _compare(name: str, before: Tensor, after: Tensor, dtype: torch.dtype) -> Change:
    update, rounded = after - before, after.to(dtype).float() - before.to(dtype).float()
    return Change(
        name,
        before.numel(),
        float(before.double().square().sum()),
        float(update.double().square().sum()),
        float((update.double() * rounded).sum()),
        int((update != 0).sum()),
        int((rounded != 0).sum()),
    )


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _inside(module: Any) -> nn.Module:
    """Return the module that holds the weights of an embedding or projection which may be wrapped."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        return _inside(module.original_module)
    found: nn.Module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    return found


def _ends(model: Any) -> Iterable[Any]:
    """Return a model's input embeddings and output projection, wrapped or not; [] where there is no projection."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [] if output is None else [model.get_input_embeddings(), output]


def _untie_changed_embeddings(model: Any) -> None:
    """Give input and output their own copy of a tied matrix of which the adapter changes one."""
    causal = model.get_base_model()
    ends = list(_ends(causal))
    is_changed = any(isinstance(end, BaseTunerLayer | AuxiliaryTrainingWrapper) for end in ends)
    if not is_changed or _inside(ends[0]).weight is not _inside(ends[1]).weight:
        return
    inside: Any = _inside(ends[1])
    inside.weight = nn.Parameter(inside.weight.detach().clone(), requires_grad=False)


def _say_whether_tied(model: Any) -> None:
    """Have the configuration say what is so: by it a saved model is written, and read again.

    Adapters may tie what they changed themselves (``ensure_weight_tying``), or take apart what was tied.
    """
    ends = list(_ends(model))
    if not ends or not model.config.get_text_config().tie_word_embeddings:
        return
    if ends[0].weight.data_ptr() == ends[1].weight.data_ptr():
        return
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    if hasattr(model, "get_expanded_tied_weights_keys"):
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
