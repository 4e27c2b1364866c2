"""Merge a LoRA adapter into its base: a full model folder, checked before it gets its name.

Reads: an adapter folder and its base. Writes: a Hugging Face folder (safetensors, configuration,
generation configuration, tokenizer, chat template, model card, and ``merged_from.json`` for
``status``), but no ``run.json``: there is nothing to resume, and the folder is an ordinary model.

Promises: the merged model differs from its base and, read back from disk, agrees with base and
adapter on real texts. The folder gets its name only after both checks pass.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prefpipe.artifacts.atomic import atomic_folder, atomic_write
from prefpipe.artifacts.run_record import FILE_NAME, read_run_record
from prefpipe.artifacts.store import refuse_nesting
from prefpipe.errors import ModelError, PrefpipeError, StoppedEarly, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import ADAPTER_CONFIG, MODEL_CONFIG, ModelFiles, inspect_model
from prefpipe.models.json_files import read_json
from prefpipe.models.merge_record import merge_record_of
from prefpipe.models.rounds import round_of_model
from prefpipe.training.merge import (
    DTYPES,
    KINDS,
    kind_of,
    load_adapted,
    merge_weights,
    stored_dtype,
)
from prefpipe.training.merge_check import (
    TOLERANCES,
    Agreement,
    Expected,
    compare,
    measure,
    measure_adapted,
    weight_sums,
)

FEW = 0.5
"""Share of the weights changed by the exact update that must still change when rounded **(ours)**.

Below it there is a warning.
"""


class MergeRequest(NamedTuple):
    """The settings of ``prefpipe merge``.

    ``base_given``: the base is the user's choice and not the adapter's.
    """

    output: Path
    dtype: str = "auto"
    overwrite: bool = False
    base_given: bool = False
    trust_remote_code: bool = False


def merge(adapter: ModelFiles, request: MergeRequest, runtime: Runtime) -> dict[str, Any]:
    """Merge, check, and give the folder its name; return the figures.

    Raises:
        ModelError: no LoRA adapter, a quantised or changed base, an adapter that changes nothing,
            or a merged model that disagrees with it.
        UsageError: the output exists, or lies in an input.
        StoppedEarly: a stop was requested; nothing is left.
    """
    kind = kind_of(adapter)
    base = adapter.base
    assert base is not None
    refuse_nesting(request.output, {"ADAPTER": adapter.path, "its base": base.path})
    # Without the flag nothing is replaced, and `atomic_folder` refuses a name that is taken.
    if request.overwrite:
        _require_replaceable(request.output)
    warnings = _check_base(adapter, base, runtime, base_given=request.base_given)
    dtype = stored_dtype(base) if request.dtype == "auto" else request.dtype

    with (
        ExitStack() as finishing,
        atomic_folder(request.output, overwrite=request.overwrite) as folder,
    ):
        runtime.log(f"loading {base.requested} with the adapter {adapter.requested}")
        adapted = load_adapted(adapter, trust_remote_code=request.trust_remote_code)
        for note in adapted.notes:
            runtime.log(note)
        # Measured now, for merging uses the adapted model up.
        expected = measure_adapted(adapted.model, adapted.tokenizer)
        _stop_if_asked(runtime)

        # Changed: every matrix is compared with the base's.
        model, changes = merge_weights(adapted, DTYPES[dtype])
        figures: dict[str, Any] = {
            "adapter": adapter.requested,
            "base": base.requested,
            "base_revision": base.revision,
            "dtype": dtype,
            "kind": kind,
            **changes.figures(),
        }
        _require_change(adapter, figures, expected)
        runtime.log(
            f"{figures['n_changed']} of {figures['n_matrices']} adapted matrices changed, "
            f"{figures['changed_share_rounded']:.1%} of their weights in {dtype}; "
            f"the update has {figures['relative_update']:.2e} of their norm"
        )
        warnings += _warnings_of_rounding(figures)

        sums = weight_sums(model)
        model.save_pretrained(folder)
        adapted.tokenizer.save_pretrained(folder)
        # The model that is read back takes the place of this one in memory.
        del model, adapted
        _stop_if_asked(runtime)

        # Read back, and agrees: only what is on disk is what the user gets.
        agreement = _read_back(folder, kind, sums, expected, request)
        figures |= {**agreement._asdict(), "tolerance": TOLERANCES[dtype]}
        runtime.log(
            f"read back, on {agreement.n_texts} texts: merged and adapter differ by "
            f"{agreement.mean_difference:.1e} {_unit(kind)} on average, "
            f"{agreement.max_difference:.1e} at most (tolerance of {dtype}: "
            f"{TOLERANCES[dtype]:g}); the adapter moves the base by {agreement.mean_effect:.1e}"
        )
        _require_agreement(agreement, dtype)
        if agreement.mean_difference > agreement.mean_effect / 2 and dtype != "float32":
            warnings.append(
                f"rounding to {dtype} moves log-probabilities by more than half of what the "
                "adapter does: --dtype float32"
            )
        warnings += _warnings_of_tokenizer(adapter, folder)

        with atomic_write(folder / "README.md") as file:
            file.write(_model_card(adapter, base, figures).encode())
        merged_from = merge_record_of(
            request.output,
            [("adapter", adapter), ("base", base)],
            of_round=max(round_of_model(adapter.path), round_of_model(base.path)),
        )
        merged_from.write_to(folder)
        # From here the folder takes its name; exit code 75 means that there is no model.
        finishing.enter_context(runtime.finishing())

    for line in warnings:
        runtime.log(f"warning: {line}")
    return {**figures, "path": str(request.output), "warnings": warnings}


def _stop_if_asked(runtime: Runtime) -> None:
    if runtime.should_stop():
        raise StoppedEarly(
            "merge stopped on request; nothing was written", hint="run the same command again"
        )


def _require_replaceable(path: Path) -> None:
    """Refuse to delete a folder that holds anything but a model's files."""
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if is_free:
        return
    is_model = (path / MODEL_CONFIG).is_file() and not (path / FILE_NAME).exists()
    if not is_model or any(item.is_dir() for item in path.iterdir()):
        raise UsageError(
            f"{path} is not overwritten because it holds files that are not part of a model",
            hint="choose a new folder with -o",
        )


