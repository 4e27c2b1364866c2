"""``prefpipe eval win-rate`` on Arena-Hard's judgments: its score, a win rate over prompts, and what has no verdict."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from support.arena_files import POINTS, judgment, judgment_v01, judgments, points_of

from prefpipe.cli.main import run
from prefpipe.errors import InputError
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.winrate import weighted_win_rate

QUICK = ("--bootstrap-draws", "200")


def found_in(capsys, *words: str) -> dict:
    capsys.readouterr()
    assert run(["eval", "win-rate", *words, *QUICK, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def every_verdict() -> list[dict]:
    return [judgment(f"u{i}", *scores) for i, scores in enumerate(product(POINTS, POINTS))]


@pytest.mark.parametrize("version", ["v2.0", "v0.1"])
def test_every_pair_of_labels_counts_as_arena_hard_counts_it(
    tmp_path: Path, capsys, version
) -> None:
    """The score is the mean of all points; the win rate that of the prompts, each label 1, 1/2 or 0 and each prompt once."""
    rows = every_verdict()[:60]  # not all: their mean would be one half whatever the rule
    if version == "v0.1":
        rows = [judgment_v01(row["uid"], *(game["score"] for game in row["games"])) for row in rows]
    result = found_in(capsys, judgments(tmp_path / "mine.jsonl", rows))["results"][0]
    labels = [[game["score"] for game in row["games"]] for row in rows]
    points = [points_of(*pair) for pair in labels]
    assert result["arena_hard_score"]["mean"] == pytest.approx(
        np.concatenate(points).mean(), abs=1e-12
    )
    plain = [(POINTS[second][0] + 1 - POINTS[first][0]) / 2 for first, second in labels]
    assert result["win_rate"]["mean"] == pytest.approx(np.mean(plain), abs=1e-12)
    assert result["win_rate"]["se"] == pytest.approx(np.std(plain, ddof=1) / np.sqrt(60))
    assert abs(result["win_rate"]["mean"] - result["arena_hard_score"]["mean"]) > 0.01
    assert (result["win_rate"]["n"], result["n_rows"], result["name"]) == (60, 120, "mine")
    assert result["recipe"]["baseline"] == ("o3-mini-2025-01-31" if version == "v2.0" else None)
    assert result["recipe"]["judges"] == ["gpt-4.1" if version == "v2.0" else "gpt-4-1106-preview"]


def test_the_baseline_is_a_in_the_first_game(tmp_path: Path, capsys) -> None:
    """A sign turned here would give every model one minus its score."""
    always_better = judgments(
        tmp_path / "a.jsonl", [judgment(f"u{i}", "B>>A", "A>B") for i in range(3)]
    )
    assert found_in(capsys, always_better)["results"][0]["arena_hard_score"]["mean"] == 1.0
    always_first = judgments(
        tmp_path / "b.jsonl", [judgment(f"u{i}", "A>B", "A>B") for i in range(3)]
    )
    assert found_in(capsys, always_first)["results"][0]["win_rate"]["mean"] == 0.5


@pytest.mark.parametrize("score", [None, "null", "A", "A><B"], ids=str)
def test_what_has_no_label_is_missing_and_never_a_draw(tmp_path: Path, capsys, score) -> None:
    """v2.0 leaves both games of such a prompt out, v0.1 the one game; both are counted, and refused without --allow-missing."""
    rows = [
        judgment("u0", "B>A", "A=B"),
        judgment("u1", "A>>B", score),
        judgment("u2", "A>B", "B>>A"),
    ]
    path = judgments(tmp_path / "v2.jsonl", rows)
    assert run(["eval", "win-rate", path]) == 1
    assert "2 of 6 rows have no preference" in capsys.readouterr().err
    result = found_in(capsys, path, "--allow-missing")["results"][0]
    assert (result["win_rate"]["n"], result["n_rows_missing"]) == (2, 2)
    assert result["arena_hard_score"]["mean"] == pytest.approx(
        np.mean(points_of("B>A", "A=B") + points_of("A>B", "B>>A"))
    )
    if score == "null":
        return  # only v2.0 writes null games
    old = [judgment_v01(row["uid"], *(game["score"] for game in row["games"])) for row in rows]
    result = found_in(capsys, judgments(tmp_path / "v01.jsonl", old), "--allow-missing")["results"][
        0
    ]
    assert (result["win_rate"]["n"], result["n_rows_missing"]) == (3, 1)
    points = (
        points_of("B>A", "A=B") + points_of("A>B", "B>>A") + [1 - point for point in POINTS["A>>B"]]
    )
    assert result["arena_hard_score"]["mean"] == pytest.approx(np.mean(points))


def test_categories_have_baselines_of_their_own_and_are_scored_apart(
    tmp_path: Path, capsys
) -> None:
    creative = {"category": "creative_writing", "baseline": "gemini-2.0-flash-001"}
    rows = [
        judgment("u0", "B>A", "A>B"),
        judgment("u1", "A>B", "A>B"),
        judgment("u2", "A>>B", "B>>A", **creative),
    ]
    path = judgments(tmp_path / "mine.jsonl", rows)
    assert run(["eval", "win-rate", path]) == 1
    told = capsys.readouterr().err
    assert (
        "holds 2 categories, which Arena-Hard scores separately: hard_prompt (2), creative_writing (1)"
        in told
    )
    assert "--category hard_prompt" in told
    result = found_in(capsys, path, "--category", "hard_prompt")["results"][0]
    assert (result["win_rate"]["mean"], result["win_rate"]["n"]) == (0.75, 2)
    assert (result["recipe"]["baseline"], result["recipe"]["category"]) == (
        "o3-mini-2025-01-31",
        "hard_prompt",
    )
    assert run(["eval", "win-rate", path, "--category", "maths"]) == 2
    assert "--category maths: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_and_a_second_model(tmp_path: Path, capsys) -> None:
    first = judgments(tmp_path / "a.jsonl", every_verdict()[:40])
    rows = [row | {"model": "other"} for row in every_verdict()[:40]][::-1]
    second = judgments(tmp_path / "b.jsonl", rows)
    assert run(["eval", "win-rate", first, second, *QUICK]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "mine against o3-mini-2025-01-31, 40 prompts, 80 rows" in told
    assert "Arena-Hard's score" in told
    assert "other minus mine, paired on 40 prompts" in told
    assert "win rate +0.00% [+0.00%, +0.00%]" in told
    judgments(tmp_path / "c.jsonl", [row | {"judge": "another"} for row in rows])
    assert run(["eval", "win-rate", first, f"{tmp_path}/c.jsonl"]) == 2
    assert 'judges: ["gpt-4.1"] in' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "words", "told"),
    [
        (
            judgment("u0", "A>B", "A>B") | {"games": []},
            (),
            "line 1: `games` is []; one or two games are expected",
        ),
        (
            judgment("u0", "A>B", "A>B") | {"games": [{"score": 7}]},
            (),
            "`games[].score` is 7; a label such as A>>B is expected",
        ),
        (judgment("", "A>B", "A>B"), (), "line 1: `uid` is empty"),
        (judgment("u0", "A>B", "A>B"), ("--scale", "0-1"), "--scale is for numbers"),
        (
            {"prompt": "p", "preference": 1},
            ("--category", "x"),
            "--category is for Arena-Hard's judgments",
        ),
    ],
)
def test_what_is_no_judgment_is_refused(tmp_path: Path, capsys, row, words, told) -> None:
    assert run(["eval", "win-rate", judgments(tmp_path / "mine.jsonl", [row]), *words]) in (1, 2)
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_weighted_rate_against_a_bootstrap_written_out() -> None:
    """Error and interval of a ratio of sums over prompts; equal weights give the mean of rows."""
    rng = np.random.default_rng(4)
    ids = np.repeat(np.arange(60), 2)
    values, weights = rng.choice([0.0, 0.5, 1.0], size=120), rng.choice([1.0, 3.0], size=120)
    found = weighted_win_rate(values, weights, ids, bootstrap=Bootstrap(n_draws=4000))
    assert found.mean == pytest.approx(np.average(values, weights=weights))
    draws = []
    for _ in range(4000):
        rows = np.concatenate([[2 * p, 2 * p + 1] for p in rng.integers(60, size=60)])
        draws.append(np.average(values[rows], weights=weights[rows]))
    assert found.se == pytest.approx(np.std(draws), rel=0.06)
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)
    assert weighted_win_rate(values, np.ones(120), ids).mean == pytest.approx(values.mean())
    assert np.isnan(weighted_win_rate([1.0, 0.0], [1.0, 1.0], [0, 0]).se)


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]]
)
def test_weights_that_are_none_are_refused(weights) -> None:
    with pytest.raises(InputError, match="expected one above 0 per row"):
        weighted_win_rate([0.5, 0.5], weights)
