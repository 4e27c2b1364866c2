"""Measure the log-probability of responses under a model.

The model is usually the reference of a training or an evaluation. Compute its log-probabilities
once and reuse them across runs.

Reads: ``groups`` or ``candidates``.
Writes: ``logprobs``, one row for every kept response in the order of the groups, none for rejected
prompts; for candidates, one row for each that has a response.
Promises: the tokens are those that ``train`` uses for the same model and ``--max-length``; the
values do not depend on batch size, device count or resume point, up to the engine's rounding.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.schemas import LOGPROBS
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, Output, open_input, refuse_nesting
from prefpipe.artifacts.template_args import FIELD as TEMPLATE_ARGS
from prefpipe.artifacts.template_dates import FIELD
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.backends.device import find_device, turns_on
from prefpipe.backends.open_calls import Answered, OpenCalls
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.execution.lazy_engine import MOST_OPEN, LazyEngine
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.stages.shared.candidate_rows import (
    Row,
    count_by_status,
    parent_digests,
    parent_identity,
)
from prefpipe.stages.shared.partwise import (
    Summary,
    check_error_rate,
    loop_over_parts,
    open_stage_output,
)
from prefpipe.stages.shared.training_groups import (
    AGAIN,
    CANDIDATE_COLUMNS,
    COLUMNS,
    encoder_of,
    groups_of,
    groups_of_candidates,
    refuse_lost_thoughts,
    stored_ids_fit,
)
from prefpipe.text.numbers import per_second
from prefpipe.training.encoding import N_APART, N_TOKENISED, Encoder, notes_on_encoding
from prefpipe.training.forward import (
    Measured,
    measure_batches,
    response_batches,
    share_prompts,
)
from prefpipe.training.groups import Group, Key, ResponseStatus, check_group, fit_length
from prefpipe.training.policy import computes_in_bfloat16, load_reference

FAILING = ("not_finite", "template_error")


def run(
    config: LogprobsConfig,
    model: ModelFiles,
    runtime: Runtime,
    *,
    encode_as: ModelFiles | None = None,
    failing: Sequence[str] = FAILING,
) -> Summary:
    """Measure the parts of this shard that are missing.

    Args:
        config: the stage's knobs.
        model: whose weights are the reference.
        runtime: the surroundings.
        encode_as: whose tokenizer and chat template make the ids; default the reference's own.
        failing: statuses that count towards ``--max-error-rate``.
    """
    if encode_as is None:
        encode_as = model
    refuse_nesting(config.output, {"GROUPS": config.groups, "--model": model.path})
    groups = open_responses(config.groups)
    require_chat_template(encode_as)
    record = record_of(config, model, groups, runtime, encode_as=encode_as)

    indices = groups.present(
        runtime.shard.parts(groups.n_parts), allow_partial=config.allow_partial
    )
    parents = parent_digests(indices, **{kind_of(groups): groups})
    output = open_stage_output(config, record, runtime)

    summary = Summary(config.stage, config.output)
    started = time.perf_counter()
    open_reference = partial(ReferenceModel, config, model, encode_as, groups, runtime.log)
    with LazyEngine(open_reference, runtime, most_open=MOST_OPEN) as reference:
        maker = LogprobMaker(config, groups, output, reference, parents)
        loop_over_parts(
            config,
            output,
            maker,
            runtime,
            summary,
            indices=indices,
            parents_of=parents.__getitem__,
        )

    # Stored ids need no encoder, which counts nothing then.
    counted = summary.counted_now
    if N_TOKENISED in counted:
        summary.notes += notes_on_encoding(counted)
        summary.facts |= {name: int(counted[name]) for name in (N_TOKENISED, N_APART)}
    if summary.n_parts_made:
        elapsed_s = time.perf_counter() - started
        n_tokens = int(counted["n_tokens"])
        speed = per_second(n_tokens / elapsed_s)
        summary.notes.append(
            f"{n_tokens:,} response tokens in {elapsed_s:.1f} s ({speed} tokens/s)"
        )
        summary.facts |= {"n_tokens": n_tokens, "elapsed_s": elapsed_s}
    check_error_rate(summary, failing, config.max_error_rate)
    return summary


def open_responses(path: Location) -> Artifact:
    """Open what to measure: groups or candidates.

    Raises:
        InputError: as `open_input`.
    """
    is_candidates = read_run_record(path).kind == "candidates"
    return open_input(path, schema="candidates" if is_candidates else "groups", name="GROUPS")


def kind_of(responses: Artifact) -> str:
    """Return ``groups`` or ``candidates``: the parent's name in the record."""
    return responses.record.kind


