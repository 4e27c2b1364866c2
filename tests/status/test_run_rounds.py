"""A run of several rounds: what its plan wants otherwise is stale from there on, and rounds are a table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.planned_run import copy_to
from support.tiny_models import make_tiny_causal_lm

from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.cli.main import run as prefpipe
from prefpipe.status.checker import StatusChecker, standing_of
from prefpipe.status.folders import find_artifacts
from prefpipe.status.run_plan import PlanDifference
from prefpipe.status.run_rounds import RunRounds, rounds_of_run

pytestmark = pytest.mark.slow

STEPS = ("generate", "score", "select", "train", "eval")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


def table(run: Path) -> RunRounds:
    return rounds_of_run(run, find_artifacts(run), StatusChecker(), quick=True)


def states(run: Path) -> list[str]:
    """Return a word a round: the first letter of each step's state."""
    return ["".join(row.steps[stage].state[0] for stage in STEPS) for row in table(run).rows]


def edit(folder: Path, before: str, after: str) -> None:
    plan = folder / "plan.yaml"
    assert before in plan.read_text()
    plan.write_text(plan.read_text().replace(before, after))


def test_a_finished_run_is_done(folder: Path) -> None:
    found = table(folder / "run")
    assert (found.state, found.again, found.reasons, found.notes) == ("done", (), [], ())
    assert states(folder / "run") == ["ddddd", "ddddd", "ddddd"]
    assert [row.learning_rate for row in found.rows] == [0.05, 0.02, 0.02]
    assert [row.changes for row in found.rows] == [(), ("train.learning_rate 2e-2",), ()]


