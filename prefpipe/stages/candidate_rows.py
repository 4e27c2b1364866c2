"""What score, embed and select share: a part of candidates as rows, and the status of a row that has no response."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Artifact

Row = dict[str, Any]
UNUSABLE = ("error", "prompt_too_long")


def key_of(row: Row) -> tuple[str, int]:
    """Return the key ``(prompt_id, sample_idx)``."""
    return row["prompt_id"], row["sample_idx"]


def user_columns(table: pa.Table) -> pa.Table:
    """Return the columns that are the user's own."""
    return table.select([name for name in table.column_names if name not in CANDIDATES.column_names])


def count_by_status(rows: Iterable[Row]) -> dict[str, int]:
    """Return how many rows have each status."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return counts


def parent_digests(indices: Sequence[int], **parents: Artifact) -> dict[int, dict[str, str]]:
    """Return for each part the digests of the parent parts it is made from, by parent name."""
    return {index: {name: artifact.footer(index).data_sha256 for name, artifact in parents.items()} for index in indices}


def parent_identity(artifact: Artifact) -> dict[str, Any]:
    """Return what a parent is in its child's identity: its own, so that a difference can be named."""
    return dict(artifact.record.identity)
