"""The runs of a study as a table: done, running and held by whom, failed, stale by a changed plan, waiting."""

import json
import os
import re
import shutil
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from support.pipelines import write_json_lines, write_prompts
from support.study_tables import write_study
from support.tiny_models import make_tiny_causal_lm

from prefpipe.artifacts.step_ledger import StepLedger
from prefpipe.cli.main import run as prefpipe
from prefpipe.pages.run_study import run_study_page
from prefpipe.stages.study.locks import lock_of_run
from prefpipe.status.folders import studies_in
from prefpipe.status.run_study import StudyStatus, status_of_study

pytestmark = pytest.mark.slow


PLAN = """\
study: tiny
model: model
seeds: [0]
pool:
  prompts: prompts.jsonl
  generate: {backend: fake, n: 4, max_tokens: 8}
  score: {scorer: fake}
heldout: {prompts: heldout.jsonl}
eval: {device: cpu, scorer: fake, kl: false, max_tokens: 8, n: 2, bootstrap_draws: 100}
select: {k: 2}
train: {global_batch_size: 2, report_to: none, learning_rate: 1e-2, lr_scheduler_type: constant, warmup_ratio: 0}
budgets: {prompts: 4, response_tokens: like bottom}
arms:
  bottom: {select: {strategy: bottom-k}}
  pair: {select: {strategy: best-worst, k: null}}
contrasts: [[bottom, pair]]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a plan whose study, in ``run``, is finished; its steps ran in this process."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "plan.yaml").write_text(PLAN)
    write_prompts(folder / "prompts.jsonl", 6)
    unseen = [{"prompt_id": f"h{i}", "prompt": f"unseen {i}"} for i in range(3)]
    write_json_lines(folder / "heldout.jsonl", unseen)
    make_tiny_causal_lm(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("prefpipe.wiring.study.run_step", lambda words, **_how: prefpipe(list(words)))
        assert prefpipe(["study", "plan.yaml", "-o", "run"]) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy, in which the test stands: the copy of a study is a study."""
    copy = tmp_path / "study"
    shutil.copytree(finished, copy)
    record = copy / "run" / "study.json"
    record.write_text(record.read_text().replace(str(finished), str(copy)))
    monkeypatch.chdir(copy)
    return copy


def states(status: StudyStatus) -> dict[str, str]:
    return {run.arm: run.state for run in status.runs}


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_finished_study_is_done_wherever_one_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = status_of_study(Path("run"))
    assert (status.state, status.again, status.shared, status.notes) == ("done", (), (), ())
    assert states(status) == {"bottom": "done", "pair": "done"}

    # paths of the plan are relative to where it was run, not to where one looks
    monkeypatch.chdir(tmp_path)
    status = status_of_study(folder / "run")
    assert states(status) == {"bottom": "done", "pair": "done"}
    assert Path.cwd() == tmp_path
    [note] = status.notes
    assert f"relative to {folder}" in note


