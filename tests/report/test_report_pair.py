"""Two runs side by side: paired differences by plain polars, what does not compare, hostile names, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.browsing import Visit, needs_chromium
from support.sampled_evaluations import HOSTILE, N_HELDOUT, evaluated_run

from prefpipe.cli.main import run as prefpipe
from prefpipe.maths.statistics.bootstrap import Bootstrap
from prefpipe.report.pair import difference_of_ratios, run_names

HOSTILE_NAME = "b <script>window.stolen = 2<x> & {{ 7 * 7 }} \u202e"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return (
        evaluated_run(folder / "a", seed=1),
        evaluated_run(folder / HOSTILE_NAME, seed=2),
    )


def tell(first: Path, second: Path, target: Path, capsys: Any) -> tuple[dict[str, Any], str, str]:
    """Return the story, the page and what stderr said."""
    page = target / "both.html"
    capsys.readouterr()
    words = ["report", str(first), str(second), "-o", str(page), "--model", "8B", "--json"]
    assert prefpipe(words) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), page.read_text(encoding="utf-8"), captured.err


def test_differences_are_paired_by_prompt(
    runs: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    story, page, err = tell(*runs, tmp_path, capsys)
    assert story["reasons"] == []
    assert "no paired differences" not in err
    first, second = (pl.read_parquet(run / "eval" / "part-*.parquet") for run in runs)
    # the order of the rows must not matter
    joined = first.join(
        second.sample(fraction=1.0, shuffle=True, seed=1), on="prompt_id", suffix="_b"
    )
    assert len(joined) == N_HELDOUT
    rows = {row["key"]: row for row in story["rows"]}
    for key, column in (
        ("reward", "policy_reward"),
        ("win_rate", "preference"),
        ("n_tokens", "policy_n_tokens"),
    ):
        expected = (joined[f"{column}_b"] - joined[column]).mean()
        assert rows[key]["difference"]["mean"] == pytest.approx(expected)
        assert rows[key]["n_prompts"] == N_HELDOUT
        assert rows[key]["difference"]["low"] <= expected <= rows[key]["difference"]["high"]
    worst = [
        table["policy_reward"].sort().head(N_HELDOUT // 10).mean() for table in (first, second)
    ]
    assert rows["lowest_decile"]["difference"]["mean"] == pytest.approx(worst[1] - worst[0])
    assert rows["length_controlled"]["difference"] is None
    assert "paired by prompt" in page


def test_what_differs_in_configuration_is_listed(
    runs: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    story, _, _ = tell(*runs, tmp_path, capsys)
    differing = {(each["artifact"], each["setting"]): each for each in story["settings"]}
    assert differing["candidates", "seed"]["first"] == "1"
    assert differing["candidates", "seed"]["second"] == "2"
    assert ("sides/baseline/candidates", "seed") not in differing
    assert story["alone"] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heldout": "others"}, "the held-out prompts differ"),
        ({"max_tokens": 20}, "max_tokens"),
    ],
)
def test_evaluations_of_other_prompts_or_sampling_have_no_differences(
    runs: tuple[Path, Path], changes: dict[str, Any], said: str, tmp_path: Path, capsys: Any
) -> None:
    other = evaluated_run(tmp_path / "other", seed=2, **changes)
    story, page, err = tell(runs[0], other, tmp_path, capsys)
    assert any(said in reason for reason in story["reasons"])
    assert said in err
    assert 'id="not-comparable"' in page
    assert {row["difference"] for row in story["rows"]} == {None}
    # their own figures are there
    assert all(row["first"] and row["second"] for row in story["rows"] if row["key"] == "reward")


def test_the_same_prompts_in_another_order_compare(
    runs: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    """A file's digest is of its order, and no figure is."""
    reversed_run = evaluated_run(tmp_path / "reversed", seed=2, is_reversed=True)
    expected, _, _ = tell(*runs, tmp_path, capsys)
    story, _, err = tell(runs[0], reversed_run, tmp_path, capsys)
    assert story["reasons"] == []
    assert "no paired differences" not in err
    assert [row["difference"] for row in story["rows"]] == [
        row["difference"] for row in expected["rows"]
    ]
    assert any(row["key"] == "win_rate" and row["difference"] for row in story["rows"])


