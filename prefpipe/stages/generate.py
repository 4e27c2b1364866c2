"""Sample responses.

Reads: a prompts file.
Writes: ``candidates``, one row for every prompt and sample index.
Promises: rows follow the order of the prompts file; a row's seed depends on run seed, prompt_id and
sample_idx only, so shards, restarts and a larger ``--n`` give the same rows; every requested sample
is a row, with a status if it failed.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from shlex import quote
from typing import Any, NamedTuple

from prefpipe.artifacts import parts, run_record
from prefpipe.artifacts.answer_cache import answers_folder
from prefpipe.artifacts.answer_log import AnswerLog
from prefpipe.artifacts.fingerprint import field_differences
from prefpipe.artifacts.ids import seed_for
from prefpipe.artifacts.prompts import Prompt, Prompts, load_prompts
from prefpipe.artifacts.rounds import SAMPLER_ROUND, context_of_round
from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Output, refuse_nesting
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT, rows_of
from prefpipe.backends.protocol import (
    TOO_LONG_PREFIX,
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
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import Advance, Runtime, Task
from prefpipe.stages.shared.candidate_rows import (
    REASONING,
    Key,
    Row,
    count_by_status,
    key_of,
    mark_duplicates,
    table_of_rows,
)
from prefpipe.stages.shared.models_in_turn import Models, open_models
from prefpipe.stages.shared.partwise import (
    Summary,
    begin_retry,
    check_error_rate,
    loop_over_parts,
    open_stage_output,
)
from prefpipe.stages.shared.skipped_rows import (
    context_of_skipped_rows,
    read_users_rows,
    report_skipped_rows,
)
from prefpipe.text.control_text import note_on_server, spells_control_token
from prefpipe.text.numbers import counted, per_second
from prefpipe.text.thoughts import ThoughtMarkers, without_thoughts

FAILING = ("error", "prompt_too_long")
"""Statuses of rows without a response; they count towards ``--max-error-rate``."""
NOT_RETRIED = ("ok", "truncated", "empty", "prompt_too_long")
"""Statuses that ``--retry-errors`` keeps: a prompt that is too long stays so."""
SERVER = "openai"
"""The back-end whose rows carry `REASONING` whatever the model.

