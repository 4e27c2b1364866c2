"""By which configuration a run was made, and from what: every artifact of the folder with its parents."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.artifacts.store import Artifact
from prefpipe.errors import PrefpipeError
from prefpipe.report.sources import ReportedArtifact
from prefpipe.stages.inspect.curves import metrics_problem
from prefpipe.stages.inspect.overview import read_summary

PARENTS_IN_IDENTITY = ("stage", "version")


def lineage_of(found: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return one entry an artifact, in the order of the pipeline.

    Keys: ``name``, ``stage``, ``schema``, ``fingerprint``, ``state``, ``reasons``, ``n_parts``, ``n_parts_missing``, ``n_rows``
    (None where a part is damaged), ``parents`` (what it was made from, to where that is), ``settings`` (as text), ``command``,
    ``versions``, ``history``, ``trouble`` (files beside the parts that are there and cannot be read).
    """
    return [_entry(item) for item in found]


def _entry(item: ReportedArtifact) -> dict[str, Any]:
    record = item.artifact.record
    versions = record.context.get("versions")
    return {
        "name": item.name,
        "stage": record.stage,
        "schema": record.schema,
        "fingerprint": record.fingerprint,
        "state": item.state,
        "reasons": list(item.reasons),
        "n_parts": record.n_parts,
        "n_parts_missing": len(item.artifact.missing()),
        "n_rows": _n_rows(item.artifact),
        "parents": dict(item.parents),
        "settings": settings_of(record.identity, record.parents),
        "command": item.command,
        "versions": dict(versions) if isinstance(versions, Mapping) else {},
        "history": list(record.history),
        "trouble": _trouble(item.artifact),
    }


def _trouble(artifact: Artifact) -> list[str]:
    """Return what is wrong with the summary and the metrics: what they hold is missing from the other sections."""
    found = [metrics_problem(artifact.path)]
    summary = artifact.path / "summary.json"
    if summary.exists() and read_summary(artifact) is None:
        found.append(f"{summary} cannot be read: it is no JSON object")
    return [problem for problem in found if problem is not None]


def _n_rows(artifact: Artifact) -> int | None:
    """Return the rows on disk, None where a damaged part does not tell."""
    try:
        return sum(artifact.counts().values())
    except PrefpipeError:
        return None


def settings_of(identity: Mapping[str, Any], parents: Mapping[str, str]) -> dict[str, str]:
    """Return what was chosen for a run, each value as text; the identities of its parents have entries of their own."""
    left_out = {*PARENTS_IN_IDENTITY, *parents}
    return {name: _text(value) for name, value in identity.items() if name not in left_out}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
