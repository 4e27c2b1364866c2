"""What rounds led to: held-out figures by round, and the rewards of what each round trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefpipe.artifacts.fingerprint import canonical_json
from prefpipe.artifacts.rounds import round_of, sampler_round_of
from prefpipe.errors import PrefpipeError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.two_level import two_level_mean
from prefpipe.report.sources import (
    ReportedArtifact,
    ReportedPool,
    parts_on_disk,
    read_pool_part,
)
from prefpipe.stages.evaluate.by_round import (
    RunEvaluations,
    evaluations_by_round,
    figures_by_round,
    recipe_of_figures,
)

FEWEST_ROUNDS = 2
"""Of one round the sections of its evaluation say it all."""


def figures_by_recipe(
    folder: str, artifacts: Sequence[ReportedArtifact], pools: Sequence[ReportedPool]
) -> list[dict[str, Any]]:
    """Return figures by round, an entry for evaluations of one recipe; [] of a single round.

    Keys: ``made_of`` (the names of the evaluations), and either ``error``, or ``figures``, those of
    `prefpipe.stages.evaluate.by_round.figures_by_round`, and ``pools``: by round ``round``,
    ``name`` of the selection, ``expression``, ``n_prompts`` and ``mean``, ``low`` and ``high`` of
    the reward of all its responses, as they were sampled before the round's training.

    Args:
        folder: the name of the run.
        artifacts: of the report.
        pools: of them.
    """
    series: dict[str, list[ReportedArtifact]] = {}
    for artifact in artifacts:
        if artifact.kind == "evaluation" and round_of(artifact.artifact.record):
            recipe = canonical_json(recipe_of_figures(artifact.artifact))
            series.setdefault(recipe, []).append(artifact)

    entries = []
    for evaluations in series.values():
        if len({round_of(each.artifact.record) for each in evaluations}) < FEWEST_ROUNDS:
            continue
        made_of = [each.name for each in evaluations]
        try:
            entries.append({"made_of": made_of, **_entry(folder, evaluations, pools)})
        except PrefpipeError as error:
            entries.append({"made_of": made_of, "error": error.message, "hint": error.hint})
    return entries


def _entry(
    folder: str, evaluations: Sequence[ReportedArtifact], pools: Sequence[ReportedPool]
) -> dict[str, Any]:
    """Return the figures of evaluations of one recipe.

    Raises:
        UsageError: two of one round.
        CorruptPartError: one is damaged.
    """
    by_round = evaluations_by_round(each.artifact for each in evaluations)
    # level, resamples and seed as the evaluations have them
    recipe = evaluations[0].identity
    bootstrap = Bootstrap(recipe["confidence"], recipe["bootstrap_draws"], recipe["bootstrap_seed"])
    figures = figures_by_round([RunEvaluations(folder, by_round)], bootstrap)
    return {"figures": figures, "pools": _rewards_of_pools(pools, bootstrap)}


def _rewards_of_pools(pools: Sequence[ReportedPool], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Return the mean reward over prompts of what each round selected from; the first of a round.

    Intervals are over its prompts, which may be other ones than the last round's.
    """
    entries: dict[int, dict[str, Any]] = {}
    for pool in pools:
        if pool.groups is None or pool.candidates is None or pool.scores is None:
            continue
        sampled_by = sampler_round_of([pool.candidates.artifact.record])
        if sampled_by is None or sampled_by + 1 in entries:
            continue

        means = [
            _means_by_prompt(read_pool_part(pool, index).rewards)
            for index in parts_on_disk(pool, needs=["scores"])
        ]
        mean = two_level_mean(np.concatenate(means or [np.empty(0)])[None], bootstrap)
        entries[sampled_by + 1] = {
            "round": sampled_by + 1,
            "name": pool.name,
            "expression": pool.expression,
            **mean._asdict(),
        }
    return [entries[number] for number in sorted(entries)]


def _means_by_prompt(rewards: np.ndarray) -> np.ndarray:
    """Return the mean reward of each prompt's responses (P,) for (P, R); NaN where none has one."""
    known = ~np.isnan(rewards)
    n_known = known.sum(axis=1)
    totals = np.where(known, rewards, 0.0).sum(axis=1)
    means = np.full(len(totals), np.nan)
    return np.asarray(np.divide(totals, n_known, out=means, where=n_known > 0))
