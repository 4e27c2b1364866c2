"""A study that is killed, shared, changed and short of room: always the same tables, and no training twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest
from support.round_runs import places
from support.small_disk import grow, small_disk
from support.stage_server import Command, Outcome, StageServer
from support.study_runs import PLAN, ledger, tables_of, weights_in, write_study

from prefpipe.artifacts.holders import Lock
from prefpipe.artifacts.step_ledger import StepLedger
from prefpipe.configs.study_plan import read_study_plan
from prefpipe.stages.study.progress import StudyProgress
from prefpipe.stages.study.step_seconds import Rates, estimated_seconds

pytestmark = pytest.mark.slow

N_KILLS = 20
STAGES = ("generate", "score", "select", "train", "eval")
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGUSR1: 75}
"""And the exit code with which the command ends by each."""
LEARNING_RATE_OF_PAIR = "k: null}, train: {learning_rate: 2e-2}}"


class Studies:
    """Runs ``prefpipe study plan.yaml -o run``, with steps that are forked."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir()
        modules = ["prefpipe.wiring.study", "prefpipe.backends.generators.hf_generator"]
        modules += ["prefpipe.stages.train.run", "prefpipe.stages.evaluate.run"]
        variables = {"HF_HUB_OFFLINE": "1"}
        self._server = StageServer(scratch, modules, variables, forks_steps=True)

    def command(self, folder: Path, *flags: str, **how: object) -> Command:
        words = ["study", "plan.yaml", "-o", "run", *flags]
        return Command(words, cwd=str(folder), **how)  # type: ignore[arg-type]

    def run(self, folder: Path, *flags: str, **how: object) -> Outcome:
        return self.run_at_once([self.command(folder, *flags, **how)])[0]

    def run_at_once(self, commands: Sequence[Command]) -> list[Outcome]:
        return self._server.run_at_once(list(commands))

    def finish(self, folder: Path, *flags: str) -> Outcome:
        outcome = self.run(folder, *flags)
        assert outcome.code == 0, outcome.stderr
        assert outcome.stdout == "run\n"
        return outcome

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def studies(fast_root: Path) -> Iterator[Studies]:
    opened = Studies(fast_root / "studies")
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def undisturbed(studies: Studies, fast_root: Path) -> Path:
    """Two arms, of which one is judged twice; nobody changes it."""
    folder = fast_root / "undisturbed"
    folder.mkdir()
    write_study(folder)
    studies.finish(folder)
    return folder