def test_a_finished_study_prints_its_tables_and_pipes_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run again it makes nothing, and shows on stderr what `prefpipe eval study` does."""
    assert prefpipe(["study", "plan.yaml", "-o", "run"]) == 0
    out, err = capsys.readouterr()
    assert out == "run\n"
    assert "Contrasts in mean reward, equal prompts\n" in err
    assert "bottom - pair" in err
    assert "Arms, equal response tokens\n" in err


def test_a_changed_knob_makes_its_arm_stale_and_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder / "plan.yaml", "strategy: best-worst, k: null}}", "strategy: best-worst, k: null}, train: {learning_rate: 2e-2}}")  # fmt: skip
    status = status_of_study(Path("run"))
    assert states(status) == {"bottom": "done", "pair": "stale"}
    [reason] = status.reasons
    assert reason == "pair, seed 0: train --learning-rate 2e-2 now, 1e-2 then"
    assert status.again == (
        "prefpipe",
        "study",
        "plan.yaml",
        "-o",
        "run",
        "--overwrite=stale",
    )
    assert prefpipe(["status", "run", "--quick"]) == 4
    out = capsys.readouterr().out
    assert "stale: pair, seed 0: train --learning-rate 2e-2 now, 1e-2 then\n" in out
    assert "again:   prefpipe study plan.yaml -o run --overwrite=stale\n" in out


def test_a_changed_selection_makes_its_arm_stale_and_is_refused_before_any_step(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder / "plan.yaml", "bottom: {select: {", "bottom: {select: {k: 1, ")
    edit(folder / "plan.yaml", "seeds: [0]", "seeds: [0, 1]")
    edit(folder / "plan.yaml", "response_tokens: like bottom", "response_tokens: like pair")
    status = status_of_study(Path("run"))
    of_bottom = [run for run in status.runs if run.arm == "bottom"]
    assert [run.state for run in of_bottom] == ["stale", "stale"]
    assert "bottom, seed 0: select --k 1 now, 2 then" in status.reasons
    assert status.again[-1] == "--overwrite=stale"

    ran: list[str] = []
    monkeypatch.setattr("prefpipe.wiring.study.run_step", lambda words, **_how: ran.append(words))
    command = ["study", "plan.yaml", "-o", "run", "--arms", "bottom"]
    assert prefpipe(command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "bottom, seed 1: select --k 1 now, 2 then" in said
    assert "prefpipe study plan.yaml -o run --arms bottom --overwrite=stale" in said
    assert ran == []


def test_a_seed_more_waits_and_the_command_goes_on_without_overwriting(folder: Path) -> None:
    edit(folder / "plan.yaml", "seeds: [0]", "seeds: [0, 1]")
    status = status_of_study(Path("run"))
    assert [(run.arm, run.seed, run.state) for run in status.runs] == [
        ("bottom", 0, "done"),
        ("bottom", 1, "waiting"),
        ("pair", 0, "done"),
        ("pair", 1, "waiting"),
    ]
    assert status.state == "partial"
    assert status.again == ("prefpipe", "study", "plan.yaml", "-o", "run")


@pytest.mark.parametrize(("code", "said"), [(1, "train, exit 1"), (-9, "train, signal 9")])
def test_a_failed_run_says_step_and_code(folder: Path, code: int, said: str) -> None:
    """As if the run's training had ended so: its evaluations are not there, and the ledger's last line says why."""
    ledger = StepLedger(Path("run"))
    [trained] = [entry for entry in ledger.read() if entry.arm == "pair" and entry.stage == "train"]
    for evaluation in Path("run/arms/pair/seed-0").glob("eval-*"):
        shutil.rmtree(evaluation)
    lines = Path("run/steps.jsonl").read_text().splitlines()
    lines.append(json.dumps({**asdict(trained), "exit_code": code}))
    Path("run/steps.jsonl").write_text("\n".join(lines) + "\n")

    status = status_of_study(Path("run"))
    assert states(status) == {"bottom": "done", "pair": "failed"}
    assert status.runs[1].detail == said
    assert status.again == ("prefpipe", "study", "plan.yaml", "-o", "run")


def test_a_run_that_a_copy_holds_is_running_and_looking_takes_nothing(folder: Path) -> None:
    shutil.rmtree(next(Path("run/arms/pair/seed-0").glob("eval-*")))
    with lock_of_run(Path("run"), "pair", 0).tried() as held:
        assert held is not None
        status = status_of_study(Path("run"))
        assert states(status) == {"bottom": "done", "pair": "running"}
        assert f"/{os.getpid()} since " in status.runs[1].detail
    assert states(status_of_study(Path("run"))) == {"bottom": "done", "pair": "waiting"}
    # half of it is judged
    assert status_of_study(Path("run")).runs[1].detail == "1 of 2 judged"


def test_what_all_runs_need_is_said_while_it_is_not_made(folder: Path) -> None:
    shutil.rmtree(folder / "run/heldout/scores")
    status = status_of_study(Path("run"))
    assert status.shared == ("not made yet: held-out, score",)
    # not stale: once it is made again they may be done as they are
    assert states(status) == {"bottom": "waiting", "pair": "waiting"}
    assert status.again == ("prefpipe", "study", "plan.yaml", "-o", "run")


def test_what_all_runs_need_and_failed_is_said_with_its_exit_code(folder: Path) -> None:
    shutil.rmtree(folder / "run/heldout/scores")
    ledger = StepLedger(folder / "run")
    [entry] = [each for each in ledger.read() if each.name == "held-out, score"]
    ledger.add(replace(entry, exit_code=3, fingerprint=None))
    status = status_of_study(Path("run"))
    assert status.shared == ("failed: held-out, score, exit 3",)
    assert status.state == "partial"


def test_an_arm_that_left_the_plan_is_named(folder: Path) -> None:
    (folder / "run/arms/given-up/seed-0").mkdir(parents=True)
    [note] = status_of_study(Path("run")).notes
    assert note == "folders in arms/ that are not arms of the plan and are in no table: given-up"


def test_a_plan_that_cannot_be_read_counts_as_it_was(folder: Path) -> None:
    (folder / "plan.yaml").write_text("arms: [")
    status = status_of_study(Path("run"))
    assert states(status) == {"bottom": "done", "pair": "done"}
    [note] = status.notes
    assert note.startswith("the recorded plan is used: ")


def test_the_artifacts_below_stand_as_ever_and_json_has_the_study_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prefpipe(["status", "run", "--quick", "--json"]) == 0
    study, *artifacts = json.loads(capsys.readouterr().out)
    assert (study["stage"], study["state"], study["counts"]) == ("study", "done", {"done": 2})
    paths = {each["path"] for each in artifacts}
    assert {"run/pool/candidates", "run/arms/pair/groups"} <= paths
    assert all(each["state"] == "done" for each in artifacts)

    # of an arm alone no study is said
    assert prefpipe(["status", "run/arms/pair", "--quick", "--json"]) == 0
    assert all(each["stage"] != "study" for each in json.loads(capsys.readouterr().out))


def test_a_copy_of_record_and_tables_has_the_states_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "s", failed=[("best", 1)], waiting=[("worse", 2)])
    assert prefpipe(["status", str(tmp_path)]) == 4
    out = capsys.readouterr().out
    assert "9 runs, 7 done, 1 failed, 1 waiting" in out
    assert "failed: best, seed 1: train, exit 1" in out
    assert "again:" not in out
    assert studies_in(tmp_path) == [tmp_path / "s"]


def test_the_table_holds_long_names_and_many_seeds_in_80_columns(tmp_path: Path) -> None:
    from rich.console import Console

    arms = {f"arm-{number}".ljust(64, "x"): {} for number in range(25)}
    names = list(arms)
    write_study(
        tmp_path / "s",
        {"arms": arms, "contrasts": [names[:2]], "budgets": {"prompts": 60}},
        waiting=[(name, 2) for name in names],
    )
    console = Console(width=80, record=True, file=StringIO())
    for item in run_study_page(status_of_study(tmp_path / "s").to_json(), width=80):
        console.print(item)
    text = console.export_text()
    assert text.count("waiting") == 25 + 1
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("n_seeds", [1, 7, 10, 30])
@pytest.mark.parametrize("arm", ["bottom-k", "x" * 64])
def test_each_row_names_its_arm_however_many_seeds_there_are(
    tmp_path: Path, n_seeds: int, arm: str
) -> None:
    from rich.console import Console

    seeds = list(range(n_seeds))
    changes = {"arms": {arm: {}, "other": {}}, "contrasts": [], "seeds": seeds}
    changes["budgets"] = {"prompts": 60}
    write_study(tmp_path / "s", changes, waiting=[(arm, seed) for seed in seeds])
    study = status_of_study(tmp_path / "s").to_json()
    console = Console(width=80, record=True, file=StringIO())
    for item in run_study_page(study, width=80):
        console.print(item)
    lines = console.export_text().splitlines()

    assert max(map(len, lines)) <= 80
    of_arm = [line for line in lines if line.startswith(arm[:8])]
    assert sum(line.count("waiting") for line in of_arm) == n_seeds
    shown = [int(words) for line in lines for words in re.findall(r"seed (\d+)", line)]
    assert shown == seeds