Its answers are kept one by one until their part is written.
"""


class Sampler(NamedTuple):
    """A model that can be opened: its name, its fingerprint's entry, and how to load it.

    ``runs_here``: it uses memory of this machine's device, which two models may not share.
    ``round``: of training that it comes from, None if its files are not on this disk.
    """

    name: str
    identity: Mapping[str, Any]
    open: Callable[[], Generator]
    runs_here: bool = False
    round: int | None = None
    thoughts: ThoughtMarkers | None = None


def run(config: GenerateConfig, samplers: Sequence[Sampler], runtime: Runtime) -> Summary:
    """Generate the parts of this shard that are missing."""
    source = place_of(config.prompts)
    if source is not None:
        refuse_nesting(config.output, {"PROMPTS": source})
    columns = _column_names(config, samplers)
    prompts, skipped = _read_prompts(config, columns)
    for note in prompts.notes:
        runtime.log(note)

    for note in _notes_on_stops(config.stop):
        runtime.log(note)

    record = RunRecord(
        stage=config.stage,
        schema=CANDIDATES.tag,
        n_parts=prompts.n_parts(config.prompts_a_part),
        context={
            **runtime.context,
            "models": [sampler.name for sampler in samplers],
            **context_of_round(SAMPLER_ROUND, _latest_round(samplers)),
            **context_of_skipped_rows(skipped),
            **_made_with(config),
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

    if config.extend:
        record = _extended(config, record)
    output = open_stage_output(config, record, runtime, extends=config.extend)
    indices = runtime.shard.parts(output.n_parts)
    with_errors: set[int] = set()
    if config.retry_errors:
        output, with_errors = begin_retry(output, indices, runtime, keep=NOT_RETRIED)

    # What an earlier run paid for counts no more.
    if config.overwrite.replaces_this_run:
        for index in indices:
            _kept_answers(output, index).remove()

    summary = Summary(config.stage, config.output)
    of_share = f", share {config.share}," if config.share is not None else ""
    each = f" of {counted(config.prompts_a_part, 'prompt')}" if output.n_parts > 1 else ""
    runtime.log(
        f"{counted(len(prompts), 'prompt')}{of_share} x {counted(config.n, 'response')} in "
        f"{counted(output.n_parts, 'part')}{each}"
    )
    started = time.perf_counter()
    with open_models(samplers, runtime) as models:
        maker = CandidateMaker(config, prompts, output, samplers, models, runtime.log)

        def progress(task: Task) -> AbstractContextManager[Advance]:
            return runtime.progress(
                dataclasses.replace(task, in_bunches=models.finish_parts_in_bunches)
            )

        loop_over_parts(
            config,
            output,
            maker,
            dataclasses.replace(runtime, progress=progress),
            summary,
            indices=indices,
            redo=with_errors.__contains__,
        )
    elapsed_s = time.perf_counter() - started

    # A kill between a part and the removal of its answers leaves them behind.
    for index in indices:
        _kept_answers(output, index).remove()
    with suppress(OSError):  # another worker's answers are in it
        answers_folder(output.path).rmdir()

    if summary.n_parts_made:
        maker.describe(summary, elapsed_s)
    if summary.engines:
        summary.facts["engines"] = summary.engines
    if len(summary.engines) > 1:
        summary.notes.append(f"sampled by {' and '.join(summary.engines)}")
    report_skipped_rows(config, skipped, summary)
    check_error_rate(summary, FAILING, config.max_error_rate)
    # `empty` is no failure: a run without any text passes the limit above.
    _refuse_no_text_at_all(output, indices, summary, config.max_error_rate)
    return summary


def _notes_on_stops(stops: Sequence[str]) -> list[str]:
    """Return the stop texts with a backslash and an n where a newline may be meant."""
    return [
        f"warning: --stop {stop!r} is used literally, with its backslash; for a newline write "
        "--stop $'\\n' in a shell, or \"\\n\" in a YAML file"
        for stop in stops
        if "\\n" in stop or "\\t" in stop
    ]


def _made_with(config: GenerateConfig) -> dict[str, Any]:
    """Return the JSON schema, if any, so that ``status`` can tell when it changes."""
    schema = config.schema
    if schema is None:
        return {}
    file = ingredient("JSON schema", str(config.json_schema), {"sha256": schema.sha256})
    return {MADE_WITH: [file]}


def _latest_round(samplers: Sequence[Sampler]) -> int | None:
    """Return the latest round of training of the models, None if none is known."""
    known = [sampler.round for sampler in samplers if sampler.round is not None]
    return max(known, default=None)


def count_parts(config: GenerateConfig) -> int:
    """Return how many parts a run has, whether or not it has begun."""
    prompts, _skipped = _read_prompts(config, CANDIDATES.column_names)
    return prompts.n_parts(config.prompts_a_part)


def _read_prompts(config: GenerateConfig, columns: Sequence[str]) -> tuple[Prompts, list[BadRow]]:
    """Return the prompts, and the rows that ``--skip-bad-rows`` leaves out.

    Args:
        config: the stage's knobs.
        columns: names that the candidates use themselves.
    """

    def read() -> Prompts:
        prompts = load_prompts(
            config.prompts,
            system_prompt=config.system_prompt,
            keep_columns=config.kept_columns,
            drop_duplicates=config.drop_duplicate_prompts,
            reserved=[*columns, TEMPLATE_INPUT],
            rules=config.reading_rules,
        )
        if config.share is None:
            return prompts
        return prompts.of_share(config.share, config.prompts)

    return read_users_rows(config, read)


def _column_names(config: GenerateConfig, samplers: Sequence[Sampler]) -> list[str]:
    """Return prefpipe's own columns of this run's candidates, but `TEMPLATE_INPUT`."""
    names = list(CANDIDATES.column_names)
    has_markers = any(sampler.thoughts is not None for sampler in samplers)
    if config.backend == SERVER or has_markers:
        names.append(REASONING)
    return names


def _kept_answers(output: Output, index: int) -> AnswerLog:
    """Return the folder for a server's answers until their part is written."""
    return AnswerLog(answers_folder(output.path) / output.part_path(index).stem)


