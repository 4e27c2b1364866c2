"""``--objective sft``: fine-tuning on positives alone, from groups of ``best-of-n`` to a model."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import PROMPT, TOKENIZER, row_of, write_groups
from transformers import AutoModelForCausalLM

from prefpipe.configs.train import TrainConfig
from prefpipe.errors import InputError, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import ModelFiles, inspect_model
from prefpipe.stages.shared.partwise import Summary
from prefpipe.stages.train import run as train

ANSWERS = ("one", "a second, longer one")
N_PROMPTS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return inspect_model(make_tiny_causal_lm(tmp_path_factory.mktemp("model")), "org/tiny")


def positives(n_prompts: int = N_PROMPTS) -> list[dict]:
    """One or two positives a prompt, as best-of-n keeps them."""
    rows = []
    for p in range(n_prompts):
        for i, answer in enumerate(ANSWERS[: 1 + p % 2]):
            rows.append(row_of(f"p{p}", i, f"{answer} {p}", role="positive"))
    return rows


@pytest.fixture
def best(tmp_path: Path, model: ModelFiles) -> Path:
    return write_groups(tmp_path / "best", [positives()], [model.identity()])


def run(groups: Path, output: Path, model: ModelFiles, **changes: object) -> Summary:
    values = {
        "model": "org/tiny",
        "objective": "sft",
        "learning_rate": 1e-2,
        "global_batch_size": 3,
        "num_train_epochs": 2,
        "report_to": ("none",),
    }
    config = TrainConfig(groups=groups, output=output, **(values | changes))
    return train.run(config, model, Runtime())


def metrics(folder: Path) -> list[dict]:
    return pq.read_table(folder / "metrics.parquet").to_pylist()


@pytest.mark.slow
def test_the_first_step_has_the_mean_likelihood_of_positives_written_out(
    best: Path, model: ModelFiles, tmp_path: Path
) -> None:
    run(
        best,
        tmp_path / "policy",
        model,
        global_batch_size=N_PROMPTS,
        max_steps=1,
        num_train_epochs=None,
    )
    network = AutoModelForCausalLM.from_pretrained(model.path)
    by_prompt: dict[str, list[float]] = {}
    for row in positives():
        ids = torch.tensor([[*PROMPT, *row["response_token_ids"]]])
        logps = network(ids).logits[0].log_softmax(-1)
        steps = range(len(PROMPT) - 1, ids.shape[1] - 1)
        mean = sum(logps[at, ids[0, at + 1]].item() for at in steps) / len(steps)
        by_prompt.setdefault(row["prompt_id"], []).append(-mean)
    expected = sum(sum(each) / len(each) for each in by_prompt.values()) / N_PROMPTS
    (row,) = metrics(tmp_path / "policy")
    assert row["loss"] == pytest.approx(expected, rel=1e-5)
    assert row["logps/chosen"] == pytest.approx(-expected, rel=1e-5)


@pytest.mark.slow
def test_measures_of_pairs_are_null_and_the_loss_falls(
    best: Path, model: ModelFiles, tmp_path: Path
) -> None:
    summary = run(best, tmp_path / "policy", model, num_train_epochs=6)
    rows = metrics(tmp_path / "policy")
    names = [name for name in rows[0] if name.startswith("rewards/") or "rejected" in name]
    assert len(names) == 7
    assert all(row[name] is None for row in rows for name in names)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert summary.counts == {"ok": 9}
    figures = json.loads((tmp_path / "policy" / "summary.json").read_text())
    assert set(figures["last"]) == {"loss", "logps/chosen", "logps/chosen_fall"}
    assert "accuracy" not in " ".join(summary.notes)


@pytest.mark.slow
def test_negatives_are_left_out_and_change_nothing(
    best: Path, model: ModelFiles, tmp_path: Path
) -> None:
    rows = positives() + [row_of(f"p{p}", 7, f"bad {p}") for p in range(N_PROMPTS)]
    groups = write_groups(tmp_path / "groups", [rows], [model.identity()])
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    summary = run(groups, whole, model)
    run(best, alone, model)
    assert summary.counts == {"ok": 9, "unused_negative": 6}
    found, expected = (load_file(each / "model.safetensors") for each in (whole, alone))
    assert all(found[name].equal(weight) for name, weight in expected.items())


@pytest.mark.slow
def test_held_out_prompts_and_early_stopping_go_by_the_loss(
    best: Path, model: ModelFiles, tmp_path: Path
) -> None:
    """Held-out answers are others, so that their loss turns up while training goes on."""
    held = [row_of(f"q{p}", 0, f"{'xyz'[p % 3] * 9} {p}", role="positive") for p in range(4)]
    held_out = write_groups(tmp_path / "held", [held], [model.identity()], note="held out")
    summary = run(
        best,
        tmp_path / "policy",
        model,
        num_train_epochs=60,
        eval_groups=held_out,
        eval_steps=3,
        early_stopping_patience=2,
    )
    losses = {
        row["step"]: row["loss"] for row in metrics(tmp_path / "policy") if row["split"] == "eval"
    }
    losses.pop(0)
    figures = summary.facts["evaluation"]
    assert figures["stopped_early"]
    assert figures["best"]["step"] == min(losses, key=lambda step: losses[step])
    assert max(losses) == figures["best"]["step"] + 2 * 3
    best_weights = load_file(
        tmp_path / "policy" / f"checkpoint-{figures['best']['step']}" / "model.safetensors"
    )
    saved = load_file(tmp_path / "policy" / "model.safetensors")
    assert all(saved[name].equal(weight) for name, weight in best_weights.items())


@pytest.mark.slow
def test_adapters_and_a_share_held_out(best: Path, model: ModelFiles, tmp_path: Path) -> None:
    summary = run(best, tmp_path / "policy", model, lora_r=4, eval_fraction=0.4)
    assert (tmp_path / "policy" / "adapter_model.safetensors").exists()
    assert summary.facts["n_eval_groups"] > 0
    assert "rewards/accuracy" not in summary.facts["evaluation"]["last"]


@pytest.mark.slow
def test_a_reference_that_is_given_is_measured_from_and_changes_no_weight(
    best: Path, model: ModelFiles, tmp_path: Path
) -> None:
    run(best, tmp_path / "plain", model)
    run(best, tmp_path / "policy", model, reference_model="org/tiny")
    found, expected = (
        load_file(tmp_path / name / "model.safetensors") for name in ("policy", "plain")
    )
    assert all(found[name].equal(weight) for name, weight in expected.items())
    rows = metrics(tmp_path / "policy")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["logps/chosen_fall"] < 0


def test_what_it_cannot_use_is_refused(tmp_path: Path, model: ModelFiles) -> None:
    values = {"groups": tmp_path, "output": tmp_path / "policy", "model": "m"}
    with pytest.raises(
        UsageError, match="--sft-weight has no effect: --objective sft consists of that term"
    ):
        TrainConfig(objective="sft", sft_weight=0.1, **values)
    with pytest.raises(UsageError, match="sft has no knob beta"):
        run(tmp_path, tmp_path / "policy", model, beta=0.1)
    rows = [row_of("p0", i, f"answer {i}", role="negative") for i in range(2)]
    groups = write_groups(tmp_path / "groups", [rows], [model.identity()])
    with pytest.raises(InputError, match=r"can be trained on: 2 unused_negative"):
        run(groups, tmp_path / "policy", model)


@pytest.mark.parametrize("length_normalise", [True, False])
@pytest.mark.slow
def test_length_normalisation_decides_what_a_long_positive_weighs(
    model: ModelFiles, tmp_path: Path, length_normalise: bool
) -> None:
    rows = [row_of("p0", i, answer, role="positive") for i, answer in enumerate(ANSWERS)]
    groups = write_groups(tmp_path / "groups", [rows], [model.identity()])
    run(
        groups,
        tmp_path / "policy",
        model,
        length_normalise=length_normalise,
        max_steps=1,
        num_train_epochs=None,
    )
    (row,) = metrics(tmp_path / "policy")
    n_tokens = [len(TOKENIZER(answer)["input_ids"]) + 1 for answer in ANSWERS]
    is_mean = row["loss"] == pytest.approx(-row["logps/chosen"], rel=1e-5)
    assert is_mean == length_normalise
    if not length_normalise:
        assert row["loss"] > -row["logps/chosen"] * min(n_tokens)
