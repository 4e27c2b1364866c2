"""What a study will be able to tell, before it is run: assumed spreads, rated responses, and the seeds that are done."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.finished_run import command
from support.pipelines import write_prompts
from support.study_tables import N_PROMPTS, PLAN, write_study

from prefpipe.configs.study_plan import StudyPlan
from prefpipe.maths.statistics.detectable import (
    Spreads,
    detectable_difference,
    error_before,
    spreads_of,
)
from prefpipe.stages.study.figures import declared_differences
from prefpipe.stages.study.power import detectable_notes

N_HELD_OUT = 50


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    prompts = write_prompts(tmp_path / "heldout.jsonl", N_HELD_OUT)
    return changed({"heldout": {"prompts": str(prompts)}, "eval": {"scorer": "fake", "n": 4}})


def changed(changes: dict[str, Any]) -> StudyPlan:
    return StudyPlan.from_values({**PLAN, **changes}, name="plan.yaml")


def numbers(notes: list[str]) -> tuple[float, float]:
    """Return the differences at Holm's first step and of one contrast alone."""
    found = re.search(r": ([\d.]+)\D* at Holm's first step of 2 contrasts, ([\d.]+)", notes[0])
    assert found, notes
    return float(found[1]), float(found[2])


def test_before_anything_is_rated_it_is_in_units_of_the_spread_within_a_prompt(
    plan: StudyPlan, tmp_path: Path
) -> None:
    """Seeds 0.1 and prompts 0.5 of it, and four samples of each arm a prompt."""
    notes = detectable_notes(plan, tmp_path / "study")
    error = error_before(Spreads(0.1, 0.5, np.sqrt(2 / 4)), 3, N_HELD_OUT)
    expected = [detectable_difference(error, n_tests=n) for n in (2, 1)]
    assert numbers(notes) == pytest.approx(expected, rel=1e-3)
    assert "times the spread of rewards within a prompt" in notes[0]
    assert f"3 seeds, {N_HELD_OUT} held-out prompts" in notes[0]
    assert "assumed" in notes[1]


def test_one_contrast_is_said_once(plan: StudyPlan, tmp_path: Path) -> None:
    alone = replace(plan, contrasts=plan.contrasts[:1])
    error = error_before(Spreads(0.1, 0.5, np.sqrt(2 / 4)), 3, N_HELD_OUT)
    [note, _] = detectable_notes(alone, tmp_path / "study")
    found = re.search(r"prompts\): ([\d.]+) times the spread of \D* with a single contrast$", note)
    assert found, note
    assert float(found[1]) == pytest.approx(detectable_difference(error), rel=1e-3)


def test_rated_responses_give_the_spread_within_a_prompt(plan: StudyPlan, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    candidates, scores = str(folder / "heldout/candidates"), str(folder / "heldout/scores")
    sampling = ["--backend", "fake", "--model", "fake", "--n", "3", "--max-tokens", "8"]
    command(["generate", str(plan.heldout.prompts), "-o", candidates, *sampling])
    command(["score", candidates, "-o", scores, "--scorer", "fake"])
    in_units = numbers(detectable_notes(plan, tmp_path / "elsewhere"))
    notes = detectable_notes(plan, folder)
    assert "times the spread" not in notes[0]
    [within] = {round(one / unit, 3) for one, unit in zip(numbers(notes), in_units, strict=True)}
    # the fake's rewards lie in [0, 1]
    assert 0.1 < within < 0.5


def test_seeds_that_are_done_give_their_own_spreads(plan: StudyPlan, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_study(folder)
    found = np.array([spreads_of(values) for values in declared_differences(folder)])
    assert found.shape == (4, 3)
    spreads = Spreads(*np.sqrt((found**2).mean(axis=0)))
    notes = detectable_notes(plan, folder)
    # the prompts are those of the results
    error = error_before(spreads, 3, N_PROMPTS)
    expected = [detectable_difference(error, n_tests=n) for n in (2, 1)]
    assert numbers(notes) == pytest.approx(expected, rel=1e-3)
    assert "spreads of 4 measured differences" in notes[1]


def test_one_seed_and_prompts_that_cannot_be_read(plan: StudyPlan, tmp_path: Path) -> None:
    one = changed({"heldout": {"prompts": plan.heldout.prompts}, "seeds": [3]})
    assert "one seed says nothing about others" in detectable_notes(one, tmp_path)[-1]
    gone = changed({"heldout": {"prompts": str(tmp_path / "gone.jsonl")}})
    assert "unknown until two seeds are finished" in detectable_notes(gone, tmp_path)[0]
