"""Make candidates, and scores where there are any, of a file of another tool.

Reads: a user's file. Writes: ``candidates``, one row for every response, and ``scores``, one row for every response and
scorer, into two folders of the output. Promises: prompts stand in the order in which the file first names them; a response
without a text is a row with its reason, and a missing score is a row with a null reward.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from prefpipe.artifacts import run_record
from prefpipe.artifacts.interchange.formats import content_hash, read_pool
from prefpipe.artifacts.interchange.pool import Pool, Response
from prefpipe.artifacts.interchange.read_options import ColumnNames, ReadOptions, WideColumns
from prefpipe.artifacts.interchange.user_table import file_of
from prefpipe.artifacts.prompts import Prompts
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import CANDIDATES, SCORES, Schema
from prefpipe.artifacts.store import Output, Shard, open_output, refuse_nesting
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT
from prefpipe.configs.import_files import ImportConfig
from prefpipe.stages.shared.candidate_rows import (
    Row,
    count_by_status,
    mark_duplicates,
    parent_digests,
    parent_identity,
    table_of_rows,
)
from prefpipe.stages.shared.runtime import Runtime, Summary, loop_over_parts
from prefpipe.stages.shared.skipped_rows import (
    context_of_skipped_rows,
    read_users_rows,
    report_skipped_rows,
)


def run(config: ImportConfig, runtime: Runtime) -> Summary:
    """Import the parts that are missing."""
    sources = {"SOURCE": config.source} | (
        {"--requests": config.requests} if config.requests is not None else {}
    )
    refuse_nesting(
        config.output,
        {name: path for name, text in sources.items() if (path := file_of(text)) is not None},
    )
    kind = "wide" if config.is_wide else config.format
    options = ReadOptions(
        columns=config.kept_columns,
        reserved=[*CANDIDATES.column_names, TEMPLATE_INPUT],
        rules=config.reading_rules,
        requests=config.requests,
        names=_names(config),
        wide=_wide(config),
    )
    pool, skipped = read_users_rows(config, lambda: read_pool(config.source, kind, options))
    runtime = replace(runtime, context={**runtime.context, **context_of_skipped_rows(skipped)})
    for note in pool.notes:
        runtime.log(note)
    runtime.log(
        f"{len(pool.prompts):,} prompts, {pool.n_responses:,} responses, scorers: {', '.join(pool.scorers) or 'none'}"
    )
    candidates = open_output(
        config.output / CANDIDATES.name,
        _record(config, CANDIDATES, pool, runtime),
        shard=Shard(),
        overwrite=config.overwrite,
    )
    outputs = [candidates]
    if pool.scorers:
        record = _record(config, SCORES, pool, runtime, candidates)
        outputs.append(
            open_output(
                config.output / SCORES.name, record, shard=Shard(), overwrite=config.overwrite
            )
        )
    elif config.overwrite:  # scores of what was imported before: now there are none
        _remove_imported(config.output / SCORES.name)
    work = _Work(config, pool, outputs)
    summary = Summary(config.stage, config.output)
    indices = range(candidates.n_parts)
    loop_over_parts(
        candidates, lambda _index: {}, work.make_candidates, runtime, summary, indices=indices
    )
    if pool.scorers:
        of_scores = Summary(config.stage, config.output)
        parents = parent_digests(indices, candidates=candidates)
        loop_over_parts(
            outputs[1],
            parents.__getitem__,
            lambda index: work.make_scores(index, parents[index]),
            runtime,
            of_scores,
            indices=indices,
        )
        summary.facts["scores"] = dict(sorted(of_scores.counts.items()))
        summary.n_parts_made += of_scores.n_parts_made
        summary.n_parts_kept += of_scores.n_parts_kept
    _describe(summary, pool)
    report_skipped_rows(config, skipped, summary)
    return summary


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


def _record(
    config: ImportConfig,
    schema: Schema,
    pool: Pool,
    runtime: Runtime,
    candidates: Output | None = None,
) -> RunRecord:
    """Return what is written into ``run.json``: the scores are what the candidates are, and which scorers."""
    if candidates is not None:
        identity: dict[str, Any] = {
            "scorers": [{"name": name, "kind": "import"} for name in pool.scorers],
            "candidates": parent_identity(candidates),
        }
        parents = {"candidates": str(candidates.path)}
    else:
        identity = {**config.identity(), "source": content_hash(config.source)}
        parents = {"source": config.source}
        if config.requests is not None:
            identity["requests"] = content_hash(config.requests)
            parents["requests"] = config.requests
    return RunRecord(
        stage=config.stage,
        schema=schema.tag,
        n_parts=pool.prompts.n_parts(config.part_size),
        context=dict(runtime.context),
        identity={"stage": config.stage, "version": config.VERSION, **identity},
        parents=parents,
    )


def _remove_imported(folder: Path) -> None:
    """Remove the scores of an earlier import, which are of other candidates; what another command wrote stays."""
    if (folder / run_record.FILE_NAME).exists() and run_record.read_run_record(
        folder
    ).stage == ImportConfig.stage:
        shutil.rmtree(folder)


class _Work:
    """One run's state: what was read, and where it goes."""

    def __init__(self, config: ImportConfig, pool: Pool, outputs: Sequence[Output]) -> None:
        self.config, self.pool, self.outputs = config, pool, outputs

    def make_candidates(self, index: int) -> None:
        """Write one part of the candidates."""
        prompts, responses = self._part(index)
        rows = [_candidate(self.config, response) for members in responses for response in members]
        mark_duplicates(rows)
        self.outputs[0].write(
            index, table_of_rows(rows, prompts), counts=count_by_status(rows), parents={}
        )

    def make_scores(self, index: int, parents: dict[str, str]) -> None:
        """Write one part of the scores."""
        _, responses = self._part(index)
        rows = [
            _score(response, scorer)
            for members in responses
            for response in members
            for scorer in self.pool.scorers
        ]
        table = pa.Table.from_pylist(rows, schema=SCORES.arrow())
        self.outputs[1].write(index, table, counts=count_by_status(rows), parents=parents)

    def _part(self, index: int) -> tuple[Prompts, list[list[Response]]]:
        start, size = index * self.config.part_size, self.config.part_size
        return self.pool.prompts.part(index, size), self.pool.responses[start : start + size]


