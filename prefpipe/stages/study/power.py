"""The smallest difference that a study can detect, as far as it is known before the run."""

from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefpipe.artifacts.prompts import load_prompts
from prefpipe.artifacts.store import open_input
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_steps import heldout_scores_folder, scores_folder
from prefpipe.errors import PrefpipeError
from prefpipe.maths.statistics.detectable import (
    ALPHA,
    POWER,
    Spreads,
    detectable_difference,
    error_before,
    spread_of_samples,
    spreads_of,
)
from prefpipe.stages.study.figures import declared_differences
from prefpipe.stages.study.results import rewards_by_prompt
from prefpipe.text.numbers import figure

OF_SEEDS, OF_PROMPTS = 0.1, 0.5
"""What seeds and prompts of a difference of two arms are assumed to spread by, as shares of the
spread of rewards within a prompt: 0.02 and 0.10 where that is 0.20."""
LEAST_SAMPLES = 2
DEFAULT_SAMPLES = next(item.default for item in fields(EvalConfig) if item.name == "n")


class Expected(NamedTuple):
    """What is known of a study's differences before it is run.

    ``spreads``: in units of the reward where ``is_in_rewards``, else of the spread of rewards
    within a prompt. ``basis``: where they are from.
    """

    spreads: Spreads
    n_prompts: int
    is_in_rewards: bool
    basis: str


def detectable_notes(plan: StudyPlan, folder: Path) -> list[str]:
    """Return what differences a study will find, in sentences, for `prefpipe study --dry-run`.

    Args:
        plan: of the study.
        folder: of the study; what is there already is read.
    """
    expected = _found(folder) or _assumed(plan, folder)
    if expected is None:
        return [
            (
                "detectable difference: unknown until two seeds are finished, from which the "
                "spreads are measured"
            )
        ]

    error = error_before(expected.spreads, len(plan.seeds), expected.n_prompts)
    n_tests = max(len(plan.contrasts), 1)
    alone = detectable_difference(error)
    at_holm = detectable_difference(error, n_tests=n_tests)
    unit = "" if expected.is_in_rewards else " times the spread of rewards within a prompt"
    size = f"{len(plan.seeds)} seeds, {expected.n_prompts} held-out prompts"
    found = f"{figure(alone)}{unit} with a single contrast"
    if n_tests > 1:
        at_first = f"{figure(at_holm)}{unit} at Holm's first step of {n_tests} contrasts"
        found = f"{at_first}, {found}"
    notes = [
        f"detectable difference (power {POWER:g} at {ALPHA:.0%}; {size}): {found}",
        f"with {expected.basis}",
    ]
    if len(plan.seeds) == 1:
        notes.append("one seed says nothing about others: the difference holds for that seed")
    return notes


def _found(folder: Path) -> Expected | None:
    """Return the spreads of the declared differences of which two seeds or more are done."""
    try:
        differences = list(declared_differences(folder))
    except PrefpipeError:
        return None  # no results yet
    if not differences:
        return None
    squares = np.mean([np.square(spreads_of(each)) for each in differences], axis=0)
    spreads = Spreads(*np.sqrt(squares).tolist())
    basis = f"spreads of {len(differences)} measured differences: {_words(spreads)}"
    return Expected(spreads, differences[0].shape[1], is_in_rewards=True, basis=basis)


def _assumed(plan: StudyPlan, folder: Path) -> Expected | None:
    """Return spreads in proportion to that of rewards within a prompt; None if none are known.

    Of pairs that are judged by a truth nothing is assumed.
    """
    n_prompts = _held_out_prompts(plan)
    if plan.truth is not None or n_prompts is None or n_prompts < 2:
        return None
    n_samples = int(plan.sections.get("eval", {}).get("n", DEFAULT_SAMPLES))
    within = _spread_within_prompts(plan, folder)
    unit = 1.0 if within is None else within
    spreads = Spreads(OF_SEEDS * unit, OF_PROMPTS * unit, spread_of_samples(unit, n_samples))
    basis = f"spreads of a difference assumed for seeds and prompts: {_words(spreads)}"
    return Expected(spreads, n_prompts, within is not None, basis)


def _held_out_prompts(plan: StudyPlan) -> int | None:
    """Return how many held-out prompts there are, None if they cannot be read."""
    if plan.heldout.prompts is None:
        return None
    try:
        return len(load_prompts(plan.heldout.prompts).rows)
    except PrefpipeError:
        return None  # its own step says what is wrong with it


def _spread_within_prompts(plan: StudyPlan, folder: Path) -> float | None:
    """Return by how much rewards of one prompt differ; None if nothing is rated yet.

    Those of the held-out responses, or of the pool where the same scorer rated it.
    """
    rating = plan.sections.get("eval", {})
    places = [heldout_scores_folder(plan, folder)]
    if rating.get("scorer") == plan.sections.get("score", {}).get("scorer"):
        places.append(scores_folder(plan, folder))
    for place in places:
        try:
            scores = open_input(place, schema="scores", name="scores")
            expression = rating.get("reward") or scores.record.identity["scorers"][0]["name"]
            rewards = rewards_by_prompt(scores, str(expression)).values()
        except PrefpipeError:
            continue  # not made yet
        variances = [np.var(each, ddof=1) for each in rewards if len(each) >= LEAST_SAMPLES]
        if variances:
            return float(np.sqrt(np.mean(variances)))
    return None


def _words(spreads: Spreads) -> str:
    return (
        f"{figure(spreads.seeds)} of seeds, {figure(spreads.prompts)} of prompts, "
        f"{figure(spreads.rest)} of samples"
    )
