"""The reference of a training run: which model it is, and where its log-probabilities come from.

Either a ``logprobs`` artifact that is given, checked to be of these groups, or one of the run's own in ``OUTPUT/reference``,
made by the stage itself: part by part, resumed by itself, and kept whatever becomes of the run beside it. What the
reference is belongs to the run's identity; where it lies does not.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.run_record import FILE_NAME, read_run_record
from prefpipe.artifacts.store import Artifact, Shard, open_input, open_output
from prefpipe.artifacts.template_dates import FIELD
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, PrefpipeError, StoppedEarly, UsageError
from prefpipe.maths.objectives.registry import find_objective
from prefpipe.models.files import ModelFiles
from prefpipe.stages import logprobs
from prefpipe.stages.shared.candidate_rows import parent_identity
from prefpipe.stages.shared.logprob_rows import read_logprobs
from prefpipe.stages.shared.runtime import Runtime
from prefpipe.stages.shared.training_groups import stored_ids_fit
from prefpipe.training.groups import Key
from prefpipe.training.ranks import processes

FOLDER, EVAL_FOLDER = "reference", "reference-eval"
BASE = "base"
"""What ``--reference-model`` says for the model under an adapter."""


class Reference(NamedTuple):
    """``identity``: what the reference is, for the run's. ``given``: its log-probabilities, if they were; else of which model.

    ``folder``: where they are kept within the output.
    """

    identity: dict[str, Any]
    groups: Artifact
    given: Artifact | None = None
    model: ModelFiles | None = None
    folder: str = FOLDER

    def logps(
        self, config: TrainConfig, policy: ModelFiles, runtime: Runtime
    ) -> dict[Key, tuple[float, int]]:
        """Return sum and token count of every measured response, by key; what is missing is measured first."""
        if self.given is not None:
            is_start = (
                self.given.record.identity["model"]["content_hash"]
                == policy.identity()["content_hash"]
            )
            other = (
                ""
                if is_start
                else f", of another model than the training starts from, {policy.requested}"
            )
            runtime.log(f"the reference is {self.given.path}{other}")
            return read_logprobs(self.given, self._indices(config, self.given))
        made = self._measure(config, policy, runtime)
        return read_logprobs(made, self._indices(config, made))

    def _indices(self, config: TrainConfig, found: Artifact) -> list[int]:
        """Return the parts to read: of every part of the groups that is trained on, each made from it."""
        indices = self.groups.present(
            range(self.groups.n_parts), allow_partial=config.allow_partial
        )
        for index in found.present(indices, allow_partial=False):
            if found.footer(index).parents != {"groups": self.groups.footer(index).data_sha256}:
                raise InputError(
                    f"{found.part_path(index)} was made from another version of {self.groups.part_path(index)}",
                    hint="run the `prefpipe logprobs` command again: it makes this part anew",
                )
        return indices

    def _measure(self, config: TrainConfig, policy: ModelFiles, runtime: Runtime) -> Artifact:
        """Make what is missing of the run's own reference, each process its share of the parts."""
        assert self.model is not None
        state = processes()
        wanted = LogprobsConfig(
            groups=config.groups,
            output=config.output / self.folder,
            model=self.model.requested,
            dtype=dtype_of(config),
            max_length=config.max_length,
            on_too_long=config.on_too_long,
            max_batch_tokens=config.max_batch_tokens,
            shared_prompt=config.shared_prompt,
            allow_partial=config.allow_partial,
            device=str(state.device),
            max_error_rate=0.0,
            trust_remote_code=config.trust_remote_code,
            merge_adapter=not config.lora_r,
        )
        record = logprobs.record_of(wanted, self.model, self.groups, runtime, encode_as=policy)
        with (
            state.main_process_first()
        ):  # whoever starts again must not throw away what others have made anew
            if state.is_main_process and _fingerprint_on_disk(wanted.output) not in (
                None,
                record.fingerprint,
            ):
                runtime.log(f"{wanted.output} holds another reference: it is measured again")
                open_output(wanted.output, record, shard=Shard(), overwrite=Overwrite.ALL)
        shard = Shard(state.process_index, state.num_processes)
        stopped = None
        try:
            # what the policy's template refuses is left out of the training, too: it stops nothing
            logprobs.run(
                wanted,
                self.model,
                replace(runtime, shard=shard),
                encode_as=policy,
                failing=("not_finite",),
            )
        except StoppedEarly as error:
            stopped = error
        state.wait_for_everyone()  # a process that stops must not leave others waiting for its parts
        made = Artifact(wanted.output, record)
        if stopped is not None or made.missing(
            self.groups.present(range(made.n_parts), allow_partial=config.allow_partial)
        ):
            raise stopped or StoppedEarly(
                "train stopped as asked before its first step", hint=runtime.how_to_go_on
            )
        return made


def dtype_of(config: TrainConfig) -> str:
    """Return the number format in which the policy itself would be measured before its first step."""
    if config.load_in_4bit:
        return "nf4-bfloat16" if config.bf16 else "nf4-float32"
    return "float32" if not config.bf16 else "bfloat16" if config.lora_r else "mixed"


