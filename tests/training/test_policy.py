"""Policies load in the right precision and save as folders that transformers and peft read by themselves."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm, make_tiny_reward_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from prefpipe.errors import ModelError, UsageError
from prefpipe.models.files import inspect_model
from prefpipe.training.policy import (
    LoraSettings,
    Policy,
    end_token_ids,
    load_policy,
    model_card,
    save_policy,
    turn_dropout_off,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
IDS = torch.tensor([[5, 60, 70, 80]])
LORA = LoraSettings(r=4, alpha=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return inspect_model(
        make_tiny_causal_lm(tmp_path_factory.mktemp("base")), "org/tiny", revision="abc123"
    )


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, base):
    return inspect_model(
        make_tiny_adapter(tmp_path_factory.mktemp("adapter"), base.path), "mine", base=base
    )


def nudge(policy):
    """Stand in for training: move every trainable weight a little."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_a_whole_model_comes_back_the_same_with_tokenizer_template_and_cache(base, tmp_path):
    policy = load_policy(base, lora=None, bf16=False, seed=0)
    nudge(policy)
    policy.model.config.use_cache = False  # what the trainer does
    save_policy(policy, tmp_path, "card")
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(policy.model)
    )
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == policy.tokenizer.chat_template
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True
    assert (tmp_path / "generation_config.json").exists()
    assert (tmp_path / "README.md").read_text() == "card"
    assert (
        len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    )  # readable for whom new files are
    saved = inspect_model(tmp_path, "saved")
    assert (saved.kind, saved.chat_template_hash) == ("causal-lm", base.chat_template_hash)
    assert saved.content_hash != base.content_hash


def test_no_pickle_and_no_temporary_file_is_left(base, tmp_path):
    (tmp_path / ".saving").mkdir()
    (tmp_path / ".saving" / "half").write_text("left by a kill")
    save_policy(load_policy(base, lora=None, bf16=False, seed=0), tmp_path, "card")
    names = {path.name for path in tmp_path.iterdir()}
    assert not {
        name for name in names if name.startswith(".") or name.endswith((".bin", ".pt", "half"))
    }


def test_a_fresh_adapter_is_the_base_until_it_is_trained(base):
    policy = load_policy(base, lora=LORA, bf16=False, seed=0)
    torch.testing.assert_close(
        logits(policy.model), logits(AutoModelForCausalLM.from_pretrained(base.path))
    )
    trainable = [
        name for name, parameter in policy.model.named_parameters() if parameter.requires_grad
    ]
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_the_adapters_start_follows_the_seed(base):
    starts = [
        torch.cat(
            [
                p.flatten()
                for p in load_policy(base, lora=LORA, bf16=False, seed=seed).model.parameters()
                if p.requires_grad
            ]
        )
        for seed in (1, 1, 2)
    ]
    assert starts[0].equal(starts[1])
    assert not starts[0].equal(starts[2])


def test_an_adapter_is_saved_with_its_base_by_name_and_revision(base, tmp_path):
    """Not by the local path of this machine, where nobody else would find it."""
    policy = load_policy(base, lora=LORA, bf16=False, seed=0)
    nudge(policy)
    save_policy(policy, tmp_path, "card")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "abc123")
    assert not (tmp_path / "model.safetensors").exists()
    saved = inspect_model(tmp_path, "saved", base=base)
    assert saved.kind == "adapter"
    again = load_policy(saved, lora=LORA, bf16=False, seed=1)
    torch.testing.assert_close(logits(again.model), logits(policy.model))


def test_a_generation_configuration_that_cannot_be_read_is_not_passed_over(tmp_path):
    """transformers would go on without it, and what is saved would have lost where its answers end."""
    folder = make_tiny_causal_lm(tmp_path / "model")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(OSError, match=r"generation_config\.json"):
        load_policy(inspect_model(folder, "model"), lora=None, bf16=False, seed=0)


def test_an_adapters_configuration_is_written_in_one_order(base, tmp_path):
    """peft keeps the names of modules in sets, which each process would write in an order of its own."""
    policy = load_policy(base, lora=LoraSettings(r=2, alpha=4), bf16=False, seed=0)
    config = policy.model.peft_config["default"]
    assert isinstance(config.target_modules, set), "else this shows nothing"
    names = sorted(config.target_modules)
    save_policy(policy, tmp_path, "card")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == names
    assert len(names) > 1