def test_the_same_prompts_with_other_columns_do_not_compare(tmp_path: Path, capsys: Any) -> None:
    """`checks` is such a column: rewards may be of other checks."""
    pair = [
        evaluated_run(tmp_path / topic / topic, seed=1, topic=topic) for topic in ("one", "other")
    ]
    story, _, _ = tell(pair[0], pair[1], tmp_path, capsys)
    assert any("the held-out prompts differ" in reason for reason in story["reasons"])


def test_win_rates_against_different_baselines_are_not_subtracted(
    runs: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    other = evaluated_run(tmp_path / "other", seed=2, baseline_seed=7)
    story, page, _ = tell(runs[0], other, tmp_path, capsys)
    rows = {row["key"]: row for row in story["rows"]}
    assert rows["win_rate"]["difference"] is None
    assert rows["win_rate"]["why"] == "the runs are compared with different baselines"
    assert rows["reward"]["difference"] is not None
    assert "different baselines" in page


def test_a_run_without_an_evaluation_is_told_as_far_as_it_goes(
    runs: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[1], other, ignore=shutil.ignore_patterns("eval"))
    story, page, _ = tell(runs[0], other, tmp_path, capsys)
    assert story["reasons"] == ["other has no evaluation"]
    assert {"run": "a", "artifact": "eval", "stage": "eval"} in story["alone"]
    assert "<code>prefpipe eval</code>" in page


def test_hostile_prompts_and_names_stay_text(
    runs: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    _, page, _ = tell(*runs, tmp_path, capsys)
    assert "<script>window" not in page
    assert HOSTILE not in page
    assert "\u202e" not in page
    assert "b &lt;script&gt;window.stolen = 2&lt;x&gt;" in page
    assert page.count("<script") == 2  # the data, and the page's own script


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{a}", "{a}", "-o", "x.html"], "a run is given twice"),
        (["{a}", "{b}"], "-o FILE is needed for two runs"),
        (["{a}", "{b}", "{c}", "-o", "x.html"], "3 runs are given"),
        (
            ["{a}", "{b}", "-o", "x.html", "--prompts", "3"],
            "--prompts is for the report of one run",
        ),
    ],
)
def test_what_two_runs_refuse(
    runs: tuple[Path, Path], words: list[str], said: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"a": runs[0], "b": runs[1], "c": tmp_path}
    assert prefpipe(["report", *(word.format(**places) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_the_difference_of_two_ratios_is_resampled_together() -> None:
    rng = np.random.default_rng(0)
    below = rng.integers(5, 50, 200).astype(float)
    above = below * rng.normal(0.2, 0.1, 200)
    same = difference_of_ratios((above, below), (above, below), Bootstrap(n_draws=200))
    assert (same["mean"], same["low"], same["high"], same["n"]) == (0.0, 0.0, 0.0, 200)
    more = difference_of_ratios(
        (above, below), (above + 0.5 * below, below), Bootstrap(n_draws=200)
    )
    assert more["mean"] == pytest.approx(0.5)
    assert more["low"] == pytest.approx(0.5)


def test_names_have_as_many_parents_as_tell_them_apart(tmp_path: Path) -> None:
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]


@pytest.fixture
def opened(browser: Any, runs: tuple[Path, Path], tmp_path: Path) -> Iterator[Visit]:
    page = tmp_path / "both.html"
    assert prefpipe(["report", *map(str, runs), "-o", str(page), "--model", "8B"]) == 0
    phone = {"viewport": {"width": 375, "height": 700}, "is_mobile": True}
    visit = Visit(browser, page.as_uri(), "[data-theme]", **phone)
    yield visit
    assert visit.said == []
    assert visit.asked == [page.as_uri()]
    visit.context.close()


@needs_chromium
@pytest.mark.slow
def test_on_a_phone_two_runs_need_no_scrolling_to_the_side(opened: Visit) -> None:
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert opened.page.evaluate("window.stolen") is None
    opened.page.get_by_role("button", name="Dark").click()
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"
    row = opened.page.locator("tr[data-key=reward]")
    assert (
        row.locator("td").nth(2).evaluate("each => getComputedStyle(each, '::before').content")
        == '"difference "'
    )
