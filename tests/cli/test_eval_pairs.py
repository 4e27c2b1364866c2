"""``prefpipe eval rewardbench`` and ``prefpipe eval calibration`` as they are typed."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.pair_files import QUICK, evaluate, pairs_file, some_pairs
from support.pipelines import identities_of, rows_of
from support.tiny_models import make_tiny_causal_lm

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run as prefpipe
from prefpipe.maths.statistics.calibration import measure_calibration, preference_curve

FAKE = ("--model", "fake", "--reward-model")


def scored_rows(n, *, seed=0):
    """Pairs with two scores each, of which about three in four are right."""
    rng = np.random.default_rng(seed)
    return [
        row | {"score_chosen": 0.7 + float(rng.normal()), "score_rejected": 0.0}
        for row in some_pairs(n)
    ]


def test_the_table_says_sections_subsets_numbers_and_ties(tmp_path, capsys):
    rows = [
        *some_pairs(12),
        *some_pairs(2, subset="my-own"),
        some_pairs(1)[0] | {"chosen": "x", "rejected": "x"},
    ]
    evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", *FAKE)
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out'}\n"
    lines = [line.split() for line in captured.err.splitlines()]
    firsts = [line[0] for line in lines if line]
    for name in ("Chat", "Safety", "llmbar-natural", "donotanswer", "my-own", "final,"):
        assert name in firsts
    assert firsts.index("my-own") > firsts.index("donotanswer")
    assert "no subsets of RewardBench, in no section: my-own" in captured.err
    assert (
        "scored pairs, and RewardBench's number: llmbar-natural 7 of 100, donotanswer 6 of 136"
        in captured.err
    )
    assert "no pairs of Chat, Reasoning, Prior Sets" in captured.err
    assert "1 of 15 pairs tie and count as lost" in captured.err


def test_a_file_without_subsets_has_one_accuracy(tmp_path, capsys):
    rows = [
        {name: row[name] for name in ("prompt", "chosen", "rejected")} for row in some_pairs(10)
    ]
    found = evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", *FAKE)
    assert found["rewardbench"] is None
    assert found["accuracy"]["n_pairs"] == 10
    said = capsys.readouterr().err
    assert "all pairs" in said
    assert "section" not in said


@pytest.mark.slow
def test_json_carries_all_figures(tmp_path, capsys):
    words = [
        "eval",
        "rewardbench",
        "--pairs",
        pairs_file(tmp_path, some_pairs(8)),
        "-o",
        str(tmp_path / "out"),
        *FAKE,
        *QUICK,
    ]
    assert prefpipe([*words, "--json"]) == 0
    piped = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {name: piped[name] for name in written} == written
    assert piped["counts"] == {"ok": 8}
    assert read_run_record(tmp_path / "out").schema == "pair_scores/1"


@pytest.mark.slow
def test_scores_of_the_file_need_no_model(tmp_path, capsys):
    rows = scored_rows(200)
    found = evaluate("calibration", pairs_file(tmp_path, rows), tmp_path / "out")
    d = [row["score_chosen"] - row["score_rejected"] for row in rows]
    expected = measure_calibration(d)
    assert {name: found["calibration"][name] for name in expected} == pytest.approx(expected)
    curve = preference_curve(d, binning="mass")
    assert [each["observed"] for each in found["calibration"]["reliability_mass"]] == pytest.approx(
        curve.observed.tolist()
    )
    assert (found["score_kind"], found["recipe"]["score_columns"]) == (
        "given",
        ["score_chosen", "score_rejected"],
    )
    said = capsys.readouterr().err
    for words in (
        "AUC",
        "ECE, equal mass",
        "log loss",
        "reliability:",
        "score gap",
        "held out, T = 1",
        "█",
    ):
        assert words in said


@pytest.mark.slow
def test_missing_and_infinite_scores_are_kept_and_told(tmp_path):
    rows = scored_rows(30)
    rows[3]["score_chosen"] = None
    rows[4]["score_rejected"] = float("nan")
    found = evaluate(
        "calibration", pairs_file(tmp_path, rows), tmp_path / "out", "--max-error-rate", "0.1"
    )
    statuses = {
        row["pair_idx"]: row["status"] for row in rows_of(tmp_path / "out") if row["status"] != "ok"
    }
    assert statuses == {3: "no_score", 4: "not_finite"}
    assert found["calibration"]["n_pairs"] == found["accuracy"]["n_pairs"] == 28


def test_graded_preferences_are_outcomes_and_gaps(tmp_path):
    rows = [row | {"preference": (0.9, 0.6, None)[i % 3]} for i, row in enumerate(scored_rows(60))]
    found = evaluate("calibration", pairs_file(tmp_path, rows), tmp_path / "out")
    known = [row for row in rows if row["preference"] is not None]
    d = [row["score_chosen"] - row["score_rejected"] for row in known]
    expected = measure_calibration(d, [row["preference"] for row in known])
    assert {name: found["calibration"][name] for name in expected} == pytest.approx(expected)
    assert found["calibration"]["n_without_outcome"] == 20
    assert [(row["gap_lower"], row["n_pairs"]) for row in found["calibration"]["by_rater_gap"]] == [
        (0.2, 20),
        (0.8, 20),
    ]
    assert found["accuracy"]["n_pairs"] == 60


def test_scores_beside_a_model_are_the_raters(tmp_path):
    """Ratings are not taken for predictions where a model is there to predict."""
    rows = [
        row | {"rating_chosen": 3 + i % 2, "rating_rejected": 2}
        for i, row in enumerate(some_pairs(20))
    ]
    found = evaluate("calibration", pairs_file(tmp_path, rows), tmp_path / "out", *FAKE)
    assert found["score_kind"] == "reward"
    assert [(row["gap_lower"], row["n_pairs"]) for row in found["calibration"]["by_rater_gap"]] == [
        (1.0, 10),
        (2.0, 10),
    ]
    assert found["recipe"]["rater_columns"] == ["rating_chosen", "rating_rejected"]


@pytest.mark.slow
def test_a_folder_is_read_again_and_nothing_scored_twice(tmp_path, monkeypatch):
    """Either command takes the other's folder, alone or as its own output."""
    pairs = pairs_file(tmp_path, some_pairs(20))
    first = evaluate("rewardbench", pairs, tmp_path / "bench", *FAKE, "--part-size", "7")
    parts = identities_of(tmp_path / "bench")
    monkeypatch.setattr("prefpipe.backends.fake.FakeScorer.score", None)
    again = evaluate("calibration", str(tmp_path / "bench"), tmp_path / "calibration")
    assert rows_of(tmp_path / "calibration") == rows_of(tmp_path / "bench")
    same = {name for name in first if name not in ("command", "pairs", "recipe")}
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert again["recipe"]["models"] == first["recipe"]["models"]
    assert again["recipe"]["pairs_sha256"] == first["recipe"]["pairs_sha256"]
    here = evaluate(
        "calibration", pairs, tmp_path / "bench", *FAKE, "--part-size", "7", "--n-bins", "4"
    )
    assert identities_of(tmp_path / "bench") == parts
    assert len(here["calibration"]["reliability"]) <= 4
    third = evaluate("rewardbench", str(tmp_path / "calibration"), tmp_path / "third")
    assert third["accuracy"] == first["accuracy"]


