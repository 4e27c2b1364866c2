"""What a report finds of a run that was copied, linked together, taken apart or damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.finished_run import command, copy_to, original
from support.interchange_files import lines
from support.pipelines import rows_of, table_of
from support.reported_run import reported_run

from prefpipe.artifacts.parts import read_part, write_part
from prefpipe.cli.main import run
from prefpipe.maths.selection.select_responses import select_responses
from prefpipe.stages.inspect.curves import metrics_problem, read_points


def told_of(folder: Path, capsys: pytest.CaptureFixture, *flags: str) -> tuple[dict, str]:
    capsys.readouterr()
    assert (
        run(
            [
                "report",
                str(folder),
                "-o",
                str(folder.parent / "report.html"),
                "--json",
                "--model",
                "1B",
                *flags,
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.slow
def test_report_of_copied_run_names_its_own_artifacts(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """What the copies say they were made from lies in the original: it is outside, and its twin is inside."""
    copy = tmp_path / "run"
    shutil.copytree(original() / "run", copy)
    told, _ = told_of(copy, capsys)
    expected, _ = told_of(copy_to(tmp_path / "other"), capsys)
    (pool,) = told["pools"]
    assert pool["name"] == "groups"
    assert pool == expected["pools"][0]
    assert told["maps"] == expected["maps"] != []
    assert {entry["name"]: entry["parents"].get("candidates") for entry in told["lineage"]}[
        "scores"
    ] == "candidates"


@pytest.mark.slow
def test_story_of_selection_without_candidates_goes_as_far_as_it_can(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole = copy_to(tmp_path / "made")
    folder = tmp_path / "elsewhere" / "run"
    folder.mkdir(parents=True)
    shutil.move(whole / "groups", folder / "groups")
    told, _ = told_of(folder, capsys)
    (pool,) = told["pools"]
    assert (pool["candidates"], pool["elsewhere"]) == (None, ["candidates", "scores", "embeddings"])
    assert pool["rewards"] is pool["coverage"] is None
    (step,) = pool["funnel"]["responses"]
    assert (step["n_in"], step["n_out"]) == (
        24,
        sum(row["role"] is not None for row in rows_of(folder / "groups")),
    )
    assert told["savings"]["start"] == 0
    page = (folder.parent / "report.html").read_text(encoding="utf-8")
    assert "are not in this folder" in page
    assert "Nothing is scored" not in page
    assert "Nothing is selected here" not in page


@pytest.mark.slow
def test_scores_that_a_selection_was_not_made_by_are_not_its_rewards(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Other scores of the same candidates must not stand in for those that are elsewhere."""
    folder = copy_to(tmp_path)
    shutil.rmtree(folder / "scores")
    command(["score", str(folder / "candidates"), "-o", str(folder / "other"), "--scorer", "fake"])
    told, _ = told_of(folder, capsys)
    (pool,) = told["pools"]
    assert pool["elsewhere"] == ["scores"]
    assert pool["rewards"] is None


@pytest.mark.slow
def test_an_artifact_behind_a_link_is_found_once_and_circles_end(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path / "made")
    shutil.move(folder / "candidates", tmp_path / "big-disk")
    (folder / "candidates").symlink_to(tmp_path / "big-disk")
    (folder / "again").symlink_to(folder / "scores")
    (folder / "round").symlink_to(folder)
    told, _ = told_of(folder, capsys)
    assert len(told["lineage"]) == 4
    assert told["pools"][0]["rewards"]["n"] == 24


def test_a_folder_that_is_one_artifact_has_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    told, _ = told_of(copy_to(tmp_path) / "candidates", capsys)
    assert [entry["name"] for entry in told["lineage"]] == ["candidates"]


@pytest.mark.slow
def test_messages_do_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    part = folder / "embeddings" / "part-00001-of-00003.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    first, err = told_of(folder, capsys)
    assert str(part) in err  # in the terminal a path, to be opened
    monkeypatch.chdir(folder)
    assert run(["report", ".", "-o", str(tmp_path / "two.html"), "--model", "1B"]) == 0
    assert (tmp_path / "two.html").read_bytes() == (tmp_path / "report.html").read_bytes()
    assert first["pools"][0]["coverage"]["error"].startswith(f"embeddings/{part.name}")


