"""The story of a run, put together from the artifacts of a folder.

Reads: every artifact it is given, as far as its parts are on disk.

Writes: nothing; `prefpipe.report.page` makes a page of it.

Promises: the same artifacts give the same story, whenever and wherever it is told. Rows are joined
by key. What cannot be read is told in its place, with the reason, and hides nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefpipe import __version__
from prefpipe.artifacts.finite_json import finite_values
from prefpipe.configs.select import SelectConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, PrefpipeError
from prefpipe.maths.compute.accelerators import ACCELERATORS
from prefpipe.report.answers import answers_of
from prefpipe.report.coverage import coverage_of
from prefpipe.report.funnel import funnel_of
from prefpipe.report.lineage import lineage_of
from prefpipe.report.maps import maps_of
from prefpipe.report.outcomes import calibrations_of, health_of, trainings_of, win_rates_of
from prefpipe.report.pools import rewards_of
from prefpipe.report.rounds import figures_by_recipe
from prefpipe.report.sources import ReportedArtifact, ReportedPool, TrainedShape, pools_of
from prefpipe.stages.select.screening import ScreeningFlags

PLAN = {
    "prompts": 60_000,
    "n": 32,
    "k": SelectConfig.k,
    "positives": SelectConfig.positives,
    "mean_prompt_tokens": 200.0,
    "mean_response_tokens": 400.0,
}
"""Where the calculator starts without a selection: UltraFeedback's prompts, AMPO's 32 responses."""
MFU = 0.4
"""Share of a GPU's peak that the calculator starts from."""
NEEDED_SUMS = ("n_groups", "n_usable", "usable_response_tokens")
"""Sums without which, or with 0, a selection makes no plan."""
COVERAGE_SETTINGS = (*ScreeningFlags._fields, "cover", "weight_temperature")
"""What coverage depends on, beside the responses and their reward."""


def tell(
    folder: str, artifacts: Sequence[ReportedArtifact], model: TrainedShape, *, n_maps: int
) -> dict[str, Any]:
    """Return the story as JSON values.

    Keys: ``folder``, ``version``, ``not_done`` (what status does not call done), ``answers`` (the
    first screen), ``pools`` (each ``name``, ``made_of``, ``funnel``, ``rewards``, ``coverage``),
    ``maps``, ``maps_left_out``, ``trainings``, ``win_rates``, ``health``, ``rounds``,
    ``calibrations``, ``savings`` and ``lineage``; see the functions that make them. A part that
    could not be made is ``{"error": message}``.

    Args:
        folder: its name.
        artifacts: of the folder, in the order of the pipeline.
        model: of the savings calculator.
        n_maps: prompts that are drawn as a map.

    Raises:
        InputError: there is no artifact.
    """
    if not artifacts:
        raise InputError(
            f"{folder} holds no artifact",
            hint="pass the folder that holds a run's artifacts, such as run/candidates",
        )
    pools = pools_of(artifacts)
    policies = [artifact for artifact in artifacts if artifact.kind == "policy"]
    maps, maps_left_out = maps_of(pools, n_maps)
    win_rates = win_rates_of(artifacts)
    story: dict[str, Any] = {
        "folder": folder,
        "version": __version__,
        "not_done": not_done(artifacts),
        "answers": answers_of(artifacts, pools, win_rates, model),
        "pools": _pool_entries(pools, policies),
        "maps": maps,
        "maps_left_out": maps_left_out,
        "trainings": trainings_of(artifacts),
        "win_rates": win_rates,
        "health": health_of(artifacts),
        "rounds": figures_by_recipe(folder, artifacts, pools),
        "calibrations": calibrations_of(artifacts),
        "savings": savings_of(pools, policies, model),
        "lineage": lineage_of(artifacts),
    }
    # JSON has no NaN.
    finite: dict[str, Any] = finite_values(story)
    return finite


def not_done(artifacts: Sequence[ReportedArtifact]) -> list[dict[str, Any]]:
    """Return every artifact that is partial, stale or corrupt: its figures are marked.

    Keys: ``name``, ``state`` and ``reasons``.
    """
    entries = []
    for artifact in artifacts:
        if artifact.state != "done":
            reasons = [reason.strip() for reason in artifact.reasons]
            entries.append({"name": artifact.name, "state": artifact.state, "reasons": reasons})
    return entries


