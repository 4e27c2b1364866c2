"""The arm of study F that is trained by TRL: step by step the losses and the weights of ``prefpipe train``."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support.finished_run import command
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import row_of, write_groups

from prefpipe.models.files import inspect_model

SCRIPT = Path(__file__).resolve().parents[1] / "sample_data" / "studies" / "trl_dpo.py"
N_PROMPTS, N_STEPS, BATCH = 11, 5, 2


def pairs(n_prompts: int) -> list[dict[str, object]]:
    """A pair a prompt, of responses of 4 to 20 tokens; letters alone, which TRL makes the same tokens of."""
    texts = {p: ("ab" * (2 + p % 5), "ca" * (1 + p * 3 % 7) + "d") for p in range(n_prompts)}
    return [row_of(f"p{p}", i, texts[p][i]) for p in range(n_prompts) for i in range(2)]


@pytest.fixture(scope="module")
def trl_dpo() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("trl_dpo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal_lm(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_and_prefpipe_take_the_same_steps(
    trl_dpo: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A seed that changes the order, a rate that rises and falls, gradients that are clipped."""
    identity = inspect_model(model, "tiny").identity()
    groups = write_groups(tmp_path / "groups", [pairs(N_PROMPTS)], [identity])
    same = ["--model", model, "--max-steps", N_STEPS, "--global-batch-size", BATCH, "--seed", 3]
    same += ["--beta", 0.5, "--learning-rate", 1e-2]
    same += ["--lr-scheduler-type", "linear", "--warmup-steps", 1]
    ours = ["train", groups, "-o", tmp_path / "ours", "--objective", "dpo", "--report-to", "none"]
    command([str(word) for word in [*ours, *same]])
    capsys.readouterr()
    theirs_words = [groups, "-o", tmp_path / "theirs", *same]
    trl_dpo.main([str(word) for word in theirs_words])
    assert capsys.readouterr().out == f"{tmp_path / 'theirs'}\n"

    theirs = json.loads((tmp_path / "theirs/trl.json").read_text())
    assert (theirs["n_pairs"], theirs["n_pairs_of_other_tokens"]) == (N_STEPS * BATCH, 0)
    steps = pq.read_table(tmp_path / "ours/metrics.parquet").to_pylist()
    names = {"loss": "loss", "grad_norm": "grad_norm", "rewards/margins": "rewards/margins"}
    for name, their_name in names.items():
        own = [step[name] for step in steps]
        others = [entry[their_name] for entry in theirs["log"] if "loss" in entry]
        assert len(own) == len(others) == N_STEPS
        assert others == pytest.approx(own, rel=1e-4, abs=1e-5), name
    assert max(step["loss"] for step in steps) - min(step["loss"] for step in steps) > 0.01
    assert max(step["grad_norm"] for step in steps) > 1

    weights = [load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs")]
    begun = load_file(model / "model.safetensors")
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=2e-4, rtol=1e-3)
    assert max(float((weights[0][name] - begun[name]).abs().max()) for name in begun) > 1e-2
    assert inspect_model(tmp_path / "theirs", "x").tokenizer_hash == identity["tokenizer_hash"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_tokens_that_are_no_longer_those_of_the_text_are_counted_and_may_be_taken(
    trl_dpo: Any, model: Path, tmp_path: Path
) -> None:
    identity = inspect_model(model, "tiny").identity()
    rows = pairs(4)
    rows[2]["response"] = "another text"
    groups = write_groups(tmp_path / "groups", [rows], [identity])
    same = ["--model", model, "--max-steps", 2, "--global-batch-size", 2, "--learning-rate", 1e-2]
    same += ["--beta", 0.5, "--lr-scheduler-type", "constant", "--seed", 1]
    ours = ["train", groups, "-o", tmp_path / "ours", "--objective", "dpo", "--report-to", "none"]
    command([str(word) for word in [*ours, *same]])

    theirs = [groups, "-o", tmp_path / "theirs", *same, "--sampled-tokens"]
    trl_dpo.main([str(word) for word in theirs])
    assert json.loads((tmp_path / "theirs/trl.json").read_text())["n_pairs_of_other_tokens"] == 1
    weights = [load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_what_would_not_be_the_same_is_refused(trl_dpo: Any, model: Path, tmp_path: Path) -> None:
    identity = inspect_model(model, "tiny").identity()
    three = [row_of("p0", i, "ab" * (i + 1)) for i in range(3)]
    groups = write_groups(tmp_path / "several", [three], [identity])
    with pytest.raises(SystemExit, match="a prompt has several pairs"):
        trl_dpo.pairs_as_trained(groups)
    alike = [*pairs(2), row_of("p2", 0, "ab"), row_of("p2", 1, "ab")]
    groups = write_groups(tmp_path / "alike", [alike], [identity])
    with pytest.raises(SystemExit, match="prefpipe leaves out pairs"):
        trl_dpo.pairs_as_trained(groups)

    rows = [{"prompt_id": f"p{i}"} for i in range(5)]
    how = {"seed": 0, "global_batch_size": 2}
    with pytest.raises(SystemExit, match="3 steps of 2 are more than one pass over 5 pairs"):
        trl_dpo.rows_in_order(rows, n_steps=3, **how)
    assert len(trl_dpo.rows_in_order(rows, n_steps=2, **how)) == 4

    # passes without a short step follow each other, each in its own order
    twice = trl_dpo.rows_in_order(rows[:4], n_steps=4, **how)
    assert [sorted(row["prompt_id"] for row in twice[i : i + 4]) for i in (0, 4)] == [
        ["p0", "p1", "p2", "p3"]
    ] * 2
