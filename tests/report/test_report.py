"""The story of a run: its numbers against the Parquet itself, what is damaged or missing, and that it is told twice alike."""

import json
import math
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.finished_run import HOSTILE, copy_to, original
from support.pipelines import rows_of, table_of
from support.reported_run import MARKUP, N_PROMPTS, PROMPT, N, reported_run

from prefpipe.cli.main import run
from prefpipe.maths.selection.select_responses import select_responses


def told_of(folder: Path, capsys: pytest.CaptureFixture, *flags: str) -> tuple[dict, str]:
    """Run the command with --json; return the story and what stderr said."""
    target = folder.parent / "report.html"
    capsys.readouterr()
    assert run(["report", str(folder), "-o", str(target), "--json", "--model", "1B", *flags]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict:
    from prefpipe.report.story import tell
    from prefpipe.wiring.report import calculator_model, open_folder

    artifacts = open_folder(reported_run(), strict=False).artifacts
    model = calculator_model("1B", artifacts)
    return json.loads(json.dumps(tell("run", artifacts, model, n_maps=5)))


def pool_of(story: dict, name: str) -> dict:
    return next(pool for pool in story["pools"] if pool["name"] == name)


@pytest.mark.slow
def test_every_row_of_the_funnel_went_on_or_has_a_reason(story: dict) -> None:
    steps = pool_of(story, "opt-select")["funnel"]["responses"]
    assert [step["step"] for step in steps] == [
        "import",
        "import",
        "embed",
        "select",
        "train",
        "train",
    ]
    for step in steps:
        assert step["n_in"] == step["n_out"] + sum(step["reasons"].values())
    assert steps[0]["n_in"] == N_PROMPTS * N == table_of(reported_run() / "candidates").num_rows
    groups = rows_of(reported_run() / "opt-select")
    assert steps[3]["n_out"] == sum(row["role"] is not None for row in groups)
    assert steps[4]["n_in"] == sum(row["role"] is not None for row in groups)
    assert steps[5]["kept_as"]["held_out"] > 0  # the reward model's evaluation


@pytest.mark.slow
def test_the_prompts_that_select_rejected_are_no_responses_of_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    told, _ = told_of(copy_to(tmp_path), capsys)
    (pool,) = [pool for pool in told["pools"] if pool["name"] == "groups"]
    for step in pool["funnel"]["prompts"]:
        assert step["n_in"] == step["n_out"] + sum(step["reasons"].values()) == 6


@pytest.mark.slow
def test_story_rewards_equal_those_in_the_parquet(story: dict) -> None:
    told = pool_of(story, "opt-select")["rewards"]
    rewards = pl.from_arrow(table_of(reported_run() / "scores"))["reward"]
    kept = pl.from_arrow(table_of(reported_run() / "opt-select")).drop_nulls("role")
    assert told["n"] == len(rewards) == sum(told["histogram"]["pool"])
    assert told["means"]["pool"] == pytest.approx(rewards.mean())
    for role in ("positive", "negative"):
        own = kept.filter(pl.col("role") == role)["reward"]
        assert told["means"][role] == pytest.approx(own.mean())
        assert sum(told["histogram"][role]) == len(own)
        assert np.histogram(own, told["histogram"]["edges"])[0].tolist() == told["histogram"][role]
    assert (
        told["lengths"]["unit"] == "characters"
    )  # nobody counted the tokens of imported responses
    lengths = pl.from_arrow(table_of(reported_run() / "candidates"))["response"].str.len_chars()
    trend = told["lengths"]["trend"]
    assert sum(each["n"] for each in trend) == len(lengths)
    assert sum(each["n"] * each["length"] for each in trend) == pytest.approx(lengths.sum())


def test_reward_and_length_correlate_as_scipy_says(story: dict) -> None:
    from scipy.stats import spearmanr

    frame = pl.from_arrow(table_of(reported_run() / "candidates")).join(
        pl.from_arrow(table_of(reported_run() / "scores")), on=["prompt_id", "sample_idx"]
    )
    expected = spearmanr(frame["response"].str.len_chars(), frame["reward"]).statistic
    assert pool_of(story, "coreset")["rewards"]["lengths"]["spearman"] == pytest.approx(expected)


def test_coverage_at_the_chosen_k_is_what_select_wrote(story: dict) -> None:
    pool = pool_of(story, "opt-select")
    told = pool["coverage"]
    assert pool["chosen"] == {"strategy": "opt-select", "k": 3, "positives": 1}
    assert told["n_prompts"] == N_PROMPTS
    groups = pl.from_arrow(table_of(reported_run() / "opt-select")).drop_nulls("role")
    costs = dict(groups.group_by("prompt_id").agg(pl.col("cost").first()).iter_rows())
    frame = (
        pl.from_arrow(table_of(reported_run() / "candidates"))
        .join(pl.from_arrow(table_of(reported_run() / "scores")), on=["prompt_id", "sample_idx"])
        .join(
            pl.from_arrow(table_of(reported_run() / "embeddings")),
            on=["prompt_id", "sample_idx"],
            suffix="_e",
        )
    )
    shares, bottoms = [], []
    for (prompt_id,), own in frame.sort("sample_idx").group_by("prompt_id"):
        rewards, vectors = (
            own["reward"].to_numpy(),
            np.stack(own["embedding"].to_list()).astype(np.float64),
        )
        scale = select_responses(rewards, vectors, 1, "bottom-k").cost_random
        shares.append(costs[prompt_id] / scale)
        bottoms.append(select_responses(rewards, vectors, 3, "bottom-k").cost / scale)
    assert told["strategies"]["opt-select"][2] == pytest.approx(np.mean(shares), rel=1e-5)
    assert told["strategies"]["bottom-k"][2] == pytest.approx(np.mean(bottoms), rel=1e-5)


def test_opt_select_covers_best_and_more_negatives_cover_more(story: dict) -> None:
    told = pool_of(story, "opt-select")["coverage"]["strategies"]
    assert set(told) == {"random", "bottom-k", "coreset", "opt-select"}
    for name in ("random", "bottom-k", "coreset"):
        assert all(
            best <= cost + 1e-9 for best, cost in zip(told["opt-select"], told[name], strict=True)
        )
    for name in ("random", "bottom-k", "opt-select"):
        assert all(np.diff(told[name]) < 0)
    assert told["random"][0] == pytest.approx(1.0)


def test_selections_of_the_same_responses_share_their_coverage(story: dict) -> None:
    assert pool_of(story, "opt-select")["coverage"] == pool_of(story, "coreset")["coverage"]


def test_maps_have_every_candidate_and_the_choices_of_every_selection(story: dict) -> None:
    assert len(story["maps"]) == 5
    for told in story["maps"]:
        assert len(told["candidates"]) == N
        assert {item["name"] for item in told["selections"]} == {"opt-select", "coreset"}
        for chosen in told["selections"]:
            groups = [
                row
                for row in rows_of(reported_run() / chosen["name"])
                if row["prompt_id"] == told["prompt_id"]
            ]
            assert {(item["sample_idx"], item["role"]) for item in chosen["kept"]} == {
                (r["sample_idx"], r["role"]) for r in groups
            }
        rewards = [candidate["reward"] for candidate in told["candidates"]]
        assert rewards == sorted(rewards, reverse=True)
    first = next(told for told in story["maps"] if told["prompt"] == PROMPT)
    assert MARKUP in {
        candidate["response"] for candidate in first["candidates"]
    }  # the page escapes, the story keeps


def test_story_has_trainings_win_rates_health_and_calibrations(story: dict) -> None:
    assert [item["name"] for item in story["trainings"]] == ["policy", "reward-model"]
    loss = next(
        curve
        for curve in story["trainings"][0]["curves"]
        if curve["name"] == "loss" and curve["split"] == "train"
    )
    assert loss["steps"] == [1, 2, 3]
    judged, rates = story["win_rates"]
    assert judged["name"] == "verdicts"
    assert (
        judged["win_rate"]["mean"]
        == json.loads((reported_run() / "verdicts" / "summary.json").read_text())["win_rate_a"]
    )
    summary = json.loads((reported_run() / "eval" / "summary.json").read_text())
    assert rates["win_rate"]["mean"] == pytest.approx(summary["win_rate"]["mean"])
    (health,) = story["health"]
    assert health["measures"]["reward"]["difference"]["mean"] == pytest.approx(
        summary["reward"]["difference"]["mean"]
    )
    calibrations = {item["name"]: item for item in story["calibrations"]}
    trained = json.loads((reported_run() / "reward-model" / "summary.json").read_text())[
        "calibration"
    ]
    scored = json.loads((reported_run() / "calibration" / "summary.json").read_text())[
        "calibration"
    ]
    assert calibrations.keys() == {"reward-model", "calibration"}
    assert calibrations["reward-model"]["ece"] == pytest.approx(trained["ece"])
    assert calibrations["reward-model"]["by_gap"] == trained["by_score_gap"]
    assert calibrations["calibration"]["by_gap"] == scored["by_gap"]
    assert calibrations["calibration"]["reliability"]["mass"]["observed"] == [
        row["observed"] for row in scored["reliability_mass"]
    ]
    for told in (
        calibrations.values()
    ):  # both commands keep their curves in another form, and the page has one
        assert set(told["reliability"]) == {"width", "mass"}
        assert set(told["reliability"]["width"]) == {"lower", "upper", "n", "predicted", "observed"}
    assert [entry["state"] for entry in story["lineage"]] == ["done"] * len(story["lineage"])
    by_name = {entry["name"]: entry for entry in story["lineage"]}
    assert by_name["coreset"]["parents"] == {
        "candidates": "candidates",
        "scores": "scores",
        "embeddings": "embeddings",
    }
    assert by_name["policy"]["parents"]["groups"] == "opt-select"


def test_the_two_sides_of_an_evaluation_are_no_pools(story: dict) -> None:
    assert {pool["name"] for pool in story["pools"]} == {"opt-select", "coreset"}


def test_the_calculator_starts_from_the_selection(story: dict) -> None:
    plan = story["savings"]["plan"]
    sources = story["savings"]["sources"]
    assert [source["name"] for source in sources] == ["coreset", "opt-select"]
    assert story["savings"]["start"] == 1  # what the policy was trained on
    assert (
        sources[1]["n_estimated"] == N_PROMPTS * N
    )  # nobody counted the tokens of imported responses
    assert (plan["prompts"], plan["n"], plan["k"], plan["positives"]) == (N_PROMPTS, N, 3, 1)


@pytest.mark.slow
def test_the_same_artifacts_give_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path / "work")
    for name in ("one.html", "two.html"):
        assert run(["report", str(folder), "-o", str(tmp_path / name), "--model", "1B"]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.slow
def test_the_file_does_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path / "work")
    assert run(["report", str(folder), "-o", str(tmp_path / "one.html"), "--model", "1B"]) == 0
    monkeypatch.chdir(folder)
    assert run(["report", ".", "-o", str(tmp_path / "two.html"), "--model", "1B"]) == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    capsys.readouterr()


