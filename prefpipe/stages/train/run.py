"""Train a policy, or a reward model, on groups.

Reads: ``groups``, and ``logprobs`` where given. Writes: the policy as a Hugging Face folder or a PEFT adapter; checkpoints,
``metrics.parquet``, ``reference/`` (log-probabilities under the reference, for objectives that need them) and TensorBoard events
on the way; at the end ``policy`` (one row for every response of the groups and what became of it) and ``summary.json``.
Promises: stored token ids are trained on when tokenizer and chat template are those that sampled them; a stopped or killed
run goes on from its last complete checkpoint, to the same weights; every response is trained on or counted under its reason.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.store import Artifact, Shard, open_input, open_output, refuse_nesting
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import UsageError
from prefpipe.maths.objectives.registry import (
    KNOB_NAMES,
    find_objective,
    objective_of,
    resolve_knobs,
)
from prefpipe.models.files import ModelFiles
from prefpipe.stages.shared.candidate_rows import count_by_status, parent_identity
from prefpipe.stages.shared.runtime import Runtime, Summary
from prefpipe.stages.shared.training_groups import read_rows
from prefpipe.stages.train.evaluation import EvaluationGroups, evaluation_groups
from prefpipe.stages.train.reference import BASE, Reference, reference_of
from prefpipe.stages.train.sides import require_start, template_identity
from prefpipe.stages.train.training_run import TENSORBOARD_FOLDER, TrainRun, lora_of
from prefpipe.training.checkpoints import require_checkpoint, weights_problem
from prefpipe.training.early_stopping import describe_evaluation
from prefpipe.training.measures import describe_calibration, describe_progress
from prefpipe.training.policy import check_lora
from prefpipe.training.ranks import from_first, leave, processes
from prefpipe.training.settings import (
    START_VALUES,
    TrainSettings,
    derive_accumulation,
    require_trackers,
)
from prefpipe.training.tables import METRICS_FILE, POLICY

SUMMARY_FILE = "summary.json"
INPUTS_FILE = "inputs.json"
OWN_FILES = (
    INPUTS_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    "config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
)
LORA_LEARNING_RATE_FACTOR = 10.0
"""Adapters want a learning rate about ten times that of full training **(ours)**."""


def run(
    config: TrainConfig,
    model: ModelFiles,
    runtime: Runtime,
    *,
    reference_model: ModelFiles | None = None,
) -> Summary:
    """Train, or go on training, or say that it is done.

    Args:
        config: the stage's knobs.
        model: what the training starts from.
        runtime: the surroundings.
        reference_model: the files of ``--reference-model`` where it names a model of its own.
    """
    require_trackers(config.report_to)
    settings = settings_of(config)
    groups = open_input(config.groups, schema="groups", name="GROUPS")
    refuse_nesting(config.output, {"GROUPS": config.groups, "--model": model.path})
    require_start(config, model)
    if config.resume_from is not None:
        require_checkpoint(
            config.resume_from
        )  # before a large model is loaded and the reference measured
    # whatever needs no row is checked before --overwrite throws anything away
    lora = lora_of(config)
    if lora is not None and config.target == "policy":
        check_lora(
            model,
            lora,
            load_in_4bit=config.load_in_4bit,
            trust_remote_code=config.trust_remote_code,
        )
    derive_accumulation(
        settings.global_batch_size, settings.per_device_train_batch_size, processes().num_processes
    )
    reference = reference_of(config, settings.objective, model, groups, reference_model)
    evaluation = evaluation_groups(config, settings.objective, model, reference_model, reference)
    parents = {"groups": _digest(groups, allow_partial=config.allow_partial)}
    if evaluation is not None:
        parents["eval_groups"] = evaluation.artifact.digest()
    with processes().main_process_first():
        record = _record_of(config, settings, model, groups, reference, runtime, evaluation)
        _refuse_checkpoint_of_another_run(config, {**parents, "run": record.fingerprint}, runtime)
        overwrite = config.overwrite if processes().is_main_process else Overwrite.NO
        output = open_output(config.output, record, shard=Shard(), overwrite=overwrite)
        if processes().is_main_process:
            _start_again_if_changed(config, {**parents, "run": output.record.fingerprint}, runtime)
    summary = Summary(config.stage, config.output)
    is_done = (
        output.is_done(0, parents)
        and (config.output / SUMMARY_FILE).exists()
        and _holds_model(config.output, runtime)
    )
    if from_first(is_done):
        runtime.log(
            f"{config.output}: the {'reward model' if config.target == 'reward' else 'policy'} is trained and kept"
        )
        summary.n_parts_kept = 1
        summary.counts.update(output.footer(0).counts)
        summary.facts |= json.loads((config.output / SUMMARY_FILE).read_text(encoding="utf-8"))
        return summary
    work = TrainRun(config, settings, model, reference, runtime, evaluation)
    figures = work.train(read_rows(groups, allow_partial=config.allow_partial), groups)
    if processes().is_main_process:
        rows = work.fate_rows()
        output.write(
            0,
            pa.Table.from_pylist(rows, schema=POLICY.arrow()),
            counts=count_by_status(rows),
            parents=parents,
        )
        with atomic_write(config.output / SUMMARY_FILE) as file:
            file.write((json.dumps(figures, indent=2, ensure_ascii=False) + "\n").encode())
        summary.counts.update(count_by_status(rows))
    leave()
    summary.n_parts_made = 1
    summary.facts |= figures
    summary.notes += [describe_progress(figures), *describe_evaluation(figures["evaluation"])]
    if figures.get("calibration"):
        summary.notes.append(describe_calibration(figures["calibration"]))
    return summary


def settings_of(config: TrainConfig) -> TrainSettings:
    """Return the run's settings: what was given, else the objective's start values.

    Raises:
        UsageError: a knob that the objective does not have, or a bad value.
    """
    objective = objective_of(config.target, config.objective)
    knobs = resolve_knobs(objective, {name: getattr(config, name) for name in KNOB_NAMES})
    start = START_VALUES[objective]
    factor = LORA_LEARNING_RATE_FACTOR if config.lora_r else 1.0
    return TrainSettings(
        objective=objective,
        knobs=knobs,
        learning_rate=config.learning_rate
        if config.learning_rate is not None
        else start.learning_rate * factor,
        num_train_epochs=config.num_train_epochs
        if config.num_train_epochs is not None
        else start.num_train_epochs,
        max_steps=config.max_steps if config.max_steps is not None else -1,
        global_batch_size=config.global_batch_size
        if config.global_batch_size is not None
        else start.global_batch_size,
        per_device_train_batch_size=config.per_device_train_batch_size,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_ratio=config.warmup_ratio if config.warmup_ratio is not None else start.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        max_batch_tokens=config.max_batch_tokens,
        evaluates=config.evaluates,
        eval_steps=config.eval_steps,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        logging_steps=config.logging_steps,
        report_to=tuple(name for name in config.report_to if name != "none"),
    )


def _record_of(
    config: TrainConfig,
    settings: TrainSettings,
    model: ModelFiles,
    groups: Artifact,
    reference: Reference | None,
    runtime: Runtime,
    evaluation: EvaluationGroups | None,
) -> RunRecord:
    names = ("objective", "learning_rate", "num_train_epochs", "global_batch_size", "warmup_ratio")
    resolved: dict[str, Any] = {
        name: getattr(settings, name) for name in names
    } | template_identity(config)
    # the target is not among them: each objective, by its name in the table, has one
    identity = {
        name: value
        for name, value in config.identity().items()
        if name not in (*KNOB_NAMES, "target")
    }
    if (
        reference is not None and find_objective(settings.objective).needs_reference
    ):  # else it is only for what is logged
        resolved["reference"] = reference.identity
    parents = {"groups": str(config.groups)}
    if evaluation is not None:
        resolved["eval_groups"] = evaluation.identity()
        parents["eval_groups"] = str(config.eval_groups)
    if config.early_stopping_patience is not None:
        resolved["eval_steps"] = config.eval_steps  # elsewhere it does not change the weights
    given = {} if config.reference is None else {"reference": str(config.reference)}
    made_with = [ingredient("model", config.model, model.identity())]
    if "reference" in resolved:
        made_with += _reference_ingredients(config, resolved["reference"])
    return RunRecord(
        stage=config.stage,
        schema=POLICY.tag,
        n_parts=1,
        context={**runtime.context, **given, MADE_WITH: made_with},
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **identity,
            **resolved,
            "knobs": dict(settings.knobs),
            "model": model.identity(),
            "groups": parent_identity(groups),
        },
        parents=parents,
    )


def _reference_ingredients(
    config: TrainConfig, identity: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the reference as ``status`` looks for it: log-probabilities that were given, or a model that was named."""
    if config.reference is not None:
        hashes = dict(identity)  # its number format is part of what it is
        return [{"role": "reference", "reference": str(config.reference), "hashes": hashes}]
    if config.reference_model not in (None, BASE):
        return [ingredient("reference model", str(config.reference_model), identity)]
    return []