def reference_of(
    config: TrainConfig,
    objective: str,
    model: ModelFiles,
    groups: Artifact,
    named: ModelFiles | None,
    *,
    name: str = "--reference",
) -> Reference | None:
    """Return what the reference of a run is; None for an objective without one, unless it is given for what is logged.

    Args:
        config: of the run.
        objective: by name.
        model: what the training starts from.
        groups: what is trained on.
        named: the files of ``--reference-model`` where it names a model.
        name: the flag that gives log-probabilities.

    Raises:
        UsageError: a reference of another tokenizer, or made with other settings.
        InputError: log-probabilities of other groups.
    """
    is_given = config.reference is not None or config.reference_model is not None
    if not is_given and not find_objective(objective).needs_reference:
        return None
    if config.reference is not None:
        artifact = open_input(config.reference, schema="logprobs", name=name)
        _check_given(artifact, config, model, groups, name)
        return Reference(
            _identity(artifact.record.identity["model"], artifact.record.identity["dtype"]),
            groups,
            given=artifact,
        )
    own = _reference_model(config, model, named)
    if own.tokenizer_hash != model.tokenizer_hash:
        raise UsageError(
            f"the reference {own.requested} has another tokenizer than {model.requested}: the same ids are other texts to it",
            hint="pass a --reference-model with the policy's tokenizer, such as the model that it was trained from",
        )
    return Reference(_identity(own.identity(), dtype_of(config)), groups, model=own)


def _identity(model: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {**{name: model[name] for name in ("content_hash", "base_content_hash")}, "dtype": dtype}


def _reference_model(
    config: TrainConfig, model: ModelFiles, named: ModelFiles | None
) -> ModelFiles:
    if config.reference_model == BASE:
        if model.base is None and not config.lora_r:
            raise UsageError(
                f"--reference-model base: {model.requested} is no adapter and all its weights are trained",
                hint="leave it out for the model as it is before its first step; a folder of that name is ./base",
            )
        return model.base if model.base is not None else model
    return named if named is not None else model


def _check_given(
    artifact: Artifact, config: TrainConfig, model: ModelFiles, groups: Artifact, flag: str
) -> None:
    """Refuse log-probabilities that were not made for these groups, token by token; their parts are checked when read."""
    identity = artifact.record.identity
    again = f"make it again: prefpipe logprobs {quote(str(config.groups))} --model REFERENCE ..."
    if "groups" not in identity:
        raise InputError(
            f"{flag} {artifact.path} is of candidates, and training takes those of its groups",
            hint=again,
        )
    if artifact.n_parts != groups.n_parts or identity["groups"] != parent_identity(groups):
        differences = field_differences(identity["groups"], parent_identity(groups))
        lines = [difference.worded("there", "here") for difference in differences[:4]]
        what = f"{flag} {artifact.path} is of other groups than {groups.path}:"
        raise InputError("\n  ".join([what, *lines]), hint=again)
    if identity["max_length"] != config.max_length:
        raise UsageError(
            f"{flag} {artifact.path} was made with --max-length {identity['max_length']}, and this run has {config.max_length}",
            hint=f"pass --max-length {identity['max_length']}, or {again}",
        )
    if config.on_too_long == "truncate" and not identity["truncates"]:
        raise UsageError(
            f"{flag} {artifact.path} leaves longer responses out, and this run truncates them",
            hint=f"{again} --on-too-long truncate",
        )
    for name, what in (("tokenizer_hash", "tokenizer"), ("chat_template_hash", "chat template")):
        if identity["model"][name] != getattr(model, name):
            raise UsageError(
                f"{flag} {artifact.path} was made with another {what} than that of {model.requested}",
                hint=f"leave {flag} out and pass --reference-model: the policy's own is used then",
            )

    _check_day(artifact, model, groups, flag)


def _check_day(artifact: Artifact, model: ModelFiles, groups: Artifact, flag: str) -> None:
    """Refuse log-probabilities of prompts that tell another day; stored ids are the same whatever the day.

    Raises:
        UsageError: the chat template was told another day than in this run.
    """
    day = artifact.record.identity["model"].get(FIELD)
    if day == model.template_date or stored_ids_fit(groups, model):
        return
    told = "no day that is on record" if day is None else day
    measured = quote(str(artifact.record.parents["groups"]))
    again = f"make it again: prefpipe logprobs {measured} --template-date {model.template_date} ..."
    raise UsageError(
        f"{flag} {artifact.path}: the chat template was told {told}, and in this run it is {model.template_date}",
        hint=again if day is None else f"pass --template-date {day}, or {again}",
    )


def _fingerprint_on_disk(folder: Path) -> str | None:
    """Return the fingerprint of what lies in a folder, None for nothing, "" for what cannot be read."""
    try:
        return read_run_record(folder).fingerprint
    except PrefpipeError:
        return "" if (folder / FILE_NAME).exists() else None
