"""The inputs of a training run: opened, checked, and included in the run's fingerprint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

from prefpipe.artifacts.fingerprint import field_differences, fingerprint_of
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.rounds import ROUND, context_of_round, describe_sampler, sampler_round_of
from prefpipe.artifacts.run_record import (
    MADE_WITH,
    RATER_SCORES,
    RunRecord,
    ingredient,
    rater_digests,
)
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import (
    Artifact,
    Output,
    Shard,
    open_input,
    open_output,
    refuse_nesting,
)
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.maths.objectives.registry import (
    KNOB_NAMES,
    Objective,
    find_objective,
    objective_of,
    resolve_knobs,
)
from prefpipe.models.files import ModelFiles
from prefpipe.models.rounds import round_of_model
from prefpipe.stages.shared.candidate_rows import parent_identity
from prefpipe.stages.train.auto_gamma import gamma_of, open_rater_scores
from prefpipe.stages.train.earlier_run import (
    refuse_checkpoint_of_another_run,
    start_again_if_changed,
)
from prefpipe.stages.train.kept_steps import step_reached, steps_gone_by
from prefpipe.stages.train.loss_weights import Weighing, open_weighing
from prefpipe.stages.train.reference import (
    BASE,
    EVAL_FOLDER,
    FOLDER,
    MeasuredReference,
    Reference,
    dtype_of,
    open_given_reference,
    reference_model_of,
)
from prefpipe.stages.train.trainable import StartSettings, check_start
from prefpipe.training.policy import LoraSettings
from prefpipe.training.ranks import processes
from prefpipe.training.reward_model import read_template
from prefpipe.training.settings import (
    TrainSettings,
    check_settings,
)
from prefpipe.training.start_values import (
    LORA_LEARNING_RATE_FACTOR,
    START_VALUES,
    StartValues,
)
from prefpipe.training.tables import POLICY

EVAL_FLAG = "--eval-groups"


@dataclass(frozen=True)
class OpenedGroups:
    """Groups to train or to evaluate on, and their reference, None if the run has none.

    ``flag``: the flag that named them, "" for the command's own groups. ``allow_partial``: whether
    parts may be missing. ``weighing``: the weight of each in the loss, None for equal weights.
    """

    artifact: Artifact
    reference: Reference | None
    flag: str = ""
    allow_partial: bool = False
    weighing: Weighing | None = None

    @property
    def digest(self) -> str:
        """The digest of the groups on disk: a partial set never has the digest of the whole."""
        if not self.allow_partial:
            return self.artifact.digest()
        present = self.artifact.present(range(self.artifact.n_parts), allow_partial=True)
        digests = {str(index): self.artifact.footer(index).data_sha256 for index in present}
        return fingerprint_of(digests)


@dataclass(frozen=True, kw_only=True)
class TrainInputs:
    """The model, data and settings of a run.

    Attributes:
        start: what the training starts from.
        settings: of the optimizer loop.
        objective: what is optimised.
        groups: what is trained on.
        eval_groups: what is evaluated on, None for a share of the groups, or for nothing.
        eval_fraction: that share.
        on_too_long: what to do with a longer response.
        resume_from: checkpoint to go on from, None for the last one in the output.
        output: where the run's record and rows go, the run's record written.
        parents: digests of the groups on disk.
        round: of training that the policy is of, None of a reward model.
        how_to_go_on: what to do after a stop, for messages.
    """

    start: StartSettings
    settings: TrainSettings
    objective: Objective
    groups: OpenedGroups
    eval_groups: OpenedGroups | None
    eval_fraction: float
    on_too_long: str
    resume_from: Path | None
    output: Output
    parents: Mapping[str, str]
    round: int | None
    how_to_go_on: str


def open_training(
    config: TrainConfig, model: ModelFiles, reference_model: ModelFiles | None, runtime: Runtime
) -> TrainInputs:
    """Open the inputs of a run and its output folder, after checking that everything fits.

    Everything that needs no row is checked before ``--overwrite`` deletes anything.

    Args:
        config: the stage's knobs.
        model: what the training starts from.
        reference_model: the files of ``--reference-model`` if it names a separate model.
        runtime: the surroundings.

    Raises:
        UsageError: values, a model or a checkpoint that do not go together.
        InputError: no groups, or log-probabilities of others.
        FingerprintError: the output folder holds another run.
    """
    start = start_of(config, model)
    settings = settings_of(config, runtime.log)
    objective = find_objective(settings.objective)

    artifact = open_input(config.groups, schema="groups", name="GROUPS")
    read_from: dict[str, Location] = {"GROUPS": config.groups, "--model": model.path}
    eval_artifact = None
    if config.eval_groups is not None:
        eval_artifact = open_input(config.eval_groups, schema="groups", name=EVAL_FLAG)
        # The same set is to be evaluated on every time: no part may be missing.
        eval_artifact.present(range(eval_artifact.n_parts), allow_partial=False)
        read_from[EVAL_FLAG] = config.eval_groups
    if config.rater_scores is not None:
        read_from["--rater-scores"] = config.rater_scores
    refuse_nesting(config.output, read_from)
    check_settings(settings, processes().num_processes)
    check_start(start)

    reference, eval_reference = _open_references(
        config, objective, model, reference_model, artifact, eval_artifact
    )
    groups = OpenedGroups(
        artifact,
        reference,
        allow_partial=config.allow_partial,
        weighing=_weighing_of(config, objective, artifact, "GROUPS"),
    )
    parents = {"groups": groups.digest}
    eval_groups = None
    if eval_artifact is not None:
        eval_groups = OpenedGroups(
            eval_artifact,
            eval_reference,
            flag=EVAL_FLAG,
            weighing=_weighing_of(config, objective, eval_artifact, EVAL_FLAG),
        )
        parents["eval_groups"] = eval_groups.digest

    of_round = _round_of(config.target, model, artifact, runtime.log)

    # The first process opens the output, and may throw away what was there. The others find it.
    with processes().main_process_first():
        context = {**runtime.context, **context_of_round(ROUND, of_round)}
        record = _record_of(config, settings, objective, model, groups, eval_groups, context)
        made_from = {**parents, "run": record.fingerprint}
        # Refused before `--overwrite` throws anything away.
        if config.resume_from is not None:
            refuse_checkpoint_of_another_run(config.resume_from, made_from, runtime.log)
        is_first = processes().is_main_process
        output = open_output(
            config.output,
            record,
            shard=Shard(),
            overwrite=config.overwrite if is_first else Overwrite.NO,
        )
        if is_first:
            start_again_if_changed(
                config.output,
                made_from,
                places={"groups": config.groups, "eval_groups": config.eval_groups},
                is_asked=config.overwrite.replaces_this_run
                or _is_to_be_made_again(config, settings, runtime.log),
                log=runtime.log,
            )
            if config.rater_scores is not None:
                _note_raters(output, open_rater_scores(config.rater_scores).digest())

    return TrainInputs(
        start=start,
        settings=settings,
        objective=objective,
        groups=groups,
        eval_groups=eval_groups,
        eval_fraction=config.eval_fraction,
        on_too_long=config.on_too_long,
        resume_from=config.resume_from,
        output=output,
        parents=parents,
        round=of_round,
        how_to_go_on=_how_to_go_on(config),
    )


def _is_to_be_made_again(
    config: TrainConfig, settings: TrainSettings, say: Callable[[str], None]
) -> bool:
    """Return whether ``--overwrite=stale`` deletes a run that lacks a model it must keep now.

    Its configuration is the same, but it is not the requested run.
    """
    if config.overwrite is not Overwrite.STALE:
        return False
    gone = steps_gone_by(config.output, settings, step_reached(config.output))
    if gone:
        say(f"{config.output}: the model of step {gone[0]} was not kept: training starts again")
    return bool(gone)


def _round_of(
    target: str, model: ModelFiles, groups: Artifact, say: Callable[[str], None]
) -> int | None:
    """Return the round of the trained policy: one more than that of its origin.

    The origin is the starting model or the one that sampled the groups, whichever is later. A
    reward model has None.
    """
    if target != "policy":
        return None
    of_start = round_of_model(model.path)
    of_sampler = sampler_round_of([groups.record])
    of_round = 1 + max(of_start, of_sampler or 0)

    sampled = ""
    if of_sampler is not None and of_round > 1:
        sampled = f", on candidates that {describe_sampler(of_sampler)} sampled"
    start = f"{describe_sampler(of_start)}, " if of_start else ""
    say(f"round {of_round}: from {start}{model.requested}{sampled}")
    return of_round


def settings_of(
    config: TrainConfig, say: Callable[[str], None] = lambda _line: None
) -> TrainSettings:
    """Return the run's settings: given values, else the objective's start values.

    Args:
        config: the stage's knobs.
        say: takes a line that says what was chosen where ``auto`` was requested.

    Raises:
        InputError: no scores to choose gamma by.
        UsageError: a knob that the objective does not have, or a bad value; no gamma that fits.
    """
    objective = objective_of(config.target, config.objective)
    given = {name: getattr(config, name) for name in KNOB_NAMES}
    gamma = gamma_of(
        config.gamma, point_wins=config.point_wins, rater_scores=config.rater_scores, say=say
    )
    knobs = resolve_knobs(objective, given | {"gamma": gamma})

    start = START_VALUES[objective]._asdict()
    if config.lora_r:
        start["learning_rate"] *= LORA_LEARNING_RATE_FACTOR
    # What is given holds as it is, for adapters too.
    for name in start:
        if getattr(config, name) is not None:
            start[name] = getattr(config, name)

    # transformers calls no limit -1.
    max_steps = config.max_steps if config.max_steps is not None else -1
    return TrainSettings(
        objective=objective,
        knobs=knobs,
        sft_weight=config.sft_weight,
        **start,
        max_steps=max_steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        max_batch_tokens=config.max_batch_tokens,
        shared_prompt=config.shared_prompt,
        evaluates=config.evaluates,
        eval_steps=config.eval_steps,
        early_stopping_patience=config.early_stopping_patience,
        max_hours=config.max_hours,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        keep_steps=tuple(sorted(set(config.keep_step))),
        logging_steps=config.logging_steps,
        report_to=tuple(name for name in config.report_to if name != "none"),
    )


def _weighing_of(
    config: TrainConfig, objective: Objective, groups: Artifact, flag: str
) -> Weighing | None:
    """Return what ``--weight-by`` reads of the groups, None if all count alike.

    Raises:
        UsageError: what is not in the grammar, or a name that is no column of numbers, or of a pair
            if there are none.
    """
    if config.weight_by is None:
        return None
    return open_weighing(config.weight_by, groups, flag, of_pairs=objective.compares)


def start_of(config: TrainConfig, model: ModelFiles) -> StartSettings:
    """Return what the training starts from."""
    lora = None
    if config.lora_r:
        alpha = config.lora_alpha if config.lora_alpha is not None else 2.0 * config.lora_r
        lora = LoraSettings(config.lora_r, alpha, config.lora_dropout, config.lora_target_modules)
    return StartSettings(
        target=config.target,
        model=model,
        lora=lora,
        max_length=config.max_length,
        seed=config.seed,
        bf16=config.bf16,
        load_in_4bit=config.load_in_4bit,
        chat_template=config.chat_template,
        trust_remote_code=config.trust_remote_code,
    )


def _open_references(
    config: TrainConfig,
    objective: Objective,
    policy: ModelFiles,
    named: ModelFiles | None,
    groups: Artifact,
    eval_groups: Artifact | None,
) -> tuple[Reference | None, Reference | None]:
    """Return the references of the training and evaluation groups.

    They are given, or the run measures them. None for an objective without a reference, unless one
    is requested for logging.

    Args:
        config: the stage's knobs.
        objective: what is optimised.
        policy: what the training starts from.
        named: the files of ``--reference-model`` where it names a model.
        groups: what is trained on.
        eval_groups: separate groups to evaluate on.

    Raises:
        InputError: log-probabilities of other groups.
        UsageError: a reference of another tokenizer, or made with other settings; or two different
            ones.
    """
    # Even beside a --reference that is given: groups to evaluate on may need it.
    measured = None
    if config.reference_model is not None or objective.needs_reference:
        measured = _reference_to_measure(config, policy, named)

    reference: Reference | None = measured
    if config.reference is not None:
        reference = open_given_reference(
            config.reference,
            groups,
            policy,
            max_length=config.max_length,
            on_too_long=config.on_too_long,
            flag="--reference",
        )
    if eval_groups is None:
        return reference, None

    eval_reference: Reference | None = None
    if config.eval_reference is not None:
        eval_reference = open_given_reference(
            config.eval_reference,
            eval_groups,
            policy,
            max_length=config.max_length,
            on_too_long=config.on_too_long,
            flag="--eval-reference",
        )
    elif measured is not None:
        eval_reference = measured.of(eval_groups.path, config.output / EVAL_FOLDER)
    if reference is not None and eval_reference is not None:
        _check_same_reference(reference, eval_reference, eval_groups.path)
    return reference, eval_reference


def _reference_to_measure(
    config: TrainConfig, policy: ModelFiles, named: ModelFiles | None
) -> MeasuredReference:
    """Return the reference that the run measures itself if no log-probabilities are given.

    Raises:
        UsageError: a reference of another tokenizer, or the base of no adapter.
    """
    trains_adapter = config.lora_r > 0
    model = reference_model_of(config.reference_model, policy, named, trains_adapter=trains_adapter)
    dtype = dtype_of(
        bf16=config.bf16, trains_adapter=trains_adapter, load_in_4bit=config.load_in_4bit
    )
    # Measured as the policy computes: the same format, limits and merging, and no response without
    # a finite value, for such a response cannot be trained on.
    measurement = LogprobsConfig(
        groups=config.groups,
        output=config.output / FOLDER,
        model=model.requested,
        dtype=dtype,
        max_length=config.max_length,
        on_too_long=config.on_too_long,
        max_batch_tokens=config.max_batch_tokens,
        shared_prompt=config.shared_prompt,
        allow_partial=config.allow_partial,
        device=str(processes().device),
        max_error_rate=0.0,
        trust_remote_code=config.trust_remote_code,
        merge_adapter=not trains_adapter,
    )
    return MeasuredReference(model, measurement)


def _check_same_reference(trained: Reference, evaluated: Reference, eval_groups: Location) -> None:
    """Refuse an evaluation under another reference than the training's.

    Raises:
        UsageError: it is another model, or another number format.
    """
    differences = field_differences(trained.identity, evaluated.identity)
    if not differences:
        return
    problem = f"{EVAL_FLAG} would be measured with another reference than the training groups:"
    lines = [problem]
    lines += [difference.worded("in training", "in evaluation") for difference in differences]
    raise UsageError(
        "\n  ".join(lines),
        hint=f"prefpipe logprobs {quote(str(eval_groups))} --model REFERENCE ..., "
        "and pass its folder with --eval-reference",
    )


def _record_of(
    config: TrainConfig,
    settings: TrainSettings,
    objective: Objective,
    model: ModelFiles,
    groups: OpenedGroups,
    eval_groups: OpenedGroups | None,
    context: Mapping[str, Any],
) -> RunRecord:
    """Return the run's record: everything that can change its weights, and what it is made with."""
    identity = {"stage": config.stage, "version": config.VERSION, **config.identity()}
    # Each objective, by its name in the table, has one target. Its knobs come below.
    for name in ("target", *KNOB_NAMES):
        identity.pop(name, None)
    for name in ("objective", *StartValues._fields):
        identity[name] = getattr(settings, name)
    if config.warmup_steps is not None:
        del identity["warmup_ratio"]  # the objective's, and without effect
    if config.chat_template is not None:
        # the text's hash, not the path
        text = read_template(config.chat_template)
        identity["chat_template"] = sha256(text.encode()).hexdigest()

    made_with = [ingredient("model", config.model, model.identity())]
    # A reference that the objective does not need is only for what is logged.
    if groups.reference is not None and objective.needs_reference:
        reference = groups.reference.identity
        identity["reference"] = reference
        # As `status` looks for it: log-probabilities that were given, or a model that was named.
        if config.reference is not None:
            # all of it, where `ingredient` keeps hashes: the number format is part of what it is
            entry = {"role": "reference", "reference": str(config.reference)}
            made_with.append({**entry, "hashes": dict(reference)})
        elif config.reference_model not in (None, BASE):
            made_with.append(ingredient("reference model", str(config.reference_model), reference))

    if config.rater_scores is not None:
        # The gamma that they give is in the identity; `status` sees when they change.
        digest = open_rater_scores(config.rater_scores).digest()
        made_with.append(
            {
                "role": RATER_SCORES,
                "reference": str(config.rater_scores),
                "hashes": {"digest": digest},
            }
        )

    parents = {"groups": str(config.groups)}
    if eval_groups is not None:
        identity["eval_groups"] = parent_identity(eval_groups.artifact)
        parents["eval_groups"] = str(config.eval_groups)
    if config.early_stopping_patience is not None:
        identity["eval_steps"] = config.eval_steps  # elsewhere it does not change the weights
    identity["knobs"] = dict(settings.knobs)
    identity["model"] = model.identity()
    identity["groups"] = parent_identity(groups.artifact)

    given = {} if config.reference is None else {"reference": str(config.reference)}
    return RunRecord(
        stage=config.stage,
        schema=POLICY.tag,
        n_parts=1,
        context={**context, **given, MADE_WITH: made_with},
        identity=identity,
        parents=parents,
    )


def _note_raters(output: Output, digest: str) -> None:
    """Record scores from which the run's gamma was chosen again, so that `status` knows them.

    The record on disk is that of the command that made the run, whose scores may differ.
    """
    if digest not in rater_digests(output.record):
        output.record_once({"operation": "--gamma auto again", RATER_SCORES: digest})


def _how_to_go_on(config: TrainConfig) -> str:
    """Say what to do after a stop.

    Some flags would throw away what the stopped run has done if they were given again.
    """
    flags = []
    if config.overwrite.replaces_this_run:
        flags.append("--overwrite")
    if config.resume_from is not None:
        flags.append("--resume-from")
    without = f" without {' and '.join(flags)}" if flags else ""
    return f"run the same command again{without} to go on"