def _check_base(
    adapter: ModelFiles, base: ModelFiles, runtime: Runtime, *, base_given: bool
) -> list[str]:
    """Compare the base with the one that was trained on, as far as the adapter's folder records it.

    Returns:
        Warnings.

    Raises:
        ModelError: the base that the adapter names has changed since.
    """
    revision = read_json(adapter.path / ADAPTER_CONFIG).get("revision")
    if None not in (revision, base.revision) and revision != base.revision:
        merged_into = f"{base.revision} is the one it is merged into"
        return [f"the adapter names revision {revision} of its base, and {merged_into}"]

    try:
        record = read_run_record(adapter.path)
    except PrefpipeError:
        record = None
    if record is None:
        runtime.log(
            f"{adapter.path} has no record of the base's content: whether it was trained on this "
            "base is not checked"
        )
        return []
    if record.identity.get("load_in_4bit"):
        runtime.log(
            "the adapter was trained on a 4-bit base and is merged into the base as stored on disk"
        )

    # A training that started from an adapter recorded the hash of its base beside the adapter's.
    trained_on = record.identity.get("model", {})
    content_hash = trained_on.get("base_content_hash") or trained_on.get("content_hash")
    if content_hash in (None, base.content_hash):
        return []
    difference = (
        f"{base.requested} is not the base that the adapter was trained on: its weights or "
        f"configuration differ (content {content_hash[:12]} then, {base.content_hash[:12]} now)"
    )
    if base_given:
        return [difference]
    raise ModelError(
        difference,
        hint="restore the original base, or pass --model BASE to merge into this one",
    )


def _require_change(adapter: ModelFiles, figures: dict[str, Any], expected: Expected) -> None:
    n_matrices, dtype = figures["n_matrices"], figures["dtype"]
    # What the adapter changes beside its matrices shows in what the model says.
    moves_texts = bool((expected.adapted != expected.base).any())
    if figures["changed_share"] == 0 and not moves_texts:
        raise ModelError(
            f"the adapter in {adapter.path} changes nothing: all {n_matrices} adapted matrices "
            "stay the same, as before the first training step",
            hint="check that it was trained and that its weights are those of the last step",
        )
    if figures["n_changed"] == 0 and n_matrices and figures["changed_share"] > 0:
        raise ModelError(
            f"rounding to {dtype} removes the whole adapter: {figures['changed_share']:.1%} of "
            f"the weights change in float32, none in {dtype}",
            hint="pass --dtype float32",
        )


