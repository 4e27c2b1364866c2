"""``prefpipe.read``: every kind of artifact as a frame, with what is missing said; and the lines that the README shows."""

import subprocess
import sys
from glob import glob
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from support.finished_run import N_PROMPTS, K, N, command, copy_to
from support.pipelines import open_artifact, rows_of

import prefpipe
from prefpipe.errors import CorruptPartError, IncompleteInputError, InputError, PrefpipeWarning


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


@pytest.mark.parametrize(
    ("name", "n_rows"),
    [
        ("candidates", N_PROMPTS * N),
        ("scores", N_PROMPTS * N * 2),
        ("embeddings", N_PROMPTS * N),
        ("groups", N_PROMPTS * (K + 1)),
    ],
)
def test_all_rows_are_read_as_they_are(run: Path, name: str, n_rows: int) -> None:
    frame = prefpipe.read(run / name)
    assert frame.height == n_rows
    expected = rows_of(run / name)
    for column in ("prompt_id", "status", "sample_idx"):
        assert frame[column].to_list() == [row[column] for row in expected]


def test_vectors_are_arrays_and_texts_of_any_kind_come_back(run: Path) -> None:
    vectors = prefpipe.read(str(run / "embeddings"))["embedding"].to_numpy()
    assert vectors.shape == (
        N_PROMPTS * N,
        open_artifact(run / "embeddings").read(0)[0]["embedding"].type.list_size,
    )
    assert abs((vectors**2).sum(axis=1) - 1).max() < 1e-5
    texts = prefpipe.read(run / "candidates", columns=["messages"])["messages"].to_list()
    assert texts == [row["messages"] for row in rows_of(run / "candidates")]


def test_columns_are_those_asked_for_and_an_unknown_one_is_named(run: Path) -> None:
    assert prefpipe.read(run / "scores", columns=["reward", "prompt_id"]).columns == [
        "reward",
        "prompt_id",
    ]
    with pytest.raises(InputError, match="no column `rewards`"):
        prefpipe.read(run / "scores", columns=["rewards"])


def test_what_is_partial_is_said_and_strict_refuses_it(run: Path) -> None:
    open_artifact(run / "scores").part_path(1).unlink()
    with pytest.warns(
        PrefpipeWarning,
        match=r"scores is partial: missing: part 1; these are the rows of 2 of 3 parts",
    ):
        frame = prefpipe.read(run / "scores")
    assert frame.height == N_PROMPTS * N * 2 * 2 // 3
    with pytest.raises(IncompleteInputError):
        prefpipe.read(run / "scores", strict=True)


def test_what_is_stale_is_said_and_strict_refuses_it(run: Path) -> None:
    command(
        [
            *open_artifact(run / "candidates").record.context["command"][1:],
            "--seed",
            "3",
            "--overwrite",
        ]
    )
    with pytest.warns(PrefpipeWarning, match="groups is stale: its candidates"):
        assert prefpipe.read(run / "groups").height == N_PROMPTS * (K + 1)
    with pytest.raises(InputError, match="is stale"):
        prefpipe.read(run / "groups", strict=True)


def test_a_changed_byte_is_never_read(run: Path) -> None:
    part = open_artifact(run / "groups").part_path(0)
    data = bytearray(part.read_bytes())
    data[20] ^= 4
    part.write_bytes(data)
    with pytest.raises(CorruptPartError, match="its bytes changed"):
        prefpipe.read(run / "groups")


def test_no_part_at_all_is_a_frame_with_the_columns_and_no_row(run: Path) -> None:
    for part in (run / "scores").glob("part-*"):
        part.unlink()
    with pytest.warns(PrefpipeWarning, match="0 of 3 parts"):
        frame = prefpipe.read(run / "scores", columns=["reward"])
    assert (frame.height, frame.columns) == (0, ["reward"])
    with pytest.warns(PrefpipeWarning, match="0 of 3 parts"):
        assert prefpipe.read(run / "scores", columns="reward").columns == ["reward"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent", "does not exist"),
        ("", "is not an artifact, it holds 4"),
        ("groups/run.json", "is a file"),
    ],
)
def test_what_is_no_artifact_is_an_error_of_ours(run: Path, name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        prefpipe.read(run / name)


@pytest.mark.slow
def test_importing_the_package_loads_no_polars() -> None:
    code = "import prefpipe, sys; print({'polars', 'pyarrow', 'torch'} & set(sys.modules)); print(callable(prefpipe.read))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "True"]


def test_the_lines_of_the_readme_read_the_same_rows(run: Path, monkeypatch) -> None:
    """The folder itself holds run.json, which these libraries take for a part; the glob leaves it out."""
    monkeypatch.chdir(run.parent)
    frame = prefpipe.read("run/groups")
    assert pl.read_parquet("run/groups/part-*.parquet").equals(frame)
    table = pd.read_parquet(sorted(glob("run/groups/part-*.parquet")))
    assert table["prompt_id"].tolist() == frame["prompt_id"].to_list()
    assert table["reward"].tolist() == frame["reward"].to_list()
    assert len(frame.to_pandas()) == frame.height
