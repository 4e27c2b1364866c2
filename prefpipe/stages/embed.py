"""Embed responses.

Reads: ``candidates``.
Writes: ``embeddings``, one row for every candidate, vectors of fixed size that NumPy reads without
a copy.
Promises: rows follow the order of the candidates; a response that the embedder truncated is marked.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from prefpipe.artifacts.run_record import MADE_WITH, RunRecord, ingredient
from prefpipe.artifacts.schemas import CANDIDATES, embeddings_schema
from prefpipe.artifacts.storage.location import Location
from prefpipe.artifacts.store import Artifact, Output, open_input, refuse_nesting
from prefpipe.artifacts.tool_calls import rows_of
from prefpipe.backends.protocol import Embedder
from prefpipe.configs.embed import EmbedConfig
from prefpipe.execution.lazy_engine import MOST_OPEN, LazyEngine
from prefpipe.execution.part_maker import Tally
from prefpipe.execution.runtime import Runtime
from prefpipe.stages.shared.candidate_rows import (
    UNUSABLE,
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
from prefpipe.text.begun_turns import answered
from prefpipe.text.numbers import per_second
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
    # The tag names no dimensions: those are known when the embedder is loaded.
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
    output = open_stage_output(config, record, runtime)

    summary = Summary(config.stage, config.output)
    started = time.perf_counter()
    with LazyEngine(
        open_embedder, runtime, "loading the embedder", most_open=MOST_OPEN
    ) as embedder:
        maker = EmbeddingMaker(config, candidates, output, embedder, parents)
        loop_over_parts(
            config,
            output,
            maker,
            runtime,
            summary,
            indices=indices,
            parents_of=parents.__getitem__,
        )

    if summary.n_parts_made:
        describe(summary, time.perf_counter() - started)
    check_error_rate(summary, FAILING, config.max_error_rate)
    return summary


def _made_with(config: EmbedConfig, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the model, if it has files, so that ``status`` can tell when they changed."""
    if "content_hash" not in identity:
        return []
    return [ingredient("model", config.model, identity)]


class TextsToEmbed(NamedTuple):
    """The inputs of one part.

    ``keys``: its candidates' ``prompt_id`` and ``sample_idx``; ``statuses``: status and reason of
    each; ``usable``: the places of those that have a text; ``texts``: theirs.
    """

    keys: pa.Table
    statuses: list[tuple[str, str | None]]
    usable: Sequence[int]
    texts: Sequence[str]


class EmbeddingMaker:
    """Makes the parts of ``embeddings``."""

    def __init__(
        self,
        config: EmbedConfig,
        candidates: Artifact,
        output: Output,
        embedder: LazyEngine[Embedder],
        parents: Mapping[int, Mapping[str, str]],
    ) -> None:
        self.config, self.candidates = config, candidates
        self.output, self.embedder, self.parents = output, embedder, parents

    def has_room(self, n_open: int) -> bool:
        """Return whether the embedder would be idle without another part."""
        return self.embedder.has_room(n_open)

    def size_of(self, index: int) -> int:
        """Return how many candidates a part is made from."""
        return self.candidates.footer(index).n_rows

    def inputs_of(self, index: int) -> list[Location]:
        """Return the parts that a part is made from."""
        return [self.candidates.part_path(index)]

    def prepare(self, index: int) -> TextsToEmbed:
        """Read the candidates of a part, and collect their texts."""
        columns = ["prompt_id", "sample_idx", "messages", "response", "status", "reason"]
        candidates, _ = self.candidates.read(index, columns)
        rows = rows_of(candidates)

        statuses = [embedding_status(row) for row in rows]
        usable = [place for place, (status, _) in enumerate(statuses) if status == "ok"]
        texts = [text_of(rows[place], self.config.text) for place in usable]
        return TextsToEmbed(candidates.select(["prompt_id", "sample_idx"]), statuses, usable, texts)

    def complete(self, index: int, prepared: TextsToEmbed) -> Tally:
        """Embed and write a part."""
        keys, statuses, usable, texts = prepared
        # Loaded even for a part without a text: its vectors of zeros have a length, too.
        embedder = self.embedder.get()
        embedded = embedder.embed(texts)

        # a candidate without a text has a vector of zeros: the column has no nulls
        vectors_ND = np.zeros((keys.num_rows, embedder.dim), np.float32)
        n_tokens = np.zeros(keys.num_rows, np.int32)
        truncated = np.zeros(keys.num_rows, bool)
        vectors_ND[usable] = embedded.vectors
        n_tokens[usable] = embedded.n_tokens
        truncated[usable] = embedded.truncated

        is_finite = np.isfinite(vectors_ND).all(axis=1)
        vectors_ND[~is_finite] = 0
        for place in np.flatnonzero(~is_finite):
            statuses[place] = ("error", "the embedder returned a vector that is not finite")

        is_half = self.config.dtype == "float16"
        if is_half:
            vectors_ND = vectors_ND.astype(np.float16)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), embedder.dim)
        table = pa.Table.from_arrays(
            [
                keys["prompt_id"],
                keys["sample_idx"],
                vectors,
                pa.array(n_tokens),
                pa.array(truncated),
                pa.array([status for status, _ in statuses], pa.string()),
                pa.array([reason for _, reason in statuses], pa.string()),
            ],
            schema=embeddings_schema(embedder.dim, half=is_half).arrow(),
        )
        counts = count_by_status({"status": status} for status, _ in statuses)
        self.output.write(index, table, counts=counts, parents=self.parents[index])
        return {"n_texts": len(texts), "n_truncated": int(truncated.sum())}


def describe(summary: Summary, elapsed_s: float) -> None:
    """Add the figures of this call to a summary."""
    n_texts = int(summary.counted_now.get("n_texts", 0))
    n_truncated = int(summary.counted_now.get("n_truncated", 0))
    summary.notes.append(
        f"{n_texts:,} texts in {elapsed_s:.1f} s ({per_second(n_texts / elapsed_s)} texts/s)"
    )
    share = n_truncated / max(1, n_texts)
    summary.notes.append(
        f"{n_truncated:,} texts ({share:.1%}) exceeded the embedder's limit and were cut"
    )
    summary.facts |= {"n_truncated": n_truncated, "elapsed_s": elapsed_s}


def embedding_status(row: Row) -> tuple[str, str | None]:
    """Return why a candidate has no vector, or ``ok``."""
    if row["status"] in UNUSABLE:
        return "no_response", f"generation ended with {row['status']}: {row['reason']}"
    if not (row["response"] or "").strip():
        return "empty", "the response has no text"
    return "ok", None


def text_of(row: Row, which: str) -> str:
    """Return the text that is embedded.

    That is the response, or every turn and the response with a blank line between.
    """
    if which == "response":
        return str(row["response"])
    turns = answered(row["messages"], row["response"])
    return "\n\n".join(text for _, text in readable_turns(turns))
