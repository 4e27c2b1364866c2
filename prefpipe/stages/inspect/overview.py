"""An artifact at a glance: its columns, statuses and distributions, as JSON values."""

import json
from collections import Counter
from typing import Any

import pyarrow.compute as pc

from prefpipe.artifacts.schemas import ALIKE_EVERYWHERE, Schema, embeddings_schema
from prefpipe.artifacts.store import Artifact
from prefpipe.maths.statistics.distribution import Distribution
from prefpipe.stages.inspect.curves import read_curves
from prefpipe.stages.inspect.measures import MEASURES

SCHEMAS: dict[str, Schema] = {
    schema.name: schema for schema in (*ALIKE_EVERYWHERE, embeddings_schema(1, half=False))
}
MAX_REASONS = 20
"""Reasons listed for each status; many carry a number of their own, so that there can be one for each row."""


def overview(artifact: Artifact) -> dict[str, Any]:
    """Return what is to be known of an artifact, reading the parts on disk one by one, every byte verified.

    Keys: ``path``, ``stage``, ``schema``, ``fingerprint``, ``parts``, ``n_rows``, ``run``, ``parents``, ``columns``,
    ``statuses``, ``reasons``, ``facts``, ``distributions``, ``curves`` (training) and ``summary``, where the stage left
    a ``summary.json``.

    Raises:
        CorruptPartError: a part is damaged.
    """
    record = artifact.record
    name = record.schema.split("/")[0]
    measure = MEASURES[name]() if name in MEASURES else None
    present = artifact.present(range(artifact.n_parts), allow_partial=True)
    columns: dict[str, dict[str, Any]] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    statuses: Counter[str] = Counter()
    n_rows, n_bytes = 0, 0
    for index in present:
        table, footer = artifact.read(index)
        n_rows += table.num_rows
        n_bytes += artifact.part_path(index).stat().st_size
        statuses.update(footer.counts)
        _add_columns(columns, table, name)
        if "reason" in table.column_names:
            told = table.filter(pc.is_valid(table["reason"]))
            reasons.update(zip(told["status"].to_pylist(), told["reason"].to_pylist(), strict=True))
        if measure is not None:
            measure.add(table)
    found = measure.distributions() if measure is not None and n_rows else []
    return {
        "path": str(artifact.path),
        "stage": record.stage,
        "schema": record.schema,
        "fingerprint": record.fingerprint,
        "parts": {"n": artifact.n_parts, "n_present": len(present)},
        "n_rows": n_rows,
        "n_bytes": n_bytes,
        "run": run_facts(artifact),
        "parents": dict(record.parents),
        "columns": columns,
        "statuses": dict(statuses),
        "reasons": _by_status(reasons),
        "facts": measure.facts() if measure is not None and n_rows else {},
        "distributions": [item.to_json() for item in found],
        "summary": read_summary(artifact),
        "curves": read_curves(artifact.path),
    }


def distributions_of(found: dict[str, Any]) -> list[Distribution]:
    """Return the distributions of an ``overview`` as objects that can be plotted."""
    return [Distribution(**item) for item in found["distributions"]]


def run_facts(artifact: Artifact) -> dict[str, Any]:
    """Return the identity's plain values and what ``run.json`` recorded beside it."""
    record = artifact.record
    plain = {
        key: value
        for key, value in record.identity.items()
        if not isinstance(value, dict) and key != "stage"
    }
    return {"settings": plain, "context": dict(record.context), "history": list(record.history)}


def read_summary(artifact: Artifact) -> dict[str, Any] | None:
    """Return the ``summary.json`` that train and eval leave, or None."""
    path = artifact.path / "summary.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _add_columns(columns: dict[str, dict[str, Any]], table: Any, schema_name: str) -> None:
    schema = SCHEMAS.get(schema_name)
    meanings = (
        {column.name: column.meaning for column in schema.columns} if schema is not None else {}
    )
    for field in table.schema:
        entry = columns.setdefault(
            field.name,
            {
                "type": type_words(field.type),
                "n_null": 0,
                "meaning": meanings.get(field.name, "the user's own column"),
            },
        )
        entry["n_null"] += table[field.name].null_count


def type_words(kind: Any) -> str:
    """Return an Arrow type in few words: ``list<int32>``, ``list<struct<role, content>>``, ``float32[384]``."""
    if hasattr(kind, "list_size"):
        return f"{type_words(kind.value_type)}[{kind.list_size}]"
    if hasattr(kind, "value_type"):
        return f"list<{type_words(kind.value_type)}>"
    if hasattr(kind, "get_all_field_indices"):
        return f"struct<{', '.join(field.name for field in kind)}>"
    return str(kind)


def _by_status(reasons: Counter[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Return each status's most frequent reasons and how many rows have another."""
    result: dict[str, dict[str, Any]] = {}
    for (status, reason), count in reasons.most_common():
        entry = result.setdefault(status, {"reasons": {}, "n_rows_of_other_reasons": 0})
        if len(entry["reasons"]) < MAX_REASONS:
            entry["reasons"][reason] = count
        else:
            entry["n_rows_of_other_reasons"] += count
    return result