def _pool_entries(
    pools: Sequence[ReportedPool], policies: Sequence[ReportedArtifact]
) -> list[dict[str, Any]]:
    """Return each pool's part of the story.

    Coverage takes a while: selections of the same responses by the same reward share it.
    """
    coverages: dict[Any, Any] = {}
    entries = []
    for pool in pools:
        responses = [pool.candidates, pool.scores, pool.embeddings]
        names = tuple(None if each is None else each.name for each in responses)
        settings = tuple(pool.selection.get(name) for name in COVERAGE_SETTINGS)
        key = (names, pool.earlier, pool.expression, settings)
        if key not in coverages:
            coverages[key] = _or_error(coverage_of, pool)

        chosen = None
        if pool.selection:
            chosen = {name: pool.selection.get(name) for name in ("strategy", "k", "positives")}
        entries.append(
            {
                "name": pool.name,
                "candidates": pool.candidates and pool.candidates.name,
                "made_of": [
                    *(each.name for each in (*responses, pool.groups) if each is not None),
                    *pool.earlier,
                ],
                "elsewhere": list(pool.elsewhere),
                "chosen": chosen,
                "funnel": funnel_of(pool, policies),
                "rewards": _or_error(rewards_of, pool),
                "coverage": coverages[key],
            }
        )
    return entries


def savings_of(
    pools: Sequence[ReportedPool], policies: Sequence[ReportedArtifact], model: TrainedShape
) -> dict[str, Any]:
    """Return what the calculator starts from: numbers and mean lengths of a selection.

    That is the first one that something was trained on, else the first that leaves candidates out,
    else the first.

    Keys:

    - ``sources``, one a selection that counted its tokens: ``name``, ``plan`` (as
      `prefpipe.maths.compute.training_compute.Plan`) and ``n_estimated``, responses whose tokens
      nobody counted;
    - ``start``: the place of the first one shown, None where there is none; ``plan``: its plan, or
      an example;
    - ``model``, ``accelerators``, ``mfu`` and ``shared_prompt``.
    """
    trained = {policy.parents.get("groups") for policy in policies}
    sources, wishes = [], []
    for pool in pools:
        tally = {} if pool.groups is None else _or_error(pool.groups.artifact.tally)
        # A damaged tally is an error, which has none of them.
        if not all(tally.get(name) for name in NEEDED_SUMS):
            continue
        sources.append(
            {
                "name": pool.name,
                "plan": _plan_of(tally, pool.selection),
                "n_estimated": round(tally.get("usable_estimated", 0)),
            }
        )
        keeps_all = tally["n_kept"] >= tally["n_usable"]
        wishes.append((pool.name not in trained, keeps_all))

    # False comes before True, and the first of equals wins.
    start = wishes.index(min(wishes)) if wishes else None
    accelerators = []
    for key, accelerator in ACCELERATORS.items():
        accelerators.append({"key": key, "name": accelerator.name, "tflops": accelerator.tflops})
    return {
        "plan": dict(PLAN) if start is None else sources[start]["plan"],
        "sources": sources,
        "start": start,
        "model": {"name": model.name, **model.shape._asdict()},
        "accelerators": accelerators,
        "mfu": MFU,
        "shared_prompt": TrainConfig.shared_prompt,
    }


def _plan_of(tally: Mapping[str, float], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan with the means of a selection.

    The kept ones are counted, for strategies without k keep what they like.
    """
    n_groups, n_usable = tally["n_groups"], tally["n_usable"]
    positives = int(identity.get("positives", 1))
    kept = round(tally["n_kept"] / n_groups)
    return {
        "prompts": round(n_groups),
        "n": max(round(n_usable / n_groups), 2),
        "k": max(kept - positives, 1),
        "positives": positives,
        "mean_prompt_tokens": round(tally["usable_prompt_tokens"] / n_usable, 1),
        "mean_response_tokens": round(tally["usable_response_tokens"] / n_usable, 1),
    }


def _or_error(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return what is made, or ``{"error": ...}``: one damaged file must not hide the rest."""
    try:
        return make(*arguments)
    except PrefpipeError as error:
        return {"error": error.message, "hint": error.hint}
