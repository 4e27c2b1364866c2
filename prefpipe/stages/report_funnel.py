"""Where the rows of a run went, stage by stage, from what the parts on disk counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefpipe.stages.report_sources import Found, Pool
from prefpipe.stages.selection_tally import LEFT_OUT, REJECTED

GOOD = {"candidates": ("truncated",), "policy": ("truncated", "held_out")}
"""Statuses beside ``ok`` with which a row goes on, by kind of artifact."""


def funnel_of(pool: Pool, policies: Sequence[Found]) -> dict[str, Any]:
    """Return the steps of a pool, in responses and in prompts.

    Keys: ``responses`` and ``prompts``, each a list of steps with ``step``, ``artifact``, ``n_in``, ``n_out`` and ``reasons``,
    a mapping from why rows went no further to how many they are; ``n_in = n_out + sum(reasons)``.
    """
    responses = [_counted(item) for item in (pool.candidates, pool.scores, pool.embeddings) if item is not None]
    prompts = []
    if pool.groups is not None:
        tally = pool.groups.artifact.tally()
        responses.append(_step("select", pool.groups, tally.get("n_candidates", 0), tally.get("n_kept", 0), _lost(tally, pool)))
        prompts.append(_step("select", pool.groups, tally.get("n_prompts", 0), tally.get("n_groups", 0), _under(tally, REJECTED)))
        rejected = pool.groups.artifact.counts()
        trained = (_counted(item) for item in policies if item.parents.get("groups") == pool.groups.name)
        responses += [_without_prompts(step, rejected) for step in trained]
    return {"responses": responses, "prompts": prompts}


def _counted(found: Found) -> dict[str, Any]:
    """Return a step of which each row has a status."""
    counts = found.artifact.counts()
    good = {name: counts.pop(name, 0) for name in ("ok", *GOOD.get(found.kind, ()))}
    kept = sum(good.values())
    step_of = _step(found.artifact.record.stage, found, kept + sum(counts.values()), kept, counts)
    return step_of | {"kept_as": {name: count for name, count in good.items() if count}}


def _without_prompts(step: dict[str, Any], rejected: Mapping[str, int]) -> dict[str, Any]:
    """Return a training's step without the one row that stands for each prompt that select rejected: it is no response."""
    reasons = {name: count - (rejected.get(name, 0) if name != "ok" else 0) for name, count in step["reasons"].items()}
    reasons = {name: count for name, count in reasons.items() if count > 0}
    return step | {"reasons": reasons, "n_in": step["n_out"] + sum(reasons.values())}


def _step(step: str, found: Found, n_in: float, n_out: float, reasons: Mapping[str, float]) -> dict[str, Any]:
    ordered = dict(sorted(((name, round(count)) for name, count in reasons.items() if count), key=lambda item: -item[1]))
    missing = len(found.artifact.missing())
    return {"step": step, "artifact": found.name, "n_in": round(n_in), "n_out": round(n_out), "reasons": ordered,
            "n_parts_missing": missing, "kept_as": {}}  # fmt: skip


def _under(tally: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in tally.items() if name.startswith(prefix)}


def _lost(tally: Mapping[str, float], pool: Pool) -> dict[str, float]:
    """Return why candidates were not kept; usable ones of prompts without a group stand by that name."""
    lost = _under(tally, LEFT_OUT)
    rest = tally.get("n_candidates", 0) - tally.get("n_kept", 0) - sum(lost.values())
    assert pool.groups is not None
    return lost | ({"prompt_without_group": rest} if rest > 0 else {})