def _digest(groups: Artifact, *, allow_partial: bool) -> str:
    """Return what the groups on disk are: a partial set never has the digest of the whole."""
    if not allow_partial:
        return groups.digest()
    present = groups.present(range(groups.n_parts), allow_partial=True)
    return fingerprint_of({str(index): groups.footer(index).data_sha256 for index in present})


def _holds_model(folder: Path, runtime: Runtime) -> bool:
    """Return whether a finished run's model is still there and whole; else it is saved again from the last checkpoint."""
    has_config = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    problem = weights_problem(folder) if has_config else "its configuration is missing"
    if problem is not None:
        runtime.log(f"{folder}: the training was finished, but the model is not usable: {problem}")
    return problem is None


def _refuse_checkpoint_of_another_run(
    config: TrainConfig, made_from: Mapping[str, str], runtime: Runtime
) -> None:
    """Refuse to go on from steps that another run took: the result would be that run's under this one's name.

    Raises:
        UsageError: the folder that holds the checkpoint says that it is of another configuration, model or groups.
    """
    if config.resume_from is None:
        return
    checkpoint = require_checkpoint(config.resume_from)
    known = _inputs_of(checkpoint.resolve().parent)
    if known is None:
        runtime.log(
            f"{checkpoint}: nothing beside it says which run wrote it, so it is taken for one of this run"
        )
    elif known != made_from:
        what = (
            "other groups"
            if known.get("groups") != made_from["groups"]
            else "another configuration or model"
        )
        raise UsageError(
            f"--resume-from {checkpoint} was written by a run with {what}",
            hint=f"give the settings of that run, or start from its weights: --model {checkpoint}",
        )


