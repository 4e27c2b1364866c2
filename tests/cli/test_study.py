"""``prefpipe study --dry-run``: the script that it prints, and what it refuses before the first step."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from support.finished_run import command
from support.pipelines import write_json_lines, write_prompts
from support.tiny_models import make_tiny_causal_lm

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.study import StudyConfig
from prefpipe.configs.study_plan import StudyPlan, read_study_plan
from prefpipe.configs.study_steps import run_steps, selection_steps, shared_steps
from prefpipe.errors import UsageError
from prefpipe.stages.study.places import places_of, trained_on
from prefpipe.stages.study.prompts import refuse_different_prompts, refuse_leaked_prompts
from prefpipe.wiring.open_study import open_study

SAMPLING = {"backend": "fake", "max_tokens": 8, "part_size": 3}
PLAN = {
    "study": "tiny",
    "model": "model",
    "seeds": [0, 1],
    "pool": {
        "prompts": "prompts.jsonl",
        "generate": {"n": 4, **SAMPLING},
        "score": {"scorer": "fake"},
    },
    "heldout": {"prompts": "heldout.jsonl"},
    "eval": {"scorer": "fake", "n": 2, "bootstrap_draws": 100, **SAMPLING},
    "select": {"strategy": "bottom-k", "k": 2},
    "train": {
        "global_batch_size": 2,
        "learning_rate": "1e-2",
        "lr_scheduler_type": "constant",
        "report_to": "none",
    },
    "budgets": {"prompts": 4, "response_tokens": "like bottom-k"},
    "arms": {
        "bottom-k": {},
        "best-worst": {"select": {"strategy": "best-worst", "k": None}},
    },
    "contrasts": [["bottom-k", "best-worst"]],
}


def write_plan(folder: Path, **changed: object) -> Path:
    """Write a plan, and the prompts that it names."""
    write_prompts(folder / "prompts.jsonl", 6)
    rows = [{"prompt_id": f"h{i}", "prompt": f"held out {i}"} for i in range(4)]
    write_json_lines(folder / "heldout.jsonl", rows)
    shouted = [
        {"prompt_id": f"s{i}", "prompt": f" {row['prompt'].upper()}  "}
        for i, row in enumerate(_rows(folder)[:2])
    ]
    write_json_lines(folder / "shouted.jsonl", shouted)
    path = folder / "plan.yaml"
    values = {key: value for key, value in {**PLAN, **changed}.items() if value is not ...}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _rows(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plan of two arms by two seeds."""
    write_plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(capfd: pytest.CaptureFixture[str], *flags: str, output: str = "run") -> str:
    """Return the script that is printed."""
    capfd.readouterr()
    command(["study", "plan.yaml", "-o", output, "--dry-run", *flags])
    return capfd.readouterr().out


def commands_of(folder: Path, script: str) -> list[list[str]]:
    """Return the commands of a script as the shell makes them; the rest of a study is none of them."""
    stub = folder / "bin"
    stub.mkdir(exist_ok=True)
    text = '#!/bin/sh\n[ "$1" = study ] || { printf "%s\\000" "$@"; printf "\\036"; } >> words\n'
    (stub / "prefpipe").write_text(text)
    (stub / "prefpipe").chmod(0o755)
    (folder / "words").unlink(missing_ok=True)
    path = f"{stub}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", script], env=os.environ | {"PATH": path}, cwd=folder, check=True)
    commands = (folder / "words").read_bytes().decode().split("\x1e")[:-1]
    return [words.split("\0")[:-1] for words in commands]


