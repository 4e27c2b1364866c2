"""Sample responses.

Reads: a prompts file. Writes: ``candidates``, one row for every prompt and sample index. Promises: rows follow the
order of the prompts file; a row's seed depends on run seed, prompt_id and sample_idx alone, so shards, restarts
and a larger ``--n`` give the same rows; every sample asked for is a row, with a status when it failed.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from shlex import quote
from typing import Any, NamedTuple

from prefpipe.artifacts import parts, run_record
from prefpipe.artifacts.answer_cache import FOLDER_NAME, AnswerCache
from prefpipe.artifacts.fingerprint import canonical_json, field_differences
from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.prompts import Prompt, Prompts, load_prompts, named_source
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Output, open_output, refuse_nesting
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT, rows_of
from prefpipe.backends.protocol import (
    Generation,
    GenerationRequest,
    Generator,
    SamplingParams,
    ServedGenerator,
)
from prefpipe.configs.generate import GenerateConfig
from prefpipe.errors import (
    CorruptPartError,
    ErrorRateError,
    FingerprintError,
    InputError,
    PrefpipeError,
    UsageError,
)
from prefpipe.stages.shared.candidate_rows import (
    REASONING,
    count_by_status,
    mark_duplicates,
    table_of_rows,
)
from prefpipe.stages.shared.runtime import (
    Runtime,
    Summary,
    begin_retry,
    check_error_rate,
    loop_over_parts,
)
from prefpipe.stages.shared.skipped_rows import (
    context_of_skipped_rows,
    read_users_rows,
    report_skipped_rows,
)
from prefpipe.text.control_text import note_on_server, spells_control_token

FAILING = ("error", "prompt_too_long")
SERVED = "openai"
"""The back-end whose rows carry `REASONING`, and whose answers are kept one by one until their part is written."""
NOT_RETRIED = ("ok", "truncated", "empty", "prompt_too_long")
TOO_LONG = (
    "prompt_too_long: "  # how an engine that keeps its tokenizer to itself begins such an error
)
Row = dict[str, Any]


class Sampler(NamedTuple):
    """A model that can be opened: how it was named, what it is in the fingerprint, and how to load it."""

    name: str
    identity: Mapping[str, Any]
    open: Callable[[], Generator]


def run(config: GenerateConfig, samplers: Sequence[Sampler], runtime: Runtime) -> Summary:
    """Generate the parts of this shard that are missing."""
    source = named_source(config.prompts)
    if source is not None:
        refuse_nesting(config.output, {"PROMPTS": source})
    prompts, skipped = read_users_rows(
        config,
        lambda: load_prompts(
            config.prompts,
            system_prompt=config.system_prompt,
            keep_columns=config.kept_columns,
            drop_duplicates=config.drop_duplicate_prompts,
            reserved=[*_column_names(config), TEMPLATE_INPUT],
            rules=config.reading_rules,
        ),
    )
    for note in prompts.notes:
        runtime.log(note)
    record = RunRecord(
        stage=config.stage,
        schema=CANDIDATES.tag,
        n_parts=prompts.n_parts(config.part_size),
        context={
            **runtime.context,
            "models": [sampler.name for sampler in samplers],
            **context_of_skipped_rows(skipped),
        },
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            "prompts": prompts.sha256(),
            **config.identity(),
            "models": [dict(sampler.identity) for sampler in samplers],
        },
        parents={"prompts": config.prompts},
    )
    record = _extended(config, record) if config.extend else record
    output = open_output(
        config.output,
        record,
        shard=runtime.shard,
        overwrite=config.overwrite,
        extends=config.extend,
    )
    indices = runtime.shard.parts(output.n_parts)
    output, failed = (
        begin_retry(output, indices, keep=NOT_RETRIED) if config.retry_errors else (output, set())
    )
    if config.overwrite.replaces_this_run:
        for index in indices:
            _kept_answers(output, index).remove()
    summary = Summary(config.stage, config.output)
    runtime.log(
        f"{len(prompts)} prompts x {config.n} responses in {output.n_parts} parts of {config.part_size} prompts"
    )
    started = time.perf_counter()
    with ExitStack() as stack:
        work = _Work(config, prompts, output, samplers, stack, runtime)
        loop_over_parts(
            output,
            lambda _index: {},
            work.make,
            runtime,
            summary,
            indices=indices,
            redo=failed.__contains__,
        )
    for index in indices:  # what a kill between a part and the removal of its answers left behind
        _kept_answers(output, index).remove()
    with suppress(OSError):  # another worker's answers are in it
        (output.path / FOLDER_NAME).rmdir()
    _describe(summary, work, time.perf_counter() - started)
    report_skipped_rows(config, skipped, summary)
    check_error_rate(summary, FAILING, config.max_error_rate)
    _refuse_no_text_at_all(output, indices, summary, config.max_error_rate)
    return summary


def _column_names(config: GenerateConfig) -> list[str]:
    """Return prefpipe's own columns of this run's candidates, but `TEMPLATE_INPUT`."""
    return [*CANDIDATES.column_names, *([REASONING] if config.backend == SERVED else [])]


def _kept_answers(output: Output, index: int) -> AnswerCache:
    """Return where a server's answers are kept until their part is written."""
    return AnswerCache(output.path / FOLDER_NAME / output.part_path(index).stem)


