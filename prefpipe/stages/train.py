"""Train a policy on groups.

Reads: ``groups``. Writes: the policy as a Hugging Face folder or a PEFT adapter; checkpoints, ``metrics.parquet``,
``reference.parquet`` and TensorBoard events on the way; at the end ``policy`` (one row for every response of the groups and
what became of it) and ``summary.json``. Promises: stored token ids are trained on when tokenizer and chat template are those
that sampled them; a stopped or killed run goes on from its last complete checkpoint, to the same weights; every response is
trained on or counted under its reason.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from accelerate import PartialState

from prefpipe.artifacts.atomic import atomic_write
from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.artifacts.model_files import ModelFiles, require_chat_template
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.store import Artifact, Output, Shard, open_input, open_output, refuse_nesting
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, StoppedEarly
from prefpipe.maths.objectives import KNOB_NAMES, find_objective, resolve_knobs
from prefpipe.stages.candidate_rows import Row, count_by_status, parent_identity
from prefpipe.stages.runtime import Runtime, Summary
from prefpipe.training.callbacks import CollapseWarning, MetricsFile, ProgressBar, StopWhenAsked, TensorBoard
from prefpipe.training.checkpoints import find_last_checkpoint, require_checkpoint, weights_problem
from prefpipe.training.encoding import Encoder
from prefpipe.training.forward import reference_logps, share_prompts
from prefpipe.training.groups import (
    Group,
    Key,
    PreparedGroups,
    Response,
    prepare_groups,
    require_reward_gaps,
    with_reference,
)
from prefpipe.training.measures import describe_progress, mean_measures
from prefpipe.training.policy import LoraSettings, Policy, end_token_ids, load_policy, model_card, save_policy
from prefpipe.training.settings import START_VALUES, TrainSettings, derive_accumulation, training_arguments
from prefpipe.training.tables import METRICS_FILE, POLICY, REFERENCE_FILE, read_reference, write_reference
from prefpipe.training.trainer import GroupTrainer

SUMMARY_FILE = "summary.json"
TENSORBOARD_FOLDER = "tensorboard"
TRAINED = ("ok", "truncated")
INPUTS_FILE = "inputs.json"
OWN_FILES = (INPUTS_FILE, METRICS_FILE, REFERENCE_FILE, SUMMARY_FILE, "config.json", "adapter_config.json",
             "model.safetensors.index.json")  # fmt: skip
LORA_LEARNING_RATE_FACTOR = 10.0
"""Adapters want a learning rate about ten times that of full training **(ours)**."""


def run(config: TrainConfig, model: ModelFiles, runtime: Runtime) -> Summary:
    """Train, or go on training, or say that it is done."""
    settings = settings_of(config)
    groups = open_input(config.groups, schema="groups", name="GROUPS")
    refuse_nesting(config.output, {"GROUPS": config.groups, "--model": model.path})
    require_chat_template(model)
    if config.resume_from is not None:
        require_checkpoint(config.resume_from)  # before a large model is loaded and the reference measured
    # whatever needs no row is checked before --overwrite throws anything away
    derive_accumulation(settings.global_batch_size, settings.per_device_train_batch_size, PartialState().num_processes)
    parents = {"groups": _digest(groups, allow_partial=config.allow_partial)}
    with PartialState().main_process_first():
        output = _open_output(config, settings, model, groups, runtime)
        if PartialState().is_main_process:
            _start_again_if_changed(config, {**parents, "run": output.record.fingerprint}, runtime)
    summary = Summary(config.stage, config.output)
    if output.is_done(0, parents) and (config.output / SUMMARY_FILE).exists() and _holds_model(config.output, runtime):
        runtime.log(f"{config.output}: the policy is trained and kept")
        summary.n_parts_kept = 1
        summary.counts.update(output.footer(0).counts)
        summary.facts |= json.loads((config.output / SUMMARY_FILE).read_text(encoding="utf-8"))
        return summary
    work = _Work(config, settings, model, runtime)
    figures = work.train(read_rows(groups, allow_partial=config.allow_partial), fits=stored_ids_fit(groups, model))
    if PartialState().is_main_process:
        rows = work.fate_rows()
        output.write(0, pa.Table.from_pylist(rows, schema=POLICY.arrow()), counts=count_by_status(rows), parents=parents)
        with atomic_write(config.output / SUMMARY_FILE) as file:
            file.write((json.dumps(figures, indent=2, ensure_ascii=False) + "\n").encode())
        summary.counts.update(count_by_status(rows))
    summary.n_parts_made = 1
    summary.facts |= figures
    summary.notes.append(describe_progress(figures))
    return summary


def settings_of(config: TrainConfig) -> TrainSettings:
    """Return the run's settings: what was given, else the objective's start values.

    Errors:
        UsageError: a knob that the objective does not have, or a bad value.
    """
    knobs = resolve_knobs(config.objective, {name: getattr(config, name) for name in KNOB_NAMES})
    start = START_VALUES[config.objective]
    factor = LORA_LEARNING_RATE_FACTOR if config.lora_r else 1.0
    return TrainSettings(
        objective=config.objective,
        knobs=knobs,
        learning_rate=config.learning_rate if config.learning_rate is not None else start.learning_rate * factor,
        num_train_epochs=config.num_train_epochs if config.num_train_epochs is not None else start.num_train_epochs,
        max_steps=config.max_steps if config.max_steps is not None else -1,
        global_batch_size=config.global_batch_size if config.global_batch_size is not None else start.global_batch_size,
        per_device_train_batch_size=config.per_device_train_batch_size,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_ratio=config.warmup_ratio if config.warmup_ratio is not None else start.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        max_batch_tokens=config.max_batch_tokens,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        logging_steps=config.logging_steps,
        report_to=tuple(name for name in config.report_to if name != "none"),
    )


def stored_ids_fit(groups: Artifact, model: ModelFiles) -> bool:
    """Return whether every model that sampled the candidates had this policy's tokenizer and chat template."""
    candidates = groups.record.identity.get("candidates", {})
    samplers = candidates.get("models", [])
    ours = (model.tokenizer_hash, model.chat_template_hash)
    return bool(samplers) and all((each.get("tokenizer_hash"), each.get("chat_template_hash")) == ours for each in samplers)


