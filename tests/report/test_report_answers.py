"""The first screen of a report: its numbers by plain polars, its words by the intervals, and what is missing."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.sampled_evaluations import N_HELDOUT, N_TRAIN, N, evaluated_run

from prefpipe.cli.main import run as prefpipe
from prefpipe.report.answer_words import cost_tiles, duration, verdict_of, worse_sentence
from prefpipe.report.answers import change_state
from prefpipe.stages.inspect.curves import read_totals


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluated_run(tmp_path_factory.mktemp("answers") / "run", seed=1)


@pytest.fixture(scope="module")
def told(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    return tell(finished, tmp_path_factory.mktemp("page"))


def tell(folder: Path, target: Path) -> tuple[dict[str, Any], str]:
    """Return the answers of a run as its page has them in its data, and the page."""
    page = target / "report.html"
    assert prefpipe(["report", str(folder), "-o", str(page), "--model", "8B"]) == 0
    text = page.read_text(encoding="utf-8")
    story = text.split('<script type="application/json" id="story">')[1].split("</script>")[0]
    return json.loads(story)["answers"], text


def rows_of(answers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in (*answers["gains"], *answers["changes"])}


def test_the_figures_are_those_of_the_evaluation_s_rows(finished: Path, told: Any) -> None:
    answers, _ = told
    table = pl.read_parquet(finished / "eval" / "part-*.parquet").filter(pl.col("status") == "ok")
    rows = rows_of(answers)
    assert answers["n_prompts"] == len(table) == N_HELDOUT
    assert rows["reward"]["policy"]["mean"] == pytest.approx(table["policy_reward"].mean())
    assert rows["reward"]["baseline"]["mean"] == pytest.approx(table["baseline_reward"].mean())
    difference = (table["policy_reward"] - table["baseline_reward"]).mean()
    assert rows["reward"]["difference"]["mean"] == pytest.approx(difference)
    assert rows["win_rate"]["policy"]["mean"] == pytest.approx(table["preference"].mean())
    lengths = table["policy_n_tokens"] - table["baseline_n_tokens"]
    assert rows["n_tokens"]["difference"]["mean"] == pytest.approx(lengths.mean())
    refused = (table["policy_refused"] - table["baseline_refused"]).mean()
    assert rows["refused"]["difference"]["mean"] == pytest.approx(refused)


def test_the_intervals_of_win_rates_are_those_that_eval_printed(finished: Path, told: Any) -> None:
    answers, _ = told
    summary = json.loads((finished / "eval" / "summary.json").read_text(encoding="utf-8"))
    rows = rows_of(answers)
    for key in ("win_rate", "length_controlled"):
        ends = {end: rows[key]["policy"][end] for end in ("mean", "low", "high")}
        assert ends == {end: pytest.approx(summary[key][end]) for end in ends}


def test_the_lowest_decile_is_the_mean_of_each_side_s_worst_tenth(
    finished: Path, told: Any
) -> None:
    answers, _ = told
    table = pl.read_parquet(finished / "eval" / "part-*.parquet")
    row = rows_of(answers)["lowest_decile"]
    for side in ("policy", "baseline"):
        worst = table[f"{side}_reward"].sort().head(N_HELDOUT // 10)
        assert row[side]["mean"] == pytest.approx(worst.mean())
    difference = row["policy"]["mean"] - row["baseline"]["mean"]
    assert row["difference"]["mean"] == pytest.approx(difference)
    assert row["difference"]["low"] < row["difference"]["high"]


def test_the_costs_are_those_of_the_pool_and_not_of_the_evaluation(
    finished: Path, told: Any
) -> None:
    answers, page = told
    pool = pl.read_parquet(finished / "candidates" / "part-*.parquet")
    costs = answers["costs"]
    assert costs["n_prompts"] == pool["prompt_id"].n_unique() == N_TRAIN
    assert costs["n_responses"] == len(pool) == N_TRAIN * N
    assert costs["n_tokens"] == pool["n_response_tokens"].sum()
    assert (costs["n_kept"], costs["saved_share"], costs["training_hours"]) == (None, None, None)
    for missing in ("Compute saved: not recorded", "Training time: not recorded"):
        assert missing in page


def test_of_two_selections_the_one_that_was_not_trained_on_is_not_counted_twice(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("groups", "more"):
        words = ["--scores", f"{folder}/scores", "--strategy", "bottom-k", "--k", "1"]
        command = ["select", f"{folder}/candidates", *words, "-o", f"{folder}/{name}"]
        assert prefpipe(command) == 0
    answers, page = tell(folder, tmp_path)
    kept = pl.read_parquet(folder / "groups" / "part-*.parquet")["role"].drop_nulls()
    assert answers["costs"]["n_kept"] == len(kept)
    assert 0 < answers["costs"]["saved_share"] < 1
    assert "of the training compute saved by selecting" in page


def test_without_an_evaluation_the_command_that_makes_one_is_named(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("eval"))
    answers, page = tell(folder, tmp_path)
    assert (answers["state"], answers["evaluation"]) == ("not measured", None)
    assert "Not measured." in page
    assert "<code>prefpipe eval" in page


def test_a_measure_without_a_value_names_what_measures_it(told: Any) -> None:
    answers, page = told
    rows = rows_of(answers)
    assert rows["embedding_diversity"]["state"] == "not measured"
    assert "--policy-embeddings" in rows["embedding_diversity"]["missing"]
    assert "prefpipe eval without --no-kl" in page


@pytest.mark.parametrize(
    ("low", "high", "n", "worse", "state"),
    [
        (0.1, 0.2, 50, -1, "better"),
        (0.1, 0.2, 50, 1, "worse"),
        (-0.2, -0.1, 50, -1, "worse"),
        (-0.2, -0.1, 50, 0, "lower"),
        (0.1, 0.2, 50, 0, "higher"),
        (-0.1, 0.2, 50, -1, "cannot tell"),
        (0.0, 0.2, 50, -1, "cannot tell"),
        (0.0, 0.0, 50, -1, "unchanged"),
        (0.1, 0.2, 9, -1, "cannot tell"),
        (None, None, 50, -1, "cannot tell"),
    ],
)
def test_a_change_is_called_so_only_where_its_interval_leaves_out_zero(
    low: float | None, high: float | None, n: int, worse: int, state: str
) -> None:
    difference = {"mean": 0.1, "low": low, "high": high, "n": n}
    assert change_state(difference, worse) == state


def gain(key: str, state: str, mean: float, low: float, high: float) -> dict[str, Any]:
    figures = {"mean": mean, "low": low, "high": high}
    return {
        "key": key,
        "label": "mean reward",
        "form": "{:.2f}" if key == "reward" else "{:.0%}",
        "policy": {"mean": 0.5 + mean, "low": 0.5 + low, "high": 0.5 + high},
        "baseline": {"mean": 0.5, "low": 0.4, "high": 0.6},
        "difference": figures,
        "state": state,
    }


def test_the_verdict_is_a_sentence_with_both_figures() -> None:
    gains = [
        gain("reward", "better", 0.2, 0.1, 0.3),
        gain("win_rate", "cannot tell", 0.1, -0.1, 0.2),
    ]
    verdict = verdict_of({"state": "better", "gains": gains, "n_prompts": 1200})
    assert verdict == {
        "word": "Yes.",
        "sentence": "On 1,200 held-out prompts the mean reward rose from 0.50 to 0.70, by +0.20 "
        "[+0.10, +0.30]; the win rate is 60% [40%, 70%], an interval that includes 50%.",
        "state": "better",
    }


@pytest.mark.parametrize(
    ("length", "state", "low", "high", "word"),
    [
        (
            "lower",
            "cannot tell",
            -0.49,
            0.14,
            "Yes, and responses became shorter: at equal length it cannot be told.",
        ),
        (
            "higher",
            "worse",
            -0.4,
            -0.1,
            "Yes, and responses became longer: at equal length it got worse.",
        ),
        ("cannot tell", "cannot tell", -0.1, 0.1, "Yes, but at equal length it cannot be told."),
        ("lower", "better", 0.1, 0.2, "Yes."),
    ],
)
def test_a_gain_that_is_not_there_at_equal_length_is_no_bare_yes(
    length: str, state: str, low: float, high: float, word: str
) -> None:
    gains = [
        gain("reward", "better", 0.2, 0.1, 0.3),
        gain("win_rate", "better", 0.26, 0.1, 0.4),
        gain("length_controlled", state, (low + high) / 2, low, high),
    ]
    changes = [{"key": "n_tokens", "state": length}]
    answers = {"state": "better", "gains": gains, "changes": changes, "n_prompts": 21}
    verdict = verdict_of(answers)
    assert verdict["word"] == word
    assert ("at equal length it is" in verdict["sentence"]) == (state != "better")
    assert verdict["state"] == ("better" if state == "better" else "mixed")


def test_what_got_worse_is_one_sentence() -> None:
    rows = [{"label": "refusals", "state": "worse"}, {"label": "length", "state": "cannot tell"}]
    assert worse_sentence({"changes": rows}) == (
        "Worse: refusals. Cannot tell for 1: the interval includes zero."
    )
    assert worse_sentence({"changes": rows[:0]}) == "Not measured."


def test_the_least_training_time_is_response_tokens_over_the_rate_of_each_step(
    tmp_path: Path,
) -> None:
    table = pa.table(
        {
            "step": [1, 2, 3],
            "epoch": [0.1, 0.2, 0.3],
            "split": ["train", "train", "eval"],
            "n_tokens": pa.array([100, 300, None], pa.int64()),
            "tokens_per_s": [50.0, float("nan"), None],
        }
    )
    pq.write_table(table, tmp_path / "metrics.parquet")
    assert read_totals(tmp_path) == (400.0, 2.0)
    assert read_totals(tmp_path / "nothing") == (0.0, 0.0)
    assert duration(2.0 / 3600) == ("2", "seconds")
    assert duration(1.5) == ("1.5", "hours")


def test_a_cost_made_of_what_is_stale_is_marked(told: Any) -> None:
    answers, _ = told
    labels = [tile["label"] for tile in cost_tiles(answers, {"candidates": "stale"})]
    assert labels[0] == "prompts (stale)"
    assert not [tile for tile in cost_tiles(answers, {}) if "stale" in tile["label"]]