def _refuse_no_text_at_all(
    output: Output, indices: Sequence[int], summary: Summary, limit: float
) -> None:
    """Refuse a finished stage that has no response with a text: nothing can be made of it.

    Raises:
        ErrorRateError: no row has a text, and rows that failed are not all allowed for.
    """
    if not summary.n_rows or summary.counts["ok"] or limit >= 1:
        return
    for index in indices:
        responses = output.read(index, ["response"])[0]["response"].to_pylist()
        if any(text is not None and text.strip() for text in responses):
            return
    reasons = ", ".join(f"{count:,} {status}" for status, count in summary.counts.most_common())
    raise ErrorRateError(
        f"{summary.stage} finished, but none of {summary.n_rows:,} rows has a text: {reasons}",
        hint=f"run `prefpipe inspect {quote(str(summary.path))}` for the reasons; a model that thinks first needs a larger "
        "--max-tokens",
        summary=summary,
    )


def _extended(config: GenerateConfig, record: RunRecord) -> RunRecord:
    """Check that the run on disk differs in ``n`` only and is smaller; return the record with the operation in it."""
    try:
        on_disk = run_record.read_run_record(config.output)
    except PrefpipeError as error:
        raise UsageError(
            f"--extend: there is no run to grow in {config.output}", hint="drop --extend"
        ) from error
    if on_disk.fingerprint == record.fingerprint:
        return on_disk
    same_but_n = {**on_disk.identity, "n": config.n}
    if canonical_json(same_but_n) != canonical_json(record.identity):
        lines = [
            difference.worded("on disk", "asked for")
            for difference in field_differences(on_disk.identity, record.identity)
            if difference.key != "n"
        ]
        raise FingerprintError(
            f"--extend grows --n only, and {config.output} differs in more:\n  "
            + "\n  ".join(lines),
            hint="give back the old values, or choose another folder with -o",
        )
    if on_disk.identity["n"] >= config.n:
        raise UsageError(
            f"--extend: {config.output} has n = {on_disk.identity['n']} already, {config.n} was asked for"
        )
    step = {
        "operation": "extend",
        "from": on_disk.fingerprint,
        "n_before": on_disk.identity["n"],
        "n": config.n,
    }
    return dataclasses.replace(record, history=[*on_disk.history, step])


