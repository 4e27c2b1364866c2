"""The report marks what status does not call done: a banner, headline figures, sections; ``--strict`` refuses."""

import json
import shutil
from pathlib import Path

import pytest
from support.finished_run import command
from support.pipelines import open_artifact
from support.tiny_models import make_tiny_causal_lm
from support.two_rounds import copy_to

from prefpipe.cli.main import run as prefpipe

pytestmark = pytest.mark.slow


@pytest.fixture
def rounds(tmp_path: Path) -> Path:
    return copy_to(tmp_path / "run")


def told(folder: Path, capsys, *flags: str) -> tuple[dict, str, str]:
    """Return the story, the page, and what was said on stderr."""
    output = folder.parent / "report.html"
    capsys.readouterr()
    assert (
        prefpipe(["report", str(folder), "-o", str(output), "--prompts", "1", "--json", *flags])
        == 0
    )
    captured = capsys.readouterr()
    return json.loads(captured.out), output.read_text(encoding="utf-8"), captured.err


def labels(page: str) -> list[str]:
    return [piece.partition("</span>")[0] for piece in page.split('<span class="label">')[1:]]


def test_a_report_of_what_is_done_has_no_mark(rounds: Path, capsys) -> None:
    story, page, err = told(rounds, capsys)
    assert story["not_done"] == []
    assert 'id="not-done"' not in page
    assert "warning:" not in err
    assert not [label for label in labels(page) if "(stale)" in label]


def test_stale_figures_are_marked_and_the_others_are_not(rounds: Path, capsys) -> None:
    """The policy has other weights: the evaluation's figures are of what is no more; the pool's are what they were."""
    shutil.copy(
        make_tiny_causal_lm(rounds / "models" / "other", 1) / "model.safetensors", rounds / "policy"
    )
    story, page, err = told(rounds, capsys)
    assert {"eval", "round2/candidates"} <= {entry["name"] for entry in story["not_done"]}
    assert {entry["state"] for entry in story["not_done"]} == {"stale"}
    assert 'id="not-done"' in page
    marked = {label for label in labels(page) if label.endswith("(stale)")}
    assert {"Win rate (stale)", "Mean reward (stale)"} <= marked
    assert "prompts (stale)" in marked  # of both rounds, and the second sampled from it
    assert "warning: eval is stale: its policy_candidates" in err
    assert err.startswith("warning: ")


def test_partial_and_corrupt_artifacts_are_marked_alike(rounds: Path, capsys) -> None:
    open_artifact(rounds / "scores").part_path(1).unlink()
    part = open_artifact(rounds / "embeddings").part_path(0)
    part.write_bytes(part.read_bytes()[:-30])
    story, page, err = told(rounds, capsys)
    assert {entry["name"]: entry["state"] for entry in story["not_done"]} == {
        "scores": "partial",
        "embeddings": "corrupt",
    }
    assert "responses kept to train on (partial, corrupt)" in labels(page)
    assert "responses sampled" in labels(page)
    assert "warning: scores is partial: missing: part 1; its figures are marked" in err


def test_strict_refuses_and_writes_nothing(rounds: Path, capsys) -> None:
    open_artifact(rounds / "scores").part_path(1).unlink()
    output = rounds.parent / "strict.html"
    assert prefpipe(["report", str(rounds), "-o", str(output), "--strict"]) == 1
    assert "--strict: scores is partial: missing: part 1" in capsys.readouterr().err
    assert not output.exists()


def test_what_is_made_again_loses_its_mark(rounds: Path, capsys) -> None:
    part = open_artifact(rounds / "scores").part_path(1)
    part.unlink()
    assert told(rounds, capsys)[0]["not_done"]
    command(open_artifact(rounds / "scores").record.context["command"][1:])
    assert told(rounds, capsys)[0]["not_done"] == []
