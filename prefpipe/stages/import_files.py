"""Make candidates, and scores if any, from a file of another tool.

Reads: a user's file.
Writes: ``candidates``, one row for every response, and ``scores``, one row for every response and
scorer, into two folders of the output.
Promises: prompts keep the order in which the file first names them; a response without a text
is a row with its reason, and a missing score is a row with a null reward.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from prefpipe.artifacts import run_record
from prefpipe.artifacts.interchange.formats import content_hash, read_pool
from prefpipe.artifacts.interchange.pool import ImportedResponse, Pool
from prefpipe.artifacts.interchange.read_options import ColumnNames, ReadOptions, WideColumns
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES, SCORES
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Output, Shard, open_output, refuse_nesting
from prefpipe.artifacts.tables.bad_rows import BadRow
from prefpipe.artifacts.tables.locations import place_of
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT
from prefpipe.configs.import_files import ImportConfig
from prefpipe.execution.part_maker import OneAtATime
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.shared.candidate_rows import (
    Row,
    count_by_status,
    mark_duplicates,
    parent_digests,
    parent_identity,
    table_of_rows,
)
from prefpipe.stages.shared.partwise import Summary, loop_over_parts
from prefpipe.stages.shared.skipped_rows import (
    context_of_skipped_rows,
    read_users_rows,
    report_skipped_rows,
)
from prefpipe.text.numbers import counted


def run(config: ImportConfig, runtime: Runtime) -> Summary:
    """Import the parts that are missing."""
    sources = {"SOURCE": config.source}
    if config.requests is not None:
        sources["--requests"] = config.requests
    places = {name: place_of(text) for name, text in sources.items()}
    refuse_nesting(config.output, {name: place for name, place in places.items() if place})
    pool, skipped = _read(config)
    # Both records, of candidates and of scores, say what was left out.
    runtime = replace(runtime, context={**runtime.context, **context_of_skipped_rows(skipped)})
    for note in pool.notes:
        runtime.log(note)
    runtime.log(
        f"{len(pool.prompts):,} prompts, {pool.n_responses:,} responses, "
        f"scorers: {', '.join(pool.scorers) or 'none'}"
    )

    candidates = open_output(
        config.output / CANDIDATES.name,
        _record_of_candidates(config, pool, runtime),
        shard=Shard(),
        overwrite=config.overwrite,
    )
    scores = None
    if pool.scorers:
        scores = open_output(
            config.output / SCORES.name,
            _record_of_scores(config, pool, runtime, candidates),
            shard=Shard(),
            overwrite=config.overwrite,
        )
    elif config.overwrite:  # scores of what was imported before: now there are none
        _remove_imported(config.output / SCORES.name)

    summary = Summary(config.stage, config.output)
    indices = range(candidates.n_parts)
    loop_over_parts(
        config,
        candidates,
        OneAtATime(lambda index: _make_candidates(config, pool, candidates, index)),
        runtime,
        summary,
        indices=indices,
    )

    # The scores name the digests of the candidates, which are all there by now.
    if scores is not None:
        # named, so that its progress is not taken for that of the candidates again
        summary_of_scores = Summary(f"{config.stage}, scores", config.output)
        parents = parent_digests(indices, candidates=candidates)
        loop_over_parts(
            config,
            scores,
            OneAtATime(lambda index: _make_scores(config, pool, scores, index, parents[index])),
            runtime,
            summary_of_scores,
            indices=indices,
            parents_of=parents.__getitem__,
        )
        summary.facts["scores"] = dict(sorted(summary_of_scores.counts.items()))
        summary.n_parts_made += summary_of_scores.n_parts_made
        summary.n_parts_kept += summary_of_scores.n_parts_kept

    _describe(summary, pool)
    report_skipped_rows(config, skipped, summary)
    return summary


def _read(config: ImportConfig) -> tuple[Pool, list[BadRow]]:
    """Return what the file holds, and the rows that ``--skip-bad-rows`` leaves out."""
    kind = "wide" if config.is_wide else config.format
    options = ReadOptions(
        columns=config.kept_columns,
        reserved=[*CANDIDATES.column_names, TEMPLATE_INPUT],
        rules=config.reading_rules,
        requests=config.requests,
        names=_names(config),
        wide=_wide(config),
    )
    return read_users_rows(config, lambda: read_pool(config.source, kind, options))


def _names(config: ImportConfig) -> ColumnNames:
    response = config.response_column[0] if config.response_column else None
    return ColumnNames(
        config.prompt_id_column,
        config.prompt_column,
        response,
        config.model_column,
        dict(config.rewards),
    )


def _wide(config: ImportConfig) -> WideColumns:
    return WideColumns(
        config.response_column,
        config.scores,
        config.prompt_column,
        config.prompt_id_column,
        config.model_column,
    )


def _record_of_candidates(config: ImportConfig, pool: Pool, runtime: Runtime) -> RunRecord:
    # What the files hold, not where they lie: a file that was moved is the same import.
    identity: dict[str, Any] = {
        "stage": config.stage,
        "version": config.VERSION,
        **config.identity(),
        "source": content_hash(config.source),
    }
    parents = {"source": config.source}
    if config.requests is not None:
        identity["requests"] = content_hash(config.requests)
        parents["requests"] = config.requests
    return RunRecord(
        stage=config.stage,
        schema=CANDIDATES.tag,
        n_parts=pool.prompts.n_parts(config.prompts_a_part),
        context=dict(runtime.context),
        identity=identity,
        parents=parents,
    )


def _record_of_scores(
    config: ImportConfig, pool: Pool, runtime: Runtime, candidates: Output
) -> RunRecord:
    """Return the record of the scores: that of the candidates, and the scorers."""
    return RunRecord(
        stage=config.stage,
        schema=SCORES.tag,
        n_parts=pool.prompts.n_parts(config.prompts_a_part),
        context=dict(runtime.context),
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            "scorers": [{"name": name, "kind": "import"} for name in pool.scorers],
            "candidates": parent_identity(candidates),
        },
        parents={"candidates": str(candidates.path)},
    )


def _remove_imported(folder: Location) -> None:
    """Remove the scores of an earlier import, which belong to other candidates.

    Files of other commands stay.
    """
    if not files.is_file(folder / run_record.FILE_NAME):
        return
    if run_record.read_run_record(folder).stage != ImportConfig.stage:
        return
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        for name in files.names_in(folder):
            files.delete(folder / name)


def _make_candidates(config: ImportConfig, pool: Pool, output: Output, index: int) -> None:
    """Write one part of the candidates."""
    prompts = pool.prompts.part(index, config.prompts_a_part)
    rows = [_candidate(config, response) for response in _responses(config, pool, index)]
    mark_duplicates(rows)
    table = table_of_rows(rows, prompts)
    output.write(index, table, counts=count_by_status(rows), parents={})


def _make_scores(
    config: ImportConfig, pool: Pool, output: Output, index: int, parents: Mapping[str, str]
) -> None:
    """Write one part of the scores."""
    rows = []
    for response in _responses(config, pool, index):
        rows += [_score(response, scorer) for scorer in pool.scorers]
    table = pa.Table.from_pylist(rows, schema=SCORES.arrow())
    output.write(index, table, counts=count_by_status(rows), parents=parents)


def _responses(config: ImportConfig, pool: Pool, index: int) -> Iterator[ImportedResponse]:
    """Yield the responses of a part, prompt by prompt."""
    start = index * config.prompts_a_part
    for responses in pool.responses[start : start + config.prompts_a_part]:
        yield from responses


def _candidate(config: ImportConfig, response: ImportedResponse) -> Row:
    status, reason = _status_of(response)
    return {
        "prompt_id": response.prompt_id,
        "sample_idx": response.sample_idx,
        "messages": response.messages,
        "response": response.text,
        "model": response.model or config.model_name,
        "finish_reason": response.finish_reason,
        "status": status,
        "reason": reason,
    }


def _status_of(response: ImportedResponse) -> tuple[str, str | None]:
    if response.text is None:
        return "error", response.failure or "the file holds no response"
    if not response.text.strip():
        return "empty", "the response has no text"
    if response.finish_reason == "length":
        return (
            "truncated",
            "the file says that it was cut at the token limit (finish_reason length)",
        )
    return "ok", None


def _score(response: ImportedResponse, scorer: str) -> Row:
    row: Row = {
        "prompt_id": response.prompt_id,
        "sample_idx": response.sample_idx,
        "scorer": scorer,
        "reward": None,
        "detail": None,
    }

    value = response.scores.get(scorer)
    if response.text is None:
        row["status"] = "no_response"
        row["reason"] = f"there is no response: {response.failure}"
    elif value is None:
        row["status"] = "unrated"
        row["reason"] = f"the file holds no score of {scorer} for it"
    elif not isfinite(value):
        row["status"] = "not_finite"
        row["reason"] = f"the file says {value}"
    else:
        row |= {"reward": value, "status": "ok", "reason": None}
    return row


def _describe(summary: Summary, pool: Pool) -> None:
    """Add the range of each scorer, and the counts without a score."""
    summary.facts |= {"n_prompts": len(pool.prompts), "n_responses": pool.n_responses}
    sizes = [len(responses) for responses in pool.responses]
    least, most = min(sizes), max(sizes)
    of_each = counted(most, "response") if least == most else f"{least:,} to {most:,} responses"
    each = " each" if least == most and len(sizes) > 1 else ""
    summary.notes.append(f"{counted(len(sizes), 'prompt')} with {of_each}{each}")

    rewards: dict[str, Any] = {}
    for scorer in pool.scorers:
        values: list[float] = []
        not_rated: Counter[str] = Counter()
        for responses in pool.responses:
            for response in responses:
                row = _score(response, scorer)
                if row["status"] == "ok":
                    values.append(row["reward"])
                else:
                    not_rated[row["status"]] += 1

        rewards[scorer] = {"n": len(values)}
        spread = "none"
        if values:
            values.sort()
            lowest, highest = values[0], values[-1]
            rewards[scorer] |= {"lowest": lowest, "highest": highest}
            spread = f"{lowest:g} to {highest:g}, median {median(values):g}"
        others = "".join(f", {count:,} {status}" for status, count in sorted(not_rated.items()))
        summary.notes.append(f"scores of {scorer}: {len(values):,}, {spread}{others}")
    summary.facts["rewards"] = rewards
    if not pool.scorers:
        summary.notes.append("the file has no scores: rate the candidates with `prefpipe score`")
