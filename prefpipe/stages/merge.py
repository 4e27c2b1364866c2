"""Merge a LoRA adapter into its base: a whole model folder, checked before it takes its name.

Reads: an adapter folder and its base. Writes: a Hugging Face folder (safetensors, configuration, generation configuration,
tokenizer, chat template, model card, and ``merged_from.json`` for ``status``), and no ``run.json``: there is nothing to resume,
the folder is a model like any other.
Promises: the merged model differs from its base and, read back from disk, agrees with base and adapter on real texts; until
both are shown the folder does not have its name.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prefpipe.artifacts.atomic import atomic_folder, atomic_write
from prefpipe.artifacts.run_record import FILE_NAME, RunRecord, read_run_record
from prefpipe.artifacts.store import refuse_nesting
from prefpipe.errors import ModelError, PrefpipeError, StoppedEarly, UsageError
from prefpipe.models.files import ModelFiles, inspect_model
from prefpipe.models.json_files import read_json
from prefpipe.models.merge_record import merge_record_of
from prefpipe.stages.shared.runtime import Runtime
from prefpipe.training.merge import (
    DTYPES,
    KINDS,
    Change,
    kind_of,
    load_adapted,
    merge_weights,
    stored_dtype,
)
from prefpipe.training.merge_check import (
    TOLERANCES,
    Agreement,
    compare,
    contents,
    encode_texts,
    lost,
    measure,
)

MODEL_CONFIG = "config.json"
FEW = 0.5
"""Share of the weights changed by the exact update that must still change when rounded, or there is a warning **(ours)**."""


class MergeRequest(NamedTuple):
    """What ``prefpipe merge`` is asked for; ``base_given``: the base is the user's choice and not the adapter's."""

    output: Path
    dtype: str = "auto"
    overwrite: bool = False
    base_given: bool = False
    trust_remote_code: bool = False


def merge(adapter: ModelFiles, request: MergeRequest, runtime: Runtime) -> dict[str, Any]:
    """Merge, check, and give the folder its name; return the figures.

    Raises:
        ModelError: no LoRA adapter, a quantised or changed base, an adapter that changes nothing, or a merged model that
            disagrees with it.
        UsageError: the output exists, or lies in an input.
        StoppedEarly: a stop was asked for; nothing is left.
    """
    kind_of(adapter)
    assert adapter.base is not None
    refuse_nesting(request.output, {"ADAPTER": adapter.path, "its base": adapter.base.path})
    if request.overwrite:
        _require_replaceable(request.output)
    warnings = _check_base(adapter, runtime, base_given=request.base_given)
    dtype = stored_dtype(adapter.base) if request.dtype == "auto" else request.dtype
    with (
        ExitStack() as finishing,
        atomic_folder(request.output, overwrite=request.overwrite) as folder,
    ):
        figures = _make(adapter, folder, dtype, request, runtime, warnings)
        finishing.enter_context(runtime.finishing())  # so that 75 means that there is no model
    for line in warnings:
        runtime.log(f"warning: {line}")
    return {**figures, "path": str(request.output), "warnings": warnings}


def _make(
    adapter: ModelFiles,
    folder: Path,
    dtype: str,
    request: MergeRequest,
    runtime: Runtime,
    warnings: list[str],
) -> dict[str, Any]:
    base = adapter.base
    assert base is not None
    runtime.log(f"loading {base.requested} with the adapter {adapter.requested}")
    adapted = load_adapted(adapter, trust_remote_code=request.trust_remote_code)
    for note in adapted.notes:
        runtime.log(note)
    texts = encode_texts(adapted.tokenizer)
    beside = measure(adapted.model, texts)
    with adapted.model.disable_adapter():
        alone = measure(adapted.model, texts)
    _stop_if_asked(runtime)
    model, changes = merge_weights(adapted, DTYPES[dtype])
    figures = {
        "adapter": adapter.requested,
        "base": base.requested,
        "base_revision": base.revision,
        "dtype": dtype,
        "kind": adapted.kind,
        **_figures(changes),
    }
    _require_change(adapter, figures, moved=bool((beside != alone).any()))
    runtime.log(_told_changes(figures))
    warnings += _warn_of_rounding(figures)
    saved = contents(model)
    model.save_pretrained(folder)
    adapted.tokenizer.save_pretrained(folder)
    kind, n_texts = adapted.kind, len(texts)
    del model, adapted
    _stop_if_asked(runtime)
    agreement = _read_back(folder, kind, saved, (alone, beside), texts, request)
    figures |= {**agreement._asdict(), "tolerance": TOLERANCES[dtype]}
    runtime.log(_told_agreement(figures))
    _require_agreement(agreement, dtype)
    if agreement.mean_difference > agreement.mean_effect / 2 and dtype != "float32":
        warnings.append(
            f"rounding to {dtype} moves log-probabilities by more than half of what the adapter does: --dtype float32"
        )
    warnings += _compare_words(adapter, folder)
    with atomic_write(folder / "README.md") as file:
        file.write(_card(adapter, figures, n_texts).encode())
    merge_record_of(request.output, [("adapter", adapter), ("base", base)]).write_to(folder)
    return figures


def _stop_if_asked(runtime: Runtime) -> None:
    if runtime.should_stop():
        raise StoppedEarly(
            "merge stopped as asked: nothing was written", hint="run the same command again"
        )


def _require_replaceable(path: Path) -> None:
    """Refuse to throw away a folder that holds anything else than a model's files."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    is_model = (
        path.is_dir()
        and (path / MODEL_CONFIG).is_file()
        and not any(item.is_dir() for item in path.iterdir())
    )
    if not is_model or (path / FILE_NAME).exists():
        raise UsageError(
            f"{path} is not overwritten: it holds more than a model's files",
            hint="choose a new folder with -o",
        )


