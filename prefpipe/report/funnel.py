"""Where the rows of a run went, stage by stage, from the tallies of the parts on disk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefpipe.errors import PrefpipeError
from prefpipe.report.sources import ReportedArtifact, ReportedPool
from prefpipe.stages.select.tally import LEFT_OUT, REJECTED

GOES_ON = {"candidates": ("truncated",), "policy": ("truncated", "held_out")}
"""Statuses beside ``ok`` with which a row continues, by kind of artifact."""

Step = dict[str, Any]


def funnel_of(pool: ReportedPool, policies: Sequence[ReportedArtifact]) -> dict[str, list[Step]]:
    """Return the steps of a pool, in ``responses`` and in ``prompts``.

    A step has ``step``, ``artifact``, ``n_in``, ``n_out`` and ``reasons``, a mapping from reasons
    why rows stopped to their numbers: ``n_in = n_out + sum(reasons)``. A step with a damaged part
    has ``error`` instead of numbers.
    """
    sampled = (pool.candidates, pool.scores, pool.embeddings)
    responses = [_or_error(artifact, _counted) for artifact in sampled if artifact is not None]
    groups = pool.groups
    if groups is None:
        return {"responses": responses, "prompts": []}

    responses.append(_or_error(groups, _selected))
    trained = [policy for policy in policies if policy.parents.get("groups") == groups.name]
    responses += [_or_error(policy, lambda policy: _trained(policy, groups)) for policy in trained]
    return {"responses": responses, "prompts": [_or_error(groups, _selected_prompts)]}


def _or_error(artifact: ReportedArtifact, count: Callable[[ReportedArtifact], Step]) -> Step:
    """Return an artifact's step, or the error in its place."""
    try:
        return count(artifact)
    except PrefpipeError as error:
        return {
            "step": artifact.artifact.record.stage,
            "artifact": artifact.name,
            "error": error.message,
        }


def _counted(artifact: ReportedArtifact) -> Step:
    """Return a step whose rows each have a status."""
    counts = artifact.artifact.counts()
    kept_as = {}
    for status in ("ok", *GOES_ON.get(artifact.kind, ())):
        count = counts.pop(status, 0)
        if count:
            kept_as[status] = count

    n_kept, n_lost = sum(kept_as.values()), sum(counts.values())
    return _step(artifact, n_kept + n_lost, n_kept, counts) | {"kept_as": kept_as}


def _selected(groups: ReportedArtifact) -> Step:
    """Return the candidates that were kept; usable ones of rejected prompts have their own name."""
    tally = groups.artifact.tally()
    n_in, n_out = tally.get("n_candidates", 0), tally.get("n_kept", 0)
    reasons = _under(tally, LEFT_OUT)
    n_without_group = n_in - n_out - sum(reasons.values())
    if n_without_group > 0:
        reasons["prompt_without_group"] = n_without_group
    step = _step(groups, n_in, n_out, reasons)
    if "n_earlier" in tally:
        step["step"] += f", {tally['n_earlier']:,} of earlier rounds"
    return step


def _selected_prompts(groups: ReportedArtifact) -> Step:
    """Return the prompts that got a group."""
    tally = groups.artifact.tally()
    n_in, n_out = tally.get("n_prompts", 0), tally.get("n_groups", 0)
    return _step(groups, n_in, n_out, _under(tally, REJECTED))


def _trained(policy: ReportedArtifact, groups: ReportedArtifact) -> Step:
    """Return the responses that were trained on.

    The single row of a prompt that select rejected is not a response and is left out.
    """
    step = _counted(policy)
    rejected = groups.artifact.counts()
    reasons = {}
    for name, count in step["reasons"].items():
        n_responses = count - rejected.get(name, 0)
        if n_responses > 0:
            reasons[name] = n_responses
    return step | {"reasons": reasons, "n_in": step["n_out"] + sum(reasons.values())}


def _step(
    artifact: ReportedArtifact, n_in: float, n_out: float, reasons: Mapping[str, float]
) -> Step:
    rounded = {name: round(count) for name, count in reasons.items() if count}
    most_first = sorted(rounded.items(), key=lambda item: -item[1])

    stage = artifact.artifact.record.stage
    if artifact.kind == "scores":
        n_scorers = len(artifact.identity.get("scorers", ()))
        if n_scorers > 1:
            stage += f", {n_scorers} scorers"  # a response has a row for each
    return {
        "step": stage,
        "artifact": artifact.name,
        "n_in": round(n_in),
        "n_out": round(n_out),
        "reasons": dict(most_first),
        "n_parts_missing": len(artifact.artifact.missing()),
        "kept_as": {},
    }


def _under(tally: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Return the sums whose name has this prefix, by the rest of their name."""
    return {
        name.removeprefix(prefix): value for name, value in tally.items() if name.startswith(prefix)
    }
