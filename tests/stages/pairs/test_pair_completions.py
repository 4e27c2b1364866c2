"""``eval rewardbench`` on RewardBench 2's files: lists of completions, best of four and Ties."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pair_files import evaluate, pairs_file
from support.pipelines import rows_of

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run


def item(
    number: int | str, correct: list[float], wrong: list[float], subset: str = "Math", **more: Any
) -> dict[str, Any]:
    """A row with scores of its own, as reward-bench writes them: correct completions first."""
    return {
        "id": str(number),
        "prompt": f"Question {number}?",
        "chosen": [f"right {i}" for i in range(len(correct))],
        "rejected": [f"wrong {i}" for i in range(len(wrong))],
        "num_correct": len(correct),
        "num_incorrect": len(wrong),
        "total_completions": len(correct) + len(wrong),
        "subset": subset,
        "scores": [*correct, *wrong],
        **more,
    }


ROWS = [
    item(0, [2.0], [1.0, 0.0, -1.0]),
    item(1, [1.0], [1.0, 0.0, 0.0]),
    item(2, [0.0], [1.0, 0.0, 0.0]),
    item(3, [1.0], [0.0, 0.5, 0.0], "Focus"),
    item("tied:0", [5.0, 4.0], [2.0, 1.0, 0.0], "Ties"),
    item("ref:0", [3.0], [1.5, 0.0], "Ties"),
]


def test_the_figures_are_those_of_rewardbench_2(tmp_path: Path, capsys) -> None:
    found = evaluate("rewardbench", pairs_file(tmp_path, ROWS), tmp_path / "out")
    two = found["rewardbench_two"]
    means = {subset["name"]: subset["figure"]["mean"] for subset in two["subsets"]}
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(1.5 / 1.0 - 1)
    assert means == {"Math": 0.5, "Focus": 1.0, "Ties": pytest.approx(ties)}
    assert two["final"]["mean"] == pytest.approx(np.mean([0.5, 1.0, ties]))
    assert two["missing"] == ["Factuality", "Precise IF", "Safety"]
    assert found["rewardbench"] is None
    assert found["recipe"]["tie_rule"] == "a tie for the highest score is shared (RewardBench 2)"
    printed = capsys.readouterr().err
    assert "the file is of RewardBench 2" in printed
    assert "mean of 3 of 6 subsets" in printed
    assert "as in RewardBench v1" not in printed


def test_every_completion_stands_in_a_pair_and_none_in_more_than_needed(tmp_path: Path) -> None:
    evaluate("rewardbench", pairs_file(tmp_path, ROWS), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["pair_idx"] for row in rows] == list(range(17))
    tied = [row for row in rows if row["pair_id"] == "tied:0"]
    assert [(row["chosen_idx"], row["rejected_idx"]) for row in tied] == [(0, 0), (1, 1), (0, 2)]
    assert [(row["chosen_score"], row["rejected_score"]) for row in tied] == [
        (5.0, 2.0),
        (4.0, 1.0),
        (5.0, 0.0),
    ]
    assert {(row["n_chosen"], row["n_rejected"], row["row_idx"]) for row in tied} == {(2, 3, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("part_size", ["2", "3", "128"])
def test_where_parts_end_changes_nothing(tmp_path: Path, part_size: str) -> None:
    rows = [{name: value for name, value in row.items() if name != "scores"} for row in ROWS]
    source = pairs_file(tmp_path, rows)
    words = ("--model", "fake", "--reward-model")
    whole = evaluate("rewardbench", source, tmp_path / "whole", *words)
    parted = evaluate("rewardbench", source, tmp_path / "parted", *words, "--part-size", part_size)
    assert parted["rewardbench_two"] == whole["rewardbench_two"]


def test_figures_of_a_reward_model_agree_with_its_rewards(tmp_path: Path) -> None:
    """Its rewards, from the folder, put together again by hand."""
    rows = [{**row, "rejected": [text + "!" * 9 for text in row["rejected"]]} for row in ROWS[:3]]
    found = evaluate(
        "rewardbench",
        pairs_file(tmp_path, rows),
        tmp_path / "out",
        "--model",
        "fake",
        "--reward-model",
    )
    wins = []
    for number in range(3):
        pairs = [row for row in rows_of(tmp_path / "out") if row["row_idx"] == number]
        assert len(pairs) == 3
        assert len({row["chosen_score"] for row in pairs}) == 1
        wins.append(float(all(row["margin"] > 0 for row in pairs)))
    assert found["rewardbench_two"]["final"]["mean"] == pytest.approx(np.mean(wins))


@pytest.mark.slow
def test_a_folder_is_read_again_by_both_commands(tmp_path: Path) -> None:
    first = evaluate("rewardbench", pairs_file(tmp_path, ROWS), tmp_path / "out")
    again = evaluate("rewardbench", str(tmp_path / "out"), tmp_path / "again")
    assert again["rewardbench_two"] == first["rewardbench_two"]
    evaluate("calibration", str(tmp_path / "out"), tmp_path / "calibration")
    for words in (
        ["inspect", str(tmp_path / "out")],
        ["report", str(tmp_path), "-o", str(tmp_path / "r.html")],
        ["status", str(tmp_path / "out")],
    ):
        assert run(words) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_correct": 2}, "`num_correct` is 2, and `chosen` holds 1"),
        ({"total_completions": 5}, "`total_completions` is 5, and there are 4"),
        ({"rejected": []}, "`rejected` is an empty list"),
        ({"chosen": [7]}, "`chosen[0]` is 7, which is not text"),
        ({"chosen": None}, "`chosen` is null"),
        ({"prompt": ""}, "the prompt is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_kept_with_its_reason(
    tmp_path: Path, change: dict[str, Any], reason: str, capsys
) -> None:
    rows = [ROWS[0] | change, *(item(n, [1.0], [0.0]) for n in range(20, 50))]
    found = evaluate(
        "rewardbench",
        pairs_file(tmp_path, rows),
        tmp_path / "out",
        "--model",
        "fake",
        "--reward-model",
    )
    assert found["rewardbench_two"]["left_out"] == {"unreadable": 1}
    assert reason in rows_of(tmp_path / "out")[0]["reason"]
    assert (
        "prompts of 31 that are left out because one of their completions has no score: 1 unreadable"
        in capsys.readouterr().err
    )


def test_a_prompt_counts_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = [item(0, [2.0], [1.0, None, -1.0]), *(item(n, [1.0], [0.0]) for n in range(1, 40))]  # type: ignore[list-item]
    found = evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out")
    assert found["rewardbench_two"]["left_out"] == {"no_score": 1}
    assert found["rewardbench_two"]["subsets"][0]["figure"]["n_prompts"] == 39


def test_without_scores_and_without_a_model_the_hint_says_what_to_do(
    tmp_path: Path, capsys
) -> None:
    rows = [{name: value for name, value in row.items() if name != "scores"} for row in ROWS]
    assert (
        run(
            [
                "eval",
                "rewardbench",
                "--pairs",
                pairs_file(tmp_path, rows),
                "-o",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    printed = capsys.readouterr().err
    assert "has no column `scores`" in printed
    assert "hint: this is a file of RewardBench 2: pass --model MODEL --reward-model" in printed


@pytest.mark.slow
def test_results_of_reward_bench_without_texts_are_read(tmp_path: Path) -> None:
    """Its ``eval-set-scores``: scores, each in a list of one for some models, and no completions."""
    rows = [
        {
            "id": row["id"],
            "subset": row["subset"],
            "num_correct": row["num_correct"],
            "scores": [[score] for score in row["scores"]],
        }
        for row in ROWS
    ]
    found = evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out")
    whole = evaluate("rewardbench", pairs_file(tmp_path, ROWS, "b.jsonl"), tmp_path / "whole")
    assert found["rewardbench_two"]["subsets"] == whole["rewardbench_two"]["subsets"]


@pytest.mark.slow
def test_files_of_pairs_keep_their_fingerprint(tmp_path: Path) -> None:
    """A folder that an earlier release made of a list of completions was all unreadable, and is not kept in silence."""
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1, "score_rejected": 0}
    evaluate("rewardbench", pairs_file(tmp_path, [pair] * 3), tmp_path / "pairs")
    evaluate("rewardbench", pairs_file(tmp_path, ROWS, "b.jsonl"), tmp_path / "items")
    assert "completions" not in read_run_record(tmp_path / "pairs").identity
    assert read_run_record(tmp_path / "items").identity["completions"] == 1
    assert (
        json.loads((tmp_path / "pairs" / "summary.json").read_text())
        .keys()
        .isdisjoint({"rewardbench_two"})
    )


@pytest.mark.slow
@pytest.mark.parametrize("without", [(), ("chosen", "rejected")])
def test_completions_with_scores_of_their_own_are_not_called_identical(
    tmp_path: Path, capsys, without: tuple[str, ...]
) -> None:
    rows = [{name: value for name, value in row.items() if name not in without} for row in ROWS]
    evaluate("rewardbench", pairs_file(tmp_path, rows), tmp_path / "out")
    assert {row["status"] for row in rows_of(tmp_path / "out")} == {"ok"}
    assert "identical" not in capsys.readouterr().err


def test_scores_that_do_not_fit_the_completions_are_refused_with_their_numbers(
    tmp_path: Path,
) -> None:
    row = {
        **item(7, [2.0], [1.0, 0.0]),
        "rejected": ["wrong 0", "wrong 1", "wrong 2"],
        "total_completions": None,
    }
    evaluate(
        "rewardbench", pairs_file(tmp_path, [*ROWS, row]), tmp_path / "out", "--max-error-rate", "1"
    )
    [found] = [each for each in rows_of(tmp_path / "out") if each["pair_id"] == "7"]
    assert (found["status"], found["reason"]) == (
        "unreadable",
        "`scores` holds 3 numbers, and `chosen` and `rejected` 4 texts",
    )
