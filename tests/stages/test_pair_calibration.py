"""Calibration is one thing: what ``train --target reward`` tells of held-out pairs is what ``eval calibration`` tells of them."""

import json

import pytest
from pair_files import evaluate, pairs_file
from pipelines import rows_of, write_json_lines
from tiny_models import make_tiny_reward_model

from prefpipe.cli.main import run as prefpipe

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ANSWERS = ["no", "maybe, it depends", "yes, as one sees", "I cannot say"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A reward model trained on rated pairs by the commands, and the file of the pairs that it was evaluated on."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"{ANSWERS[i % 4]} {i}", "rejected": f"{ANSWERS[(i + 1) % 4]} {j}",
         "score_chosen": 4.0 + i % 2, "score_rejected": 3.0 - j}
        for i in range(24) for j in range(2)
    ]  # fmt: skip
    pairs = str(write_json_lines(folder / "pairs.jsonl", rows))
    model = make_tiny_reward_model(folder / "start")
    for words in (
        ["import", pairs, "-o", str(folder), "--format", "trl"],
        ["select", str(folder / "candidates"), "--scores", str(folder / "scores"), "-o", str(folder / "groups"), "--strategy",
         "all", "--pairs", "all-ordered"],
        ["train", str(folder / "groups"), "-o", str(folder / "reward"), "--model", str(model), "--target", "reward",
         "--eval-fraction", "0.4", "--learning-rate", "3e-3", "--global-batch-size", "4", "--report-to", "none"],
    ):  # fmt: skip
        assert prefpipe(words) == 0
    held = {(row["prompt_id"], row["sample_idx"]) for row in rows_of(folder / "reward") if row["status"] == "held_out"}
    groups = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(folder / "groups")}
    again = [
        {"prompt": row["messages"], "chosen": row["response"], "rejected": groups[key[0], beaten["sample_idx"]]["response"],
         "score_chosen": row["reward"], "score_rejected": groups[key[0], beaten["sample_idx"]]["reward"]}
        for key, row in groups.items() if key in held for beaten in row["beats"] or ()
    ]  # fmt: skip
    return folder, pairs_file(folder, again, "held_out.jsonl")


def test_train_and_eval_tell_the_same_figures(trained, tmp_path):
    folder, pairs = trained
    told = json.loads((folder / "reward" / "summary.json").read_text())["calibration"]
    found = evaluate("calibration", pairs, tmp_path / "out", "--model", str(folder / "reward"), "--reward-model")["calibration"]
    figures = ("n_pairs", "accuracy", "auc", "ece", "ece_mass", "brier", "log_loss")
    assert told["n_pairs"] > 20
    assert {name: found[name] for name in figures} == pytest.approx({name: told[name] for name in figures}, abs=2e-5)
    for kind, name in (("width", "reliability"), ("mass", "reliability_mass")):
        columns = told["reliability"][kind]
        for column, values in columns.items():
            assert [each[column] for each in found[name]] == pytest.approx(values, abs=2e-5)
    for theirs, ours in (("by_score_gap", "by_gap"), ("by_reward_gap", "by_rater_gap")):
        assert len(found[ours]) == len(told[theirs]) > 1
        for mine, other in zip(found[ours], told[theirs], strict=True):
            assert {name: mine[name] for name in other} == pytest.approx(other, abs=2e-5)


def test_the_three_ways_to_the_scores_agree(trained, tmp_path):
    """The model, its scores as columns of a file, and the folder that holds them."""
    folder, pairs = trained
    words = ("--model", str(folder / "reward"), "--reward-model")
    first = evaluate("calibration", pairs, tmp_path / "model", *words)["calibration"]
    rows = [
        {"prompt_id": row["prompt_id"], "score_chosen": row["chosen_score"], "score_rejected": row["rejected_score"]}
        for row in rows_of(tmp_path / "model")
    ]
    second = evaluate("calibration", pairs_file(tmp_path, rows), tmp_path / "columns")["calibration"]
    third = evaluate("calibration", str(tmp_path / "model"), tmp_path / "folder")["calibration"]
    assert third == first
    assert second | {"by_rater_gap": None} == first | {"by_rater_gap": None}