@pytest.mark.slow
def test_a_damaged_part_does_not_hide_the_maps_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    part = folder / "embeddings" / "part-00001-of-00003.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    told, err = told_of(folder, capsys)
    assert len(told["maps"]) == 4
    (left_out,) = told["maps_left_out"]
    assert part.name in left_out["error"]
    assert f"maps: {part}" in err


@pytest.mark.slow
def test_a_prompt_without_embeddings_does_not_hide_the_maps_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    part = folder / "embeddings" / "part-00000-of-00003.parquet"
    table, footer = read_part(part)
    bad = table["prompt_id"].to_pylist()[0]
    status = pa.array(["error" if each == bad else "ok" for each in table["prompt_id"].to_pylist()])
    table = table.set_column(
        table.schema.get_field_index("status"), table.schema.field("status"), status
    )
    part.unlink()
    write_part(
        part,
        table,
        fingerprint=footer.fingerprint,
        schema=footer.schema,
        counts=footer.counts,
        parents=footer.parents,
        tally=footer.tally,
    )
    told, _ = told_of(folder, capsys)
    assert bad not in {each["prompt_id"] for each in told["maps"]}
    assert len(told["maps"]) == 5
    assert "no candidate of prompt" in told["maps_left_out"][0]["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [("summary.json", b"[1]"), ("summary.json", b"{"), ("metrics.parquet", b"PAR1")],
)
def test_lineage_names_unreadable_files_beside_the_parts(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    (folder / "groups" / name).write_bytes(content)
    told, err = told_of(folder, capsys)
    (entry,) = [entry for entry in told["lineage"] if entry["trouble"]]
    assert entry["name"] == "groups"
    assert "cannot be read" in entry["trouble"][0]
    assert f"{name} cannot be read" in err


@pytest.mark.slow
def test_report_names_corrupt_artifact_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_to(tmp_path)
    part = folder / "groups" / "part-00001-of-00003.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert "groups is corrupt" in told_of(folder, capsys)[1]


def test_the_name_of_the_file_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Nothing of the run is opened: the refusal does not wait for it."""
    target = tmp_path / "mine.html"
    target.write_text("mine")
    for words, message in (
        ([str(target)], "is not a prefpipe report"),
        ([str(tmp_path / "none" / "r.html")], "there is no folder"),
    ):
        assert run(["report", str(tmp_path / "no-run"), "-o", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_kill_left_behind_is_swept_and_an_earlier_report_survives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from prefpipe.artifacts.atomic import MACHINE
    from prefpipe.report import page

    folder, target = copy_to(tmp_path), tmp_path / "report.html"
    left = tmp_path / f".report.html.{MACHINE}.999999999.tmp"
    left.write_text("half")
    told_of(folder, capsys)
    assert not left.exists()
    before = target.read_bytes()

    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefpipe.artifacts.atomic.os.fsync", full)
    assert page.MARK.encode() in before
    assert run(["report", str(folder), "-o", str(target), "--model", "1B"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert target.read_bytes() == before


def made_of(folder: Path, rows: list[dict], *select: str) -> Path:
    source = lines(folder / "responses.jsonl", *rows)
    out = str(folder / "run")
    command(["import", source, "-o", out, "--format", "online-rlhf"])
    command(["embed", f"{out}/candidates", "-o", f"{out}/embeddings", "--model", "fake"])
    command(
        [
            "select",
            f"{out}/candidates",
            "--scores",
            f"{out}/scores",
            "--embeddings",
            f"{out}/embeddings",
            "-o",
            f"{out}/groups",
            "--k",
            "3",
            *select,
        ]
    )
    return folder / "run"


def row_of(i: int, n: int, scale: float = 1.0) -> dict:
    texts = [f"answer {i} {j} {'word ' * j}" for j in range(n)]
    return {
        "prompt": f"question {i}",
        "responses": texts,
        "rewards": [scale * ((7 * j + i) % 11) for j in range(n)],
    }


@pytest.mark.slow
def test_a_small_pool_does_not_end_the_curve_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = made_of(tmp_path, [*(row_of(i, 9) for i in range(7)), row_of(7, 3)])
    (pool,) = told_of(folder, capsys)[0]["pools"]
    assert pool["coverage"]["k"] == list(
        range(1, 8)
    )  # of 9: one positive, and a k that leaves something to cover
    assert (pool["coverage"]["n_prompts"], pool["coverage"]["n_too_few"]) == (7, 1)


@pytest.mark.slow
def test_coverage_is_of_what_select_chose_from(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With a margin some candidates are no negatives: at the chosen k the curve is still what select wrote."""
    folder = made_of(tmp_path, [row_of(i, 10) for i in range(6)], "--min-margin", "3")
    (pool,) = told_of(folder, capsys)[0]["pools"]
    frames = [
        pl.from_arrow(table_of(folder / name)) for name in ("candidates", "scores", "embeddings")
    ]
    frame = (
        frames[0]
        .join(frames[1], on=["prompt_id", "sample_idx"])
        .join(frames[2], on=["prompt_id", "sample_idx"], suffix="_e")
    )
    costs = dict(
        pl.from_arrow(table_of(folder / "groups"))
        .drop_nulls("role")
        .group_by("prompt_id")
        .agg(pl.col("cost").first())
        .iter_rows()
    )
    shares = []
    for (prompt_id,), own in frame.sort("sample_idx").group_by("prompt_id"):
        usable = own.filter(
            (pl.col("reward") == pl.col("reward").max())
            | (pl.col("reward") <= pl.col("reward").max() - 3)
        )
        vectors = np.stack(usable["embedding"].to_list()).astype(np.float64)
        shares.append(
            costs[prompt_id]
            / select_responses(usable["reward"].to_numpy(), vectors, 1, "bottom-k").cost_random
        )
    assert pool["coverage"]["strategies"]["opt-select"][2] == pytest.approx(
        np.mean(shares), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_rewards_at_the_end_of_float64_have_a_mean_and_a_histogram(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [
        {
            "prompt": f"q {i}",
            "responses": [f"a {j}" for j in range(4)],
            "rewards": [1.5e308, 1.5e308, -1.5e308, 0.0],
        }
        for i in (0, 1)
    ]
    source = lines(tmp_path / "responses.jsonl", *rows)
    command(["import", source, "-o", str(tmp_path / "run"), "--format", "online-rlhf"])
    (pool,) = told_of(tmp_path / "run", capsys)[0]["pools"]
    assert pool["rewards"]["means"]["pool"] == pytest.approx(1.5e308 / 4)
    assert sum(pool["rewards"]["histogram"]["pool"]) == 8


def test_values_that_are_not_finite_are_counted_and_first_and_last_are_as_logged(
    tmp_path: Path,
) -> None:
    values = [*(float(i) for i in range(9)), float("nan"), None, float("inf")]
    pq.write_table(
        pa.table(
            {"step": list(range(12)), "epoch": [0.0] * 12, "split": ["train"] * 12, "loss": values}
        ),
        tmp_path / "metrics.parquet",
    )
    (curve,) = read_points(tmp_path, 3)
    assert (curve["n"], curve["n_not_finite"]) == (9, 2)
    assert (curve["first"], curve["last"], curve["last_step"]) == (0.0, None, 11)
    assert (curve["steps"], curve["values"]) == ([2, 5, 8], [1.0, 4.0, 7.0])
    assert metrics_problem(tmp_path) is None


@pytest.mark.slow
def test_a_training_that_was_killed_says_so_beside_its_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reported_run(), folder)
    (folder / "policy" / "summary.json").unlink()
    next((folder / "policy").glob("part-*")).unlink()
    told, _ = told_of(folder, capsys)
    assert {entry["name"]: entry["state"] for entry in told["lineage"]}["policy"] == "partial"
    assert told["trainings"][0]["curves"] != []
    page = (folder.parent / "report.html").read_text(encoding="utf-8")
    assert '<h3>policy <span class="state partial">partial</span></h3>' in page
    assert "<h3>reward-model</h3>" in page