def read_rows(groups: Artifact, *, allow_partial: bool) -> list[Row]:
    """Return the rows of the groups, rejected prompts among them.

    Errors:
        IncompleteInputError: parts are missing and ``allow_partial`` is not set.
    """
    columns = ["prompt_id", "sample_idx", "role", "reward", "messages", "response", "prompt_token_ids", "response_token_ids",
               "finish_reason", "beats", "status", "reason"]  # fmt: skip
    rows: list[Row] = groups.read_all(columns, allow_partial=allow_partial).to_pylist()
    return rows


def groups_of(rows: list[Row], encoder: Encoder | None) -> list[Group]:
    """Return the groups that select kept, with stored ids, or with those of ``encoder`` where one is given.

    Errors:
        InputError: a response without stored ids, or ids of different prompts within one group.
    """
    found: dict[str, Group] = {}
    for row in rows:
        if row["role"] is None:
            continue
        prompt_id, place = row["prompt_id"], f"response {row['sample_idx']} of prompt {row['prompt_id']}"
        if encoder is not None:
            finished = row["finish_reason"] != "length"
            prompt, tokens = encoder.encode(prompt_id, row["messages"], row["response"], finished=finished)
        else:
            prompt, tokens = row["prompt_token_ids"], row["response_token_ids"]
        if prompt is None or tokens is None:
            raise InputError(f"{place} has no stored token ids", hint="generate again with a model whose ids are kept")
        group = found.setdefault(prompt_id, Group(prompt_id, prompt, []))
        if group.prompt_token_ids != prompt:
            raise InputError(f"{place} has other prompt tokens than the responses before it", hint="select again")
        beats = None if row["beats"] is None else [pair["sample_idx"] for pair in row["beats"]]
        responses = [*group.responses, Response(row["sample_idx"], tokens, row["reward"], row["role"], beats=beats)]
        found[prompt_id] = group._replace(responses=responses)
    return list(found.values())


class _Trained(NamedTuple):
    """What the loop ended with."""

    stopped: bool
    log_history: list[dict[str, Any]]
    n_steps: int
    max_steps: int