def _refuse_no_text_at_all(
    output: Output, indices: Sequence[int], summary: Summary, limit: float
) -> None:
    """Refuse a finished stage without any response text: no later stage can use it.

    Raises:
        ErrorRateError: no row has a text, and rows that failed are not all allowed for.
    """
    if not summary.n_rows or summary.counts["ok"] or limit >= 1:
        return
    # No row finished, but a truncated one may have a text.
    for index in indices:
        responses = output.read(index, ["response"])[0]["response"].to_pylist()
        if any(text is not None and text.strip() for text in responses):
            return

    reasons = ", ".join(f"{count:,} {status}" for status, count in summary.counts.most_common())
    raise ErrorRateError(
        f"{summary.stage} finished, but none of {summary.n_rows:,} rows has a text: {reasons}",
        hint=f"run `prefpipe inspect {quote(str(summary.path))}` for the reasons; raise "
        "--max-tokens for a model that thinks before it answers",
        summary=summary,
    )


def _extended(config: GenerateConfig, record: RunRecord) -> RunRecord:
    """Return the record of ``--extend``, with the operation in it.

    Raises:
        UsageError: there is no run on disk, or it is not smaller.
        FingerprintError: the run on disk differs in more than ``n``.
    """
    try:
        on_disk = run_record.read_run_record(config.output)
    except PrefpipeError as error:
        raise UsageError(
            f"--extend: there is no run to extend in {config.output}", hint="leave out --extend"
        ) from error
    # An extension that was stopped goes on: its record is there already.
    if on_disk.fingerprint == record.fingerprint:
        return on_disk

    differences = field_differences(on_disk.identity, record.identity)
    lines = [each.worded("on disk", "requested") for each in differences if each.key != "n"]
    if lines:
        raise FingerprintError(
            f"--extend changes only --n, and {config.output} differs in more:\n  "
            + "\n  ".join(lines),
            hint="restore the old values, or choose another folder with -o",
        )

    n_before = on_disk.identity["n"]
    if n_before >= config.n:
        raise UsageError(
            f"--extend: {config.output} already has n = {n_before}; --n {config.n} is not larger"
        )

    step = {
        "operation": "extend",
        "from": on_disk.fingerprint,
        "n_before": n_before,
        "n": config.n,
    }
    return dataclasses.replace(record, history=[*on_disk.history, step])


Wanted = tuple[Prompt, int]
"""A sample to draw: of which prompt, and its number."""


class PreparedPart(NamedTuple):
    """A part before its samples are drawn.

    ``kept`` are rows of an earlier run, which ``kept_engines`` sampled. ``wanted`` are the samples
    to draw, by the number of the model. ``n_control_text``: prompts sent to a server with text that
    it may read as a control token.
    """

    prompts: Prompts
    kept: list[Row]
    kept_engines: Sequence[str]
    wanted: dict[int, list[Wanted]]
    n_control_text: int


class Asked(NamedTuple):
    """The requests to one model for one part.

    ``refused`` are rows of samples that cannot be requested. ``engines``: the engines for the
    others, if known.
    """

    requests: list[GenerationRequest]
    refused: list[Row]
    engines: set[str]


class Sampled(NamedTuple):
    """The samples of one model for one part, and their engine."""

    rows: list[Row]
    engines: set[str]