def test_peft_alone_loads_a_saved_adapter_of_a_local_base(base, tmp_path):
    local = inspect_model(base.path, str(base.path))
    policy = load_policy(local, lora=LORA, bf16=False, seed=0)
    nudge(policy)
    save_policy(policy, tmp_path, "card")
    torch.testing.assert_close(
        logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path)), logits(policy.model)
    )


def test_an_adapter_is_trained_further_with_lora(adapter, base):
    policy = load_policy(
        adapter,
        lora=LoraSettings(r=4, alpha=8, target_modules=("v_proj", "q_proj")),
        bf16=False,
        seed=0,
    )
    assert policy.adapter_base is base
    assert any(parameter.requires_grad for parameter in policy.model.parameters())
    assert not logits(policy.model).equal(logits(AutoModelForCausalLM.from_pretrained(base.path)))


def test_an_adapter_is_merged_without_lora(adapter, tmp_path):
    """Merged differs from base, agrees with the adapter, and all weights are trained."""
    with_adapter = load_policy(adapter, lora=LORA, bf16=False, seed=0)
    merged = load_policy(adapter, lora=None, bf16=False, seed=0)
    assert merged.adapter_base is None
    assert all(parameter.requires_grad for parameter in merged.model.parameters())
    torch.testing.assert_close(
        logits(merged.model), logits(with_adapter.model), rtol=1e-4, atol=1e-5
    )
    save_policy(merged, tmp_path, "card")
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(merged.model)
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (LoraSettings(r=8, alpha=8), "r is 4 there, 8 here"),
        (LoraSettings(r=4, alpha=16), "alpha is 8 there, 16 here"),
        (
            LoraSettings(r=4, alpha=8, target_modules=("k_proj",)),
            "modules are q_proj, v_proj there",
        ),
    ],
)
def test_an_adapter_of_another_shape_is_refused(adapter, asked, message):
    with pytest.raises(UsageError, match=message):
        load_policy(adapter, lora=asked, bf16=False, seed=0)


def test_unknown_lora_modules_are_an_error_for_people(base):
    with pytest.raises(UsageError, match="--lora-target-modules nosuch"):
        load_policy(
            base, lora=LoraSettings(r=4, alpha=8, target_modules=("nosuch",)), bf16=False, seed=0
        )


def test_bfloat16_halves_the_frozen_base_and_keeps_what_is_trained_in_float32(base):
    model = load_policy(base, lora=LORA, bf16=True, seed=0).model
    kinds = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    whole = load_policy(base, lora=None, bf16=True, seed=0).model
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}


def test_a_reward_model_is_refused(tmp_path):
    files = inspect_model(make_tiny_reward_model(tmp_path), "rm")
    with pytest.raises(
        ModelError, match="is a sequence-classification model; a policy is a causal language model"
    ):
        load_policy(files, lora=None, bf16=False, seed=0)


def test_dropout_is_off_everywhere():
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    ).train()
    turn_dropout_off(model)
    ids = torch.arange(8)[None]
    assert model(ids).logits.equal(model(ids).logits)


def test_the_card_names_the_base_and_the_settings(base, adapter):
    policy = load_policy(base, lora=LORA, bf16=False, seed=0)
    card = model_card(policy, base, {"objective": "ampo", "beta": 10.0})
    assert "base_model: org/tiny" in card
    assert "A LoRA adapter trained by prefpipe from `org/tiny`." in card
    assert "| beta | 10.0 |" in card
    assert "an adapter of org/tiny" in model_card(
        Policy(policy.model, policy.tokenizer, None), adapter, {}
    )


@pytest.mark.parametrize(("stops", "expected"), [(7, {3, 7}), ([7, 8], {3, 7, 8}), (None, {3})])
def test_responses_end_with_the_tokenizers_end_or_where_generation_stops(stops, expected):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=stops))
    assert end_token_ids(model, SimpleNamespace(eos_token_id=3)) == expected
    assert end_token_ids(torch.nn.Linear(1, 1), SimpleNamespace(eos_token_id=None)) == set()
