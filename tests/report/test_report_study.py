"""The story of a study: its numbers against the figures and the Parquet, unfinished studies, hostile names, the flags."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.study_tables import declare_later, write_study

from prefpipe.cli.main import run as prefpipe
from prefpipe.configs.study_record import read_study_record
from prefpipe.report.page import render_study
from prefpipe.report.study import tell_study
from prefpipe.wiring.report import ReportedStudy, open_study

BUDGETS = ("equal prompts", "equal response tokens")


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "half"
    write_study(
        folder,
        {"equivalence": 0.05, "contrasts": [["best", "same"]]},
        failed=[("best", 1)],
        waiting=[("worse", 2)],
    )
    declare_later(folder, "best", "worse")
    return folder


@pytest.fixture(scope="module")
def study(half_done: Path) -> ReportedStudy:
    return opened(half_done)


@pytest.fixture(scope="module")
def figures(study: ReportedStudy) -> dict[str, Any]:
    return study.figures


@pytest.fixture(scope="module")
def story(study: ReportedStudy) -> dict[str, Any]:
    return tell_study("study", study.figures, study.runs, study.record)


def opened(folder: Path) -> ReportedStudy:
    record = read_study_record(folder)
    assert record is not None
    return open_study(folder, record)


def story_of(folder: Path) -> dict[str, Any]:
    study = opened(folder)
    return tell_study("study", study.figures, study.runs, study.record)


def test_every_contrast_is_a_row_of_chart_and_table_with_the_figures_numbers(
    figures: dict[str, Any], story: dict[str, Any]
) -> None:
    assert [entry["budget"] for entry in story["contrasts"]] == list(BUDGETS)
    for entry, shown in zip(figures["budgets"], story["contrasts"], strict=True):
        contrasts = entry["measures"]["reward"]["contrasts"]
        assert len(contrasts) == 2
        for contrast, row, cells in zip(
            contrasts, shown["chart"]["rows"], shown["table"], strict=True
        ):
            assert {key: row[key] for key in ("first", "second", "mean", "low", "high")} == {
                key: contrast[key] for key in ("first", "second", "mean", "low", "high")
            }
            assert row["detectable"] == contrast["detectable_holm"]
            is_separable = contrast["declared"] and contrast["verdict"] in ("higher", "lower")
            assert row["is_clear"] == is_separable == cells[3].endswith("*")
            low, high = f"{contrast['low']:+.3f}", f"{contrast['high']:+.3f}"
            assert cells[1] == f"{contrast['mean']:+.3f} [{low}, {high}]"
            assert cells[4] == f"{contrast['detectable_holm']:.3f}"
        assert shown["sentences"] == [contrast["sentence"] for contrast in contrasts]
        assert shown["chart"]["equivalence"] == 0.05


def test_a_contrast_that_was_added_later_is_marked_and_never_separable(
    story: dict[str, Any],
) -> None:
    for entry in story["contrasts"]:
        declared, later = entry["chart"]["rows"]
        assert declared["is_declared"]
        assert (later["first"], later["second"]) == ("best", "worse")
        # it lies far from zero, and is no finding all the same
        assert later["low"] > 0
        assert (later["is_declared"], later["is_clear"]) == (False, False)
        assert entry["table"][-1][0].endswith("†")
    assert "added later" in story["contrasts_about"]
    assert [row[2] for row in story["contrasts_declared"]] == [
        "before the run",
        "added later",
    ]


def test_the_arms_have_the_means_of_the_parquet_and_the_base_comes_first(
    half_done: Path, story: dict[str, Any]
) -> None:
    results = pl.read_parquet(half_done / "results.parquet")
    assert [each["title"] for each in story["measures"]] == [
        "Mean reward",
        "Reward, lowest decile of prompts",
        "Worst failures",
    ]
    for place, budget in enumerate(("prompts", "response_tokens")):
        rows = story["measures"][0]["budgets"][place]["chart"]["rows"]
        assert [row["name"] for row in rows] == ["base", "best", "same", "worse"]
        of_budget = results.filter(pl.col("budget") == budget)
        assert rows[0]["mean"] == pytest.approx(of_budget["base_reward"].mean())
        for row in rows[1:]:
            of_arm = of_budget.filter(pl.col("arm") == row["name"])
            assert row["mean"] == pytest.approx(of_arm["reward"].mean(), rel=1e-12)

        worst = story["measures"][2]["budgets"][place]["chart"]["rows"]
        for row in worst[1:]:
            of_arm = of_budget.filter(pl.col("arm") == row["name"])
            rate = of_arm["n_worst"].sum() / of_arm["n_rated"].sum()
            assert row["mean"] == pytest.approx(rate, rel=1e-12)


def test_charts_of_one_measure_share_their_scale(story: dict[str, Any]) -> None:
    for charts in (story["contrasts"], *(each["budgets"] for each in story["measures"])):
        first, second = (entry["chart"] for entry in charts)
        assert first["extent"] == second["extent"]
        values = [
            row[key]
            for chart in (first, second)
            for row in chart["rows"]
            for key in ("mean", "low", "high")
        ]
        low, high = first["extent"]
        assert low <= min(values)
        assert high >= max(values)


def test_reward_against_kl_tokens_and_length_has_a_point_an_arm_and_budget(
    figures: dict[str, Any], story: dict[str, Any]
) -> None:
    titles = [each["title"] for each in story["costs"]]
    assert titles == [
        "Mean reward against KL",
        "Mean reward against response tokens trained on",
        "Mean reward against the length of responses",
    ]
    kl, tokens, length = (each["chart"] for each in story["costs"])
    for place, entry in enumerate(figures["budgets"]):
        reward = {each["arm"]: each["mean"] for each in entry["measures"]["reward"]["arms"]}
        across = {each["arm"]: each for each in entry["measures"]["kl_per_token"]["arms"]}
        n_tokens = {each["arm"]: each["response_tokens"] for each in entry["arms"]}
        for series in kl["series"]:
            point, arm = series["points"][place], series["name"]
            assert (point["x"], point["x_low"], point["x_high"], point["y"]) == (
                across[arm]["mean"],
                across[arm]["low"],
                across[arm]["high"],
                reward[arm],
            )
        for series in tokens["series"]:
            point = series["points"][place]
            assert (point["x"], point["y"]) == (n_tokens[series["name"]], reward[series["name"]])
    assert (kl["base"]["x"], tokens["base"]["x"], length["base"]["x"]) == (0.0, 0.0, 25.0)


def test_every_run_is_in_the_grid_and_failures_stand_on_top(story: dict[str, Any]) -> None:
    grid = {row["arm"]: [cell["state"] for cell in row["cells"]] for row in story["runs"]["rows"]}
    assert grid == {
        "best": ["done", "failed", "done"],
        "same": ["done", "done", "done"],
        "worse": ["done", "done", "waiting"],
    }
    assert story["runs"]["rows"][0]["cells"][1]["detail"] == "train, exit 1"
    assert len(story["runs"]["table"]) == 3 * 3 * 2
    assert story["runs"]["head"][4:] == ["Step", "Prompts", "Response tokens", "Trained tokens", "Seconds"]  # fmt: skip
    assert story["unfinished"] == [
        "NOT DONE: 7 of 9 runs are done, 1 failed, 1 waiting. Figures are over the runs that are done.",
        "failed: best, seed 1: train, exit 1",
    ]
    runs = {row[0]: row[1] for row in story["arm_tables"][0]["table"]}
    assert runs == {"base": "", "best": "2 of 3, 1 failed", "same": "3 of 3", "worse": "2 of 3, 1 waiting"}  # fmt: skip


def test_what_no_run_has_a_number_of_is_no_column(study: ReportedStudy) -> None:
    runs = [run | {"trained_tokens": None} for run in study.runs]
    shown = tell_study("study", study.figures, runs, study.record)["runs"]
    assert shown["head"][4:] == ["Step", "Prompts", "Response tokens", "Seconds"]
    assert {len(row) for row in shown["table"]} == {len(shown["head"])}


def test_a_study_without_a_finished_run_has_a_page(tmp_path: Path) -> None:
    every = [(arm, seed) for arm in ("best", "same", "worse") for seed in (0, 1, 2)]
    write_study(tmp_path / "study", waiting=every)
    story = story_of(tmp_path / "study")
    assert (story["contrasts"], story["measures"], story["costs"]) == ([], [], [])
    page = render_study(story)
    assert "0 of 9 runs are done" in page
    assert "No run is finished" in page
    assert page.count(">waiting</span>") == 9


def test_one_seed_and_no_contrasts_are_said(tmp_path: Path) -> None:
    write_study(tmp_path / "study", {"seeds": [0], "contrasts": []})
    story = story_of(tmp_path / "study")
    assert "over prompts alone, as one seed says nothing about others" in story["about"]
    assert "3 arms by 1 seed of model" in story["about"]
    page = render_study(story)
    assert "The plan declares no contrasts." in page
    assert 'data-chart="contrasts"' not in page


def test_names_of_others_are_text(study: ReportedStudy) -> None:
    """A record may come from elsewhere: no name in it reaches the page as markup."""
    hostile = '<img src=x onerror="window.stolen=1">\u202e'
    text = json.dumps({"figures": study.figures, "runs": study.runs}, default=str)
    renamed = json.loads(text.replace('"best"', json.dumps(hostile)).replace('"by-hand"', '"</script><script>x"'))  # fmt: skip
    page = render_study(tell_study("<b>run", renamed["figures"], renamed["runs"], study.record))
    assert "<img" not in page
    assert "</script><script>x" not in page
    assert "\u202e" not in page
    assert "&lt;img src=x onerror" in page
    assert "<b>run" not in page


def test_the_command_writes_the_same_page_twice_and_for_a_copy(
    half_done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for name in ("study.json", "results.parquet", "runs.parquet"):
        shutil.copy(half_done / name, folder / name)
    assert prefpipe(["report", str(half_done), "-o", str(tmp_path / "one.html"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["name"] == "by-hand"
    assert "warning: NOT DONE: 7 of 9 runs are done" in err

    # without -o it stands in the folder
    assert prefpipe(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert (tmp_path / "one.html").read_bytes() == (folder / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--strict"], 1, "7 of 9 runs are done"),
        (["--model", "8B"], 2, "--model is of a run's report"),
        (["--prompts", "3"], 2, "--prompts is of a run's report"),
    ],
)
def test_what_a_study_s_report_refuses(
    half_done: Path, tmp_path: Path, flags: list[str], code: int, said: str, capsys
) -> None:
    target = tmp_path / "report.html"
    assert prefpipe(["report", str(half_done), "-o", str(target), *flags]) == code
    assert said in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize("name", ["results.parquet", "runs.parquet"])
def test_a_table_that_is_not_there_is_an_error_with_the_command(
    half_done: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(half_done, folder)
    (folder / name).unlink()
    assert prefpipe(["report", str(folder), "-o", str(tmp_path / "report.html")]) == 1
    err = capsys.readouterr().err
    assert f"{name} does not exist" in err
    assert "prefpipe study" in err
