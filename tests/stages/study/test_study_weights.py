"""Weights of judged runs are removed, and nothing that somebody else keeps."""

from pathlib import Path

import pytest

from prefpipe.configs.study_steps import TRAINER, StudyStep
from prefpipe.stages.study.weights import has_weights, remove_weights


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("place", ["step-00002", "step-00002/checkpoint-1"])
def test_behind_a_link_nothing_is_removed(tmp_path: Path, place: str) -> None:
    """A trainer may leave a link to a model of the user's in place of a folder."""
    kept = write_model(tmp_path / "kept")
    output = tmp_path / "policy" / "step-00002"
    link = tmp_path / "policy" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(kept)
    step = StudyStep("other, seed 0, train to step 2", TRAINER, (), output)
    assert remove_weights([step]) == 0
    assert not has_weights([step])
    assert not link.is_symlink()
    assert (kept / "model.safetensors").read_bytes() == b"weights"