@pytest.mark.parametrize(
    ("before", "after", "expected", "reason"),
    [
        (
            "learning_rate: 2e-2",
            "learning_rate: 1e-2",
            ["ddddd", "dddss", "sssss"],
            "round 2, train: the plan says train.learning_rate 0.01, it was made with 0.02",
        ),
        (
            "changes: {2: {train",
            "changes: {3: {select: {k: 1}}, 2: {train",
            ["ddddd", "ddddd", "ddsss"],
            "round 3, select: the plan says select.k 1, it was made with 2",
        ),
        (
            "k: 2",
            "k: 3",
            ["ddsss", "sssss", "sssss"],
            "round 1, select: the plan says select.k 3, it was made with 2",
        ),
        (
            "scorer: fake}",
            "scorer: other=fake}",
            ["dssss", "sssss", "sssss"],
            "round 1, score: the plan says score.scorer other=fake, it was made with fake",
        ),
        (
            "n: 2, max_tokens: 8",
            "n: 2, max_tokens: 9",
            ["dddds", "dddds", "dddds"],
            "round 2, eval: the plan says eval.max_tokens 9, it was made with 8",
        ),
        (
            "strategy: bottom-k",
            "strategy: bottom-k, positives: 2",
            ["ddsss", "sssss", "sssss"],
            "round 1, select: the plan says select.positives 2, it was made with 1",
        ),
        (
            "max_steps: 2, ",
            "",
            ["dddss", "sssss", "sssss"],
            "round 1, train: the plan does not set train.max_steps, it was made with 2",
        ),
        (
            "report_to: none",
            "report_to: none, weight_decay: 0.5",
            ["dddss", "sssss", "sssss"],
            "round 1, train: the plan says train.weight_decay 0.5, it was made with 0",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_changed_knob_makes_its_step_stale_and_what_is_below(
    folder: Path, before: str, after: str, expected: list[str], reason: str
) -> None:
    edit(folder, before, after)
    found = table(folder / "run")
    assert states(folder / "run") == expected
    assert reason in found.reasons
    assert found.again[:2] == ("prefpipe", "rounds")
    assert found.again[-1] == "--overwrite=stale"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # what its objective or its scores would make of it anyway, what changes no row, and words
        ("k: 2", "k: 2, reward: fake"),
        ("learning_rate: 5e-2", "learning_rate: 0.05"),
        ("report_to: none", "report_to: none, objective: ampo, lr_scheduler_type: cosine"),
        ("report_to: none", "report_to: none, per_device_train_batch_size: 2"),
        ("n: 4, ", "n: 4, batch_size: 7, "),
        ("prompt_use: reuse", "prompt_use: reuse\nreference: first"),
        ("part_size: 4}\nscore", "device: cpu}\nscore"),
    ],
)
def test_what_leaves_the_fingerprint_as_it_is_makes_nothing_stale(
    folder: Path, before: str, after: str
) -> None:
    edit(folder, before, after)
    assert states(folder / "run") == ["ddddd", "ddddd", "ddddd"]


def test_a_learning_rate_that_is_left_to_the_objective_is_compared_with_its_table(
    folder: Path,
) -> None:
    edit(folder, "learning_rate: 5e-2, ", "")
    [reason, *_] = table(folder / "run").reasons
    assert reason == (
        "round 1, train: the plan does not set train.learning_rate, it was made with 0.05"
    )
    record = folder / "run/round-01/policy/run.json"
    values = json.loads(record.read_text())
    values["identity"]["learning_rate"] = 4e-7
    values["fingerprint"] = fingerprint_of(values["identity"])
    record.write_text(json.dumps(values))
    assert not [line for line in table(folder / "run").reasons if "train.learning_rate" in line]


def test_another_model_under_another_name_is_stale_and_the_same_one_is_not(folder: Path) -> None:
    shutil.copytree(folder / "start", folder / "same")
    edit(folder, f"model: {folder}/start", f"model: {folder}/same")
    assert states(folder / "run")[0][:4] == "dddd"

    shutil.rmtree(folder / "same")
    make_tiny_causal_lm(folder / "same", 1)
    assert states(folder / "run") == ["sssss", "sssss", "sssss"]
    told = f"round 1, generate: the plan says generate.model {folder}/same, it was made with {folder}/start"
    assert told in table(folder / "run").reasons


def test_prompts_under_another_name_are_stale_where_they_are_others(folder: Path) -> None:
    shutil.copy(folder / "prompts.jsonl", folder / "same.jsonl")
    edit(folder, "prompts: " + str(folder / "prompts.jsonl"), f"prompts: {folder}/same.jsonl")
    assert states(folder / "run") == ["ddddd", "ddddd", "ddddd"]
    (folder / "same.jsonl").write_text('{"prompt": "another"}\n')
    assert states(folder / "run") == ["sssss", "sssss", "sssss"]


def test_steps_that_have_not_begun_are_missing_with_the_command_that_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill in round 2 leaves it: its second part of candidates is there, and nothing of round 3."""
    monkeypatch.chdir(folder)
    run = Path("run")
    shutil.rmtree(run / "round-03")
    for name in ("scores", "groups", "policy", "eval"):
        shutil.rmtree(run / "round-02" / name)
    (run / "round-02/candidates/part-00000-of-00002.parquet").unlink()
    assert states(run) == ["ddddd", "pmmmm", "mmmmm"]

    assert prefpipe(["status", "run", "--quick"]) == 4
    told = capsys.readouterr().out
    assert "2      partial 1 of 2  missing  missing  missing  missing" in told
    assert "again:   prefpipe rounds plan.yaml -o run --seed 0\n" in told

    assert prefpipe(["status", "run", "--quick", "--json"]) == 4
    entry, *artifacts = json.loads(capsys.readouterr().out)
    assert (entry["stage"], entry["state"], entry["plan"]) == ("rounds", "partial", "plan.yaml")
    assert entry["again"] == [["prefpipe", "rounds", "plan.yaml", "-o", "run", "--seed", "0"]]
    steps = entry["rounds"][1]["steps"]
    assert steps["generate"] == {
        "state": "partial",
        "detail": "1 of 2",
        "paths": ["run/round-02/candidates"],
    }
    assert steps["score"] == {"state": "missing", "detail": "", "paths": []}
    assert all(artifact["stage"] != "rounds" for artifact in artifacts)


def test_a_run_that_has_not_begun_is_a_table_of_missing_steps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "run").glob("round-*"):
        shutil.rmtree(path)
    assert prefpipe(["status", str(folder / "run")]) == 4
    assert "again:   prefpipe rounds" in capsys.readouterr().out
    assert states(folder / "run") == ["mmmmm"] * 3


def test_a_step_of_the_plan_names_the_command_of_the_plan(folder: Path) -> None:
    edit(folder, "k: 2", "k: 3")
    status = StatusChecker().check(folder / "run/round-02/groups", quick=True)
    [words] = status.again(None)
    assert words[:2] == ["prefpipe", "rounds"]
    # what is behind has the command that made it, as ever
    [words] = StatusChecker().check(folder / "run/round-02/policy", quick=True).again(None)
    assert words[:2] == ["prefpipe", "train"]


def test_other_commands_mark_what_the_plan_wants_otherwise(folder: Path) -> None:
    edit(folder, "k: 2", "k: 3")
    standing = standing_of(folder / "run/round-01/groups")
    assert standing.reasons == ("the plan says select.k 3, it was made with 2",)


def gone(folder: Path) -> None:
    (folder / "plan.yaml").unlink()


def broken(folder: Path) -> None:
    (folder / "plan.yaml").write_text("rounds: [")


def refused(folder: Path) -> None:
    edit(folder, "k: 2", "kk: 2")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(gone, "cannot be read"), (broken, "is not YAML"), (refused, "unknown key `kk`")],
)
def test_a_plan_that_cannot_be_read_is_noted_and_the_recorded_one_counts(
    folder: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(folder)
    found = table(folder / "run")
    assert found.state == "done"
    [note] = found.notes
    assert note.startswith("the plan recorded in")
    assert told in note


@pytest.mark.parametrize("text", ["", "[]", '{"plan": 3}'])
def test_a_rounds_json_that_cannot_be_read_is_noted_and_lineage_counts(
    folder: Path, text: str
) -> None:
    (folder / "run/rounds.json").write_text(text)
    found = table(folder / "run")
    assert (found.state, found.plan, len(found.notes)) == ("done", None, 1)
    assert [row.number for row in found.rows] == [1, 2, 3]
    assert standing_of(folder / "run/round-01/policy").is_done


def test_a_loop_by_hand_is_a_table_by_its_lineage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run/rounds.json").unlink()
    # a third policy of round 2, trained beside: the table shows the gravest of both
    shutil.copytree(folder / "run/round-02/policy", folder / "run/round-02/beside")
    (folder / "run/round-02/beside/summary.json").unlink()
    shutil.rmtree(folder / "run/round-03/eval")
    found = table(folder / "run")
    assert found.plan is None
    assert [row.steps["train"].state for row in found.rows] == ["done", "partial", "done"]
    assert found.rows[2].steps["eval"].state == "-"
    assert found.again == ()
    assert prefpipe(["status", str(folder / "run"), "--quick"]) == 4
    assert "3 rounds\n" in capsys.readouterr().out


def test_a_run_without_rounds_has_no_table(folder: Path, capsys: Any) -> None:
    shutil.move(folder / "run/round-01", folder / "one")
    assert prefpipe(["status", str(folder / "one"), "--quick", "--json"]) in (0, 4)
    assert all(entry["stage"] != "rounds" for entry in json.loads(capsys.readouterr().out))


def test_a_moved_run_is_compared_with_the_plan_all_the_same(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(folder / "run", moved)
    assert states(moved) == ["ddddd", "ddddd", "ddddd"]
    edit(folder, "k: 2", "k: 3")
    assert states(moved) == ["ddsss", "sssss", "sssss"]


def test_rounds_that_the_plan_has_no_more_are_said(folder: Path) -> None:
    edit(folder, "rounds: 3", "rounds: 2")
    found = table(folder / "run")
    assert states(folder / "run") == ["ddddd", "ddddd", "ddddd"]
    assert found.rows[2].changes == ("not in the plan",)


@pytest.mark.parametrize(
    ("difference", "line"),
    [
        (PlanDifference("select.k", 5, 3), "the plan says select.k 5, it was made with 3"),
        (PlanDifference("train.beta", None, 0.1), "the plan does not set train.beta, it was made with 0.1"),
        (PlanDifference("select.earlier", [], ["run/round-01"]), "the plan does not set select.earlier, it was made with run/round-01"),
        (PlanDifference("generate.top_p", 0.9, None), "the plan says generate.top_p 0.9, it was made without"),
        (PlanDifference("generate.temperature", [0.7, 1.0], [1.0]), "the plan says generate.temperature 0.7, 1, it was made with 1"),
    ],
)  # fmt: skip
def test_a_difference_in_words(difference: PlanDifference, line: str) -> None:
    assert difference.line == line
