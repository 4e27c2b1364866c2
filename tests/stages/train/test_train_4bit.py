"""QLoRA: a base in 4 bits under adapters, from the first log-ratio to the saved adapter.

And what is said without bitsandbytes.
"""

import importlib.util
import json
import math
import sys

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.pipelines import open_artifact, rows_of
from support.tiny_models import make_tiny_causal_lm
from support.written_groups import row_of, write_groups
from transformers import AutoModelForCausalLM

from prefpipe.artifacts.store import Shard
from prefpipe.configs.logprobs import LogprobsConfig
from prefpipe.configs.train import TrainConfig
from prefpipe.errors import StoppedEarly, UsageError
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import inspect_model
from prefpipe.stages import logprobs
from prefpipe.stages.merge import MergeRequest, merge
from prefpipe.stages.train import run as train
from prefpipe.training.policy import LoraSettings, load_policy, load_reference

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install 'prefpipe[qlora]'",
)
ANSWERS = ["one", "a second, longer one", "third"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Wide enough for a block of 64 weights."""
    path = make_tiny_causal_lm(
        tmp_path_factory.mktemp("model"), hidden_size=64, intermediate_size=128
    )
    return inspect_model(path, str(path))


@pytest.fixture
def groups(tmp_path, model):
    rows = [
        [
            row_of(f"p{p}{i}", j, f"{p}{i} {text}")
            for i in range(3)
            for j, text in enumerate(ANSWERS)
        ]
        for p in range(2)
    ]
    return write_groups(tmp_path / "groups", rows, [model.identity()])


def training(groups, output, model, said=None, should_stop=lambda: False, **changes):
    values = {
        "model": model.requested,
        "learning_rate": 1e-2,
        "global_batch_size": 2,
        "max_steps": 4,
        "report_to": ("none",),
        "objective": "dpo",
        "beta": 1.0,
        "lora_r": 4,
        "load_in_4bit": True,
    }
    config = TrainConfig(groups=groups, output=output, **(values | changes))
    return train.run(
        config,
        model,
        Runtime(log=(said if said is not None else []).append, should_stop=should_stop),
    )


def losses_of(folder):
    return pq.read_table(folder / "metrics.parquet")["loss"].to_pylist()


@pytest.mark.slow
def test_without_bitsandbytes_the_extra_is_named_and_nothing_is_thrown_away(
    groups, model, tmp_path, monkeypatch
):
    training(groups, tmp_path / "policy", model, load_in_4bit=False)
    before = sorted(path.name for path in (tmp_path / "policy").iterdir())
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "bitsandbytes" else real(name, *a),
    )
    with pytest.raises(UsageError, match="needs bitsandbytes, which is not installed") as caught:
        training(groups, tmp_path / "policy", model, overwrite=True)
    assert "pip install 'prefpipe[qlora]'" in caught.value.hint
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == before
    with pytest.raises(UsageError, match="which is not installed"):
        load_reference(model, dtype="nf4-float32")
    with pytest.raises(UsageError, match="which is not installed"):
        load_policy(model, lora=LoraSettings(4, 8), bf16=False, seed=0, load_in_4bit=True)
    assert "bitsandbytes" not in sys.modules or real("bitsandbytes") is not None


def test_a_run_without_4_bits_is_what_it_was_before_there_was_a_choice(tmp_path):
    plain = TrainConfig(groups=tmp_path, output=tmp_path, model="m", lora_r=4)
    assert "load_in_4bit" not in plain.identity()
    assert (
        TrainConfig(
            groups=tmp_path, output=tmp_path, model="m", lora_r=4, load_in_4bit=True
        ).identity()["load_in_4bit"]
        is True
    )


@needs_bitsandbytes
@pytest.mark.parametrize("bf16", [False, True])
def test_the_base_is_nf4_twice_quantised_and_only_adapters_are_trained(model, bf16):
    policy = load_policy(model, lora=LoraSettings(4, 8), bf16=bf16, seed=0, load_in_4bit=True).model
    layers = [
        module
        for module in policy.modules()
        if type(module).__name__ == "Linear4bit" and hasattr(module, "compute_dtype")
    ]
    assert len(layers) == 14  # seven in each of two layers, and not the output
    for layer in layers:
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested) == ("nf4", True)
        assert layer.compute_dtype == (torch.bfloat16 if bf16 else torch.float32)
    trained = {name: p.dtype for name, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name and dtype == torch.float32 for name, dtype in trained.items())


@needs_bitsandbytes
def test_rows_narrower_than_a_block_are_computed_too(tmp_path):
    """bitsandbytes fails to pack them on CPUs with AVX512-BF16.

    And evaluation is training to the last digit.
    """
    narrow = inspect_model(make_tiny_causal_lm(tmp_path / "narrow"), "narrow")
    reference, ids = load_reference(narrow, dtype="nf4-float32"), torch.tensor([[5, 60, 70, 80]])
    evaluated, trained = reference.eval()(ids).logits, reference.train()(ids).logits
    assert evaluated.isfinite().all()
    assert evaluated.equal(trained)


@needs_bitsandbytes
@pytest.mark.parametrize(("bf16", "dtype"), [(False, "nf4-float32"), (True, "nf4-bfloat16")])
def test_the_policy_starts_at_its_reference(groups, model, tmp_path, bf16, dtype):
    """The reference is the 4-bit base itself.

    Not the base as it is stored, whose log-probabilities are others.
    """
    said = []
    training(groups, tmp_path / "policy", model, said, bf16=bf16)
    losses = losses_of(tmp_path / "policy")
    assert losses[0] == pytest.approx(math.log(2), abs=5e-3 if bf16 else 1e-6)
    assert losses[-1] != losses[0]
    assert open_artifact(tmp_path / "policy" / "reference").record.identity["dtype"] == dtype
    assert any(line.startswith("each prompt is computed once: ") for line in said)
    config = LogprobsConfig(groups=groups, output=tmp_path / "plain", model=model.requested)
    logprobs.run(config, model, Runtime())
    here, there = (
        [row["logp"] for row in rows_of(folder) if row["logp"] is not None]
        for folder in (tmp_path / "policy" / "reference", tmp_path / "plain")
    )
    assert max(abs(a - b) for a, b in zip(here, there, strict=True)) > 0.1


@needs_bitsandbytes
def test_the_stage_measures_a_4_bit_reference_that_train_takes(groups, model, tmp_path):
    for index in range(2):
        config = LogprobsConfig(
            groups=groups, output=tmp_path / "reference", model=model.requested, dtype="nf4-float32"
        )
        logprobs.run(config, model, Runtime(shard=Shard(index, 2)))
    training(groups, tmp_path / "given", model, reference=tmp_path / "reference")
    training(groups, tmp_path / "own", model)
    assert losses_of(tmp_path / "given") == losses_of(tmp_path / "own")


@needs_bitsandbytes
def test_the_adapter_names_the_base_as_it_is_stored_and_is_trained_further(groups, model, tmp_path):
    training(groups, tmp_path / "policy", model)
    config = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == model.requested
    weights = load_file(tmp_path / "policy" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in weights)
    assert any(".lora_B." in name and value.abs().max() > 0 for name, value in weights.items())
    adapter = inspect_model(tmp_path / "policy", str(tmp_path / "policy"), base=model)
    training(groups, tmp_path / "further", adapter, lora_alpha=8.0)
    assert losses_of(tmp_path / "further")[0] == pytest.approx(math.log(2), abs=1e-6)


@needs_bitsandbytes
def test_the_adapter_is_merged_into_the_base_as_it_is_stored(groups, model, tmp_path):
    training(groups, tmp_path / "policy", model)
    said = []
    files = inspect_model(tmp_path / "policy", str(tmp_path / "policy"), base=model)
    figures = merge(files, MergeRequest(tmp_path / "merged"), Runtime(log=said.append))
    assert any(
        "trained on a 4-bit base and is merged into the base as stored on disk" in line
        for line in said
    )
    assert (figures["n_changed"], figures["n_matrices"]) == (14, 14)
    expected = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model.path), tmp_path / "policy"
    )
    own, ids = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged"),
        torch.tensor([[5, 60, 70, 80]]),
    )
    assert "quantization_config" not in json.loads(
        (tmp_path / "merged" / "config.json").read_text()
    )
    with torch.no_grad():
        torch.testing.assert_close(own(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("checkpointing", [False, True])
def test_stopped_and_run_again_equals_undisturbed(groups, model, tmp_path, checkpointing):
    shape = {"save_steps": 2, "gradient_checkpointing": checkpointing}
    training(groups, tmp_path / "straight", model, **shape)
    asked = iter([False] * 4 + [True] * 20)
    with pytest.raises(StoppedEarly, match="with a checkpoint"):
        training(groups, tmp_path / "broken", model, should_stop=lambda: next(asked), **shape)
    training(groups, tmp_path / "broken", model, **shape)
    straight, broken = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("straight", "broken")
    )
    assert all(broken[name].equal(value) for name, value in straight.items())
