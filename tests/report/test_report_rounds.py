"""The section by round: its numbers against the Parquet, its tables and charts in a browser."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.browsing import Visit, needs_chromium
from support.planned_run import copy_to, original

from prefpipe.cli.main import run as prefpipe
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.maths.statistics.intervals import bootstrap_interval, paired_difference

pytestmark = pytest.mark.slow


def story_of(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    target = run.parent / "report.html"
    capsys.readouterr()
    words = ["report", str(run), "-o", str(target), "--model", "1B", "--json"]
    assert prefpipe(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(scope="module")
def page_of_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("rounds") / "report.html"
    assert prefpipe(["report", str(original() / "run"), "-o", str(target), "--model", "1B"]) == 0
    return target


def test_the_figures_are_those_of_the_tables(tmp_path: Path, capsys) -> None:
    run = copy_to(tmp_path) / "run"
    [entry] = story_of(run, capsys)["rounds"]
    assert entry["made_of"] == ["round-01/eval", "round-02/eval", "round-03/eval"]
    reward = {each["round"]: each for each in entry["figures"]["measures"]["reward"]["rounds"]}
    before = pl.read_parquet(run / "round-01/eval/part-*.parquet")["baseline_reward"].to_numpy()
    for number in (1, 2, 3):
        table = pl.read_parquet(run / f"round-{number:02d}/eval/part-*.parquet")
        values = table["policy_reward"].to_numpy()
        assert reward[number]["mean"] == pytest.approx(values.mean())
        low, high, _ = bootstrap_interval(values)
        assert (reward[number]["low"], reward[number]["high"]) == pytest.approx((low, high))
        change = paired_difference(values, before)._asdict()
        assert {key: reward[number]["to_previous"][key] for key in ("mean", "low", "high")} == (
            pytest.approx({key: change[key] for key in ("mean", "low", "high")})
        )
        before = values


def test_the_rewards_of_what_was_trained_on_are_those_of_the_scores(tmp_path: Path, capsys) -> None:
    run = copy_to(tmp_path) / "run"
    [entry] = story_of(run, capsys)["rounds"]
    assert [(each["round"], each["name"]) for each in entry["pools"]] == [
        (1, "round-01/groups"),
        (2, "round-02/groups"),
        (3, "round-03/groups"),
    ]
    for each in entry["pools"]:
        scores = pl.read_parquet(run / f"round-{each['round']:02d}/scores/part-*.parquet")
        by_prompt = scores.group_by("prompt_id", maintain_order=True).agg(pl.mean("reward"))
        assert each["mean"] == pytest.approx(by_prompt["reward"].mean())
        assert each["n_prompts"] == len(by_prompt)
        low, high, _ = bootstrap_interval(np.array(by_prompt["reward"]), Bootstrap())
        assert (each["low"], each["high"]) == pytest.approx((low, high))


def test_the_level_of_the_evaluations_is_the_section_s(tmp_path: Path, capsys) -> None:
    folder = copy_to(tmp_path)
    for number in (1, 2, 3):
        evaluation = folder / "run" / f"round-{number:02d}" / "eval"
        command = json.loads((evaluation / "run.json").read_text())["context"]["command"]
        assert prefpipe([*command[1:], "--confidence", "0.8", "--overwrite=stale"]) == 0
    [entry] = story_of(folder / "run", capsys)["rounds"]
    assert entry["figures"]["confidence"] == 0.8


def test_a_single_round_has_no_such_section(tmp_path: Path, capsys) -> None:
    folder = copy_to(tmp_path)
    for name in ("round-02", "round-03"):
        shutil.rmtree(folder / "run" / name)
    assert story_of(folder / "run", capsys)["rounds"] == []
    assert 'id="rounds"' not in (folder / "report.html").read_text()


def test_two_evaluations_of_a_round_are_said_and_hide_nothing(tmp_path: Path, capsys) -> None:
    folder = copy_to(tmp_path)
    shutil.copytree(folder / "run/round-02/eval", folder / "run/round-02/again")
    [entry] = story_of(folder / "run", capsys)["rounds"]
    assert "two evaluations of round 2" in entry["error"]
    page = (folder / "report.html").read_text()
    assert "two evaluations of round 2" in page
    assert 'id="health"' in page


@needs_chromium
def test_each_measure_is_a_chart_with_bars_and_a_table_under_it(
    browser: Any, page_of_rounds: Path
) -> None:
    visit = Visit(browser, page_of_rounds.as_uri(), viewport={"width": 1200, "height": 900})
    visit.draw_all()
    charts = visit.page.locator("#rounds [data-chart=byRound]")
    titles = visit.page.locator("#rounds figcaption").all_inner_texts()
    assert titles == [
        "Mean reward",
        "Win rate, ties half",
        "Tokens per response",
        "KL, nats per token",
        "Self-BLEU",
        "Distinct-2",
        "Reward of what each round trained on",
    ]
    assert charts.count() == 6
    trace = charts.first.evaluate("each => each.data[0]")
    assert trace["x"] == [0, 1, 2, 3]
    # bars and another form of the baseline's mark say it without colour
    assert all(length > 0 for length in trace["error_y"]["array"])
    assert trace["marker"]["symbol"] == ["square-open", "circle", "circle", "circle"]

    # the table of all means is there without a click, and each chart has its own
    overview = visit.page.locator("#rounds > .scroll table").inner_text()
    assert overview.count("[") >= 4 * 4
    figures = visit.page.locator("#rounds figure").first
    figures.locator("summary").click()
    rows = figures.locator("tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["baseline", "1", "2", "3"]
    assert "+" in rows[1] or "-" in rows[1]
    assert visit.said == []
    visit.context.close()
