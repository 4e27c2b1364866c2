"""Rounds that are killed in every step, printed as a script, changed, and shared by hand: always the same files."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.finished_run import command
from support.pipelines import digests_of, open_artifact
from support.round_runs import (
    PLAN,
    STAGES,
    contents,
    finish,
    kill_in,
    only_round_1,
    places,
    write_plan,
)
from support.stage_server import StageServer

from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.configs.round_plan import read_plan
from prefpipe.configs.round_steps import steps_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def by_script(fast_root: Path, repository: Path) -> Path:
    """Both rounds by the lines that ``--dry-run`` prints, run by bash; nobody changes them."""
    folder = fast_root / "by-script"
    folder.mkdir()
    write_plan(folder)
    here = os.environ | {
        "PATH": f"{repository / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    dry_run = ["prefpipe", "rounds", "plan.yaml", "-o", "run", "--dry-run"]
    printed = subprocess.run(dry_run, cwd=folder, env=here, capture_output=True, check=True)
    assert not (folder / "run").exists()
    (folder / "rounds.sh").write_bytes(printed.stdout)
    done = subprocess.run(
        ["bash", "rounds.sh"], cwd=folder, env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def by_command(by_script: Path, fast_root: Path) -> Path:
    """Both rounds by ``prefpipe rounds``, with a kill in every step of the second one."""
    folder = fast_root / "by-command"
    folder.mkdir()
    for name in ("prompts.jsonl", "heldout.jsonl", "plan.yaml"):
        shutil.copy(by_script / name, folder)
    shutil.copytree(by_script / "model", folder / "model")
    finish(folder, "--until-round", "1")

    signals = (signal.SIGTERM, signal.SIGKILL)
    for i, stage in enumerate(STAGES):
        number = signals[i % 2]
        code = kill_in(folder, stage, number, after_s=None)
        # at the very end of a step the request may come too late for it, and the next one has not begun
        allowed = (75,) if number == signal.SIGTERM else (-number,)
        assert code in (*allowed, *((0,) if stage == STAGES[-1] else ())), (
            folder / "rounds.log"
        ).read_text()
    finish(folder, "--from-round", "2")
    return folder


def test_the_printed_script_makes_the_same_files_as_the_command_killed_in_every_step(
    by_script: Path, by_command: Path
) -> None:
    """Parts, weights and figures byte for byte: six kills, one in each step of round 2, by SIGTERM and SIGKILL in turn."""
    expected, made = contents(by_script / "run"), contents(by_command / "run")
    assert expected == made
    assert sum(name.endswith(".parquet") for name in made) >= 2 * (4 * 3 + 1)
    assert "round-02/policy/model.safetensors" in made


def test_the_baseline_is_sampled_and_rated_once(by_script: Path) -> None:
    evals = [by_script / "run" / f"round-0{number}" / "eval" for number in (1, 2)]
    assert (evals[0] / "baseline" / "scores").exists()
    assert not (evals[1] / "baseline").exists()
    identities = [open_artifact(folder).record.identity["baseline_candidates"] for folder in evals]
    assert identities[0] == identities[1]


def test_a_changed_knob_of_round_2_makes_round_2_again_and_leaves_round_1(
    by_command: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inodes and times of every file of round 1, and of what of round 2 stands above the knob."""
    shutil.copytree(by_command, folder, dirs_exist_ok=True)
    round_1, round_2 = folder / "run" / "round-01", folder / "run" / "round-02"
    first, pool = places(round_1), [digests_of(round_2 / name) for name in ("candidates", "groups")]
    before = contents(folder / "run")

    monkeypatch.chdir(folder)
    changed = write_plan(folder, PLAN + "changes: {2: {train: {learning_rate: 2e-2}}}\n")
    for step in steps_of(read_plan(changed), Path("run"), name="plan", overwrite=Overwrite.STALE):
        command(step.words)

    # an evaluation writes its figures anew in any case, and they are the same
    kept = {
        name: place
        for name, place in places(round_1).items()
        if name in first and first[name] == place
    }
    rewritten = first.keys() - kept.keys()
    assert rewritten <= {"eval/summary.json"}
    after = contents(folder / "run")
    assert {
        name for name in before if name.startswith("round-01/") and before[name] != after[name]
    } == set()
    assert [digests_of(round_2 / name) for name in ("candidates", "groups")] == pool
    assert before["round-02/policy/model.safetensors"] != after["round-02/policy/model.safetensors"]


def test_a_step_made_by_hand_in_shards_is_kept(
    by_script: Path, folder: Path, stages: StageServer
) -> None:
    """Each shard runs the step's own line; the line of the rounds then finds nothing to do."""
    only_round_1(by_script, folder)
    plan = read_plan(folder / "plan.yaml")
    step = next(step for step in steps_of(plan, Path("run"), name="plan") if step.number == 2)
    for index in (1, 0):
        shard = ["--shard-index", str(index), "--num-shards", "2"]
        outcome = stages.run(*step.words, *shard, cwd=str(folder))
        assert outcome.code == 0, outcome.stderr
    outcome = stages.run(*step.words, cwd=str(folder))
    assert "3 of 3 parts are finished and kept" in outcome.stderr
    assert digests_of(folder / step.output) == digests_of(by_script / step.output)