@pytest.fixture
def copy(undisturbed: Path, folder: Path) -> Path:
    """A copy of the finished study, to be changed."""
    shutil.copytree(undisturbed, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def unbegun(undisturbed: Path, folder: Path) -> Path:
    """The same plan, of which nothing is run yet."""
    shutil.copytree(undisturbed, folder, dirs_exist_ok=True, ignore=lambda *_: {"run"} & set(_[1]))
    return folder


def statuses(folder: Path) -> dict[tuple[str, str], tuple[object, ...]]:
    """Return status, failed step and exit code by arm and budget."""
    runs = pl.read_parquet(folder / "run" / "runs.parquet")
    return {
        (row["arm"], row["budget"]): (row["status"], row["failed_step"], row["exit_code"])
        for row in runs.to_dicts()
    }


def with_trainer(folder: Path, program: str) -> Path:
    """Let a trainer of somebody else take the place of the arm `pair`; return the file of its program."""
    trainer = folder / "trainer.py"
    trainer.write_text(program)
    command = f"{sys.executable} trainer.py {{groups}} {{policy}} {{model}} {{steps}} {{seed}}"
    other = f"  other: {{select: {{strategy: bottom-k}}, trainer: '{command}'}}"
    # in which order another trainer sees prompts is not known, nor after how many tokens it is judged
    plan = PLAN.replace(", response_tokens: like bottom", "").replace("pair]", "other]")
    pair = next(line for line in PLAN.splitlines() if line.startswith("  pair: "))
    write_study(folder, plan.replace(pair, other))
    return trainer


def test_what_a_study_leaves(undisturbed: Path) -> None:
    run = undisturbed / "run"
    results = pl.read_parquet(run / "results.parquet")
    assert results.height == 2 * 2 * 3  # arms, budgets, prompts
    # weights were trained and judged: the arms differ
    by_arm = results.filter(budget="response_tokens").sort("prompt_id")
    first, second = (by_arm.filter(arm=arm)["reward"].to_list() for arm in ("bottom", "pair"))
    assert first != second

    entries = ledger(run)
    assert [entry["name"] for entry in entries] == [
        "pool, generate",
        "pool, score",
        "held-out, generate",
        "held-out, score",
        "bottom, select",
        "pair, select",
        "bottom, seed 0, train",
        "bottom, seed 0, eval at step 2",
        "pair, seed 0, train",
        "pair, seed 0, eval at step 2",
        "pair, seed 0, eval at step 3",
    ]
    runs = pl.read_parquet(run / "runs.parquet").to_dicts()
    assert [(row["arm"], row["budget"], row["step"], row["prompts"]) for row in runs] == [
        ("bottom", "prompts", 2, 4),
        ("bottom", "response_tokens", 2, 4),
        ("pair", "prompts", 2, 4),
        ("pair", "response_tokens", 3, 6),
    ]
    assert runs[3]["response_tokens"] >= runs[1]["response_tokens"] > runs[2]["response_tokens"]
    for row in runs:
        arm, n_steps = row["arm"], max(each["step"] for each in runs if each["arm"] == row["arm"])
        groups = pl.read_parquet(run / "arms" / arm / "groups" / "part-*.parquet")
        by_prompt = groups.group_by("prompt_id").agg(pl.col("n_prompt_tokens").first())
        metrics = pl.read_parquet(run / "arms" / arm / "seed-0" / "policy" / "metrics.parquet")
        seen = metrics.filter(split="train", step=row["step"])
        assert (
            metrics.filter(pl.col("step") <= row["step"])["n_tokens"].sum()
            == (row["response_tokens"])
        )
        assert seen.height == 1
        # all prompts are of one length
        [length] = set(by_prompt["n_prompt_tokens"])
        assert row["trained_tokens"] == metrics["n_tokens"].sum() + 2 * n_steps * length
    for arm in ("bottom", "pair"):
        of_run = [entry for entry in entries if entry["arm"] == arm and entry["seed"] == 0]
        [seconds] = {row["seconds"] for row in runs if row["arm"] == arm}
        assert seconds == pytest.approx(sum(float(str(each["seconds"])) for each in of_run))


def test_weights_are_removed_and_nothing_is_trained_again(
    undisturbed: Path, studies: Studies
) -> None:
    run = undisturbed / "run"
    assert weights_in(run) == []
    policy = run / "arms" / "pair" / "seed-0" / "policy"
    kept = {path.name for path in policy.iterdir()}
    assert {"run.json", "summary.json", "metrics.parquet", "config.json"} <= kept
    assert not [name for name in kept if name.startswith(("step-", "checkpoint-"))]

    before, tables = ledger(run), tables_of(run)
    said = studies.finish(undisturbed).stderr
    assert "2 of 2 runs are done" in said
    assert "$ prefpipe" not in said
    assert ledger(run) == before
    assert tables_of(run) == tables


def test_a_study_that_is_killed_twenty_times_has_the_same_tables(
    unbegun: Path, undisturbed: Path, studies: Studies
) -> None:
    """Ten times in the command, just before one of its files is opened or renamed; twice in a step of each kind, by four signals.

    One that comes to its end between two kills is compared, and begun again.
    """
    expected = tables_of(undisturbed / "run")
    moments, n_killed, n_finished = random.Random(15), 0, 0
    while n_killed < N_KILLS:
        if n_killed % 2:
            number = list(SIGNALS)[n_killed // 2 % len(SIGNALS)]
            stage = STAGES[n_killed // 2 % len(STAGES)]
            outcome = studies.run(
                unbegun,
                signal=number,
                signal_when_said=f"$ prefpipe {stage} ",
                signal_after_s=moments.choice([0.0, moments.uniform(0.0, 0.5)]),
            )
            expected_code = SIGNALS[number]
        else:
            event = moments.randrange(150)
            outcome = studies.run(unbegun, die_at_event=event, watched="run")
            expected_code = -9
        assert outcome.code in (0, expected_code), outcome.stderr
        if outcome.code != 0:
            n_killed += 1
            continue
        n_finished += 1
        assert n_finished < 3 * N_KILLS, "most kills come too late"
        assert tables_of(unbegun / "run") == expected
        shutil.rmtree(unbegun / "run")

    studies.finish(unbegun)
    assert tables_of(unbegun / "run") == expected
    assert weights_in(unbegun / "run") == []


def test_two_copies_share_a_study_and_make_each_step_once(
    unbegun: Path, undisturbed: Path, studies: Studies
) -> None:
    outcomes = studies.run_at_once([studies.command(unbegun), studies.command(unbegun)])
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    names = sorted(str(entry["name"]) for entry in ledger(unbegun / "run"))
    assert names == sorted(str(entry["name"]) for entry in ledger(undisturbed / "run"))
    assert tables_of(unbegun / "run") == tables_of(undisturbed / "run")


def test_what_another_copy_is_at_is_left_to_it_and_named(unbegun: Path, studies: Studies) -> None:
    with Lock(unbegun / "run" / "locks" / "pair.seed-0").tried() as held:
        assert held is not None
        said = studies.finish(unbegun).stderr
    assert "1 of 2 runs are done" in said
    assert "other copies of this command are running: pair, seed 0 (" in said
    assert f"/{os.getpid()} since " in said
    assert {status for status, _, _ in statuses(unbegun).values()} == {"done", "waiting"}
    assert not (unbegun / "run" / "arms" / "pair" / "seed-0").exists()


def test_an_arm_that_fails_leaves_the_others_is_counted_and_tried_again(
    copy: Path, studies: Studies
) -> None:
    """A trainer of somebody else that exits with 1, and is mended then: its file is part of what the run is made of."""
    kept = places(copy / "run" / "arms" / "bottom")
    trainer = with_trainer(copy, "import sys\nprint('no luck')\nsys.exit(1)\n")
    outcome = studies.run(copy)
    assert outcome.code == 1
    assert "no luck" in outcome.stderr
    assert "1 of 2 runs are done" in outcome.stderr
    assert (
        "1 of 2 runs failed: other, seed 0, train to step 2: it ended with exit code 1"
        in outcome.stderr
    )
    assert "to try again, run: prefpipe study plan.yaml -o run" in outcome.stderr
    failed = ("failed", "other, seed 0, train to step 2", 1)
    assert statuses(copy)["other", "prompts"] == failed
    assert statuses(copy)["bottom", "prompts"] == ("done", None, None)
    results = pl.read_parquet(copy / "run" / "results.parquet")
    assert results["arm"].unique().to_list() == ["bottom"]
    assert results.height == 3

    trainer.write_text("import shutil, sys\nshutil.copytree(sys.argv[3], sys.argv[2])\n")
    studies.finish(copy)
    assert statuses(copy)["other", "prompts"] == ("done", None, None)
    assert weights_in(copy / "run") == []
    assert places(copy / "run" / "arms" / "bottom") == kept
    n_steps = len(ledger(copy / "run"))
    studies.finish(copy)
    assert len(ledger(copy / "run")) == n_steps


def test_a_trainer_that_leaves_half_a_model_has_failed_and_is_called_again(
    copy: Path, studies: Studies
) -> None:
    """It says that all is well: a config without weights, as a full disk or a script without checks leaves it."""
    trainer = copy / "trainer.py"
    half = "import shutil, sys\nskipped = shutil.ignore_patterns('*.safetensors')\n"
    half += "shutil.copytree(sys.argv[3], sys.argv[2], ignore=skipped)\n"
    trainer.write_text(half)
    command = f"{sys.executable} trainer.py {{groups}} {{policy}} {{model}} {{steps}} {{seed}}"
    other = f"  pair: {{select: {{strategy: bottom-k}}, trainer: '{command}'}}"
    plan = PLAN.replace(", response_tokens: like bottom", "")
    pair = next(line for line in PLAN.splitlines() if line.startswith("  pair: "))
    write_study(copy, plan.replace(pair, other))

    outcome = studies.run(copy, "--overwrite=stale")
    assert outcome.code == 1
    assert "the trainer of pair wrote no model weights to run/arms/pair/seed-0" in outcome.stderr
    assert statuses(copy)["pair", "prompts"] == ("failed", "pair, seed 0, train to step 2", 1)
    assert "pair, seed 0, eval" not in outcome.stderr


def test_arms_that_are_run_one_by_one_are_of_the_same_prompts_all_the_same(
    unbegun: Path, studies: Studies
) -> None:
    """Each call chooses one arm, and the table compares them."""
    different = PLAN.replace("k: null}}", "k: null, min_spread: 0.6}}")
    write_study(unbegun, different.replace(", response_tokens: like bottom", ""))
    studies.finish(unbegun, "--arms", "bottom")
    outcome = studies.run(unbegun, "--arms", "pair")
    assert outcome.code == 2
    assert "have groups of different prompts" in outcome.stderr
    assert not (unbegun / "run" / "arms" / "pair" / "seed-0").exists()


def test_a_changed_knob_of_an_arm_makes_its_runs_stale_and_leaves_the_rest(
    copy: Path, studies: Studies
) -> None:
    """It is refused before anything is trained; with --overwrite=stale made again, from the step that the knob belongs to."""
    run = copy / "run"
    kept = places(run / "arms" / "bottom") | places(run / "pool") | places(run / "heldout")
    groups, n_steps = places(run / "arms" / "pair" / "groups"), len(ledger(run))
    tables = tables_of(run)
    write_study(copy, PLAN.replace("k: null}}", LEARNING_RATE_OF_PAIR))

    outcome = studies.run(copy)
    assert outcome.code == 2
    assert (
        "1 of 2 runs were made with other settings than those in the plan: pair, seed 0: train "
        "--learning-rate 2e-2 now, 1e-2 then" in outcome.stderr
    )
    assert "--overwrite=stale" in outcome.stderr.rpartition("hint:")[2]
    assert len(ledger(run)) == n_steps
    assert {key: status for key, (status, _, _) in statuses(copy).items()} == {
        ("bottom", "prompts"): "done",
        ("bottom", "response_tokens"): "done",
        ("pair", "prompts"): "waiting",
        ("pair", "response_tokens"): "waiting",
    }

    studies.finish(copy, "--overwrite=stale")
    now = places(run / "arms" / "bottom") | places(run / "pool") | places(run / "heldout")
    assert now == kept
    assert places(run / "arms" / "pair" / "groups") == groups
    assert tables_of(run)["results"] != tables["results"]
    made = [entry["name"] for entry in ledger(run)[n_steps:]]
    assert made == [
        "pair, seed 0, train",
        "pair, seed 0, eval at step 2",
        "pair, seed 0, eval at step 3",
    ]

    # the plan as it was, and the same figures as before
    write_study(copy)
    studies.finish(copy, "--overwrite=stale")
    assert tables_of(run)["results"] == tables["results"]


def test_a_changed_selection_is_refused_before_any_step_and_overwrite_stale_makes_its_arm_again(
    copy: Path, studies: Studies
) -> None:
    write_study(copy, PLAN.replace("k: null}}", "k: null, keep_duplicates: true}}"))
    outcome = studies.run(copy)
    assert outcome.code == 2
    assert "prefpipe study plan.yaml -o run --overwrite=stale" in outcome.stderr
    assert statuses(copy)["pair", "prompts"] == ("waiting", None, None)
    assert statuses(copy)["bottom", "prompts"] == ("done", None, None)

    studies.finish(copy, "--overwrite=stale")
    assert statuses(copy)["pair", "prompts"] == ("done", None, None)


def test_policies_that_are_to_stay_stay_also_when_a_later_call_does_not_say_so(
    unbegun: Path, studies: Studies
) -> None:
    studies.finish(unbegun, "--keep-policies", "--arms", "bottom", "--seeds", "0")
    kept = [path for path in weights_in(unbegun / "run") if "step-00002" in path]
    assert len(kept) == 1
    said = studies.finish(unbegun).stderr
    assert "pair, seed 0: judged; its weights are removed" in said
    assert [path for path in weights_in(unbegun / "run") if "step-00002" in path] == kept
    assert all(path.startswith("arms/bottom/") for path in weights_in(unbegun / "run"))


def test_weights_that_a_kill_left_half_removed_are_removed_by_the_next_call(
    copy: Path, studies: Studies
) -> None:
    policy = copy / "run" / "arms" / "bottom" / "seed-0" / "policy"
    left = policy / "step-00002"
    left.mkdir()
    shutil.copy(copy / "model" / "model.safetensors", left)
    shutil.copy(copy / "model" / "model.safetensors", policy)
    said = studies.finish(copy).stderr
    assert "bottom, seed 0: judged; its weights are removed" in said
    assert weights_in(copy / "run") == []
    assert not left.exists()


def test_a_disk_that_gets_full_ends_the_study_with_what_is_finished_and_room_lets_it_go_on(
    unbegun: Path, undisturbed: Path, studies: Studies
) -> None:
    with small_disk(unbegun / "run", 900) as disk:
        outcome = studies.run(unbegun)
        assert outcome.code == 1, outcome.stderr
        assert "no space left on the disk" in outcome.stderr
        assert len(ledger(disk)) >= 4
        grow(disk, 64)
        studies.finish(unbegun)
        assert tables_of(disk) == tables_of(undisturbed / "run")


def test_a_stop_ends_the_step_and_names_it_with_the_command_that_goes_on(
    copy: Path, studies: Studies
) -> None:
    """Another trainer knows no exit code for a stop: it has not failed, and begins again from nothing."""
    with_trainer(copy, "import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    outcome = studies.run(copy, "--seeds", "0", signal=signal.SIGTERM, signal_when_said="begun")
    assert outcome.code == 75, outcome.stderr
    name = "other, seed 0, train to step 2"
    assert f"stopped: {name}: stopped early; finished parts are kept" in outcome.stderr
    assert "to continue, run: prefpipe study plan.yaml -o run --seeds 0" in outcome.stderr
    last = ledger(copy / "run")[-1]
    assert (last["name"], last["exit_code"]) == (name, 75)


def test_a_real_step_ends_with_its_study_and_the_next_call_waits_for_it(
    copy: Path, undisturbed: Path, studies: Studies
) -> None:
    """SIGKILL of the command alone, with processes as everybody runs them: a training finishes its step and its checkpoint."""
    shutil.rmtree(copy / "run" / "arms" / "pair" / "seed-0")
    record = copy / "run" / "arms" / "pair" / "seed-0" / "policy" / "run.json"
    with (copy / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefpipe", "study", "plan.yaml", "-o", "run"],
            cwd=copy,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stderr=log,
            stdout=log,
        )
    gives_up_at = time.monotonic() + 300
    while process.poll() is None and not record.exists():
        assert time.monotonic() < gives_up_at
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9, (copy / "log").read_text()
    studies.finish(copy)
    assert tables_of(copy / "run") == tables_of(undisturbed / "run")


def test_a_training_is_estimated_by_the_tokens_that_it_has_seen(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an evaluation by those of the model's own responses to the same prompts."""
    monkeypatch.chdir(undisturbed)
    plan = read_study_plan(Path("plan.yaml"))
    entries = StepLedger(Path("run")).read()
    by_name = {entry.name: entry for entry in entries}
    rates = Rates(start_s=0.0, sampled_per_s=1.0, trained_per_s=1.0, of_stages={})
    for arm in ("bottom", "pair"):
        run = StudyProgress(plan, Path("run"), entries).run(arm, 0)
        for step, _ in run.steps:
            expected = by_name[step.name if step.stage == "train" else "held-out, generate"]
            assert estimated_seconds(step, rates) == expected.n_tokens
