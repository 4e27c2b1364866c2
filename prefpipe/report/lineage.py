"""The configuration and inputs of a run: every artifact with its parents."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.artifacts.storage import files
from prefpipe.artifacts.store import Artifact
from prefpipe.artifacts.summary_file import SUMMARY_FILE
from prefpipe.errors import PrefpipeError
from prefpipe.report.sources import ReportedArtifact
from prefpipe.stages.inspect.curves import metrics_problem
from prefpipe.stages.inspect.overview import read_summary

NOT_SETTINGS = ("stage", "version")
"""Fields of an identity that are not settings."""


def lineage_of(artifacts: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return one entry an artifact, in the order of the pipeline.

    Keys:

    - ``name``, ``stage``, ``schema``, ``fingerprint``, ``state``, ``reasons``;
    - ``n_parts``, ``n_parts_missing`` and ``n_rows`` (None if a part is damaged);
    - ``parents``: what it was made from, to where that is;
    - ``settings`` (as text), ``command``, ``versions``, ``history``;
    - ``trouble``: files beside the parts that cannot be read.
    """
    return [_entry(artifact) for artifact in artifacts]


def _entry(reported: ReportedArtifact) -> dict[str, Any]:
    artifact, record = reported.artifact, reported.artifact.record
    versions = record.context.get("versions")
    return {
        "name": reported.name,
        "stage": record.stage,
        "schema": record.schema,
        "fingerprint": record.fingerprint,
        "state": reported.state,
        "reasons": list(reported.reasons),
        "n_parts": record.n_parts,
        "n_parts_missing": len(artifact.missing()),
        "n_rows": _n_rows(artifact),
        "parents": dict(reported.parents),
        "settings": settings_of(record.identity, record.parents),
        "command": reported.command,
        "versions": dict(versions) if isinstance(versions, Mapping) else {},
        "history": list(record.history),
        "trouble": _trouble(artifact),
    }


def settings_of(identity: Mapping[str, Any], parents: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a run, each value as text.

    The identities of its parents have their own entries.
    """
    settings = {}
    for name, value in identity.items():
        if name in NOT_SETTINGS or name in parents:
            continue
        is_text = isinstance(value, str)
        settings[name] = value if is_text else json.dumps(value, ensure_ascii=False)
    return settings


def _n_rows(artifact: Artifact) -> int | None:
    """Return the rows on disk; None if a part is damaged."""
    try:
        return sum(artifact.counts().values())
    except PrefpipeError:
        return None


def _trouble(artifact: Artifact) -> list[str]:
    """Return the problems of summary and metrics, which the other sections do not show."""
    problems = []
    metrics = metrics_problem(artifact.path)
    if metrics is not None:
        problems.append(metrics)
    summary = artifact.path / SUMMARY_FILE
    if files.is_file(summary) and read_summary(artifact) is None:
        problems.append(f"{summary} cannot be read: it is not a JSON object")
    return problems