def record_of(
    config: LogprobsConfig,
    model: ModelFiles,
    groups: Artifact,
    runtime: Runtime,
    *,
    encode_as: ModelFiles,
) -> RunRecord:
    """Return the record of a run of these groups under this model."""
    # Of a whole model the flag changes nothing, so it is no part of what the artifact is.
    merged = {}
    if config.merge_adapter and model.base is not None:
        merged["merge_adapter"] = True

    return RunRecord(
        stage=config.stage,
        schema=LOGPROBS.tag,
        n_parts=groups.n_parts,
        context={
            **runtime.context,
            "models": [model.requested],
            "tokenizer_of": encode_as.requested,
        },
        parents={kind_of(groups): str(config.groups)},
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **config.identity(),
            **merged,
            "model": reference_identity(model, encode_as),
            kind_of(groups): parent_identity(groups),
        },
    )


def reference_identity(model: ModelFiles, encode_as: ModelFiles) -> dict[str, Any]:
    """Return the hashes of the weights, and of the tokenizer and template that make the ids."""
    identity = dict(model.identity())
    of_ids = encode_as.identity()
    for name in ("tokenizer_hash", "chat_template_hash", FIELD, TEMPLATE_ARGS):
        if name in of_ids:
            identity[name] = of_ids[name]
    return identity


class ReferenceModel:
    """The model whose log-probabilities are measured, and an encoder.

    The encoder is for conversations whose token ids are not stored.
    """

    def __init__(
        self,
        config: LogprobsConfig,
        model: ModelFiles,
        encode_as: ModelFiles,
        groups: Artifact,
        log: Callable[[str], None],
    ) -> None:
        """Load it.

        Args:
            config: the stage's knobs.
            model: whose weights.
            encode_as: whose tokenizer and chat template.
            groups: what to measure: whether it holds these token ids decides on the encoder.
            log: where to say what is loaded.
        """
        self.config = config
        # Before the weights: a chat template that fails should not cost their loading.
        self.encoder: Encoder | None = None
        if not stored_ids_fit(groups, encode_as):
            refuse_lost_thoughts(groups, encode_as)
            log(AGAIN)
            self.encoder = encoder_of(encode_as, trust_remote_code=config.trust_remote_code)

        log(f"loading {model.requested}")
        self.model = load_reference(
            model,
            dtype=config.dtype,
            merge_adapter=config.merge_adapter,
            trust_remote_code=config.trust_remote_code,
        )
        self._calls = OpenCalls()
        self.device = find_device(config.device)
        self.model.to(self.device)
        problem: str | None = "--no-shared-prompt"
        if config.shared_prompt:
            problem = share_prompts(self.model)
        line = "each prompt is computed once"
        if problem is not None:
            line += f" a response: {problem}"
        log(line)

    def measure(self, groups: Sequence[Group]) -> dict[Key, Measured]:
        """Return the log-probability of every response of some groups, by key.

        One of several concurrent calls uses the device; the others pack their batches, or wait for
        it.
        """
        batches = response_batches(
            self.model, groups, pad_token_id=0, max_batch_tokens=self.config.max_batch_tokens
        )
        packed = list(batches)
        bf16 = computes_in_bfloat16(self.config.dtype)
        n_responses = sum(len(keys) for keys, _ in packed)
        measured = {}
        with self._calls.call(n_responses) as count, turns_on(self.device).turn():
            for each in measure_batches(self.model, packed, bf16=bf16):
                measured[each.key] = each
                count(1)
        return measured

    def answered(self) -> Answered:
        """Return how many responses of the open parts are measured."""
        return self._calls.answered()

    def close(self) -> None:
        """Release the model."""
        del self.model