def _inputs_of(folder: Path) -> dict[str, str] | None:
    """Return what the run in a folder was made from, None where nothing says it."""
    try:
        known: dict[str, str] = json.loads((folder / INPUTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known


def _start_again_if_changed(
    config: TrainConfig, made_from: Mapping[str, str], runtime: Runtime
) -> None:
    """Throw checkpoints away that are of other groups or of another run, or all when asked to; note what this run is.

    The run is noted because a kill may come after ``run.json`` is replaced and before the old checkpoints are gone.
    """
    path, known = config.output / INPUTS_FILE, _inputs_of(config.output)
    changed = known != made_from
    if known is not None and changed and not config.overwrite.replaces_this_run:
        folders = {"groups": config.groups, "eval_groups": config.eval_groups}
        what = next(
            (
                f"{folders[name]}"
                for name in made_from
                if name in folders and known.get(name) != made_from[name]
            ),
            "the configuration",
        )
        what += " changed"
        runtime.log(f"{what} since {config.output} was trained: training starts again")
    if config.overwrite.replaces_this_run or changed:
        _remove_run(config.output)
        with atomic_write(path) as file:
            file.write(json.dumps(dict(made_from)).encode())


def _remove_run(folder: Path) -> None:
    """Throw away what an earlier run left beside its part: checkpoints, logs and the model.

    Not the reference: its own stage knows whether it is still the one that is wanted.
    """
    for path in folder.iterdir():
        if path.is_dir() and (
            path.name.startswith("checkpoint-") or path.name == TENSORBOARD_FOLDER
        ):
            shutil.rmtree(path)
        elif path.name in OWN_FILES or path.suffix == ".safetensors":
            path.unlink()
