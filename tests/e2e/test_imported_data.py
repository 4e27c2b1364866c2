"""Data of another tool are imported, selected from and trained on: token ids that nobody stored are made by the policy."""

import json
from pathlib import Path

import pytest
from support.finished_run import command
from support.interchange_files import lines
from support.pipelines import rows_of
from support.tiny_models import make_tiny_causal_lm


@pytest.mark.slow
def test_a_policy_is_trained_on_imported_candidates(tmp_path: Path) -> None:
    model, out = make_tiny_causal_lm(tmp_path / "tiny"), tmp_path / "run"
    rows = [
        {
            "prompt": f"question {i}",
            "responses": [f"answer {i} {j}" for j in range(4)],
            "rewards": [j * 0.5 for j in range(4)],
        }
        for i in range(4)
    ]
    command(
        ["import", lines(tmp_path / "a.json", *rows), "-o", str(out), "--format", "online-rlhf"]
    )
    command(
        [
            "select",
            f"{out}/candidates",
            "--scores",
            f"{out}/scores",
            "-o",
            f"{out}/groups",
            "--strategy",
            "bottom-k",
            "--k",
            "2",
        ]
    )
    command(
        [
            "train",
            f"{out}/groups",
            "-o",
            f"{out}/policy",
            "--model",
            str(model),
            "--objective",
            "dpo",
            "--max-steps",
            "1",
            "--global-batch-size",
            "2",
            "--report-to",
            "none",
        ]
    )
    trained = rows_of(out / "policy")
    assert [row["status"] for row in trained] == ["ok"] * 12
    assert (
        trained[0]["n_tokens"] == len("answer 0 3") + 1
    )  # a byte a token, and the end of the turn
    assert json.loads((out / "policy" / "summary.json").read_text())["n_steps"] == 1
    command(["status", str(out)])