def _warnings_of_rounding(figures: dict[str, Any]) -> list[str]:
    warnings = []
    unchanged = figures["unchanged"]
    if unchanged:
        names = ", ".join(unchanged[:3])
        if len(unchanged) > 3:
            names += " ..."
        warnings.append(
            f"{len(unchanged)} of {figures['n_matrices']} adapted matrices stay the same: {names}"
        )
    if figures["changed_share_rounded"] < FEW * figures["changed_share"]:
        warnings.append(
            f"rounding to {figures['dtype']} removes small updates: "
            f"{figures['changed_share_rounded']:.1%} of the adapted weights change, "
            f"{figures['changed_share']:.1%} in float32, and {figures['kept_share']:.1%} of the "
            "update is kept; --dtype float32 keeps it all"
        )
    return warnings


def _read_back(
    folder: Path,
    kind: str,
    sums: dict[str, Any],
    expected: Expected,
    request: MergeRequest,
) -> Agreement:
    """Load the merged model from disk, in float32; compare it with what was saved and expected."""
    # In float32, so that what is compared is the weights and not the arithmetic.
    model = KINDS[kind].from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=request.trust_remote_code
    )
    model.eval()
    read_sums = weight_sums(model)
    lost = sorted(
        name for name in sums.keys() | read_sums.keys() if sums.get(name) != read_sums.get(name)
    )
    if lost:
        raise ModelError(
            f"{len(lost)} weights read back from disk differ from the merged ones, first {lost[0]}",
            hint="this architecture is not saved correctly: please report it",
        )
    merged = measure(model, expected.texts)
    return compare(expected.base, expected.adapted, merged, len(expected.texts))


def _require_agreement(agreement: Agreement, dtype: str) -> None:
    if agreement.mean_difference <= TOLERANCES[dtype]:
        return
    hint = "use base and adapter without merging, and report this adapter"
    raise ModelError(
        "the merged model does not match base and adapter: they differ by "
        f"{agreement.mean_difference:.2e} on average, {agreement.max_difference:.2e} at most, "
        f"and rounding to {dtype} explains {TOLERANCES[dtype]:g}; nothing was written",
        hint=hint if dtype == "float32" else "pass --dtype float32",
    )


def _warnings_of_tokenizer(adapter: ModelFiles, folder: Path) -> list[str]:
    """Warn where the saved tokenizer or template is not the adapter's.

    Token ids that were stored with the adapter would be refused with the merged model.
    """
    written = inspect_model(folder, "merged")
    is_same_tokenizer = written.tokenizer_hash == adapter.tokenizer_hash
    if is_same_tokenizer and written.chat_template_hash == adapter.chat_template_hash:
        return []
    return [
        (
            "saving changed the tokenizer or the chat template: compare them with `prefpipe models "
            "show`"
        )
    ]


def _unit(kind: str) -> str:
    return "of reward" if kind == "sequence-classification" else "nats per token"


def _model_card(adapter: ModelFiles, base: ModelFiles, figures: dict[str, Any]) -> str:
    front = ["---", "library_name: transformers", "tags: [prefpipe]"]
    is_hub_name = not Path(base.requested).exists() and ":" not in base.requested
    if is_hub_name:
        front.append(f"base_model: {base.requested.partition('@')[0]}")

    difference = f"{figures['mean_difference']:.1e} {_unit(figures['kind'])}"
    rows = {
        "base": f"`{base.requested}`",
        "base revision": base.revision or "not known",
        "base content": base.content_hash,
        "adapter": f"`{adapter.requested}`",
        "adapter content": adapter.content_hash,
        "dtype": figures["dtype"],
        "adapted matrices changed": f"{figures['n_changed']} of {figures['n_matrices']}",
        "norm of the update over that of the matrices": f"{figures['relative_update']:.2e}",
        f"mean difference to base and adapter, {figures['n_texts']} texts": difference,
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
