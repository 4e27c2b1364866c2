"""Figures by round: recomputed from the evaluations' tables, paired, and never of different recipes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.planned_run import N_HELD_OUT, copy_to, original

from prefpipe.artifacts.fingerprint import fingerprint_of
from prefpipe.cli.main import run as prefpipe
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.two_level import two_level_mean, two_level_ratio

pytestmark = pytest.mark.slow

DRAWS = 500


@pytest.fixture(scope="module")
def runs() -> list[Path]:
    return [original(seed) / "run" for seed in (0, 1)]


def figures(capsys: pytest.CaptureFixture[str], *runs: Path) -> dict[str, Any]:
    capsys.readouterr()
    words = ["eval", "by-round", *map(str, runs), "--bootstrap-draws", str(DRAWS), "--json"]
    assert prefpipe(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def tables(runs: list[Path], number: int) -> list[pl.DataFrame]:
    return [
        pl.read_parquet(run / f"round-{number:02d}" / "eval" / "part-*.parquet") for run in runs
    ]


def stacked(frames: list[pl.DataFrame], column: str) -> np.ndarray:
    return np.array([frame[column].to_list() for frame in frames], dtype=float)


def test_means_and_differences_are_those_of_the_tables(runs: list[Path], capsys) -> None:
    """Of two seeds: the rewards of the evaluations, stacked by seed and prompt, through the two-level formulas."""
    found = figures(capsys, *runs)
    assert found["runs"] == [str(run) for run in runs]
    assert found["rounds"] == [1, 2, 3]
    bootstrap = Bootstrap(n_draws=DRAWS)
    reward = found["measures"]["reward"]
    assert [entry["round"] for entry in reward["rounds"]] == [0, 1, 2, 3]
    assert (reward["n_prompts"], reward["n_missing"]) == (N_HELD_OUT, 0)

    baseline = stacked(tables(runs, 1), "baseline_reward")
    before = baseline
    expected = two_level_mean(baseline, bootstrap)._asdict()
    assert {key: reward["rounds"][0][key] for key in expected} == pytest.approx(expected)
    for entry in reward["rounds"][1:]:
        values = stacked(tables(runs, entry["round"]), "policy_reward")
        assert entry["mean"] == pytest.approx(values.mean())
        assert entry["by_run"] == pytest.approx(values.mean(axis=1).tolist())
        for key, other in (("to_baseline", baseline), ("to_previous", before)):
            expected = two_level_mean(values - other, bootstrap)._asdict()
            assert {name: entry[key][name] for name in expected} == pytest.approx(expected)
        before = values


def test_one_run_has_the_figures_of_its_evaluations(runs: list[Path], capsys) -> None:
    """Means, errors and intervals of `prefpipe eval` itself, with its own draws."""
    capsys.readouterr()
    assert prefpipe(["eval", "by-round", str(runs[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["measures"]
    for number in (1, 2, 3):
        summary = json.loads((runs[0] / f"round-{number:02d}/eval/summary.json").read_text())
        in_eval = summary | summary["health"]
        for name in ("reward", "n_tokens", "self_bleu", "distinct_2", "kl_per_token"):
            rounds = {entry["round"]: entry for entry in found[name]["rounds"]}
            theirs = in_eval[name]
            for key in ("mean", "se", "low", "high"):
                assert rounds[number][key] == pytest.approx(theirs["policy"][key]), name
                if name != "kl_per_token":
                    ours = rounds[number]["to_baseline"][key]
                    assert ours == pytest.approx(theirs["difference"][key]), name
        win_rate = {entry["round"]: entry for entry in found["win_rate"]["rounds"]}[number]
        assert win_rate["mean"] == pytest.approx(summary["win_rate"]["mean"])


def test_kl_a_token_is_a_ratio_over_seeds_and_prompts(runs: list[Path], capsys) -> None:
    entry = figures(capsys, *runs)["measures"]["kl_per_token"]["rounds"][1]
    frames = tables(runs, entry["round"])
    ratio = two_level_ratio(
        stacked(frames, "policy_log_ratio"),
        stacked(frames, "policy_log_ratio_tokens"),
        Bootstrap(n_draws=DRAWS),
    )
    assert entry["mean"] == pytest.approx(ratio.mean)
    assert (entry["low"], entry["high"]) == pytest.approx((ratio.low, ratio.high))
    assert "to_previous" not in entry


def test_a_prompt_without_a_value_in_one_round_is_left_out_of_all(
    runs: list[Path], tmp_path: Path, capsys
) -> None:
    from prefpipe.stages.evaluate.by_round import MEASURES, _figures_of, _Frames
    from prefpipe.wiring.by_round import open_evaluations

    frames = _Frames(open_evaluations(runs[0]), [1, 2])
    table = frames._by_round[2]
    gap = pl.when(pl.col("prompt_id") == "h3").then(None).otherwise(pl.col("policy_reward"))
    frames._by_round[2] = table.with_columns(gap.alias("policy_reward"))
    found = _figures_of(MEASURES["reward"], [frames], [1, 2], Bootstrap(n_draws=DRAWS))
    assert found is not None
    assert (found["n_prompts"], found["n_missing"]) == (N_HELD_OUT - 1, 1)
    kept = frames._by_round[1].filter(pl.col("prompt_id") != "h3")
    assert found["rounds"][1]["mean"] == pytest.approx(kept["policy_reward"].mean())


def test_the_page_and_the_markdown_have_the_same_figures(runs: list[Path], capsys) -> None:
    words = ["eval", "by-round", *map(str, runs), "--bootstrap-draws", str(DRAWS)]
    assert prefpipe(words) == 0
    page = capsys.readouterr().out
    assert prefpipe([*words, "--markdown"]) == 0
    markdown = capsys.readouterr().out
    reward = figures(capsys, *runs)["measures"]["reward"]["rounds"][2]
    cell = f"{reward['mean']:.3f} [{reward['low']:.3f}, {reward['high']:.3f}]"
    assert cell in page
    assert cell in markdown
    change = reward["to_previous"]
    assert f"{change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" in markdown
    assert "intervals over 2 seeds and prompts" in markdown
    assert max(map(len, page.splitlines()[:20])) <= 80
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_rounds_that_not_every_run_has_are_left_out_and_said(
    tmp_path: Path, runs: list[Path], capsys
) -> None:
    folder = copy_to(tmp_path)
    shutil.rmtree(folder / "run/round-03/eval")
    found = figures(capsys, runs[1], folder / "run")
    assert found["rounds"] == [1, 2]
    assert f"round 3 of {runs[1]} is left out because not every run has it" in found["notes"]


def test_evaluations_of_another_recipe_are_refused(
    tmp_path: Path, runs: list[Path], capsys
) -> None:
    folder = copy_to(tmp_path)
    record = folder / "run/round-02/eval/run.json"
    values = json.loads(record.read_text())
    values["identity"]["policy_candidates"]["max_tokens"] = 9
    values["fingerprint"] = fingerprint_of(values["identity"])
    record.write_text(json.dumps(values))
    assert prefpipe(["eval", "by-round", str(folder / "run")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "not evaluated by the same recipe" in told
    assert "policy_candidates.max_tokens: 8 in" in told


def test_what_is_stale_marks_the_tables(tmp_path: Path, capsys) -> None:
    folder = copy_to(tmp_path)
    plan = folder / "plan.yaml"
    plan.write_text(plan.read_text().replace("k: 2", "k: 3"))
    words = ["eval", "by-round", str(folder / "run"), "--bootstrap-draws", "50"]
    assert prefpipe([*words, "--markdown"]) == 0
    assert "NOT DONE: from" in capsys.readouterr().out
    assert prefpipe([*words, "--strict"]) != 0
    assert "--strict" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["none", "twice", "a copy", "two of a round"])
def test_what_cannot_be_compared_is_refused_by_name(
    tmp_path: Path, runs: list[Path], broken: str, capsys
) -> None:
    words, told = [str(runs[0]), str(runs[0])], "would count as"
    if broken == "none":
        folder = copy_to(tmp_path)
        for path in (folder / "run").glob("round-*/eval"):
            shutil.rmtree(path)
        words, told = [str(folder / "run")], "holds no evaluation of any round's policy"
    elif broken == "a copy":
        words = [str(runs[0]), str(copy_to(tmp_path) / "run")]
    elif broken == "two of a round":
        folder = copy_to(tmp_path)
        shutil.copytree(folder / "run/round-02/eval", folder / "run/round-02/again")
        words, told = [str(folder / "run")], "two evaluations of round 2"
    assert prefpipe(["eval", "by-round", *words]) in (1, 2)
    assert told in " ".join(capsys.readouterr().err.split())
