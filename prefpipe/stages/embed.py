"""Embed responses.

Reads: ``candidates``. Writes: ``embeddings``, one row for every candidate, vectors of fixed size that NumPy reads
without a copy. Promises: rows follow the order of the candidates; a response that was cut by the embedder says so.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES, embeddings_schema
from prefpipe.artifacts.store import Artifact, Output, open_input, open_output, refuse_nesting
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.backends.protocol import Embedder
from prefpipe.configs.embed import EmbedConfig
from prefpipe.stages.shared.candidate_rows import (
    UNUSABLE,
    Row,
    count_by_status,
    parent_digests,
    parent_identity,
)
from prefpipe.stages.shared.runtime import Runtime, Summary, check_error_rate, loop_over_parts
from prefpipe.text.tool_turns import readable_turns

FAILING = ("error",)


def run(
    config: EmbedConfig,
    identity: Mapping[str, Any],
    open_embedder: Callable[[], Embedder],
    runtime: Runtime,
) -> Summary:
    """Embed the parts of this shard that are missing."""
    refuse_nesting(config.output, {"CANDIDATES": config.candidates})
    candidates = open_input(config.candidates, schema=CANDIDATES.name, name="CANDIDATES")
    record = RunRecord(
        stage=config.stage,
        schema=embeddings_schema(1, half=False).tag,
        n_parts=candidates.n_parts,
        context={**runtime.context, MADE_WITH: _made_with(config, identity)},
        parents={"candidates": str(config.candidates)},
        identity={
            "stage": config.stage,
            "version": config.VERSION,
            **config.identity(),
            "model": dict(identity),
            "candidates": parent_identity(candidates),
        },
    )
    indices = candidates.present(
        runtime.shard.parts(candidates.n_parts), allow_partial=config.allow_partial
    )
    parents = parent_digests(indices, candidates=candidates)
    output = open_output(config.output, record, shard=runtime.shard, overwrite=config.overwrite)
    summary = Summary(config.stage, config.output)
    started = time.perf_counter()
    with ExitStack() as stack:
        work = _Work(config, candidates, output, open_embedder, stack, runtime)
        loop_over_parts(
            output,
            parents.__getitem__,
            lambda index: work.make(index, parents[index]),
            runtime,
            summary,
            indices=indices,
        )
    if summary.n_parts_made:
        elapsed_s = time.perf_counter() - started
        summary.notes.append(
            f"{work.n_texts:,} texts in {elapsed_s:.1f} s ({work.n_texts / elapsed_s:.0f} texts/s)"
        )
        share = work.n_truncated / max(1, work.n_texts)
        summary.notes.append(
            f"{work.n_truncated:,} texts ({share:.1%}) were longer than the embedder reads and were cut"
        )
        summary.facts |= {"n_truncated": work.n_truncated, "elapsed_s": elapsed_s}
    check_error_rate(summary, FAILING, config.max_error_rate)
    return summary


def _made_with(config: EmbedConfig, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [ingredient("model", config.model, identity)] if "content_hash" in identity else []


class _Work:
    """One run's state: the embedder, opened when first needed, and counts for the summary."""

    def __init__(
        self,
        config: EmbedConfig,
        candidates: Artifact,
        output: Output,
        open_embedder: Callable[[], Embedder],
        stack: ExitStack,
        runtime: Runtime,
    ) -> None:
        self.config, self.candidates, self.output = config, candidates, output
        self.open_embedder, self.stack, self.runtime = open_embedder, stack, runtime
        self.embedder: Embedder | None = None
        self.n_texts, self.n_truncated = 0, 0

    def make(self, index: int, parents: Mapping[str, str]) -> None:
        """Embed and write one part."""
        if self.embedder is None:
            self.runtime.log("loading the embedder")
            with self.runtime.interruptible():
                self.embedder = self.open_embedder()
            self.stack.callback(self.embedder.close)
        columns = ["prompt_id", "sample_idx", "messages", "response", "status", "reason"]
        table, _ = self.candidates.read(index, columns)
        rows = rows_of(table)
        statuses = [embedding_status(row) for row in rows]
        usable = [position for position, (status, _) in enumerate(statuses) if status == "ok"]
        found = self.embedder.embed([text_of(rows[i], self.config.text) for i in usable])
        vectors = np.zeros((len(rows), self.embedder.dim), np.float32)
        n_tokens, truncated = np.zeros(len(rows), np.int32), np.zeros(len(rows), bool)
        vectors[usable], n_tokens[usable], truncated[usable] = (
            found.vectors,
            found.n_tokens,
            found.truncated,
        )
        finite = np.asarray(np.isfinite(vectors).all(axis=1))
        vectors[~finite] = 0
        statuses = [
            status if fine else ("error", "the embedder gave a vector that is not finite")
            for status, fine in zip(statuses, finite.tolist(), strict=True)
        ]
        half = self.config.dtype == "float16"
        flat = vectors.astype(np.float16) if half else vectors
        schema = embeddings_schema(self.embedder.dim, half=half).arrow()
        written = pa.Table.from_arrays(
            [
                table["prompt_id"],
                table["sample_idx"],
                pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), self.embedder.dim),
                pa.array(n_tokens),
                pa.array(truncated),
                pa.array([status for status, _ in statuses], pa.string()),
                pa.array([reason for _, reason in statuses], pa.string()),
            ],
            schema=schema,
        )
        counts = count_by_status({"status": status} for status, _ in statuses)
        self.output.write(index, written, counts=counts, parents=parents)
        self.n_texts += len(usable)
        self.n_truncated += int(truncated.sum())


def embedding_status(row: Row) -> tuple[str, str | None]:
    """Return why a candidate has no vector, or ``ok``."""
    if row["status"] in UNUSABLE:
        return "no_response", f"generation ended with {row['status']}: {row['reason']}"
    if not (row["response"] or "").strip():
        return "empty", "the response has no text"
    return "ok", None


def text_of(row: Row, what: str) -> str:
    """Return the text that is embedded: the response, or every turn and the response, a blank line between."""
    if what == "response":
        return str(row["response"])
    return "\n\n".join([text for _, text in readable_turns(row["messages"])] + [row["response"]])