@pytest.mark.slow
def test_beta_scales_before_the_sigmoid_and_moves_no_rank(tmp_path):
    rows = scored_rows(100)
    plain, sharp = (
        evaluate(
            "calibration", pairs_file(tmp_path, rows), tmp_path / str(beta), "--beta", str(beta)
        )["calibration"]
        for beta in (1, 5)
    )
    assert plain["accuracy"] == sharp["accuracy"]
    assert plain["auc"] == sharp["auc"]
    assert plain["log_loss"] < sharp["log_loss"]
    assert sharp["temperature"]["temperature"] == pytest.approx(
        5 * plain["temperature"]["temperature"], rel=1e-6
    )


@pytest.mark.slow
def test_interrupted_flags_are_refused_in_words(tmp_path, capsys):
    pairs = pairs_file(tmp_path, some_pairs(4))
    for words, said in (
        ([*FAKE, "--reference", "m"], "--reference and --reward-model exclude each other"),
        (["--reward-model"], "so --model is needed"),
        (["--model", "fake"], "--model fake goes with --reward-model"),
        ([*FAKE, "--beta", "2"], "--beta is for policies"),
        ([*FAKE, "--n-bins", "5"], "--n-bins must be even"),
        ([*FAKE, "--fit-share", "1"], "--fit-share must be above 0 and below 1"),
        ([*FAKE, "--part-size", "0"], "--part-size must be 1 or more"),
    ):
        assert (
            prefpipe(["eval", "rewardbench", "--pairs", pairs, "-o", str(tmp_path / "out"), *words])
            == 2
        )
        assert said in capsys.readouterr().err
    assert prefpipe(["eval", "calibration", "-o", str(tmp_path / "out")]) == 2
    assert "`prefpipe eval calibration` needs --pairs" in capsys.readouterr().err
    assert prefpipe(["eval", "calibration", "--pairs", pairs, "-o", str(tmp_path / "out")]) == 1
    assert "hint: pass --model, or add `score_chosen`" in capsys.readouterr().err
    assert (
        prefpipe(
            [
                "eval",
                "rewardbench",
                "--pairs",
                str(tmp_path / "none.jsonl"),
                "-o",
                str(tmp_path / "o"),
                *FAKE,
            ]
        )
        == 1
    )
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_of_scores_is_not_scored_again_nor_written_into(tmp_path, capsys):
    evaluate("rewardbench", pairs_file(tmp_path, some_pairs(4)), tmp_path / "out", *FAKE)
    words = ["eval", "calibration", "--pairs", str(tmp_path / "out"), "-o"]
    assert prefpipe([*words, str(tmp_path / "other"), *FAKE]) == 2
    assert "already holds scores" in capsys.readouterr().err
    assert prefpipe([*words, str(tmp_path / "out")]) == 2
    assert prefpipe([*words, str(tmp_path / "other"), "--beta", "3"]) == 2
    assert "these scores are rewards" in capsys.readouterr().err
    assert (
        prefpipe(
            [
                "eval",
                "calibration",
                "--pairs",
                str(make_tiny_causal_lm(tmp_path / "m")),
                "-o",
                str(tmp_path / "p"),
            ]
        )
        == 1
    )