class _Work:
    """One run: rows in, a saved policy and its figures out."""

    def __init__(self, config: TrainConfig, settings: TrainSettings, model: ModelFiles, runtime: Runtime) -> None:
        self.config, self.settings, self.model, self.runtime = config, settings, model, runtime
        self.rows: list[Row] = []
        self.prepared = PreparedGroups([], {})
        self.reference: dict[Key, tuple[float, int]] = {}

    def train(self, rows: list[Row], *, fits: bool) -> dict[str, Any]:
        """Train on the rows' groups, save the policy and return the figures of the run.

        Errors:
            InputError: no group is left to train on.
            StoppedEarly: a stop was asked for; a checkpoint is on disk.
        """
        config = self.config
        lora = None
        if config.lora_r:
            alpha = config.lora_alpha if config.lora_alpha is not None else 2.0 * config.lora_r
            lora = LoraSettings(config.lora_r, alpha, config.lora_dropout, config.lora_target_modules)
        arguments = training_arguments(self.settings, config.output)
        self.runtime.log(f"loading {self.model.requested}")
        policy = load_policy(
            self.model, lora=lora, bf16=config.bf16, seed=config.seed, trust_remote_code=config.trust_remote_code
        )
        self._prepare(rows, policy, fits=fits)
        policy.model.to(arguments.device)
        self._share_prompts(policy)
        groups = self._with_reference(policy, self.prepared.groups)
        self.runtime.log(
            f"{len(groups)} groups, {self.settings.global_batch_size} prompts a step = {arguments.world_size} devices x "
            f"{self.settings.per_device_train_batch_size} x {arguments.gradient_accumulation_steps} accumulated; "
            f"learning rate {self.settings.learning_rate:g}"
        )
        trained = self._loop(policy, groups, arguments)
        if trained.stopped:
            raise StoppedEarly(
                f"train stopped as asked at step {trained.n_steps} of {trained.max_steps}, with a checkpoint",
                hint=f"run the same command again{_without_flags(config)} to go on",
            )
        figures = self._figures(trained)
        if PartialState().is_main_process:
            facts = {name: figures[name] for name in ("objective", "knobs", "learning_rate", "n_groups", "n_steps")}
            save_policy(policy, config.output, model_card(policy, self.model, facts))
        return figures

    def fate_rows(self) -> list[Row]:
        """Return one row of ``POLICY`` for every row of the groups."""
        lengths = {
            (group.prompt_id, response.sample_idx): len(response.token_ids)
            for group in self.prepared.groups
            for response in group.responses
        }
        result = []
        for row in self.rows:
            key = row["prompt_id"], row["sample_idx"]
            status, reason = self.prepared.fates.get(key, (row["status"], row["reason"]))
            own = {name: row[name] for name in ("prompt_id", "sample_idx", "role", "reward")}
            ref_logp, _ = self.reference.get(key, (None, 0))
            result.append(own | {"n_tokens": lengths.get(key, 0), "ref_logp": ref_logp, "status": status, "reason": reason})
        return result

    def _prepare(self, rows: list[Row], policy: Policy, *, fits: bool) -> None:
        encoder = None
        if not fits:
            self.runtime.log("the stored token ids are of another tokenizer or chat template: conversations are tokenised again")
            encoder = Encoder(policy.tokenizer, sorted(end_token_ids(policy.model, policy.tokenizer)))
        self.rows = rows
        groups = groups_of(rows, encoder)
        self.prepared = prepare_groups(groups, max_length=self.config.max_length, on_too_long=self.config.on_too_long)
        left_out = {name: count for name, count in sorted(self.prepared.counts.items()) if name not in TRAINED}
        words = ", ".join(f"{count} {name}" for name, count in left_out.items())
        if words:
            self.runtime.log(f"{sum(left_out.values())} of {len(self.prepared.fates)} responses are left out: {words}")
        if not self.prepared.groups:
            too_long = any("long" in name for name in left_out)
            raise InputError(
                f"no group of {self.config.groups} can be trained on: {words or 'it holds no group'}",
                hint="raise --max-length"
                if too_long
                else f"run `prefpipe inspect {self.config.groups}` for what select rejected",
            )
        if find_objective(self.settings.objective).needs_reward_gaps:
            require_reward_gaps(self.prepared.groups, self.settings.objective)

    def _share_prompts(self, policy: Policy) -> None:
        """Compute each prompt once a group, or say why it is computed once a response."""
        problem = share_prompts(policy.model) if self.config.shared_prompt else "--no-shared-prompt"
        once = sum(len(group.prompt_token_ids) for group in self.prepared.groups)
        each = sum(len(group.prompt_token_ids) * len(group.responses) for group in self.prepared.groups)
        if problem is None:
            self.runtime.log(f"each prompt is computed once: {once:,} prompt tokens instead of {each:,}")
        else:
            self.runtime.log(f"each prompt is computed once a response, {each:,} prompt tokens: {problem}")

    def _with_reference(self, policy: Policy, groups: list[Group]) -> list[Group]:
        """Give each response its log-probability under the policy as it is before the first step."""
        if not find_objective(self.settings.objective).needs_reference:
            return groups
        key = fingerprint_of({"model": self.model.identity(), "max_length": self.config.max_length, "bf16": self.config.bf16,
                              "responses": [[group.prompt_id, r.sample_idx, list(r.token_ids)] for group in groups
                                            for r in group.responses]})  # fmt: skip
        folder = self.config.output
        with PartialState().main_process_first():
            reference = read_reference(folder, key)
            if reference is None:
                reference = self._measure_reference(policy, groups)
                write_reference(folder, reference, key)
        self.reference = reference
        return with_reference(groups, reference)

    def _measure_reference(self, policy: Policy, groups: list[Group]) -> dict[Key, tuple[float, int]]:
        with self.runtime.progress("reference: response", sum(len(group.responses) for group in groups)) as advance:

            def advance_or_stop(n_done: int) -> None:
                advance(n_done)
                if self.runtime.should_stop():
                    raise StoppedEarly("train stopped as asked before its first step", hint="run the same command again")

            return reference_logps(
                policy.model, groups, pad_token_id=policy.tokenizer.pad_token_id or 0, bf16=self.config.bf16,
                advance=advance_or_stop,
            )  # fmt: skip

    def _loop(self, policy: Policy, groups: list[Group], arguments: Any) -> _Trained:
        config, runtime = self.config, self.runtime
        stop = StopWhenAsked(runtime.should_stop)
        callbacks = [MetricsFile(config.output), CollapseWarning(), ProgressBar(runtime.progress), stop]
        if "tensorboard" in self.settings.report_to:
            callbacks.append(TensorBoard(config.output / TENSORBOARD_FOLDER))
        if config.resume_from is not None:
            checkpoint: Path | None = require_checkpoint(config.resume_from)
        else:
            checkpoint = find_last_checkpoint(config.output, runtime.log)
        if checkpoint is not None:
            runtime.log(f"going on from {checkpoint}")
        trainer = GroupTrainer(policy.model, arguments, self.settings, groups, tokenizer=policy.tokenizer, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
        return _Trained(stop.stopped, state.log_history, state.global_step, state.max_steps)

    def _figures(self, trained: _Trained) -> dict[str, Any]:
        rows = [entry for entry in trained.log_history if "loss" in entry]
        n_averaged = max(1, len(rows) // 3)  # single steps see other prompts: their losses do not compare
        names = ("loss", "rewards/margins", "rewards/accuracy", "logps/chosen", "logps/rejected")
        return {
            "objective": self.settings.objective,
            "knobs": dict(self.settings.knobs),
            "learning_rate": self.settings.learning_rate,
            "n_groups": len(self.prepared.groups),
            "n_responses": sum(len(group.responses) for group in self.prepared.groups),
            "n_steps": trained.n_steps,
            "first": mean_measures(rows[:n_averaged], names),
            "last": mean_measures(rows[-n_averaged:], names),
            "n_steps_averaged": n_averaged,
            "kind": "adapter" if self.config.lora_r else "model",
        }


def _open_output(config: TrainConfig, settings: TrainSettings, model: ModelFiles, groups: Artifact, runtime: Runtime) -> Output:
    resolved = {
        name: getattr(settings, name) for name in ("learning_rate", "num_train_epochs", "global_batch_size", "warmup_ratio")
    }
    identity = {name: value for name, value in config.identity().items() if name not in KNOB_NAMES}
    record = RunRecord(
        stage=config.stage, schema=POLICY.tag, n_parts=1, context=dict(runtime.context),
        identity={"stage": config.stage, "version": config.VERSION, **identity, **resolved, "knobs": dict(settings.knobs),
                  "model": model.identity(), "groups": parent_identity(groups)},
        parents={"groups": str(config.groups)},
    )  # fmt: skip
    return open_output(config.output, record, shard=Shard(), overwrite=config.overwrite and PartialState().is_main_process)


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


def _without_flags(config: TrainConfig) -> str:
    """Name the flags that would throw away what the stopped run has done if they were given again."""
    flags = [
        flag for flag, given in (("--overwrite", config.overwrite), ("--resume-from", config.resume_from is not None)) if given
    ]
    return f" without {' and '.join(flags)}" if flags else ""


def _start_again_if_changed(config: TrainConfig, made_from: Mapping[str, str], runtime: Runtime) -> None:
    """Throw checkpoints away that are of other groups or of another run, or all when asked to; note what this run is.

    The run is noted because a kill may come after ``run.json`` is replaced and before the old checkpoints are gone.
    """
    path = config.output / INPUTS_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    changed = known != made_from
    if known is not None and changed and not config.overwrite:
        what = f"{config.groups} changed" if known.get("groups") != made_from["groups"] else "the configuration changed"
        runtime.log(f"{what} since {config.output} was trained: training starts again")
    if config.overwrite or changed:
        _remove_run(config.output)
        with atomic_write(path) as file:
            file.write(json.dumps(dict(made_from)).encode())


def _remove_run(folder: Path) -> None:
    """Throw away what an earlier run left beside its part: checkpoints, logs and the model."""
    for path in folder.iterdir():
        if path.is_dir() and (path.name.startswith("checkpoint-") or path.name == TENSORBOARD_FOLDER):
            shutil.rmtree(path)
        elif path.name in OWN_FILES or path.suffix == ".safetensors":
            path.unlink()
