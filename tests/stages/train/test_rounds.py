"""Which round a policy is of: from the model it starts from, and from the one that sampled its candidates."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.finished_run import command
from support.pipelines import open_artifact
from support.two_rounds import SAMPLING, TRAINING, copy_to

from prefpipe.models.merge_record import MergedPart, MergeRecord, read_merge_record
from prefpipe.models.rounds import round_of_model


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds by hand, and groups of the second; tests write beside them alone."""
    folder = copy_to(tmp_path_factory.mktemp("rounds"))
    command(
        [
            "select",
            str(folder / "round2/candidates"),
            "--scores",
            str(folder / "round2/scores"),
            "-o",
            str(folder / "round2/groups"),
            "--strategy",
            "best-worst",
        ]
    )
    return folder


def context(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return values["context"]


def train(groups: Path, model: Path, output: Path) -> int:
    command(["train", str(groups), "-o", str(output), "--model", str(model), *TRAINING])
    of_round: int = context(output)["round"]
    assert json.loads((output / "summary.json").read_text())["round"] == of_round
    return of_round


@pytest.mark.slow
def test_candidates_groups_policies_and_evaluations_say_their_round(rounds: Path) -> None:
    sampler = {name: context(rounds / name)["sampler_round"] for name in ("candidates", "groups")}
    assert sampler == {"candidates": 0, "groups": 0}
    assert context(rounds / "policy")["round"] == 1
    assert context(rounds / "round2/candidates")["sampler_round"] == 1
    assert context(rounds / "round2/groups")["sampler_round"] == 1
    assert context(rounds / "eval")["round"] == 1
    assert json.loads((rounds / "eval/summary.json").read_text())["round"] == 1
    assert context(rounds / "eval/baseline/candidates")["sampler_round"] == 0
    # a reward model is no policy
    assert "round" not in context(rounds / "rm")
    assert round_of_model(rounds / "rm") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "model"),
    [("round2/groups", "policy"), ("round2/groups", "models/start"), ("groups", "policy")],
    ids=["both", "sampled by round 1", "starts from round 1"],
)
def test_round_2_is_one_more_than_the_later_of_start_and_sampler(
    rounds: Path, tmp_path: Path, groups: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(rounds / groups, rounds / model, tmp_path / "policy2") == 2
    start = "the policy of round 1, " if model == "policy" else ""
    sampler = "the policy of round 1" if groups == "round2/groups" else "a model of no round"
    line = f"round 2: from {start}{rounds / model}, on candidates that {sampler} sampled"
    assert line in capsys.readouterr().err.replace("\n", "")


@pytest.mark.slow
def test_what_a_checkpoint_or_a_merged_policy_samples_is_of_its_round(
    rounds: Path, tmp_path: Path
) -> None:
    output = tmp_path / "adapter"
    adapter = ["--lora-r", "2", "--warmup-ratio", "0", "--save-steps", "1", *TRAINING]
    words = ["train", str(rounds / "round2/groups"), "-o", str(output)]
    command([*words, "--model", str(rounds / "policy"), *adapter])
    [checkpoint] = output.glob("checkpoint-*")
    assert round_of_model(checkpoint) == 2
    command(["merge", str(output), "-o", str(tmp_path / "merged")])
    shutil.rmtree(output)
    assert round_of_model(tmp_path / "merged") == 2

    candidates = tmp_path / "candidates"
    words = ["generate", str(rounds / "prompts.jsonl"), "-o", str(candidates), "--n", "1"]
    command([*words, "--model", str(tmp_path / "merged"), *SAMPLING])
    assert context(candidates)["sampler_round"] == 2


@pytest.mark.slow
def test_the_round_is_no_part_of_the_fingerprint(rounds: Path) -> None:
    record = open_artifact(rounds / "policy").record
    assert "round" not in record.identity
    assert "sampler_round" not in open_artifact(rounds / "candidates").record.identity


@pytest.mark.slow
def test_a_policy_of_an_earlier_release_counts_as_of_round_1(rounds: Path, tmp_path: Path) -> None:
    shutil.copytree(rounds / "policy", tmp_path / "policy")
    values = json.loads((tmp_path / "policy" / "run.json").read_text())
    del values["context"]["round"]
    (tmp_path / "policy" / "run.json").write_text(json.dumps(values))
    assert round_of_model(tmp_path / "policy") == 1


def test_folders_that_prefpipe_did_not_train_are_of_round_0(tmp_path: Path) -> None:
    assert round_of_model(tmp_path) == 0
    assert round_of_model(tmp_path / "none") == 0
    (tmp_path / "run.json").write_text("{")
    assert round_of_model(tmp_path) == 0


def test_a_merge_of_an_earlier_release_says_no_round(tmp_path: Path) -> None:
    record = MergeRecord("out", "host", (MergedPart("base", "b", "b", "0"),), round=3)
    record.write_to(tmp_path)
    assert read_merge_record(tmp_path) == record
    values = json.loads((tmp_path / "merged_from.json").read_text())
    del values["round"]
    (tmp_path / "merged_from.json").write_text(json.dumps(values))
    assert round_of_model(tmp_path) == 0
