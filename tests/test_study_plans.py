"""The plans of the studies: each can be run, and what they say of each other holds."""

import itertools
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefpipe.configs.study_checks import step_problems
from prefpipe.configs.study_plan import StudyPlan, read_study_plan
from prefpipe.configs.study_steps import Place, run_steps, selection_steps, shared_steps

FOLDER = Path(__file__).resolve().parents[1] / "sample_data" / "studies"
PLANS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "wordings")
SCRIPTS = {
    "run.sh": [name for name in PLANS if not name.startswith("llama-1b")],
    "llama-1b.sh": [name for name in PLANS if name.startswith("llama-1b")],
}
"""Each script, and the plans that it runs."""


def plan_of(name: str) -> StudyPlan:
    """Return a plan of the folder."""
    return read_study_plan(FOLDER / f"{name}.yaml")


def values_of(name: str) -> Mapping[str, Any]:
    """Return what a plan's file says."""
    return plan_of(name).values


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_has_the_name_of_its_file_and_all_its_steps(name: str, tmp_path: Path) -> None:
    plan = plan_of(name)
    assert plan.study == name
    assert step_problems(plan, tmp_path) == []

    steps = [*shared_steps(plan, tmp_path), *selection_steps(plan, tmp_path)]
    places = [Place(place, (judged_at,)) for place, judged_at in enumerate(plan.judged_at, 3)]
    for arm in plan.arms:
        for seed in plan.seeds:
            steps += run_steps(plan, tmp_path, arm, seed, places)
    assert len({step.name for step in steps}) == len(steps)

    n_runs = len(plan.arms) * len(plan.seeds)
    assert sum(step.judged_at is not None for step in steps) == n_runs * len(places)


def test_the_plan_that_the_guide_begins_with_can_be_run(tmp_path: Path) -> None:
    guide = FOLDER.parents[1] / "docs" / "guides" / "studies.md"
    text = guide.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    plan = StudyPlan.from_values(yaml.safe_load(text), name="study.yaml")
    assert step_problems(plan, tmp_path) == []


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_says_before_what_it_compares(name: str) -> None:
    assert plan_of(name).contrasts


def test_studies_of_a_known_truth_read_what_the_script_makes_for_them() -> None:
    made = (FOLDER / "known_truth.sh").read_text(encoding="utf-8")
    for name in ("known-truth", "known-truth-policies", "granularity"):
        plan = plan_of(name)
        folders = [Path(each) for each in (*plan.pool[1:3], *plan.heldout[1:])]
        assert {folder.parent.parent for folder in folders} == {Path("runs/study/truth")}
        assert all(folder.parent.name in made for folder in folders)


def test_knobs_are_chosen_on_prompts_and_a_seed_that_are_never_compared() -> None:
    tuning = plan_of("tuning")
    others = [plan_of(name) for name in PLANS if name != "tuning"]
    assert all(not set(tuning.seeds) & set(other.seeds) for other in others)
    assert tuning.heldout.prompts not in {other.heldout.prompts for other in others}

    # what is chosen is trained in the study as it was here
    study = plan_of("objectives")
    assert tuning.pool == study.pool
    assert values_of("tuning")["select"] == values_of("objectives")["select"]
    assert values_of("tuning")["train"] == values_of("objectives")["train"]


def test_objectives_are_each_one_of_the_three_that_were_tuned() -> None:
    tuned = values_of("tuning")["arms"]
    compared = values_of("objectives")["arms"]
    for name, arm in compared.items():
        if "like" in arm:
            assert arm == {"like": name.removesuffix("-sft"), "train": {"sft_weight": 0.2}}
        else:
            values = [each for key, each in tuned.items() if key.partition("-")[0] == name]
            assert len(values) == 3
            assert arm in values


@pytest.mark.parametrize(
    ("first", "second"),
    [("selection", "one-or-three-rounds"), ("llama-1b", "llama-1b-rounds")],
)
def test_a_pool_that_is_copied_is_the_one_that_the_plan_would_sample(first, second) -> None:
    for key in ("model", "pool", "heldout", "eval"):
        assert values_of(first)[key] == values_of(second)[key]