def _check_base(adapter: ModelFiles, runtime: Runtime, *, base_given: bool) -> list[str]:
    """Compare the base with the one that was trained on, as far as the adapter's folder tells; return warnings.

    Raises:
        ModelError: the base that the adapter names has changed since.
    """
    assert adapter.base is not None
    named = read_json(adapter.path / "adapter_config.json")
    if (
        None not in (named.get("revision"), adapter.base.revision)
        and named["revision"] != adapter.base.revision
    ):
        return [
            f"the adapter names revision {named['revision']} of its base, and {adapter.base.revision} is what it is merged into"
        ]
    try:
        record: RunRecord | None = read_run_record(adapter.path)
    except PrefpipeError:
        record = None
    if record is None:
        runtime.log(
            f"{adapter.path} has no record of the base's content: that it is the one trained on is not checked"
        )
        return []
    if record.identity.get("load_in_4bit"):
        runtime.log(
            "the adapter was trained over a 4-bit base; it is merged into the base as it is stored"
        )
    then = record.identity.get("model", {})
    known = then.get("base_content_hash") or then.get("content_hash")
    if known in (None, adapter.base.content_hash):
        return []
    what = (
        f"{adapter.base.requested} is not the base that the adapter was trained on: its weights or configuration are others "
        f"(content {known[:12]} then, {adapter.base.content_hash[:12]} now)"
    )
    if base_given:
        return [what]
    raise ModelError(
        what, hint="bring the base back as it was, or say that this one is meant: --model BASE"
    )


def _figures(changes: Sequence[Change]) -> dict[str, Any]:
    """Return the sums over all matrices; ``relative_update`` is the norm of the update over that of the matrices."""
    n_weights, update2 = (
        sum(each.n_weights for each in changes),
        sum(each.update2 for each in changes),
    )
    norm2 = sum(each.norm2 for each in changes)
    return {
        "n_matrices": len(changes),
        "n_changed": sum(each.n_changed_rounded > 0 for each in changes),
        "unchanged": [each.name for each in changes if each.n_changed_rounded == 0],
        "relative_update": sqrt(update2 / norm2) if norm2 else 0.0,
        "changed_share": sum(each.n_changed for each in changes) / max(1, n_weights),
        "changed_share_rounded": sum(each.n_changed_rounded for each in changes)
        / max(1, n_weights),
        "kept_share": sum(each.kept for each in changes) / update2 if update2 else 0.0,
    }


def _require_change(adapter: ModelFiles, figures: dict[str, Any], *, moved: bool) -> None:
    n_matrices, dtype = figures["n_matrices"], figures["dtype"]
    if figures["changed_share"] == 0 and not moved:
        raise ModelError(
            f"the adapter in {adapter.path} changes nothing: all {n_matrices} adapted matrices stay as they are, as before "
            "the first step of a training",
            hint="look whether it was trained, and whether its weights are those of the last step",
        )
    if figures["n_changed"] == 0 and n_matrices and figures["changed_share"] > 0:
        raise ModelError(
            f"rounding to {dtype} swallows the whole adapter: {figures['changed_share']:.1%} of the weights change in float32, "
            f"none in {dtype}",
            hint="pass --dtype float32",
        )


