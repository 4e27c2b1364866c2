"""The whole chain on real models: SmolLM2-135M writes, checks rate, MiniLM embeds, a LoRA adapter is trained and judged."""

import json
from pathlib import Path

import polars as pl
import pytest

from prefpipe.cli.main import run

pytestmark = [pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["--n", "4", "--temperature", "1.0", "--max-tokens", "16", "--part-size", "2"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The six commands on four prompts; what follows looks at what they left."""
    folder = tmp_path_factory.mktemp("pipeline")
    lines = (repository / "sample_data" / "prompts.jsonl").read_text().splitlines()
    (folder / "prompts.jsonl").write_text("\n".join(lines[:4]) + "\n")
    (folder / "heldout.jsonl").write_text("\n".join(lines[4:6]) + "\n")
    model, out = "bundled:smollm2-135m", str(folder)
    for command in (
        ["generate", f"{out}/prompts.jsonl", "-o", f"{out}/candidates", "--model", model, *SMALL],
        ["score", f"{out}/candidates", "-o", f"{out}/scores", "--scorer", "checks"],
        ["embed", f"{out}/candidates", "-o", f"{out}/embeddings", "--model", "bundled:minilm"],
        [
            "select",
            f"{out}/candidates",
            "--scores",
            f"{out}/scores",
            "--embeddings",
            f"{out}/embeddings",
            "-o",
            f"{out}/groups",
            "--strategy",
            "opt-select",
            "--k",
            "2",
        ],
        [
            "train",
            f"{out}/groups",
            "-o",
            f"{out}/policy",
            "--model",
            model,
            "--objective",
            "ampo",
            "--lora-r",
            "4",
            "--global-batch-size",
            "2",
            "--learning-rate",
            "1e-4",
        ],
        [
            "eval",
            "--policy",
            f"{out}/policy",
            "--baseline",
            model,
            "--prompts",
            f"{out}/heldout.jsonl",
            "-o",
            f"{out}/eval",
            "--scorer",
            "checks",
            *SMALL[2:],
            "--n",
            "2",
        ],
    ):
        assert run(command) == 0, command
    return folder


def read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


def test_every_sample_is_a_row_with_ids_and_log_probability(workdir: Path) -> None:
    """4 prompts x 4 samples; token counts agree with the ids; log-probabilities are negative."""
    rows = read(workdir / "candidates")
    assert rows.height == 4 * 4
    assert rows.select(pl.struct("prompt_id", "sample_idx").n_unique()).item() == 16
    assert (
        rows["response_token_ids"].list.len() == rows["n_response_tokens"].cast(pl.UInt32)
    ).all()
    assert (rows["logp"] < 0).all()
    assert "family" in rows.columns  # the user's column


def test_the_chain_is_joined_by_key(workdir: Path) -> None:
    """Each kept reward is the score of the same key, and the positive has the highest of its group."""
    groups = read(workdir / "groups").filter(pl.col("role").is_not_null())
    scores = read(workdir / "scores").select(
        "prompt_id", "sample_idx", pl.col("reward").alias("score")
    )
    joined = groups.join(scores, on=["prompt_id", "sample_idx"], how="left")
    assert (joined["reward"] == joined["score"]).all()
    best = joined.group_by("prompt_id").agg(
        pl.col("reward").max().alias("best"),
        pl.col("reward").filter(pl.col("role") == "positive").first(),
    )
    assert (best["best"] == best["reward"]).all()


def test_the_embeddings_are_unit_vectors(workdir: Path) -> None:
    vectors = read(workdir / "embeddings").filter(pl.col("status") == "ok")["embedding"].to_numpy()
    assert vectors.shape[1] == 384
    assert abs((vectors**2).sum(axis=1) - 1).max() < 1e-5


def test_the_policy_is_an_adapter_folder(workdir: Path) -> None:
    """With --lora-r the result is a PEFT adapter with its tokenizer, which eval has loaded as it is."""
    names = {path.name for path in (workdir / "policy").iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "metrics.parquet",
        "run.json",
    } <= names
    assert pl.read_parquet(workdir / "policy" / "metrics.parquet").height > 0


def test_the_evaluation_has_figures_with_errors(workdir: Path) -> None:
    figures = json.loads((workdir / "eval" / "summary.json").read_text())
    assert figures["n_prompts"] == 2
    assert 0 <= figures["win_rate"]["mean"] <= 1
    assert figures["reward"]["difference"]["mean"] == pytest.approx(
        figures["reward"]["policy"]["mean"] - figures["reward"]["baseline"]["mean"]
    )


def test_a_second_run_makes_nothing(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again keeps every part and loads no model."""
    before = {path: path.stat().st_mtime_ns for path in (workdir / "candidates").glob("part-*")}
    code = run(
        [
            "generate",
            f"{workdir}/prompts.jsonl",
            "-o",
            f"{workdir}/candidates",
            "--model",
            "bundled:smollm2-135m",
            *SMALL,
            "--json",
        ]
    )
    assert code == 0
    assert json.loads(capsys.readouterr().out)["n_parts_made"] == 0
    assert before == {
        path: path.stat().st_mtime_ns for path in (workdir / "candidates").glob("part-*")
    }


def test_status_says_done(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(workdir), "--json"]) == 0
    assert {report["state"] for report in json.loads(capsys.readouterr().out)} == {"done"}