@pytest.mark.parametrize(
    ("first", "others"),
    [("selection", ["tuning", "objectives", "peer"]), ("llama-1b", ["llama-1b-peer"])],
)
def test_folders_that_a_plan_names_are_where_the_first_study_makes_them(first, others) -> None:
    run = Path("runs/study") / first
    made = {str(step.output) for step in shared_steps(plan_of(first), run)}
    for name in others:
        plan = plan_of(name)
        used = {*plan.pool[1:], *plan.heldout[1:]} - {None}
        assert used
        assert used <= made


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("selection", ["objectives", "one-or-three-rounds", "peer"]),
        ("llama-1b", ["llama-1b-rounds", "llama-1b-peer"]),
    ],
)
def test_studies_judge_on_the_same_prompts_by_the_same_recipe(first, others) -> None:
    for name in others:
        assert plan_of(name).heldout.prompts == plan_of(first).heldout.prompts
        assert values_of(name)["eval"] == values_of(first)["eval"]


@pytest.mark.parametrize("name", ["peer", "llama-1b-peer"])
def test_the_peer_has_the_hyper_parameters_of_our_arm(name: str) -> None:
    arms = values_of(name)["arms"].values()
    trainers = [shlex.split(arm["trainer"]) for arm in arms if "trainer" in arm]
    assert trainers
    for trainer, (key, value) in itertools.product(trainers, values_of(name)["train"].items()):
        flag = f"--{key.replace('_', '-')}"
        if key == "objective":
            assert value == "dpo"
        elif value is True:
            assert flag in trainer
        else:
            assert trainer[trainer.index(flag) + 1] == str(value)


def seeds_of(name: str) -> set[int]:
    """Return the seeds of a plan."""
    return set(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["seeds"])


def calls_of(script: str, folder: Path, *, exit_code: str = "0") -> tuple[list[list[str]], int]:
    """Run a script with a `prefpipe` that only keeps a note, and return the notes and exit code.

    Args:
        script: its file name.
        folder: where the repository would be.
        exit_code: of each `prefpipe study`, as shell: ``$([[ $* = *tuning* ]] && echo 75 || echo 0)``.
    """
    studies = folder / "sample_data" / "studies"
    studies.mkdir(parents=True)
    for path in FOLDER.iterdir():
        if path.is_file():
            (studies / path.name).write_bytes(path.read_bytes())
    programs = folder / "programs"
    programs.mkdir()
    for name in ("prefpipe", "python"):
        program = programs / name
        program.write_text(
            f'#!/usr/bin/env bash\necho {name} "$@" >> {folder}/calls\n'
            f"if [[ $1 = study ]]; then exit {exit_code}; fi\n"
        )
        program.chmod(0o755)

    ended = subprocess.run(
        ["bash", str(studies / script)],
        check=False,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    lines = (folder / "calls").read_text().splitlines()
    return [line.split() for line in lines if "prefpipe study" in line], ended.returncode


def studies_of(calls: list[list[str]]) -> list[str]:
    """Return the plans that were run, by name, those of some seeds alone with a star."""
    return [Path(call[2]).stem + ("*" if "--seeds" in call else "") for call in calls]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_every_plan_with_all_its_seeds(script: str, tmp_path: Path) -> None:
    calls, exit_code = calls_of(script, tmp_path)
    seeds: dict[str, set[int]] = {}
    for call in calls:
        name = Path(call[2]).stem
        assert call[3:5] == ["-o", f"runs/study/{name}"]
        asked = seeds_of(name)
        if "--seeds" in call:
            some = {int(seed) for seed in call[call.index("--seeds") + 1].split(",")}
            assert some <= asked
            asked = some
        seeds[name] = seeds.get(name, set()) | asked

    # whose knobs a person takes from another study waits for that, and the script says so
    waiting = set()
    if script == "run.sh" and "KNOBS NOT CHOSEN YET" in (FOLDER / "objectives.yaml").read_text():
        waiting = {"objectives"}
    assert exit_code == (1 if waiting else 0)
    assert seeds == {name: seeds_of(name) for name in {*SCRIPTS[script]} - waiting}


def test_failed_runs_stop_no_other_study_and_end_with_an_exit_code(tmp_path: Path) -> None:
    calls, exit_code = calls_of("run.sh", tmp_path, exit_code="1")
    again, _ = calls_of("run.sh", tmp_path / "again")
    assert calls == again
    assert exit_code == 1


@pytest.mark.parametrize("code", [75, 130])
def test_a_stop_is_one_for_all_studies(code: int, tmp_path: Path) -> None:
    of_tuning = f"$([[ $* = *tuning* ]] && echo {code} || echo 0)"
    calls, exit_code = calls_of("run.sh", tmp_path, exit_code=of_tuning)
    assert studies_of(calls) == ["selection*", "tuning"]
    assert exit_code == code