@pytest.mark.slow
def test_a_damaged_part_is_told_in_its_place_and_hides_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    part = folder / "embeddings" / "part-00001-of-00003.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 0xFF
    part.write_bytes(bytes(content))
    told, err = told_of(folder, capsys)
    (pool,) = told["pools"]
    assert part.name in pool["coverage"]["error"]
    assert part.name in err
    assert pool["rewards"]["n"] == 24
    steps = {step["artifact"]: step for step in pool["funnel"]["responses"]}
    assert part.name in steps["embeddings"]["error"]
    assert steps["groups"]["n_in"] == 24


@pytest.mark.slow
def test_missing_parts_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    (folder / "scores" / "part-00002-of-00003.parquet").unlink()
    told, _ = told_of(folder, capsys)
    (pool,) = told["pools"]
    assert (
        pool["rewards"]["n"],
        pool["rewards"]["n_parts"],
        pool["rewards"]["n_parts_in_all"],
    ) == (16, 2, 3)
    assert (
        next(step for step in pool["funnel"]["responses"] if step["artifact"] == "scores")[
            "n_parts_missing"
        ]
        == 1
    )
    assert {entry["name"]: entry["state"] for entry in told["lineage"]}["scores"] == "partial"


@pytest.mark.slow
def test_scores_of_other_candidates_are_not_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A part of candidates that was made again since: its scores speak of other texts."""
    folder = copy_to(tmp_path)
    other = tmp_path / "other"
    assert (
        run(
            [
                "generate",
                str(tmp_path / "prompts.jsonl"),
                "-o",
                str(other),
                "--backend",
                "fake",
                "--model",
                "fake:error_rate=0.2",
                "--n",
                "4",
                "--part-size",
                "2",
                "--max-tokens",
                "64",
                "--max-error-rate",
                "1",
            ]
        )
        == 0
    )
    for part in other.glob("part-*"):
        shutil.copy(part, folder / "candidates" / part.name)
    shutil.copy(other / "run.json", folder / "candidates" / "run.json")
    told, err = told_of(folder, capsys)
    (pool,) = told["pools"]
    assert "a different version of its candidates" in pool["rewards"]["error"]
    assert "a different version of its candidates" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        ("candidates",),
        ("candidates", "scores"),
        ("candidates", "embeddings"),
        ("candidates", "scores", "groups"),
    ],
)
def test_report_is_made_of_any_subset_of_a_run(
    kinds: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    for name in {"scores", "embeddings", "groups"} - set(kinds):
        shutil.rmtree(folder / name)
    told, _ = told_of(folder, capsys)
    (pool,) = told["pools"]
    assert (pool["rewards"] is None) == ("scores" not in kinds)
    assert pool["coverage"] is None
    assert told["maps"] == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["lost", "cut off", "newer"])
def test_an_unreadable_run_json_is_left_out_said_on_the_page_and_refused_when_strict(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    record = folder / "embeddings" / "run.json"
    text = record.read_text(encoding="utf-8")
    if damage == "lost":
        record.unlink()
    else:
        newer = json.dumps(json.loads(text) | {"of_2031": 1})
        record.write_text(newer if damage == "newer" else text[:-30], encoding="utf-8")

    told, err = told_of(folder, capsys)
    first = err.splitlines()[0]
    assert first.startswith("warning: embeddings is corrupt: ")
    assert first.endswith("; it is left out of the report")
    assert "embeddings" not in {entry["name"] for entry in told["lineage"]}
    assert [(entry["name"], entry["state"]) for entry in told["not_done"]] == [
        ("embeddings", "corrupt")
    ]

    page = tmp_path / "page.html"
    assert run(["report", str(folder), "-o", str(page)]) == 0
    assert 'id="not-done"' in page.read_text(encoding="utf-8")
    capsys.readouterr()
    assert run(["report", str(folder), "-o", str(tmp_path / "strict.html"), "--strict"]) == 1
    assert "--strict: embeddings is corrupt: " in capsys.readouterr().err
    assert not (tmp_path / "strict.html").exists()


def test_story_turns_nan_into_null(story: dict) -> None:
    def look(value: object) -> None:
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                look(item)
        assert not isinstance(value, float) or math.isfinite(value)

    look(story)


@pytest.mark.slow
def test_page_shows_control_characters_as_signs(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    told_of(folder, capsys)
    page = (folder.parent / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="story">')[1].split("</script>")[0])
    signs = [character for character in HOSTILE if unicodedata.category(character) in ("Cc", "Cf")]
    assert {"\x1b", "\x00", "\u202e"} <= set(signs)
    for text in (page.split("<script")[0], json.dumps(data, ensure_ascii=False)):
        assert not [sign for sign in signs if sign in text]
    assert "\N{SYMBOL FOR ESCAPE}" in json.dumps(data, ensure_ascii=False)


@pytest.mark.slow
def test_report_refuses_bad_flags_and_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = str(original() / "run")
    own = tmp_path / "prompts.jsonl"
    own.write_text("mine")
    cases = [
        (["report", folder, "-o", str(own)], 2, "is not a prefpipe report"),
        (["report", folder, "-o", str(tmp_path)], 2, "is a folder"),
        (["report", str(tmp_path), "-o", str(tmp_path / "r.html")], 1, "holds no artifact"),
        (["report", str(tmp_path / "none"), "-o", str(tmp_path / "r.html")], 1, "does not exist"),
        (
            ["report", folder, "-o", str(tmp_path / "r.html"), "--prompts", "-1"],
            2,
            "--prompts must be within",
        ),
        (["report", folder, "-o", str(tmp_path / "r.html"), "--model", "no/model"], 1, "no/model"),
    ]
    for words, code, message in cases:
        assert run(words) == code, words
        assert message in capsys.readouterr().err
    assert own.read_text() == "mine"
    assert run(["report", folder, "-o", str(own), "--overwrite"]) == 0
    assert run(["report", folder, "-o", str(own)]) == 0  # a report is replaced by the next one
