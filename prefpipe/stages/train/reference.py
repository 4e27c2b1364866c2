"""The reference of a training run: which model it is, and where its log-probabilities come from.

They come either from a given ``logprobs`` artifact, checked to fit these groups, or from the run's
own in ``OUTPUT/reference``, which the stage makes part by part, resumes automatically, and keeps
whatever happens to the run. The reference model is part of the run's identity; the place of its
log-probabilities is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.run_record import FILE_NAME, read_run_record
from prefpipe.artifacts.storage.location import Location, local_path
from prefpipe.artifacts.store import Artifact, Shard, open_input, open_output
from prefpipe.artifacts.template_args import FIELD as TEMPLATE_ARGS
from prefpipe.artifacts.template_dates import FIELD
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.errors import InputError, PrefpipeError, StoppedEarly, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import ModelFiles
from prefpipe.stages import logprobs
from prefpipe.stages.shared.candidate_rows import parent_identity
from prefpipe.stages.shared.logprob_rows import read_logprobs
from prefpipe.stages.shared.training_groups import stored_ids_fit
from prefpipe.text.template_args import written_args
from prefpipe.training.groups import Key
from prefpipe.training.ranks import processes

FOLDER = "reference"
EVAL_FOLDER = "reference-eval"

BASE = "base"
"""What ``--reference-model`` says for the model under an adapter."""


class Reference(Protocol):
    """The reference of a set of groups."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its entry in the run's identity: the model's hashes and the number format."""

    def open_logprobs(self, groups: Artifact, policy: ModelFiles, runtime: Runtime) -> Artifact:
        """Return its log-probabilities of the groups, measured now if they are not on disk."""


@dataclass(frozen=True)
class GivenReference:
    """Log-probabilities that the user names."""

    artifact: Artifact

    @property
    def identity(self) -> dict[str, Any]:
        """The model that was measured, by its own record."""
        measured = self.artifact.record.identity
        return _identity(measured["model"], measured["dtype"])

    def open_logprobs(self, _groups: Artifact, policy: ModelFiles, runtime: Runtime) -> Artifact:
        """Return them; log the source, and whether its model differs from the starting model."""
        line = f"the reference is {self.artifact.path}"
        if self.identity["content_hash"] != policy.identity()["content_hash"]:
            line += f", which was not made by the starting model {policy.requested}"
        runtime.log(line)
        return self.artifact


@dataclass(frozen=True)
class MeasuredReference:
    """A model whose log-probabilities the run measures itself.

    ``config``: how `logprobs` is to do it, and where.
    """

    model: ModelFiles
    config: LogprobsConfig

    @property
    def identity(self) -> dict[str, Any]:
        """The model that is measured, and how."""
        return _identity(self.model.identity(), self.config.dtype)

    def of(self, groups: Location, folder: Path) -> "MeasuredReference":
        """Return the same reference for other groups, which must be complete, in another folder."""
        config = replace(self.config, groups=groups, output=folder, allow_partial=False)
        return replace(self, config=config)

    def open_logprobs(self, groups: Artifact, policy: ModelFiles, runtime: Runtime) -> Artifact:
        """Measure what is missing, each process its share of the parts.

        Raises:
            StoppedEarly: a stop was requested, of this process or another.
        """
        state = processes()
        folder = local_path(self.config.output, "-o")
        record = logprobs.record_of(self.config, self.model, groups, runtime, encode_as=policy)

        # One process at a time: whoever starts again must not throw away what others have made
        # again.
        with state.main_process_first():
            expected = (None, record.fingerprint)
            if state.is_main_process and _fingerprint_on_disk(folder) not in expected:
                runtime.log(f"{folder} holds a different reference: it is computed again")
                open_output(folder, record, shard=Shard(), overwrite=Overwrite.ALL)

        shard = Shard(state.process_index, state.num_processes)
        stopped = None
        try:
            logprobs.run(
                self.config,
                self.model,
                replace(runtime, shard=shard),
                encode_as=policy,
                # What the policy's template refuses is left out of the training, too: it stops
                # nothing.
                failing=("not_finite",),
            )
        except StoppedEarly as error:
            stopped = error

        # A process that stops must not leave others waiting for its parts.
        state.wait_for_everyone()
        # Where parts are missing another process was the one that stopped.
        measured = Artifact(folder, record)
        wanted = groups.present(range(groups.n_parts), allow_partial=self.config.allow_partial)
        if stopped is None and measured.missing(wanted):
            stopped = StoppedEarly(
                "train stopped on request before its first step", hint=runtime.how_to_go_on
            )
        if stopped is not None:
            raise stopped
        return measured


def measure_reference(
    reference: Reference,
    groups: Artifact,
    policy: ModelFiles,
    runtime: Runtime,
    *,
    allow_partial: bool,
) -> dict[Key, tuple[float, int]]:
    """Return sum and token count of every response under the reference, by key.

    Missing ones are measured first.

    Raises:
        InputError: a part was made from another version of the groups' part.
        StoppedEarly: a stop was requested while they were measured.
    """
    logps = reference.open_logprobs(groups, policy, runtime)
    indices = groups.present(range(groups.n_parts), allow_partial=allow_partial)
    for index in logps.present(indices, allow_partial=False):
        logps.footer_made_from(index, groups, groups.footer(index).data_sha256)
    return read_logprobs(logps, indices)


