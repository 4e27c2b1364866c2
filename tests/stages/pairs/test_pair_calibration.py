"""Calibration is one thing: what ``train --target reward`` tells of held-out pairs is what ``eval calibration`` tells of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.pair_files import evaluate, pairs_file, some_pairs
from support.pipelines import rows_of, write_json_lines
from support.tiny_models import make_tiny_causal_lm, make_tiny_reward_model

from prefpipe.cli.main import run as prefpipe

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ANSWERS = ["no", "maybe, it depends", "yes, as one sees", "I cannot say"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A reward model trained on rated pairs by the commands, and the file of the pairs that it was evaluated on."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [
        {
            "prompt": f"Question {i}?",
            "chosen": f"{ANSWERS[i % 4]} {i}",
            "rejected": f"{ANSWERS[(i + 1) % 4]} {j}",
            "score_chosen": 4.0 + i % 2,
            "score_rejected": 3.0 - j,
        }
        for i in range(24)
        for j in range(2)
    ]
    pairs = str(write_json_lines(folder / "pairs.jsonl", rows))
    model = make_tiny_reward_model(folder / "start")
    for words in (
        ["import", pairs, "-o", str(folder), "--format", "trl"],
        [
            "select",
            str(folder / "candidates"),
            "--scores",
            str(folder / "scores"),
            "-o",
            str(folder / "groups"),
            "--strategy",
            "all",
            "--pairs",
            "all-ordered",
        ],
        [
            "train",
            str(folder / "groups"),
            "-o",
            str(folder / "reward"),
            "--model",
            str(model),
            "--target",
            "reward",
            "--eval-fraction",
            "0.4",
            "--learning-rate",
            "3e-3",
            "--global-batch-size",
            "4",
            "--report-to",
            "none",
        ],
    ):
        assert prefpipe(words) == 0
    held = {
        (row["prompt_id"], row["sample_idx"])
        for row in rows_of(folder / "reward")
        if row["status"] == "held_out"
    }
    groups = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(folder / "groups")}
    again = [
        {
            "prompt": row["messages"],
            "chosen": row["response"],
            "rejected": groups[key[0], beaten["sample_idx"]]["response"],
            "score_chosen": row["reward"],
            "score_rejected": groups[key[0], beaten["sample_idx"]]["reward"],
        }
        for key, row in groups.items()
        if key in held
        for beaten in row["beats"] or ()
    ]
    return folder, pairs_file(folder, again, "held_out.jsonl")


@pytest.mark.slow
def test_train_and_eval_tell_the_same_figures(trained, tmp_path):
    folder, pairs = trained
    told = json.loads((folder / "reward" / "summary.json").read_text())["calibration"]
    found = evaluate(
        "calibration", pairs, tmp_path / "out", "--model", str(folder / "reward"), "--reward-model"
    )["calibration"]
    figures = ("n_pairs", "accuracy", "auc", "ece", "ece_mass", "brier", "log_loss")
    assert told["n_pairs"] > 20
    assert {name: found[name] for name in figures} == pytest.approx(
        {name: told[name] for name in figures}, abs=2e-5
    )
    for kind, name in (("width", "reliability"), ("mass", "reliability_mass")):
        columns = told["reliability"][kind]
        for column, values in columns.items():
            assert [each[column] for each in found[name]] == pytest.approx(values, abs=2e-5)
    for theirs, ours in (("by_score_gap", "by_gap"), ("by_reward_gap", "by_rater_gap")):
        assert len(found[ours]) == len(told[theirs]) > 1
        for mine, other in zip(found[ours], told[theirs], strict=True):
            assert {name: mine[name] for name in other} == pytest.approx(other, abs=2e-5)


@pytest.mark.slow
def test_the_three_ways_to_the_scores_agree(trained, tmp_path):
    """The model, its scores as columns of a file, and the folder that holds them."""
    folder, pairs = trained
    words = ("--model", str(folder / "reward"), "--reward-model")
    first = evaluate("calibration", pairs, tmp_path / "model", *words)["calibration"]
    rows = [
        {
            "prompt_id": row["prompt_id"],
            "score_chosen": row["chosen_score"],
            "score_rejected": row["rejected_score"],
        }
        for row in rows_of(tmp_path / "model")
    ]
    second = evaluate("calibration", pairs_file(tmp_path, rows), tmp_path / "columns")[
        "calibration"
    ]
    third = evaluate("calibration", str(tmp_path / "model"), tmp_path / "folder")["calibration"]
    assert third == first
    assert second | {"by_rater_gap": None} == first | {"by_rater_gap": None}


@pytest.fixture(scope="module")
def policy(trained):
    """A policy trained for one step of SimPO at beta 2.5 by the command, and the model that it started from."""
    folder, _ = trained
    start = make_tiny_causal_lm(folder / "start-policy")
    words = [
        "train",
        str(folder / "groups"),
        "-o",
        str(folder / "policy"),
        "--model",
        str(start),
        "--objective",
        "simpo",
        "--beta",
        "2.5",
        "--max-steps",
        "1",
        "--global-batch-size",
        "4",
        "--report-to",
        "none",
    ]
    assert prefpipe(words) == 0
    return str(folder / "policy"), str(start)


@pytest.mark.slow
def test_the_beta_of_a_policy_is_that_of_its_training(trained, policy, tmp_path, capsys):
    """Trained on mean log-probabilities: taken for these, for log-ratios it means nothing; what is given goes first."""
    _, pairs = trained
    found = evaluate("calibration", pairs, tmp_path / "mean", "--model", policy[0])
    assert (found["beta"], found["beta_from"]) == (2.5, "training")
    assert "2.5 * (s_chosen - s_rejected)), the beta of the policy's training" in " ".join(
        capsys.readouterr().err.split()
    )
    again = evaluate("calibration", str(tmp_path / "mean"), tmp_path / "again")
    assert (again["beta"], again["calibration"]["ece"]) == (2.5, found["calibration"]["ece"])
    given = evaluate("calibration", str(tmp_path / "mean"), tmp_path / "given", "--beta", "2")
    assert (given["beta"], given["beta_from"]) == (2.0, "given")
    ratio = evaluate(
        "calibration", pairs, tmp_path / "ratio", "--model", policy[0], "--reference", policy[1]
    )
    assert (ratio["beta"], ratio["beta_from"]) == (0.1, "default")
    untrained = evaluate("calibration", pairs, tmp_path / "start", "--model", policy[1])
    assert (untrained["beta"], untrained["beta_from"]) == (1.0, "default")


@pytest.mark.slow
def test_graded_outcomes_are_sigmas_of_the_ratings(trained, policy, tmp_path, capsys):
    """Brier ``mean (p - y)^2``, log loss ``-mean y log p + (1 - y) log (1 - p)``, ECE of one bin each: all against soft y."""
    _, pairs = trained
    found = evaluate(
        "calibration",
        pairs,
        tmp_path / "out",
        "--model",
        policy[0],
        "--outcome-gamma",
        "0.7",
        "--n-bins",
        "2",
    )
    rows = rows_of(tmp_path / "out")
    rated = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    gaps = np.array([row["score_chosen"] - row["score_rejected"] for row in rated])
    p = 1 / (1 + np.exp(-2.5 * np.array([row["margin"] for row in rows])))
    y = 1 / (1 + np.exp(-0.7 * gaps))
    figures = found["calibration"]
    assert figures["outcome_gamma"] == 0.7
    assert figures["brier"] == pytest.approx(np.mean((p - y) ** 2), rel=1e-9)
    assert figures["log_loss"] == pytest.approx(
        -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-9
    )
    up = np.where(p >= 0.5, 1, -1)  # each pair's half of the curve that lies above 1/2
    right, sure = np.where(up > 0, y, 1 - y), np.where(up > 0, p, 1 - p)
    assert figures["ece"] == pytest.approx(abs(right.mean() - sure.mean()), rel=1e-9)
    assert "sigma(0.7 * (rating of chosen - rating of rejected))" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.slow
def test_outcomes_at_gamma_zero_are_coins(trained, policy, tmp_path):
    found = evaluate(
        "calibration", trained[1], tmp_path / "out", "--model", policy[0], "--outcome-gamma", "0"
    )
    margins = np.array([row["margin"] for row in rows_of(tmp_path / "out")])
    assert found["calibration"]["brier"] == pytest.approx(
        np.mean((1 / (1 + np.exp(-2.5 * margins)) - 0.5) ** 2), rel=1e-9
    )


def test_graded_outcomes_without_ratings_are_refused(policy, tmp_path, capsys):
    pairs = pairs_file(tmp_path, some_pairs(4))
    words = [
        "eval",
        "calibration",
        "--pairs",
        pairs,
        "-o",
        str(tmp_path / "out"),
        "--model",
        policy[0],
        "--outcome-gamma",
        "1",
    ]
    assert prefpipe(words) == 2
    assert "--outcome-gamma 1 needs the raters' scores" in " ".join(capsys.readouterr().err.split())