def _candidate(config: ImportConfig, response: Response) -> Row:
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


def _status_of(response: Response) -> tuple[str, str | None]:
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


def _score(response: Response, scorer: str) -> Row:
    value = response.scores.get(scorer)
    row = {
        "prompt_id": response.prompt_id,
        "sample_idx": response.sample_idx,
        "scorer": scorer,
        "reward": None,
        "detail": None,
    }
    if response.text is None:
        return {
            **row,
            "status": "no_response",
            "reason": f"there is no response: {response.failure}",
        }
    if value is None:
        return {**row, "status": "unrated", "reason": f"the file holds no score of {scorer} for it"}
    if not isfinite(value):
        return {**row, "status": "not_finite", "reason": f"the file says {value}"}
    return {**row, "reward": value, "status": "ok", "reason": None}


def _describe(summary: Summary, pool: Pool) -> None:
    """Add the range of each scorer, and what has none."""
    summary.facts |= {"n_prompts": len(pool.prompts), "n_responses": pool.n_responses}
    sizes = [len(members) for members in pool.responses]
    summary.notes.append(f"{len(sizes):,} prompts with {min(sizes):,} to {max(sizes):,} responses")
    rewards: dict[str, Any] = {}
    for scorer in pool.scorers:
        rows = [_score(response, scorer) for members in pool.responses for response in members]
        values = sorted(row["reward"] for row in rows if row["status"] == "ok")
        others = Counter(row["status"] for row in rows if row["status"] != "ok")
        told = "".join(f", {count:,} {status}" for status, count in sorted(others.items()))
        spread = f"{values[0]:g} to {values[-1]:g}, median {median(values):g}" if values else "none"
        summary.notes.append(f"scores of {scorer}: {len(values):,}, {spread}{told}")
        rewards[scorer] = (
            {"n": len(values), "lowest": values[0], "highest": values[-1]} if values else {"n": 0}
        )
    summary.facts["rewards"] = rewards
    if not pool.scorers:
        summary.notes.append("the file holds no scores: rate the candidates with `prefpipe score`")