def open_given_reference(
    path: Location,
    groups: Artifact,
    policy: ModelFiles,
    *,
    max_length: int,
    on_too_long: str,
    flag: str,
) -> GivenReference:
    """Open log-probabilities that were not made by this run.

    Their parts are checked when they are read.

    Args:
        path: of the artifact.
        groups: what they must have been made for, token by token.
        policy: what the training starts from.
        max_length: longest prompt plus response, in tokens.
        on_too_long: what happens to a longer response.
        flag: what gave them, for messages.

    Raises:
        InputError: no log-probabilities, or of other groups.
        UsageError: of another tokenizer, or made with other settings.
    """
    artifact = open_input(path, schema="logprobs", name=flag)
    again = f"make it again: prefpipe logprobs {quote(str(groups.path))} --model REFERENCE ..."
    identity = artifact.record.identity
    if "groups" not in identity:
        raise InputError(
            f"{flag} {path} was made for candidates, and training needs the log-probabilities of "
            "its groups",
            hint=again,
        )
    wanted = parent_identity(groups)
    if artifact.n_parts != groups.n_parts or identity["groups"] != wanted:
        differences = field_differences(identity["groups"], wanted)[:4]
        lines = [difference.worded("there", "here") for difference in differences]
        problem = f"{flag} {path} was not made for {groups.path}:"
        raise InputError("\n  ".join([problem, *lines]), hint=again)

    # From here on: whether its sums are over the very tokens that are trained on.
    if identity["max_length"] != max_length:
        raise UsageError(
            f"{flag} {path} was made with --max-length {identity['max_length']}, and this run has "
            f"{max_length}",
            hint=f"pass --max-length {identity['max_length']}, or {again}",
        )
    if on_too_long == "truncate" and not identity["truncates"]:
        raise UsageError(
            f"{flag} {path} leaves out longer responses, and this run truncates them",
            hint=f"{again} --on-too-long truncate",
        )
    for name, noun in (("tokenizer_hash", "tokenizer"), ("chat_template_hash", "chat template")):
        if identity["model"][name] != getattr(policy, name):
            raise UsageError(
                f"{flag} {path} was not made with the {noun} of {policy.requested}",
                hint=f"leave out {flag} and pass --reference-model, which uses the policy's {noun}",
            )
    _check_day(artifact, policy, groups, flag)
    _check_args(artifact, policy, groups, flag)
    return GivenReference(artifact)


def reference_model_of(
    name: str | None, policy: ModelFiles, named: ModelFiles | None, *, trains_adapter: bool
) -> ModelFiles:
    """Return the model that is the reference.

    That is what the training starts from, unless another one is requested.

    Args:
        name: ``--reference-model``.
        policy: what the training starts from.
        named: the files of ``--reference-model`` where it names a model.
        trains_adapter: whether adapters are trained.

    Raises:
        UsageError: the base of no adapter, or a model of another tokenizer, to which the policy's
            token ids are other texts.
    """
    reference = policy if named is None else named
    if name == BASE:
        if policy.base is None and not trains_adapter:
            raise UsageError(
                f"--reference-model base: {policy.requested} is not an adapter, and all its "
                "weights are trained",
                hint="leave it out to use the model before its first step; for a folder named "
                "base, pass ./base",
            )
        reference = policy.base if policy.base is not None else policy

    if reference.tokenizer_hash != policy.tokenizer_hash:
        raise UsageError(
            f"the reference {reference.requested} does not have the tokenizer of "
            f"{policy.requested}: the same ids mean different texts",
            hint="pass a --reference-model with the policy's tokenizer, such as the model that it "
            "was trained from",
        )
    return reference


def dtype_of(*, bf16: bool, trains_adapter: bool, load_in_4bit: bool) -> str:
    """Return the number format in which the policy would be measured before its first step."""
    if load_in_4bit:
        return "nf4-bfloat16" if bf16 else "nf4-float32"
    if not bf16:
        return "float32"
    return "bfloat16" if trains_adapter else "mixed"


def _identity(model: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {
        "content_hash": model["content_hash"],
        "base_content_hash": model["base_content_hash"],
        "dtype": dtype,
    }


def _check_day(artifact: Artifact, policy: ModelFiles, groups: Artifact, flag: str) -> None:
    """Refuse log-probabilities of prompts with another date.

    Stored ids do not depend on the date.

    Raises:
        UsageError: the chat template used another date than this run.
    """
    day = artifact.record.identity["model"].get(FIELD)
    if day == policy.template_date or stored_ids_fit(groups, policy):
        return

    measured = quote(str(artifact.record.parents["groups"]))
    hint = f"make it again: prefpipe logprobs {measured} --template-date {policy.template_date} ..."
    if day is not None:
        hint = f"pass --template-date {day}, or {hint}"
    recorded = "an unrecorded date" if day is None else day
    raise UsageError(
        f"{flag} {artifact.path}: the chat template used {recorded}, and this run uses "
        f"{policy.template_date}",
        hint=hint,
    )


def _check_args(artifact: Artifact, policy: ModelFiles, groups: Artifact, flag: str) -> None:
    """Refuse log-probabilities of prompts that were written with other template arguments.

    Raises:
        UsageError: the chat template was given other arguments than in this run.
    """
    args = artifact.record.identity["model"].get(TEMPLATE_ARGS) or {}
    if args == policy.template_args or stored_ids_fit(groups, policy):
        return

    measured = quote(str(artifact.record.parents["groups"]))
    raise UsageError(
        f"{flag} {artifact.path}: the chat template had {written_args(args)}, and in this run it "
        f"has {written_args(policy.template_args)}",
        hint=f"make it again: prefpipe logprobs {measured} --model REFERENCE ...",
    )


def _fingerprint_on_disk(folder: Path) -> str | None:
    """Return the fingerprint of a folder, None if there is none, "" if it is unreadable."""
    try:
        return read_run_record(folder).fingerprint
    except PrefpipeError:
        return "" if (folder / FILE_NAME).exists() else None
