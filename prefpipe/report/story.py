"""The story of a run, put together from the artifacts of a folder.

Reads: every artifact it is given, as far as its parts are on disk. Writes: nothing; `prefpipe.report.page` makes a page of it.
Promises: the same artifacts give the same story, whenever and wherever it is told; rows are joined by key; what cannot be read is
told in its place, with the reason, and hides nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from prefpipe import __version__
from prefpipe.artifacts.finite_json import finite_values
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, PrefpipeError
from prefpipe.maths.compute.accelerators import ACCELERATORS
from prefpipe.maths.compute.training_compute import ModelShape
from prefpipe.report.coverage import coverage_of
from prefpipe.report.funnel import funnel_of
from prefpipe.report.lineage import lineage_of
from prefpipe.report.maps import maps_of
from prefpipe.report.outcomes import calibrations_of, health_of, trainings_of, win_rates_of
from prefpipe.report.pools import rewards_of
from prefpipe.report.sources import ReportedArtifact, ReportedPool, pools_of
from prefpipe.stages.select.screening import ScreeningFlags

PLAN = {
    "prompts": 60_000,
    "n": 32,
    "k": SelectConfig.k,
    "positives": SelectConfig.positives,
    "mean_prompt_tokens": 200.0,
    "mean_response_tokens": 400.0,
}
"""What the calculator starts from where nothing was selected yet: UltraFeedback's prompts and AMPO's 32 responses."""


class TrainedShape(NamedTuple):
    """The model whose training the calculator computes: its name, and what its FLOP depend on."""

    name: str
    shape: ModelShape


def tell(
    folder: str, found: Sequence[ReportedArtifact], model: TrainedShape, *, n_maps: int
) -> dict[str, Any]:
    """Return the story as JSON values.

    Keys: ``folder``, ``version``, ``not_done`` (what status does not call done), ``pools`` (each ``name``, ``made_of``,
    ``funnel``, ``rewards``, ``coverage``), ``maps``, ``maps_left_out``, ``trainings``, ``win_rates``, ``health``,
    ``calibrations``, ``savings`` and ``lineage``; see the functions that make them. A
    part that could not be made is ``{"error": message}``.

    Raises:
        InputError: there is no artifact.
    """
    if not found:
        raise InputError(
            f"{folder} holds no artifact",
            hint="pass the folder in which prefpipe's stages wrote theirs",
        )
    pools = pools_of(found)
    policies = [item for item in found if item.kind == "policy"]
    seen: dict[Any, Any] = {}
    maps, left_out = maps_of(pools, n_maps)
    told: dict[str, Any] = finite_values(
        {
            "folder": folder,
            "version": __version__,
            "not_done": not_done(found),
            "pools": [_pool(pool, policies, seen) for pool in pools],
            "maps": maps,
            "maps_left_out": left_out,
            "trainings": trainings_of(found),
            "win_rates": win_rates_of(found),
            "health": health_of(found),
            "calibrations": calibrations_of(found),
            "savings": savings_of(pools, policies, model),
            "lineage": lineage_of(found),
        }
    )
    return told


def not_done(found: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return ``name``, ``state`` and ``reasons`` of every artifact that is partial, stale or corrupt: its figures are marked."""
    return [
        {
            "name": item.name,
            "state": item.state,
            "reasons": [reason.strip() for reason in item.reasons],
        }
        for item in found
        if item.state != "done"
    ]


def _pool(
    pool: ReportedPool, policies: Sequence[ReportedArtifact], seen: dict[Any, Any]
) -> dict[str, Any]:
    """Return a pool's part of the story; selections of the same responses by the same reward share their coverage."""
    identity = pool.groups.artifact.record.identity if pool.groups is not None else {}
    names = tuple(
        item.name if item is not None else None
        for item in (pool.candidates, pool.scores, pool.embeddings)
    )
    key = (
        *names,
        pool.expression,
        *(identity.get(name) for name in (*ScreeningFlags._fields, "cover", "weight_temperature")),
    )
    if key not in seen:
        seen[key] = _or_error(coverage_of, pool)
    chosen = (
        {name: identity.get(name) for name in ("strategy", "k", "positives")} if identity else None
    )
    return {
        "name": pool.name,
        "candidates": pool.candidates and pool.candidates.name,
        "made_of": [
            item.name
            for item in (pool.candidates, pool.scores, pool.embeddings, pool.groups)
            if item is not None
        ],
        "elsewhere": list(pool.elsewhere),
        "chosen": chosen,
        "funnel": funnel_of(pool, policies),
        "rewards": _or_error(rewards_of, pool),
        "coverage": seen[key],
    }


def savings_of(
    pools: Sequence[ReportedPool], policies: Sequence[ReportedArtifact], model: TrainedShape
) -> dict[str, Any]:
    """Return what the calculator starts from: numbers and mean lengths of a selection.

    That is the first one that something was trained on, else the first that leaves candidates out, else the first.

    Keys: ``sources``, one a selection that counted its tokens: ``name``, ``plan`` (as
    `prefpipe.maths.compute.training_compute.Plan`) and
    ``n_estimated``, responses whose tokens nobody counted; ``start``, the place of the first one shown, None where there is
    none; ``plan``, its plan or an example; ``model``, ``accelerators``, ``mfu`` and ``shared_prompt``.
    """
    sources, tallies = [], []
    for pool in pools:
        tally = _or_error(pool.groups.artifact.tally) if pool.groups is not None else {}
        if (
            pool.groups is not None
            and tally.get("n_groups")
            and tally.get("n_usable")
            and tally.get("usable_response_tokens")
        ):
            plan = _plan_of(tally, pool.groups.artifact.record.identity)
            sources.append(
                {
                    "name": pool.name,
                    "plan": plan,
                    "n_estimated": round(tally.get("usable_estimated", 0)),
                }
            )
            tallies.append(tally)
    trained = {policy.parents.get("groups") for policy in policies}
    wishes = [source["name"] not in trained for source in sources]
    order = [
        (wish, tally["n_kept"] >= tally["n_usable"])
        for wish, tally in zip(wishes, tallies, strict=True)
    ]
    start = order.index(min(order)) if order else None
    gpus = [
        {"key": key, "name": item.name, "tflops": item.tflops} for key, item in ACCELERATORS.items()
    ]
    return {
        "plan": sources[start]["plan"] if start is not None else dict(PLAN),
        "sources": sources,
        "start": start,
        "model": {"name": model.name, **model.shape._asdict()},
        "accelerators": gpus,
        "mfu": 0.4,
        "shared_prompt": TrainConfig.shared_prompt,
    }


def _plan_of(tally: Mapping[str, float], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan with the means of a selection; the kept ones are counted, for strategies without k keep what they like."""
    n = round(tally["n_usable"] / tally["n_groups"])
    positives = int(identity.get("positives", 1))
    kept = round(tally["n_kept"] / tally["n_groups"])
    return {
        "prompts": round(tally["n_groups"]),
        "n": max(n, 2),
        "k": max(kept - positives, 1),
        "positives": positives,
        "mean_prompt_tokens": round(tally["usable_prompt_tokens"] / tally["n_usable"], 1),
        "mean_response_tokens": round(tally["usable_response_tokens"] / tally["n_usable"], 1),
    }


def _or_error(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return what is made, or ``{"error": ...}`` in its place: one damaged file must not hide the rest of the story."""
    try:
        return make(*arguments)
    except PrefpipeError as error:
        return {"error": error.message, "hint": error.hint}