def _warn_of_rounding(figures: dict[str, Any]) -> list[str]:
    found = []
    if figures["n_changed"] < figures["n_matrices"]:
        names = ", ".join(figures["unchanged"][:3]) + (
            " ..." if len(figures["unchanged"]) > 3 else ""
        )
        n_same = len(figures["unchanged"])
        found.append(
            f"{n_same} of {figures['n_matrices']} adapted matrices stay as they are: {names}"
        )
    if figures["changed_share_rounded"] < FEW * figures["changed_share"]:
        found.append(
            f"rounding to {figures['dtype']} swallows small updates: {figures['changed_share_rounded']:.1%} of the adapted "
            f"weights change, {figures['changed_share']:.1%} in float32, and {figures['kept_share']:.1%} of the update is kept; "
            "--dtype float32 keeps it all"
        )
    return found


def _told_changes(figures: dict[str, Any]) -> str:
    return (
        f"{figures['n_changed']} of {figures['n_matrices']} adapted matrices changed, {figures['changed_share_rounded']:.1%} of "
        f"their weights in {figures['dtype']}; the update has {figures['relative_update']:.2e} of their norm"
    )


def _told_agreement(figures: dict[str, Any]) -> str:
    unit = _unit(figures["kind"])
    return (
        f"read back, on {figures['n_texts']} texts: merged and adapter differ by {figures['mean_difference']:.1e} {unit} on "
        f"average, {figures['max_difference']:.1e} at most (tolerance of {figures['dtype']}: {figures['tolerance']:g}); "
        f"the adapter moves the base by {figures['mean_effect']:.1e}"
    )


def _unit(kind: str) -> str:
    return "of reward" if kind == "sequence-classification" else "nats a token"


def _read_back(
    folder: Path,
    kind: str,
    saved: dict[str, Any],
    measured: tuple[torch.Tensor, torch.Tensor],
    texts: list[list[int]],
    request: MergeRequest,
) -> Agreement:
    """Load the merged model from disk, in float32, and compare it with what was saved and with base and adapter."""
    model = (
        KINDS[kind]
        .from_pretrained(folder, dtype=torch.float32, trust_remote_code=request.trust_remote_code)
        .eval()
    )
    names = lost(saved, contents(model))
    if names:
        raise ModelError(
            f"{len(names)} weights do not come back from disk as they were merged, {names[0]} first",
            hint="this is a fault of saving this architecture: please report it",
        )
    alone, beside = measured
    return compare(alone, beside, measure(model, texts), len(texts))


def _require_agreement(agreement: Agreement, dtype: str) -> None:
    if agreement.mean_difference <= TOLERANCES[dtype]:
        return
    raise ModelError(
        f"the merged model is not what base and adapter are: they differ by {agreement.mean_difference:.2e} on average, "
        f"{agreement.max_difference:.2e} at most, and rounding to {dtype} explains {TOLERANCES[dtype]:g}; nothing was written",
        hint="pass --dtype float32"
        if dtype != "float32"
        else "use base and adapter as they are, and report this adapter",
    )


def _compare_words(adapter: ModelFiles, folder: Path) -> list[str]:
    """Return a warning where the saved tokenizer or template is not the adapter's: stored token ids would not be taken."""
    written = inspect_model(folder, "merged")
    if (written.tokenizer_hash, written.chat_template_hash) == (
        adapter.tokenizer_hash,
        adapter.chat_template_hash,
    ):
        return []
    return [
        "saving changed the tokenizer or the chat template: compare `prefpipe models show` of both"
    ]


def _card(adapter: ModelFiles, figures: dict[str, Any], n_texts: int) -> str:
    base = adapter.base
    assert base is not None
    front = ["---", "library_name: transformers", "tags: [prefpipe]"]
    if not Path(base.requested).exists() and ":" not in base.requested:
        front.append(f"base_model: {base.requested.partition('@')[0]}")
    unit = _unit(figures["kind"])
    rows = {
        "base": f"`{base.requested}`",
        "base revision": base.revision or "not known",
        "base content": base.content_hash,
        "adapter": f"`{adapter.requested}`",
        "adapter content": adapter.content_hash,
        "dtype": figures["dtype"],
        "adapted matrices changed": f"{figures['n_changed']} of {figures['n_matrices']}",
        "norm of the update over that of the matrices": f"{figures['relative_update']:.2e}",
        f"mean difference to base and adapter, {n_texts} texts": f"{figures['mean_difference']:.1e} {unit}",
    }
    lines = [
        *front,
        "---",
        "",
        f"`{base.requested}` with the LoRA adapter `{adapter.requested}` merged in by prefpipe.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return "\n".join(lines) + "\n"
