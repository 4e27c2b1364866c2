"""An artifact at a glance: its columns, statuses and distributions, as JSON values."""

import json
from collections import Counter
from typing import Any

import polars as pl
import pyarrow as pa

from prefpipe.artifacts.schemas import ALIKE_EVERYWHERE, EARLIER_COLUMNS, Schema, embeddings_schema
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.errors import UsageError
from prefpipe.maths.statistics.distribution import N_BINS, Distribution
from prefpipe.stages.inspect.curves import read_curves
from prefpipe.stages.inspect.measures import MEASURES, GroupMeasure

SCHEMAS: dict[str, Schema] = {
    schema.name: schema for schema in (*ALIKE_EVERYWHERE, embeddings_schema(1, half=False))
}
MAX_REASONS = 20
"""Reasons listed for each status: many carry their own number, one for each row."""


def overview(
    artifact: Artifact, *, gamma: float | None = None, n_bins: int | None = None
) -> dict[str, Any]:
    """Return the overview of an artifact.

    Args:
        artifact: of any kind.
        gamma: of groups: MMPO's, for the targets that it would make of their pairs; None: no
            targets.
        n_bins: of their distribution, None: 10.

    The parts on disk are read one by one, every byte verified.

    Keys: ``path``, ``stage``, ``schema``, ``fingerprint``, ``parts``, ``n_rows``, ``n_bytes``,
    ``engines``, ``run``, ``parents``, ``columns``, ``statuses``, ``reasons``, ``facts``,
    ``distributions``, ``curves`` (training) and ``summary``, where the stage left a
    ``summary.json``.

    Raises:
        CorruptPartError: a part is damaged.
        UsageError: a gamma, and the artifact holds no groups.
    """
    record = artifact.record
    kind = record.schema.split("/")[0]
    measure = MEASURES[kind]() if kind in MEASURES else None
    if gamma is not None:
        if kind != "groups":
            raise UsageError(f"--gamma applies only to groups, and {artifact.path} holds {kind}")
        measure = GroupMeasure(gamma, n_bins or N_BINS)
    present = artifact.present(range(artifact.n_parts), allow_partial=True)

    columns: dict[str, dict[str, Any]] = {}
    statuses: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    engines: set[str] = set()
    n_rows, n_bytes = 0, 0
    for index in artifact.in_turn(present):
        table, footer = artifact.read(index)
        n_rows += table.num_rows
        version = artifact.file_version(index)
        n_bytes += 0 if version is None else version.n_bytes
        statuses.update(footer.counts)
        engines.update(footer.engines)
        _add_columns(columns, table, kind)
        _add_reasons(reasons, table)
        if measure is not None:
            measure.add(table)

    facts: dict[str, Any] = {}
    distributions: list[Distribution] = []
    if measure is not None and n_rows:
        facts = measure.facts()
        distributions = measure.distributions()
    return {
        "path": str(artifact.path),
        "stage": record.stage,
        "schema": record.schema,
        "fingerprint": record.fingerprint,
        "parts": {"n": artifact.n_parts, "n_present": len(present)},
        "n_rows": n_rows,
        "n_bytes": n_bytes,
        "engines": sorted(engines),
        "run": run_facts(artifact),
        "parents": dict(record.parents),
        "columns": columns,
        "statuses": dict(statuses),
        "reasons": _by_status(reasons),
        "facts": facts,
        "distributions": [distribution.to_json() for distribution in distributions],
        "summary": read_summary(artifact),
        "curves": read_curves(artifact.path),
    }


def run_facts(artifact: Artifact) -> dict[str, Any]:
    """Return the identity's plain values and what ``run.json`` recorded beside it."""
    record = artifact.record
    settings = {
        key: value
        for key, value in record.identity.items()
        if not isinstance(value, dict) and key != "stage"
    }
    return {"settings": settings, "context": dict(record.context), "history": list(record.history)}


def read_summary(artifact: Artifact) -> dict[str, Any] | None:
    """Return the ``summary.json`` that some stages leave, None if there is none to read."""
    path = artifact.path / SUMMARY_FILE
    try:
        summary = json.loads(files.read(path))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def type_words(kind: Any) -> str:
    """Return an Arrow type in few words: ``list<int32>``, ``struct<role>``, ``float32[384]``."""
    if hasattr(kind, "list_size"):
        return f"{type_words(kind.value_type)}[{kind.list_size}]"
    if hasattr(kind, "value_type"):
        return f"list<{type_words(kind.value_type)}>"
    if hasattr(kind, "get_all_field_indices"):
        return f"struct<{', '.join(field.name for field in kind)}>"
    return str(kind)


def _add_columns(columns: dict[str, dict[str, Any]], table: pa.Table, kind: str) -> None:
    """Count the nulls of a part's columns; describe new ones."""
    schema = SCHEMAS.get(kind)
    meanings = {}
    if schema is not None:
        known = [*schema.columns, *(EARLIER_COLUMNS if kind == "groups" else ())]
        meanings = {column.name: column.meaning for column in known}

    for field in table.schema:
        if field.name not in columns:
            columns[field.name] = {
                "type": type_words(field.type),
                "n_null": 0,
                "meaning": meanings.get(field.name, "the user's own column"),
            }
        columns[field.name]["n_null"] += table[field.name].null_count


def _add_reasons(reasons: Counter[tuple[str, str]], table: pa.Table) -> None:
    """Count a part's rows with a reason by status and reason."""
    if "reason" not in table.column_names:
        return
    rows = pl.DataFrame(table.select(["status", "reason"])).drop_nulls("reason")
    counts = rows.group_by("status", "reason", maintain_order=True).len()
    for status, reason, n in counts.iter_rows():
        reasons[status, reason] += n


def _by_status(reasons: Counter[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Return each status's most frequent reasons and how many rows have another."""
    by_status: dict[str, dict[str, Any]] = {}
    for (status, reason), count in reasons.most_common():
        entry = by_status.setdefault(status, {"reasons": {}, "n_rows_of_other_reasons": 0})
        if len(entry["reasons"]) < MAX_REASONS:
            entry["reasons"][reason] = count
        else:
            entry["n_rows_of_other_reasons"] += count
    return by_status
