"""Where the rows of a run went, stage by stage, from what the parts on disk counted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefpipe.errors import PrefpipeError
from prefpipe.report.sources import ReportedArtifact, ReportedPool
from prefpipe.stages.select.tally import LEFT_OUT, REJECTED

GOES_ON = {"candidates": ("truncated",), "policy": ("truncated", "held_out")}
"""Statuses beside ``ok`` with which a row goes on, by kind of artifact."""


def funnel_of(pool: ReportedPool, policies: Sequence[ReportedArtifact]) -> dict[str, Any]:
    """Return the steps of a pool, in responses and in prompts.

    Keys: ``responses`` and ``prompts``, each a list of steps with ``step``, ``artifact``, ``n_in``, ``n_out`` and ``reasons``,
    a mapping from why rows went no further to how many they are; ``n_in = n_out + sum(reasons)``. A step of which a part is
    damaged has ``error`` in place of numbers.
    """
    responses = [
        _or_error(item, _counted)
        for item in (pool.candidates, pool.scores, pool.embeddings)
        if item is not None
    ]
    prompts = []
    if pool.groups is not None:
        responses.append(_or_error(pool.groups, _selected))
        prompts.append(_or_error(pool.groups, _selected_prompts))
        trained = (item for item in policies if item.parents.get("groups") == pool.groups.name)
        responses += [_or_error(item, lambda item: _trained(item, pool.groups)) for item in trained]
    return {"responses": responses, "prompts": prompts}


def _or_error(
    found: ReportedArtifact, count: Callable[[ReportedArtifact], dict[str, Any]]
) -> dict[str, Any]:
    try:
        return count(found)
    except PrefpipeError as error:
        return {"step": found.artifact.record.stage, "artifact": found.name, "error": error.message}


def _selected(groups: ReportedArtifact) -> dict[str, Any]:
    """Return the candidates that were kept; usable ones of prompts without a group are lost by that name."""
    tally = groups.artifact.tally()
    n_in, n_out, lost = (
        tally.get("n_candidates", 0),
        tally.get("n_kept", 0),
        _under(tally, LEFT_OUT),
    )
    rest = n_in - n_out - sum(lost.values())
    return _step(groups, n_in, n_out, lost | ({"prompt_without_group": rest} if rest > 0 else {}))


def _selected_prompts(groups: ReportedArtifact) -> dict[str, Any]:
    tally = groups.artifact.tally()
    return _step(
        groups, tally.get("n_prompts", 0), tally.get("n_groups", 0), _under(tally, REJECTED)
    )


def _trained(policy: ReportedArtifact, groups: ReportedArtifact | None) -> dict[str, Any]:
    """Return a training's step without the one row that stands for each prompt that select rejected: it is no response."""
    step = _counted(policy)
    rejected = groups.artifact.counts() if groups is not None else {}
    reasons = {name: count - rejected.get(name, 0) for name, count in step["reasons"].items()}
    reasons = {name: count for name, count in reasons.items() if count > 0}
    return step | {"reasons": reasons, "n_in": step["n_out"] + sum(reasons.values())}


def _counted(found: ReportedArtifact) -> dict[str, Any]:
    """Return a step of which each row has a status."""
    counts = found.artifact.counts()
    good = {name: counts.pop(name, 0) for name in ("ok", *GOES_ON.get(found.kind, ()))}
    kept = sum(good.values())
    step_of = _step(found, kept + sum(counts.values()), kept, counts)
    return step_of | {"kept_as": {name: count for name, count in good.items() if count}}


def _step(
    found: ReportedArtifact, n_in: float, n_out: float, reasons: Mapping[str, float]
) -> dict[str, Any]:
    ordered = dict(
        sorted(
            ((name, round(count)) for name, count in reasons.items() if count),
            key=lambda item: -item[1],
        )
    )
    scorers = found.artifact.record.identity.get("scorers", ()) if found.kind == "scores" else ()
    several = (
        f", {len(scorers)} scorers" if len(scorers) > 1 else ""
    )  # a response has a row for each
    return {
        "step": found.artifact.record.stage + several,
        "artifact": found.name,
        "n_in": round(n_in),
        "n_out": round(n_out),
        "reasons": ordered,
        "n_parts_missing": len(found.artifact.missing()),
        "kept_as": {},
    }


def _under(tally: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value for name, value in tally.items() if name.startswith(prefix)
    }