class ResponsesToMeasure(NamedTuple):
    """A part's responses: all keys, the groups that can be measured, and the outcome of each.

    ``tally``: counts from tokenising them.
    """

    keys: Sequence[Key]
    groups: Sequence[Group]
    statuses: Mapping[Key, ResponseStatus]
    tally: Tally


class LogprobMaker:
    """Makes the parts of ``logprobs``."""

    def __init__(
        self,
        config: LogprobsConfig,
        groups: Artifact,
        output: Output,
        reference: LazyEngine[ReferenceModel],
        parents: Mapping[int, Mapping[str, str]],
    ) -> None:
        self.config, self.groups, self.output = config, groups, output
        self.reference, self.parents = reference, parents

    def has_room(self, n_open: int) -> bool:
        """Return whether the device would be idle without another part."""
        return self.reference.has_room(n_open)

    def inputs_of(self, index: int) -> list[Location]:
        """Return the parts that a part is made from."""
        return [self.groups.part_path(index)]

    def prepare(self, index: int) -> ResponsesToMeasure:
        """Read a part's responses, and tokenise those whose ids are not stored."""
        encoder = self.reference.get().encoder
        if encoder is not None:
            encoder = encoder.anew()

        # Every response gets a row; only those that fit are measured.
        keys: list[Key] = []
        fitting: list[Group] = []
        statuses: dict[Key, ResponseStatus] = {}
        for group in self._groups(index, encoder):
            check_group(group, statuses)
            responses, statuses_by_length = fit_length(
                group, max_length=self.config.max_length, on_too_long=self.config.on_too_long
            )
            statuses |= statuses_by_length
            keys += [(group.prompt_id, response.sample_idx) for response in group.responses]
            if responses:
                fitting.append(group._replace(responses=responses))
        tally = {} if encoder is None else encoder.tally()
        return ResponsesToMeasure(keys, fitting, statuses, tally)

    def complete(self, index: int, prepared: ResponsesToMeasure) -> Tally:
        """Measure and write a part."""
        measured = self.reference.get().measure(prepared.groups)
        rows = []
        for key in prepared.keys:
            status = prepared.statuses[key]
            rows.append(_row(key, status, measured.get(key), per_token=self.config.per_token))
        table = pa.Table.from_pylist(rows, schema=LOGPROBS.arrow())
        self.output.write(index, table, counts=count_by_status(rows), parents=self.parents[index])
        return {**prepared.tally, "n_tokens": sum(row["n_tokens"] for row in rows)}

    def _groups(self, index: int, encoder: Encoder | None) -> list[Group]:
        if kind_of(self.groups) == "candidates":
            table, _ = self.groups.read(index, list(CANDIDATE_COLUMNS))
            return groups_of_candidates(rows_of(table), encoder)
        table, _ = self.groups.read(index, list(COLUMNS))
        return groups_of(rows_of(table), encoder)


def _row(key: Key, status: ResponseStatus, measured: Measured | None, *, per_token: bool) -> Row:
    row: Row = {
        "prompt_id": key[0],
        "sample_idx": key[1],
        "logp": None,
        "n_tokens": 0,
        "token_logps": None,
        **status._asdict(),
    }
    if measured is None:
        return row
    if not math.isfinite(measured.logp):
        row["status"] = "not_finite"
        row["reason"] = f"the model gives it a log-probability of {measured.logp}"
        return row

    row["logp"] = measured.logp
    row["n_tokens"] = measured.n_tokens
    if per_token:
        row["token_logps"] = measured.token_logps.tolist()
    return row