def test_what_is_not_known_yet_is_printed_by_the_scripts_last_lines(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = dry_run(capfd)
    plan = read_study_plan(Path("plan.yaml"))
    steps = [*shared_steps(plan, Path("run")), *selection_steps(plan, Path("run"))]
    assert commands_of(work, script) == [step.words for step in steps]
    assert (
        "# The steps at which the other runs are judged are known now: the rest of the study.\n"
        'rest="$(prefpipe study plan.yaml -o run --dry-run)"\neval "$rest"\n'
    ) in script
    assert "# not counted, because their steps are not known yet: 4 runs" in script.splitlines()
    assert any(
        line.startswith("# detectable difference (power 0.8") for line in script.splitlines()
    )
    assert "# arm best-worst, seed 1: the step at which it is judged depends on groups" in script
    assert not Path("run").exists()


def test_of_a_budget_of_prompts_alone_all_is_known(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_plan(work, budgets={"prompts": 4})
    plan = read_study_plan(Path("plan.yaml"))
    steps = [*shared_steps(plan, Path("run")), *selection_steps(plan, Path("run"))]
    for seed in plan.seeds:
        for arm in plan.arms:
            places = places_of(plan, Path("run"), arm, seed)
            assert places == [(2, ("prompts",))]
            steps += run_steps(plan, Path("run"), arm, seed, places)
    script = dry_run(capfd)
    assert commands_of(work, script) == [step.words for step in steps]
    assert "rest=" not in script
    assert "# arm best-worst, seed 0: judged after step 2 (prompts)\n" in script


@pytest.mark.slow
def test_the_scripts_commands_make_the_study_and_the_second_script_is_whole(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Run in this process, as bash would one after another. best-worst has fewer tokens a prompt, and more steps."""
    make_tiny_causal_lm(work / "model")
    for words in commands_of(work, dry_run(capfd)):
        command(words)
    second = dry_run(capfd)
    assert "rest=" not in second
    plan = read_study_plan(Path("plan.yaml"))
    [first, later] = places_of(plan, Path("run"), "best-worst", 0)
    assert first == (2, ("prompts",))
    assert later.step > 2
    assert f"step 2 (prompts) and step {later.step} (response_tokens)\n" in second
    assert "# arm bottom-k, seed 0: judged after step 2 (prompts, response_tokens)\n" in second

    for words in commands_of(work, dry_run(capfd, "--arms", "best-worst", "--seeds", "0")):
        command(words)
    run = work / "run/arms/best-worst/seed-0"
    evaluations = ["eval-00002", f"eval-{later.step:05d}"]
    assert sorted(path.name for path in run.iterdir()) == [*evaluations, "policy"]
    for name in evaluations:
        assert json.loads((run / name / "summary.json").read_text())["n_prompts"] == 4


def test_odd_names_reach_the_commands_as_they_are(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Spaces, quotes, dollars and line ends in values and in folders, and a trainer's own command."""
    (work / 'my $prompts `ls` "1".jsonl').write_text(Path("prompts.jsonl").read_text())
    pool = {**PLAN["pool"], "prompts": 'my $prompts `ls` "1".jsonl'}
    pool["score"] = {"scorer": "fake", "rating_column": "a\ntouch harm"}
    trainer = (
        "bash -c 'touch \"$0\"; echo {steps}' {groups} {policy} {model} {seed} '$(touch harm)'"
    )
    write_plan(
        work,
        pool=pool,
        model="org/it's $HOME",
        budgets={"prompts": 4},
        arms={"other": {"trainer": trainer}, "ours": {"select": {"reward": "-fake * 2"}}},
        contrasts=...,
    )
    plan = read_study_plan(Path("plan.yaml"))
    folder = Path("my $run `touch harm`")
    steps = [*shared_steps(plan, folder), *selection_steps(plan, folder)]
    for seed in plan.seeds:
        for arm in plan.arms:
            steps += run_steps(plan, folder, arm, seed, places_of(plan, folder, arm, seed))
    command(["study", "plan.yaml", "-o", str(folder), "--dry-run"])
    script, errors = capfd.readouterr()
    assert "warning: the plan plan.yaml runs commands of its own with your rights" in errors
    # the trainer's command runs as it is; groups are a file that it touches
    (work / folder / "arms/other").mkdir(parents=True)
    expected = [step.words for step in steps if step.stage != "trainer"]
    assert commands_of(work, script) == expected
    assert (work / folder / "arms/other/groups").exists()
    assert not (work / "harm").exists()


def test_arms_and_seeds_are_chosen(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of the arm whose tokens count the groups are selected all the same."""
    script = dry_run(capfd, "--arms", "best-worst", "--seeds", "1")
    assert script.count("\n# arm ") == 1
    assert "# arm best-worst, seed 1: " in script
    selections = [words for words in commands_of(work, script) if words[0] == "select"]
    assert len(selections) == 2
    assert (
        'rest="$(prefpipe study plan.yaml -o run --arms best-worst --seeds 1 --dry-run)"' in script
    )


def test_time_is_estimated_by_the_rates_that_are_given(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pool: 6 prompts of 4 responses of 8 tokens at most, 48 s and the start; others are unknown."""
    write_plan(work, budgets={"prompts": 4})
    script = dry_run(capfd, "--sample-tokens-per-s", "4")
    assert "# pool, generate: about 55 s\nprefpipe generate" in script
    assert "# held-out, generate: about 23 s\n" in script
    assert "is unknown" in dry_run(capfd)
    # 2 steps of 2 groups of 3 responses of 8 tokens, before there are groups
    script = dry_run(capfd, "--train-tokens-per-s", "4")
    assert "# bottom-k, seed 0, train: about 31 s\nprefpipe train" in script
    assert "# best-worst, seed 0, train: about 23 s\nprefpipe train" in script


REFUSED: dict[str, tuple[dict[str, object], list[str], str]] = {
    "an arm that is not there": ({}, ["--arms", "bottom-k,best-wrst"], "--arms best-wrst: plan.yaml has no such arm (did you mean `best-worst`?)"),
    "a seed that is not there": ({}, ["--seeds", "7"], "--seeds 7: plan.yaml has the seeds 0, 1"),
    "no seed": ({}, ["--seeds", "a"], "--seeds takes whole numbers, 0,1, not 'a'"),
    "no arm": ({}, ["--arms", "a,,b"], "--arms takes names, A,B, not 'a,,b'"),
    "everything again": ({}, ["--overwrite"], "pass --overwrite=stale, or remove run first"),
    "no prompts": ({"heldout": {"prompts": "nowhere.jsonl"}}, [], "heldout: no prompts file at nowhere.jsonl"),
    "a pool that is not there": ({"pool": {"candidates": "c", "scores": "s"}}, [], "c does not exist"),
    "a reward of no scorer": ({"select": {"strategy": "bottom-k", "k": 2, "reward": "checks"}}, [], "select: the reward 'checks' names `checks`, and the scorers are: fake"),
    "an arm's reward of no scorer": ({"arms": {"a": {}, "b": {"select": {"reward": "x"}}}, "contrasts": ..., "budgets": {"prompts": 4}}, [], "arms, b, select: the reward 'x' names `x`"),
    "a reward of eval": ({"eval": {"scorer": ["fake", "checks"]}}, [], "eval: `reward` is missing: the scorers are fake, checks"),
    "a weight that is none": ({"train": {**PLAN["train"], "weight_by": "margin +"}}, [], "train: the weight expression 'margin +' cannot be read"),  # type: ignore[dict-item]
    "a trainer that is not there": ({"arms": {"a": {"trainer": "no-such-trainer {groups} {policy} {steps} {seed}"}}, "contrasts": ..., "budgets": {"prompts": 4}}, [], "arms, a, trainer: the program no-such-trainer does not exist"),
    "a template that is not there": ({"train": {**PLAN["train"], "rater_scores": "nowhere", "gamma": "auto", "objective": "mmpo"}}, [], "train: `rater_scores`: nowhere does not exist"),  # type: ignore[dict-item]
    "prompts that are trained on": ({"heldout": {"prompts": "prompts.jsonl"}}, [], "heldout: 6 of its 6 prompts are also in the pool, the first is p0"),
    "prompts that are trained on, written otherwise": ({"heldout": {"prompts": "shouted.jsonl"}}, [], "heldout: 2 of its 2 prompts are also in the pool, they are s0, s1"),
    "many at once": ({"seeds": [0, 0], "eval": {"scorer": "fake", "n": 0}, "contrasts": [["a", "b"]]}, [], "`seeds`: the seed 0 stands there twice\n  contrasts: 'a' is no arm"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_the_first_step(
    case: str, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed, flags, expected = REFUSED[case]
    write_plan(work, **changed)
    code = prefpipe(["study", "plan.yaml", "-o", "run", *flags])
    said = " ".join(capfd.readouterr().err.split())
    assert " ".join(expected.split()) in said
    assert code in (1, 2)
    assert not Path("run").exists()


def test_held_out_responses_that_were_made_otherwise_are_refused_before_a_training(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`eval` would refuse them only when it compares them, after hours."""
    write_plan(work, budgets={"prompts": 4})
    make_tiny_causal_lm(work / "model")
    for step in shared_steps(read_study_plan(Path("plan.yaml")), Path("made"))[2:]:
        command(step.words)
    heldout = {"prompts": "heldout.jsonl", "candidates": "made/heldout/candidates"}
    heldout["scores"] = "made/heldout/scores"
    write_plan(work, heldout=heldout)
    assert open_study(StudyConfig(plan=Path("plan.yaml"), output=Path("run"))).seeds == [0, 1]
    write_plan(work, heldout=heldout, eval={**PLAN["eval"], "n": 3, "temperature": 0.5})
    assert prefpipe(["study", "plan.yaml", "-o", "run"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "made/heldout/candidates was sampled with n 2, and `eval` samples with 3" in said
    assert "and `eval` samples with [0.5]" in said


def test_prompts_of_the_pool_are_known_at_last_when_it_is_sampled(work: Path) -> None:
    """Those of the hub, and those that flags of `generate` say how to read, are in no file to look at before."""
    write_plan(work, heldout={"prompts": "shouted.jsonl"}, budgets={"prompts": 4})
    make_tiny_causal_lm(work / "model")
    plan, folder = read_study_plan(Path("plan.yaml")), Path("made")
    for step in shared_steps(plan, folder):
        command(step.words)
    with pytest.raises(UsageError, match="heldout: 2 of its 2 prompts are also in the pool"):
        refuse_leaked_prompts(plan, folder)


def test_arms_whose_trainings_skip_different_prompts_are_refused(work: Path) -> None:
    """Of groups of the same prompts: some are too long for one arm's `max_length`, and its order is another one then."""
    write_plan(work, budgets={"prompts": 4})
    longer = [row | {"prompt": row["prompt"] + " and" * i} for i, row in enumerate(_rows(work))]
    write_json_lines(work / "prompts.jsonl", longer)
    make_tiny_causal_lm(work / "model")
    plan, folder = read_study_plan(Path("plan.yaml")), Path("made")
    for step in [*shared_steps(plan, folder), *selection_steps(plan, folder)]:
        command(step.words)
    arms = list(plan.arms)
    refuse_different_prompts(plan, folder, arms, plan.seeds)

    # a token less than all need: each prompt of the longest is skipped
    for length in range(256, 0, -1):
        plan = plan_with_length(work, length)
        if len(trained_on(plan, folder, "best-worst", 0) or ()) < 6:
            break
    with pytest.raises(UsageError, match=r"seed 0, train on different prompts: .* of bottom-k and"):
        refuse_different_prompts(plan, folder, arms, plan.seeds)
    allowed = plan_with_length(work, length, allow_different_prompts=True)
    refuse_different_prompts(allowed, folder, arms, plan.seeds)


def plan_with_length(work: Path, max_length: int, **changed: object) -> StudyPlan:
    """Return the plan, one arm of which trains on what is no longer than that."""
    short = {"select": {"strategy": "best-worst", "k": None}, "train": {"max_length": max_length}}
    arms = {"bottom-k": {}, "best-worst": short}
    return read_study_plan(write_plan(work, budgets={"prompts": 4}, arms=arms, **changed))
