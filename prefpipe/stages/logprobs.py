"""Measure the log-probability of responses under a model: the reference of training, or of an evaluation, kept.

Reads: ``groups`` or ``candidates``. Writes: ``logprobs``, one row for every kept response in the order of the groups, none for
rejected prompts; of candidates one for each that has a response. Promises: the tokens are those that ``train`` takes for the
same model and ``--max-length``; a number does not depend on batch, device count or resume point, up to the engine's rounding.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.schemas import LOGPROBS
from prefpipe.artifacts.store import Artifact, Output, open_input, open_output, refuse_nesting
from prefpipe.artifacts.template_dates import FIELD
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.backends.device import find_device
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.models.files import ModelFiles, require_chat_template
from prefpipe.stages.shared.candidate_rows import (
    Row,
    count_by_status,
    parent_digests,
    parent_identity,
)
from prefpipe.stages.shared.runtime import Runtime, Summary, check_error_rate, loop_over_parts
from prefpipe.stages.shared.training_groups import (
    AGAIN,
    CANDIDATE_COLUMNS,
    COLUMNS,
    encoder_of,
    groups_of,
    groups_of_candidates,
    stored_ids_fit,
)
from prefpipe.training.encoding import Encoder
from prefpipe.training.forward import Measured, measure_responses, share_prompts
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
    words = encode_as if encode_as is not None else model
    refuse_nesting(config.output, {"GROUPS": config.groups, "--model": model.path})
    groups = open_responses(config.groups)
    require_chat_template(words)
    record = record_of(config, model, groups, runtime, encode_as=words)
    indices = groups.present(
        runtime.shard.parts(groups.n_parts), allow_partial=config.allow_partial
    )
    parents = parent_digests(indices, **{kind_of(groups): groups})
    output = open_output(config.output, record, shard=runtime.shard, overwrite=config.overwrite)
    summary = Summary(config.stage, config.output)
    started = time.perf_counter()
    work = _Work(config, groups, output, runtime)
    work.model_files, work.words = model, words
    loop_over_parts(
        output,
        parents.__getitem__,
        lambda index: work.make(index, parents[index]),
        runtime,
        summary,
        indices=indices,
    )
    if work.encoder is not None:
        summary.notes += work.encoder.notes()
        summary.facts |= {
            "n_tokenised": work.encoder.n_encoded,
            "n_tokenised_apart": work.encoder.n_apart,
        }
    if summary.n_parts_made:
        elapsed_s = time.perf_counter() - started
        rate = work.n_tokens / elapsed_s
        summary.notes.append(
            f"{work.n_tokens:,} response tokens in {elapsed_s:.1f} s ({rate:,.0f} tokens/s)"
        )
        summary.facts |= {"n_tokens": work.n_tokens, "elapsed_s": elapsed_s}
    check_error_rate(summary, failing, config.max_error_rate)
    return summary


def open_responses(path: Path) -> Artifact:
    """Open what is to be measured: groups or candidates.

    Raises:
        InputError: as `open_input`.
    """
    is_candidates = read_run_record(path).schema.partition("/")[0] == "candidates"
    return open_input(path, schema="candidates" if is_candidates else "groups", name="GROUPS")


def kind_of(responses: Artifact) -> str:
    """Return ``groups`` or ``candidates``: the parent's name in the record."""
    return responses.record.schema.partition("/")[0]


def record_of(
    config: LogprobsConfig,
    model: ModelFiles,
    groups: Artifact,
    runtime: Runtime,
    *,
    encode_as: ModelFiles,
) -> RunRecord:
    """Return what a run of these groups under this model is."""
    merged = {"merge_adapter": True} if config.merge_adapter and model.base is not None else {}
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


def reference_identity(model: ModelFiles, encode_as: ModelFiles) -> dict[str, str | None]:
    """Return the hashes of the weights, and of the tokenizer and template that make the ids."""
    own = encode_as.identity()
    names = [name for name in ("tokenizer_hash", "chat_template_hash", FIELD) if name in own]
    return {**model.identity(), **{name: own[name] for name in names}}


class _Work:
    """One run's state: the model, opened when first needed, and counts for the summary."""

    model_files: ModelFiles
    words: ModelFiles

    def __init__(
        self, config: LogprobsConfig, groups: Artifact, output: Output, runtime: Runtime
    ) -> None:
        self.config, self.groups, self.output, self.runtime = config, groups, output, runtime
        self.model: Any = None
        self.encoder: Encoder | None = None
        self.n_tokens = 0

    def make(self, index: int, parents: Mapping[str, str]) -> None:
        """Measure and write one part."""
        if self.model is None:
            with self.runtime.interruptible():
                self._open()
        is_candidates = kind_of(self.groups) == "candidates"
        table, _ = self.groups.read(index, list(CANDIDATE_COLUMNS if is_candidates else COLUMNS))
        read = groups_of_candidates if is_candidates else groups_of
        fitting: list[Group] = []
        fates: dict[Key, ResponseStatus] = {}
        keys: list[Key] = []
        for group in read(rows_of(table), self.encoder):
            check_group(group, fates)
            responses, own = fit_length(
                group, max_length=self.config.max_length, on_too_long=self.config.on_too_long
            )
            fates |= own
            keys += [(group.prompt_id, response.sample_idx) for response in group.responses]
            if responses:
                fitting.append(group._replace(responses=responses))
        measured = measure_responses(
            self.model,
            fitting,
            pad_token_id=0,
            bf16=computes_in_bfloat16(self.config.dtype),
            max_batch_tokens=self.config.max_batch_tokens,
        )
        found = {each.key: each for each in measured}
        rows = [
            _row(key, fates[key], found.get(key), per_token=self.config.per_token) for key in keys
        ]
        self.n_tokens += sum(row["n_tokens"] for row in rows)
        self.output.write(
            index,
            pa.Table.from_pylist(rows, schema=LOGPROBS.arrow()),
            counts=count_by_status(rows),
            parents=parents,
        )

    def _open(self) -> None:
        config, runtime = self.config, self.runtime
        if not stored_ids_fit(self.groups, self.words):
            runtime.log(AGAIN)
            self.encoder = encoder_of(self.words, trust_remote_code=config.trust_remote_code)
        runtime.log(f"loading {self.model_files.requested}")
        self.model = load_reference(
            self.model_files,
            dtype=config.dtype,
            merge_adapter=config.merge_adapter,
            trust_remote_code=config.trust_remote_code,
        )
        self.model.to(find_device(config.device))
        problem = share_prompts(self.model) if config.shared_prompt else "--no-shared-prompt"
        runtime.log(
            f"each prompt is computed once{'' if problem is None else f' a response: {problem}'}"
        )


def _row(key: Key, fate: ResponseStatus, found: Measured | None, *, per_token: bool) -> Row:
    row: Row = {
        "prompt_id": key[0],
        "sample_idx": key[1],
        "logp": None,
        "n_tokens": 0,
        "token_logps": None,
        **fate._asdict(),
    }
    if found is None:
        return row
    if not math.isfinite(found.logp):
        return row | {
            "status": "not_finite",
            "reason": f"the model gives it a log-probability of {found.logp}",
        }
    tokens = found.token_logps.tolist() if per_token else None
    return row | {"logp": found.logp, "n_tokens": found.n_tokens, "token_logps": tokens}