@pytest.mark.slow
def test_a_temperature_at_its_limit_is_told(tmp_path, capsys):
    """Scores that separate all pairs, and scores that are the wrong way round."""
    for sign, words in (
        (1, "the scores separate all of them perfectly"),
        (-1, "the scores predict them no better than chance, or worse"),
    ):
        rows = [
            row | {"score_chosen": sign * (1.0 + i), "score_rejected": 0.0}
            for i, row in enumerate(some_pairs(20))
        ]
        evaluate("calibration", pairs_file(tmp_path, rows), tmp_path / str(sign))
        assert words in capsys.readouterr().err


def test_contradictions_are_told(tmp_path, capsys):
    rows = some_pairs(6)
    rows.append(rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]})
    found = evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", *FAKE)
    assert found["n_contradictions"] == 1
    assert "1 pairs contradict an earlier row" in capsys.readouterr().err


@pytest.mark.slow
def test_shards_come_to_the_figures_of_one_run(tmp_path, capsys):
    pairs = pairs_file(tmp_path, some_pairs(20))
    whole = evaluate("rewardbench", pairs, tmp_path / "whole", *FAKE, "--part-size", "4")
    words = [
        "eval",
        "rewardbench",
        "--pairs",
        pairs,
        "-o",
        str(tmp_path / "shards"),
        *FAKE,
        "--part-size",
        "4",
        *QUICK,
        "--num-shards",
        "2",
        "--shard-index",
    ]
    assert prefpipe([*words, "0"]) == 0
    assert "the shard that finishes last writes the figures" in capsys.readouterr().err
    assert not (tmp_path / "shards" / "summary.json").exists()
    assert prefpipe([*words, "1"]) == 0
    assert rows_of(tmp_path / "shards") == rows_of(tmp_path / "whole")
    found = json.loads((tmp_path / "shards" / "summary.json").read_text())
    assert {name: found[name] for name in ("accuracy", "rewardbench", "calibration")} == {
        name: whole[name] for name in ("accuracy", "rewardbench", "calibration")
    }


def test_markup_in_names_is_shown_and_not_obeyed(tmp_path, capsys):
    rows = some_pairs(4, subset="[red]\x1b[31mno[/red]")
    evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", *FAKE)
    said = capsys.readouterr().err
    assert "\x1b[31m" not in said
    assert "[red]␛[31mno[/red]" in said


def test_the_parts_have_the_documented_columns_even_when_empty_of_scores(tmp_path):
    rows = scored_rows(3)
    for row in rows:
        row["score_chosen"] = None
    words = [
        "eval",
        "calibration",
        "--pairs",
        pairs_file(tmp_path, rows),
        "-o",
        str(tmp_path / "out"),
        "--max-error-rate",
        "1",
    ]
    assert prefpipe(words) == 1  # no figure without a score
    part = pq.read_table(next((tmp_path / "out").glob("part-*")))
    assert part["margin"].null_count == 3
    assert "rater_gap" in part.column_names