class CandidateMaker:
    """Makes the parts of ``candidates``."""

    def __init__(
        self,
        config: GenerateConfig,
        prompts: Prompts,
        output: Output,
        samplers: Sequence[Sampler],
        models: Models,
        log: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            config: the stage's knobs.
            prompts: of the whole run.
            output: where the parts go.
            samplers: what the models are.
            models: one for each sampler.
            log: takes a line that one should read.
        """
        self.config, self.prompts, self.output = config, prompts, output
        self.names = [sampler.name for sampler in samplers]
        self.markers = [sampler.thoughts for sampler in samplers]
        self.models, self._log = models, log
        self._columns = _column_names(config, samplers)
        self._params = sampling_params(config)
        self._lock = threading.Lock()
        """Held by who reads or changes what has been said."""
        self._said: set[str] = set()

    def has_room(self, n_open: int) -> bool:
        """Return whether an engine would be idle without another part."""
        return self.models.has_room(n_open)

    def size_of(self, index: int) -> int:
        """Return how many prompts a part is made from."""
        return len(self.prompts.part(index, self.config.prompts_a_part))

    def prepare(self, index: int) -> PreparedPart:
        """Read a part's prompts, and find the rows that are kept."""
        prompts = self.prompts.part(index, self.config.prompts_a_part)
        kept, kept_engines = self._kept_rows(index)
        wanted: dict[int, list[Wanted]] = {}
        spelling_control_tokens: set[str] = set()
        for sampler_idx in range(len(self.names)):
            samples = self._wanted(sampler_idx, prompts.rows, kept)
            # A part whose rows are all kept loads no model.
            if samples:
                wanted[sampler_idx] = samples
            if self.config.backend == SERVER:
                spelling_control_tokens |= _with_control_text(prompt for prompt, _ in samples)

        self.models.announce_part()
        return PreparedPart(
            prompts, list(kept.values()), kept_engines, wanted, len(spelling_control_tokens)
        )

    def complete(self, index: int, prepared: PreparedPart) -> Tally:
        """Sample and write a part."""
        n_wanted = sum(len(samples) for samples in prepared.wanted.values())
        sampled = self.models.ask_each(
            list(prepared.wanted),
            n_wanted,
            lambda number, engine: self._ask(number, engine, prepared),
            lambda number, engine, asked: self._sample(number, engine, index, asked),
        )
        rows = list(prepared.kept)
        engines: set[str] = set()
        n_tokens = 0
        made: list[Row] = []
        for number in prepared.wanted:
            made += sampled[number].rows
            n_tokens += sum(row["n_response_tokens"] or 0 for row in sampled[number].rows)
            engines |= sampled[number].engines
        rows += made

        # Rows came model by model; a part stands by prompt and sample.
        prompts = prepared.prompts
        order = {prompt.prompt_id: position for position, prompt in enumerate(prompts.rows)}
        rows.sort(key=lambda row: (order[row["prompt_id"]], row["sample_idx"]))
        n_duplicates = mark_duplicates(rows)
        table = table_of_rows(rows, prompts, keeps_reasoning=REASONING in self._columns)
        self.output.write(
            index,
            table,
            counts=count_by_status(rows),
            parents={},
            engines=[*prepared.kept_engines, *sorted(engines)],
        )
        # Not before: until the part is on disk they are all that was paid for.
        _kept_answers(self.output, index).remove()
        return {
            "n_tokens": n_tokens,
            "n_duplicates": n_duplicates,
            "n_control_text": prepared.n_control_text,
            **_tally_of_thoughts(made),
        }

    def describe(self, summary: Summary, elapsed_s: float) -> None:
        """Add the figures of this call to a summary."""
        counted = summary.counted_now
        n_tokens = int(counted.get("n_tokens", 0))
        n_duplicates = int(counted.get("n_duplicates", 0))
        if n_tokens or self.config.backend != SERVER:
            speed = n_tokens / elapsed_s if elapsed_s else 0.0
            summary.notes.append(
                f"{n_tokens:,} tokens in {elapsed_s:.0f} s ({per_second(speed)} tokens/s)"
            )
        else:
            summary.notes.append(f"{elapsed_s:.0f} s; the server reports no token counts")

        summary.notes.append(f"{n_duplicates:,} responses repeat another response of their prompt")
        summary.notes += _notes_on_thoughts(counted)
        summary.notes += note_on_server(int(counted.get("n_control_text", 0)), "prompts")
        summary.facts |= {
            "n_tokens": n_tokens,
            "elapsed_s": elapsed_s,
            "n_duplicates": n_duplicates,
        }

    def _note_other_engines(self, kept: Sequence[str], now: Sequence[str]) -> None:
        """Log and record, once, that kept rows were sampled by another engine.

        Equal seeds may then give different samples.
        """
        line = (
            f"warning: the kept rows were sampled by {' and '.join(kept)}, new rows by "
            f"{' and '.join(now)}: equal seeds may give different samples"
        )
        with self._lock:
            if line in self._said:
                return
            self._said.add(line)
        self._log(line)
        self.output.record_once(
            {"operation": "sampled_by_another_engine", "kept": list(kept), "new": list(now)}
        )

    def _kept_rows(self, index: int) -> tuple[dict[Key, Row], Sequence[str]]:
        """Return the rows of an earlier part that need not be paid for again, and their engines.

        Those are what an extension or a retry keeps.
        """
        # Otherwise a part is made because it is missing or damaged, and holds nothing to keep.
        if not (self.output.record.history or self.config.retry_errors):
            return {}, ()
        path = self.output.part_path(index)
        try:
            table, footer = parts.read_part(path, self._columns, if_there=[TEMPLATE_INPUT])
        except CorruptPartError:
            return {}, ()

        # The rows of a smaller --n are rows of this run: no seed depends on n.
        earlier = {step.get("from") for step in self.output.record.history}
        if footer.fingerprint not in {self.output.record.fingerprint} | earlier:
            return {}, ()
        kept = {}
        for row in rows_of(table):
            if not (self.config.retry_errors and row["status"] == "error"):
                kept[key_of(row)] = row
        return kept, footer.engines if kept else ()

    def _wanted(
        self, sampler_idx: int, prompts: Sequence[Prompt], kept: Collection[Key]
    ) -> list[Wanted]:
        """Return the samples of a part that one model makes, without those in ``kept``."""
        wanted: list[Wanted] = []
        for prompt in prompts:
            # models take turns among the samples of a prompt
            samples = range(sampler_idx, self.config.n, len(self.names))
            wanted += [(prompt, i) for i in samples if (prompt.prompt_id, i) not in kept]
        return wanted

    def _ask(self, sampler_idx: int, engine: Generator, prepared: PreparedPart) -> Asked:
        """Return the requests to a model."""
        config, wanted = self.config, prepared.wanted[sampler_idx]
        # a prompt is encoded once, however many of its samples are wanted
        encoded: dict[str, tuple[list[int], str | None]] = {}
        for prompt, _ in wanted:
            if prompt.prompt_id not in encoded:
                encoded[prompt.prompt_id] = encode(engine, prompt)

        self._note_dropped_thoughts(sampler_idx, engine, [prompt for prompt, _ in wanted])
        asked = Asked([], [], set())
        # A server's prompts have no ids here: it says itself which are too long.
        room = engine.max_model_len - config.max_tokens
        for prompt, sample_idx in wanted:
            ids, refusal = encoded[prompt.prompt_id]
            seed = seed_for(config.seed, prompt.prompt_id, sample_idx)
            # temperatures take turns among the samples of one model
            turn = sample_idx // len(self.names)
            temperature = config.temperature[turn % len(config.temperature)]

            request = GenerationRequest(
                prompt.prompt_id, sample_idx, prompt.messages, ids, seed, temperature
            )
            if refusal is not None:
                asked.refused.append(self._row(sampler_idx, request, None, "error", refusal))
            elif len(ids) > room:
                reason = (
                    f"{len(ids)} prompt tokens, and {engine.max_model_len} - {config.max_tokens} "
                    f"leave room for {room}"
                )
                row = self._row(sampler_idx, request, None, "prompt_too_long", reason)
                asked.refused.append(row)
            else:
                asked.requests.append(request)

        version = engine.engine_version
        if asked.requests and version is not None:
            if set(prepared.kept_engines) not in (set(), {version}):
                self._note_other_engines(prepared.kept_engines, [version])
            asked.engines.add(version)
        return asked

    def _sample(self, sampler_idx: int, engine: Generator, index: int, asked: Asked) -> Sampled:
        """Return the rows of a part that a model makes."""
        rows = list(asked.refused)
        if not asked.requests:
            return Sampled(rows, asked.engines)
        if isinstance(engine, ServedGenerator):
            # A kill then costs what is on its way, and no answer that arrived.
            answers = engine.generate_and_keep(
                asked.requests,
                self._params,
                _kept_answers(self.output, index).folder,
                ask_again=self.config.retry_errors,
            )
            self._record_what_is_not_sent(sampler_idx, engine.left_out)
        else:
            answers = engine.generate(asked.requests, self._params)

        for request, answer in zip(asked.requests, answers, strict=True):
            status, reason = status_of(answer, self.config.max_tokens)
            rows.append(self._row(sampler_idx, request, answer, status, reason))
        return Sampled(rows, asked.engines)

    def _note_dropped_thoughts(
        self, sampler_idx: int, engine: Generator, prompts: Sequence[Prompt]
    ) -> None:
        """Log once per model that its template drops thoughts of earlier turns."""
        markers = self.markers[sampler_idx]
        if markers is None:
            return
        for prompt in prompts:
            bare = without_thoughts(prompt.messages, markers)
            if bare == prompt.messages:
                continue
            is_dropped = encode(engine, prompt) == encode(engine, prompt._replace(messages=bare))
            if is_dropped:
                self._say_once(
                    f"the chat template of {self.names[sampler_idx]} drops the thoughts of "
                    f"earlier turns (first in prompt {prompt.prompt_id}): the model does not see "
                    "them"
                )
                return

    def _say_once(self, line: str) -> None:
        with self._lock:
            is_news = line not in self._said
            self._said.add(line)
        if is_news:
            self._log(line)

    def _record_what_is_not_sent(self, sampler_idx: int, left_out: Sequence[str]) -> None:
        """Record in ``run.json`` the settings that a server refuses; it uses its own values.

        This is known only after a request. It is recorded once, by whichever part finds it first.
        """
        if left_out:
            step = {
                "operation": "sampled_without",
                "model": self.names[sampler_idx],
                "settings": list(left_out),
            }
            self.output.record_once(step)

    def _row(
        self,
        sampler_idx: int,
        request: GenerationRequest,
        answer: Generation | None,
        status: str,
        reason: str | None,
    ) -> Row:
        row: Row = dict.fromkeys(self._columns)
        row |= {
            "prompt_id": request.prompt_id,
            "sample_idx": request.sample_idx,
            "messages": list(request.messages),
            "model": self.names[sampler_idx],
            "prompt_token_ids": list(request.prompt_token_ids) or None,
            "n_prompt_tokens": len(request.prompt_token_ids) or None,
            "temperature": request.temperature,
            "seed": request.seed,
            "status": status,
            "reason": reason,
        }
        if answer is None:
            return row

        row["finish_reason"] = answer.finish_reason
        # A server counts the tokens of a prompt whose ids nobody here knows.
        if not request.prompt_token_ids:
            row["n_prompt_tokens"] = answer.n_prompt_tokens
        if REASONING in row:
            row[REASONING] = answer.reasoning
        if status not in FAILING:
            row |= {
                "response": answer.text,
                "response_token_ids": answer.token_ids or None,
                "n_response_tokens": _n_tokens(answer),
                "logp": answer.logp,
            }
        return row


def _tally_of_thoughts(rows: Iterable[Row]) -> dict[str, int]:
    """Return how many responses have separate thoughts, and how many ended while thinking."""
    thoughtful = [row for row in rows if row.get(REASONING) is not None]
    if not thoughtful:
        return {}
    n_unfinished = sum(row["response"] == "" for row in thoughtful)
    return {"n_thoughts": len(thoughtful), "n_unfinished_thoughts": n_unfinished}


def _notes_on_thoughts(counted: Mapping[str, float]) -> list[str]:
    """Return notes on thoughts, in sentences."""
    n_thoughts = int(counted.get("n_thoughts", 0))
    if not n_thoughts:
        return []
    n_unfinished = int(counted.get("n_unfinished_thoughts", 0))
    note = f"{n_thoughts:,} responses have thoughts, in `{REASONING}`; token lengths count both"
    if n_unfinished:
        note += f"; {n_unfinished:,} ended while thinking and have no answer"
    return [note]


def _with_control_text(prompts: Iterable[Prompt]) -> set[str]:
    """Return the prompts with text that a server may read as a control token."""
    spelling: set[str] = set()
    for prompt in prompts:
        texts = (text for turn in prompt.messages for text in turn.values())
        if prompt.prompt_id not in spelling and spells_control_token(texts):
            spelling.add(prompt.prompt_id)
    return spelling


def sampling_params(config: GenerateConfig) -> SamplingParams:
    """Return the settings that all samples of a run share, except the temperature."""
    schema = config.schema
    return SamplingParams(
        max_tokens=config.max_tokens,
        top_p=config.top_p,
        top_k=config.top_k,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
        presence_penalty=config.presence_penalty,
        frequency_penalty=config.frequency_penalty,
        min_tokens=config.min_tokens,
        ignore_eos=config.ignore_eos,
        stop=config.stop,
        json_schema=None if schema is None else schema.text,
    )


def encode(engine: Generator, prompt: Prompt) -> tuple[list[int], str | None]:
    """Return a prompt's token ids, or why the chat template refuses it.

    One such prompt must not fail its part.
    """
    try:
        return engine.encode(prompt.messages), None
    except InputError as error:
        return [], error.message


def _n_tokens(answer: Generation) -> int | None:
    """Return a response's length in tokens: that of its ids, or a server's count.

    An engine's response may have none.
    """
    if answer.token_ids:
        return len(answer.token_ids)
    if answer.n_tokens is not None:
        return answer.n_tokens
    # No ids and no count: the length is not known, unless nothing was said at all.
    has_said_something = answer.text or answer.reasoning is not None
    return None if has_said_something else 0


def status_of(answer: Generation, max_tokens: int) -> tuple[str, str | None]:
    """Return the status and reason of one generation."""
    if answer.finish_reason == "error":
        reason = answer.error or "the engine gave no reason"
        if reason.startswith(TOO_LONG_PREFIX):
            return "prompt_too_long", reason.removeprefix(TOO_LONG_PREFIX)
        return "error", reason

    has_text = bool(answer.text.strip())
    has_thought = answer.reasoning is not None
    limit = f"reached the limit of {max_tokens} tokens"
    if answer.finish_reason == "length" and has_text:
        return "truncated", limit
    # More tokens would have made a text, so this is `truncated` and not `empty`.
    if answer.finish_reason == "length" and has_thought:
        return "truncated", f"{limit} while thinking; the response has no text"
    if has_text:
        return "ok", None
    if has_thought:
        return "empty", "the response has no text, and the model's reasoning is all there is"
    return "empty", "the response has no text"
