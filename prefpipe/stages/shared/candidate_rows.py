"""Code shared by the stages that make or read candidates.

It covers rows, keys, duplicates, and the status of a row without a response.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.prompts import Prompts
from prefpipe.artifacts.schemas import CANDIDATES
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.tool_calls import TEMPLATE_INPUT, template_input_of

Row = dict[str, Any]
Key = tuple[str, int]
"""``(prompt_id, sample_idx)``."""
UNUSABLE = ("error", "prompt_too_long")
REASONING = "response_reasoning"
"""Column of candidates of a model that thinks: what it thought before the response.

Of a server it is what that returned apart from the response, empty where it keeps that to itself.
Null where there was none.
"""

OF_RESPONSES = (REASONING,)
"""Columns beyond the schema's that belong to a response; all others belong to its prompt."""


def key_of(row: Row) -> Key:
    """Return the key ``(prompt_id, sample_idx)``."""
    return row["prompt_id"], row["sample_idx"]


def further_columns(table: pa.Table) -> pa.Table:
    """Return the columns of candidates that their schema does not name.

    Those are the user's own, `REASONING` and `TEMPLATE_INPUT`.
    """
    names = [name for name in table.column_names if name not in CANDIDATES.column_names]
    return table.select(names)


def user_columns(table: pa.Table) -> pa.Table:
    """Return the columns beside the candidates, without what belongs to their prompts."""
    names = [name for name in further_columns(table).column_names if name != TEMPLATE_INPUT]
    return table.select(names)


def count_by_status(rows: Iterable[Row]) -> dict[str, int]:
    """Return how many rows have each status."""
    return dict(Counter(row["status"] for row in rows))


def parent_digests(indices: Sequence[int], **parents: Artifact) -> dict[int, dict[str, str]]:
    """Return for each part the digests of the parent parts it is made from, by parent name."""
    digests: dict[int, dict[str, str]] = {}
    for index in indices:
        digests[index] = {
            name: artifact.footer(index).data_sha256 for name, artifact in parents.items()
        }
    return digests


def parent_identity(artifact: Artifact) -> dict[str, Any]:
    """Return a parent's entry in its child's identity.

    That is its own identity, so that a difference can be named.
    """
    return dict(artifact.record.identity)


def mark_duplicates(rows: Sequence[Row]) -> int:
    """Fill ``duplicate_of``; return how many rows have one.

    It is the lowest sample index of the same prompt and text.
    """
    first_idx: dict[tuple[str, str], int] = {}
    n_duplicates = 0
    # The first of a text is the lowest index, so that what an extension adds is the copy.
    for row in sorted(rows, key=lambda row: row["sample_idx"]):
        row["duplicate_of"] = None
        if row["response"] is None:
            continue
        text = (row["prompt_id"], row["response"])
        original = first_idx.setdefault(text, row["sample_idx"])
        if original != row["sample_idx"]:
            row["duplicate_of"] = original
            n_duplicates += 1
    return n_duplicates


def table_of_rows(
    rows: Sequence[Row], prompts: Prompts, *, keeps_reasoning: bool = False
) -> pa.Table:
    """Return the part's table, each row with its prompt's user columns.

    Where any prompt of the file has tools or tool calls, `TEMPLATE_INPUT` is behind prefpipe's
    own columns.

    Args:
        rows: rows with the columns of ``candidates``, and `REASONING` where they are to keep it.
        prompts: the prompts that the rows answer.
        keeps_reasoning: whether `REASONING` is behind prefpipe's own columns as well.
    """
    schema = CANDIDATES.arrow()
    if keeps_reasoning:
        schema = schema.append(pa.field(REASONING, pa.string()))
    if prompts.carries_tools:
        schema = schema.append(pa.field(TEMPLATE_INPUT, pa.string()))
        rows = [row | {TEMPLATE_INPUT: template_input_of(row["messages"])} for row in rows]
    table = pa.Table.from_pylist(list(rows), schema=schema)

    # The user's columns belong to prompts: each row has those of its prompt.
    position = {prompt.prompt_id: number for number, prompt in enumerate(prompts.rows)}
    positions = pa.array([position[row["prompt_id"]] for row in rows], pa.int64())
    columns = prompts.columns.take(positions)
    for field, column in zip(columns.schema, columns.columns, strict=True):
        table = table.append_column(field, column)
    return table