@pytest.mark.slow
def test_scores_too_large_to_subtract_are_kept_and_told(tmp_path, capsys):
    """The gap of 1e308 and -1e308 is infinite: one such pair must not take the figures of all others with it."""
    rows = scored_rows(40)
    rows[0] |= {"score_chosen": 1e308, "score_rejected": -1e308}
    rows[1]["score_rejected"] = 1e200
    found = evaluate(
        "calibration", pairs_file(tmp_path, rows), tmp_path / "out", "--max-error-rate", "0.1"
    )
    assert found["counts"] == {"not_finite": 2, "ok": 38}
    assert found["calibration"]["log_loss"] == pytest.approx(
        measure_calibration([row["score_chosen"] - row["score_rejected"] for row in rows[2:]])[
            "log_loss"
        ]
    )
    assert "chosen: its score is 1e+308, no number within 1e+100" in {
        row["reason"] for row in rows_of(tmp_path / "out")
    }


@pytest.mark.parametrize("beta", ["1e300", "0"])
def test_a_beta_beyond_measure_is_refused(tmp_path, beta, capsys):
    words = [
        "eval",
        "calibration",
        "--pairs",
        pairs_file(tmp_path, scored_rows(4)),
        "-o",
        str(tmp_path / "out"),
        "--beta",
        beta,
    ]
    assert prefpipe(words) == 2
    assert "--beta must be above 0 and at most 1e+06" in capsys.readouterr().err


@pytest.mark.slow
def test_preferences_for_the_rejected_response_are_told_beside_the_accuracy(tmp_path, capsys):
    """RewardBench's accuracy knows no preference: a file whose columns are any two responses would have a wrong one, silently."""
    rows = [row | {"preference": float(i % 2)} for i, row in enumerate(scored_rows(20))]
    source = pairs_file(tmp_path, rows)
    found = evaluate("rewardbench", source, tmp_path / "out")
    assert found["n_rejected_preferred"] == 10
    sentence = "in 10 of 20 pairs `preference` is below 1/2"
    assert sentence in " ".join(capsys.readouterr().err.split())
    evaluate(
        "calibration", source, tmp_path / "out"
    )  # goes by the preference, and needs no warning
    assert sentence not in " ".join(capsys.readouterr().err.split())


def test_a_subset_that_is_nearly_one_of_rewardbenchs_is_told(tmp_path, capsys):
    rows = [
        row | {"subset": ("llmbar-adver-GPTinst", "xstest_should_refuse", "my-own")[i % 3]}
        for i, row in enumerate(some_pairs(9))
    ]
    evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out", *FAKE)
    said = capsys.readouterr().err
    assert (
        "the subset llmbar-adver-GPTinst counts in no section; RewardBench's is spelt llmbar-adver-GPTInst"
        in said
    )
    assert "RewardBench's is spelt xstest-should-refuse" in said
    assert "the subset my-own" not in said


@pytest.mark.slow
def test_each_command_says_what_concerns_its_own_figures(tmp_path, capsys):
    """Both write the same folder; nobody who asked for calibration is to read of RewardBench's missing subsets."""
    source = pairs_file(tmp_path, [*scored_rows(10), scored_rows(1)[0] | {"score_chosen": 0.0}])
    bench = evaluate("rewardbench", source, tmp_path / "out")
    said = capsys.readouterr().err
    assert "the other subsets' weights are renormalised" in said
    assert "tie and count as lost" in said
    calibration = evaluate("calibration", source, tmp_path / "out")
    said = capsys.readouterr().err
    assert "renormalised" not in said
    assert "count as lost" not in said
    assert bench["notes"] == calibration["notes"]  # the file has them all


def test_why_there_is_no_temperature_is_said(tmp_path, capsys):
    evaluate("calibration", pairs_file(tmp_path, scored_rows(1)), tmp_path / "out")
    assert (
        "no temperature: a share of 0.5 of 1 prompts leaves one side empty"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rewardbench", "calibration"])
def test_inspect_knows_these_columns_and_shows_the_figures(tmp_path, capsys, command):
    """It called every column the user's own."""
    rows = [*scored_rows(20), scored_rows(1)[0] | {"score_chosen": 0.0}]
    evaluate(command, pairs_file(tmp_path, rows), tmp_path / "out")
    capsys.readouterr()
    assert prefpipe(["inspect", str(tmp_path / "out")]) == 0
    page = "".join(capsys.readouterr())
    assert "own column" not in page
    assert "chosen_score - rejected_score" in page
    assert ("Chat Hard" if command == "rewardbench" else "ECE, equal mass") in page
    assert "{" not in page  # no Python in place of figures
    assert prefpipe(["inspect", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["n_tied"] == 1