class _Work:
    """One run's state: engines opened when first needed, and figures for the summary."""

    def __init__(
        self,
        config: GenerateConfig,
        prompts: Prompts,
        output: Output,
        samplers: Sequence[Sampler],
        stack: ExitStack,
        runtime: Runtime,
    ) -> None:
        self.config, self.prompts, self.output, self.samplers = config, prompts, output, samplers
        self.stack, self.runtime = stack, runtime
        self.engines: dict[int, Generator] = {}
        self.spelling_control_tokens: set[str] = set()
        """Prompts that were sent to a server with letters which it may take for a control token."""
        self.n_tokens, self.n_duplicates, self.engine_s = 0, 0, 0.0

    def make(self, index: int) -> None:
        """Generate and write one part."""
        prompts = self.prompts.part(index, self.config.part_size)
        kept = self._rows_to_keep(index)
        rows: list[Row] = []
        for sampler_idx in range(len(self.samplers)):
            rows += self._sample(sampler_idx, index, prompts.rows, kept)
        rows += kept.values()
        order = {prompt.prompt_id: position for position, prompt in enumerate(prompts.rows)}
        rows.sort(key=lambda row: (order[row["prompt_id"]], row["sample_idx"]))
        self.n_duplicates += mark_duplicates(rows)
        table = table_of_rows(rows, prompts, is_served=self.config.backend == SERVED)
        self.output.write(index, table, counts=count_by_status(rows), parents={})
        _kept_answers(self.output, index).remove()

    def _sample(
        self,
        sampler_idx: int,
        index: int,
        prompts: Sequence[Prompt],
        kept: Mapping[tuple[str, int], Row],
    ) -> list[Row]:
        config = self.config
        wanted = [
            (prompt, sample_idx)
            for prompt in prompts
            for sample_idx in range(config.n)
            if sample_idx % len(self.samplers) == sampler_idx
            and (prompt.prompt_id, sample_idx) not in kept
        ]
        if not wanted:
            return []
        engine = self._engine(sampler_idx)
        distinct = {prompt.prompt_id: prompt for prompt, _ in wanted}
        if config.backend == SERVED:
            for prompt in distinct.values():
                if spells_control_token(text for turn in prompt.messages for text in turn.values()):
                    self.spelling_control_tokens.add(prompt.prompt_id)
        encoded = {prompt_id: encode(engine, prompt) for prompt_id, prompt in distinct.items()}
        requests, rows = [], []
        for prompt, sample_idx in wanted:
            ids, refusal = encoded[prompt.prompt_id]
            temperature = config.temperature[
                (sample_idx // len(self.samplers)) % len(config.temperature)
            ]
            seed = seed_for(config.seed, prompt.prompt_id, sample_idx)
            request = GenerationRequest(
                prompt.prompt_id, sample_idx, prompt.messages, ids, seed, temperature
            )
            room = engine.max_model_len - config.max_tokens
            if refusal is not None:
                rows.append(self._row(sampler_idx, request, None, "error", refusal))
            elif len(ids) > room:
                reason = f"{len(ids)} prompt tokens, and {engine.max_model_len} - {config.max_tokens} leave room for {room}"
                rows.append(self._row(sampler_idx, request, None, "prompt_too_long", reason))
            else:
                requests.append(request)
        if isinstance(engine, ServedGenerator):
            engine.keep_answers_in(
                _kept_answers(self.output, index).folder, ask_again=config.retry_errors
            )
        started = time.perf_counter()
        answers = (
            engine.generate(requests, SamplingParams(config.max_tokens, config.top_p, config.top_k))
            if requests
            else []
        )
        self.engine_s += time.perf_counter() - started
        if isinstance(engine, ServedGenerator) and engine.left_out:
            self._record_what_is_not_sent(sampler_idx, engine.left_out)
        for request, answer in zip(requests, answers, strict=True):
            rows.append(
                self._row(sampler_idx, request, answer, *status_of(answer, config.max_tokens))
            )
            self.n_tokens += len(answer.token_ids) or answer.n_tokens or 0
        return rows

    def _record_what_is_not_sent(self, sampler_idx: int, left_out: Sequence[str]) -> None:
        """Record in ``run.json``, once, that a server's own defaults hold for some sampling settings."""
        step = {
            "operation": "sampled_without",
            "model": self.samplers[sampler_idx].name,
            "settings": list(left_out),
        }
        if step not in self.output.record.history:
            self.output = self.output.with_step(step)

    def _row(
        self,
        sampler_idx: int,
        request: GenerationRequest,
        answer: Generation | None,
        status: str,
        reason: str | None,
    ) -> Row:
        usable = answer is not None and status not in FAILING
        row = {
            "prompt_id": request.prompt_id,
            "sample_idx": request.sample_idx,
            "messages": list(request.messages),
            "response": answer.text if answer is not None and usable else None,
            "model": self.samplers[sampler_idx].name,
            "prompt_token_ids": list(request.prompt_token_ids) or None,
            "response_token_ids": (answer.token_ids or None)
            if answer is not None and usable
            else None,
            "n_prompt_tokens": len(request.prompt_token_ids)
            or (answer.n_prompt_tokens if answer is not None else None),
            "n_response_tokens": _n_tokens(answer) if answer is not None and usable else None,
            "finish_reason": answer.finish_reason if answer is not None else None,
            "logp": answer.logp if answer is not None and usable else None,
            "temperature": request.temperature,
            "seed": request.seed,
            "duplicate_of": None,
            "status": status,
            "reason": reason,
        }
        if self.config.backend == SERVED:
            row[REASONING] = answer.reasoning if answer is not None else None
        return row

    def _engine(self, sampler_idx: int) -> Generator:
        if sampler_idx not in self.engines:
            self.runtime.log(f"loading {self.samplers[sampler_idx].name}")
            with self.runtime.interruptible():
                engine = self.samplers[sampler_idx].open()
            self.stack.callback(engine.close)
            self.engines[sampler_idx] = engine
        return self.engines[sampler_idx]

    def _rows_to_keep(self, index: int) -> dict[tuple[str, int], Row]:
        """Return the rows of an earlier part that an extension or a retry need not pay for again."""
        if not (self.output.record.history or self.config.retry_errors):
            return {}
        try:
            part = self.output.part_path(index)
            table, footer = parts.read_part(
                part, _column_names(self.config), if_there=[TEMPLATE_INPUT]
            )
        except CorruptPartError:
            return {}
        known = {self.output.record.fingerprint} | {
            step.get("from") for step in self.output.record.history
        }
        if footer.fingerprint not in known:
            return {}
        rows = rows_of(table)
        return {
            (row["prompt_id"], row["sample_idx"]): row
            for row in rows
            if not (self.config.retry_errors and row["status"] == "error")
        }


def encode(engine: Generator, prompt: Prompt) -> tuple[list[int], str | None]:
    """Return a prompt's token ids, or why the chat template refuses it: one such prompt must not lose its part."""
    try:
        return engine.encode(prompt.messages), None
    except InputError as error:
        return [], error.message


def _n_tokens(answer: Generation) -> int | None:
    """Return a response's length in tokens: that of its ids, or a server's count; an engine's response may have none."""
    if answer.token_ids or answer.n_tokens is not None:
        return len(answer.token_ids) or answer.n_tokens
    return None if answer.text or answer.reasoning is not None else 0


def status_of(answer: Generation, max_tokens: int) -> tuple[str, str | None]:
    """Return the status and reason of one generation."""
    if answer.finish_reason == "error":
        reason = answer.error or "the engine gave no reason"
        return (
            ("prompt_too_long", reason.removeprefix(TOO_LONG))
            if reason.startswith(TOO_LONG)
            else ("error", reason)
        )
    if (
        not answer.text.strip()
        and answer.finish_reason == "length"
        and answer.reasoning is not None
    ):
        return (
            "truncated",
            f"reached the limit of {max_tokens} tokens while thinking; the response has no text",
        )
    if not answer.text.strip():
        only_thoughts = (
            ", and the model's reasoning is all there is" if answer.reasoning is not None else ""
        )
        return "empty", f"the response has no text{only_thoughts}"
    if answer.finish_reason == "length":
        return "truncated", f"reached the limit of {max_tokens} tokens"
    return "ok", None


def _describe(summary: Summary, work: _Work, elapsed_s: float) -> None:
    if summary.n_parts_made:
        speed = work.n_tokens / work.engine_s if work.engine_s else 0.0
        if work.n_tokens or work.config.backend != SERVED:
            summary.notes.append(
                f"{work.n_tokens:,} tokens in {elapsed_s:.0f} s ({speed:.0f} tokens/s in the engine)"
            )
        else:
            summary.notes.append(f"{elapsed_s:.0f} s; the server tells no response's tokens")
        summary.notes.append(
            f"{work.n_duplicates:,} responses repeat another response of their prompt"
        )
        summary.notes += note_on_server(len(work.spelling_control_tokens), "prompts")
        summary.facts |= {
            "n_tokens": work.n_tokens,
            "elapsed_s": elapsed_s,
            "engine_s": work.engine_s,
            "n_duplicates": work.n_duplicates,
        }
