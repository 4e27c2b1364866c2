"""Merging: what is written is base plus adapter, whole.

Every way in which it would silently not be is refused or gives a warning.
"""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.pipelines import rows_of, write_prompts
from support.tiny_models import (
    VOCAB_SIZE,
    make_tiny_adapter,
    make_tiny_causal_lm,
    make_tiny_reward_model,
    make_tiny_tokenizer,
)
from support.written_groups import row_of, write_groups
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)

from prefpipe.cli.main import run as prefpipe
from prefpipe.errors import ModelError, StoppedEarly
from prefpipe.execution.runtime import Runtime
from prefpipe.models.files import inspect_model
from prefpipe.models.location import locate_model
from prefpipe.stages import merge as stage
from prefpipe.stages.merge import MergeRequest, merge
from prefpipe.training import merge as weights
from prefpipe.training.merge_check import compare

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
IDS = torch.tensor([[5, 60, 70, 80, 90]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("models") / "tied", tie_word_embeddings=True)


@pytest.fixture
def adapter(base, tmp_path):
    return make_tiny_adapter(tmp_path / "adapter", base)


def write_adapter(
    path, base, model_class=AutoModelForCausalLM, shrink=1.0, grow_to=None, **settings
):
    """Write an adapter whose factors are random, ``shrink`` times as strong."""
    torch.manual_seed(0)
    model = model_class.from_pretrained(
        base, **({} if model_class is AutoModelForCausalLM else {"num_labels": 1})
    )
    if grow_to:
        model.resize_token_embeddings(grow_to)
    shape = {
        "r": 4,
        "lora_alpha": 8,
        "init_lora_weights": False,
        "target_modules": ["q_proj", "v_proj"],
    }
    task = "CAUSAL_LM" if model_class is AutoModelForCausalLM else "SEQ_CLS"
    peft_model = get_peft_model(model, LoraConfig(**(shape | {"task_type": task} | settings)))
    with torch.no_grad():
        for name, value in peft_model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                value.mul_(shrink)
            if "modules_to_save" in name or "trainable_tokens" in name:
                value.add_(0.05 * torch.randn_like(value))
    peft_model.save_pretrained(path)
    return path


def merged(adapter_path, output, said=None, *, model=None, should_stop=lambda: False, **changes):
    """Locate the adapter as the command does and merge it."""
    files = locate_model(str(adapter_path), base=None if model is None else str(model))
    request = MergeRequest(output, base_given=model is not None, **changes)
    return merge(
        files,
        request,
        Runtime(log=(said if said is not None else []).append, should_stop=should_stop),
    )


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def with_adapter(base, adapter, model_class=AutoModelForCausalLM, **how):
    return PeftModel.from_pretrained(
        model_class.from_pretrained(base, dtype=torch.float32, **how), adapter
    )


def refused(error, match, adapter_path, output, **changes):
    """It is an error, and neither the folder nor anything hidden is left."""
    with pytest.raises(error, match=match):
        merged(adapter_path, output, **changes)
    assert not output.exists()
    assert not list(output.parent.glob(".*"))


@pytest.mark.slow
def test_the_folder_is_whole_and_is_base_plus_adapter(base, adapter, tmp_path):
    figures = merged(adapter, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merged_from.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(
        logits(own), logits(with_adapter(base, adapter)), rtol=1e-5, atol=1e-5
    )
    assert (logits(own) - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.1
    files, before = inspect_model(tmp_path / "out", "out"), inspect_model(base, "base")
    assert files.kind == "causal-lm"
    assert (files.tokenizer_hash, files.chat_template_hash) == (
        before.tokenizer_hash,
        before.chat_template_hash,
    )
    assert (figures["n_matrices"], figures["n_changed"]) == (4, 4)
    assert figures["mean_difference"] < 1e-5 < 0.1 < figures["mean_effect"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_the_figures_are_those_of_the_weights(base, adapter, tmp_path):
    """Relative norm and share computed here from the files alone."""
    figures = merged(adapter, tmp_path / "out")
    before, after = (
        load_file(base / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {
        f"model.layers.{i}.self_attn.{kind}_proj.weight" for i in (0, 1) for kind in "qv"
    }
    update = sum((after[name] - before[name]).double().square().sum() for name in changed).sqrt()
    norm = sum(before[name].double().square().sum() for name in changed).sqrt()
    assert figures["relative_update"] == pytest.approx(float(update / norm), rel=1e-6)
    share = sum(int((after[name] != before[name]).sum()) for name in changed) / sum(
        before[name].numel() for name in changed
    )
    assert figures["changed_share"] == figures["changed_share_rounded"] == pytest.approx(share)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 1e-1)])
def test_half_precision_is_rounded_once_from_the_exact_sum(
    base, adapter, tmp_path, dtype, tolerance
):
    merged(adapter, tmp_path / "exact")
    figures = merged(adapter, tmp_path / "half", dtype=dtype)
    exact, half = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "half"))
    assert all(half[name].equal(value.to(getattr(torch, dtype))) for name, value in exact.items())
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == dtype
    assert 0 < figures["mean_difference"] < tolerance == figures["tolerance"]


@pytest.mark.slow
def test_auto_is_the_dtype_of_the_base(base, tmp_path):
    half = tmp_path / "half-base"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    make_tiny_tokenizer().save_pretrained(half)
    figures = merged(write_adapter(tmp_path / "adapter", half), tmp_path / "out")
    assert figures["dtype"] == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "r": 8},
        {"use_dora": True},
        {"target_modules": "all-linear"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [5, 60, 70]},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 16}},
    ],
    ids=[
        "rslora",
        "dora",
        "all linear",
        "embeddings",
        "modules to save",
        "tied by peft",
        "both ends",
        "tokens",
        "bias",
        "patterns",
    ],
)
@pytest.mark.parametrize("kind", ["base", "tied"])
def test_every_kind_of_adapter_agrees_with_peft(request, kind, tmp_path, settings):
    start = request.getfixturevalue(kind)
    path = write_adapter(tmp_path / "adapter", start, **settings)
    figures = merged(path, tmp_path / "out")
    assert figures["n_changed"] == figures["n_matrices"] >= 3
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(own), logits(with_adapter(start, path)), rtol=1e-4, atol=1e-4)


def gpt2():
    """Weights lie transposed, and the output is tied."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB_SIZE, n_positions=512, n_embd=32, n_layer=2, n_head=2)
    )


def mixtral():
    """Experts are parameters, not layers."""
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return MixtralForCausalLM(
        MixtralConfig(vocab_size=VOCAB_SIZE, num_key_value_heads=2, num_local_experts=4, **shape)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "n_matrices", "settings"),
    [
        (gpt2, 8, {"target_modules": "all-linear"}),
        (gpt2, 3, {"target_modules": ["c_attn", "lm_head"]}),
        (
            mixtral,
            6,
            {
                "target_modules": ["q_proj"],
                "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            },
        ),
    ],
    ids=["gpt2", "gpt2 tied", "mixtral"],
)
def test_other_architectures_agree_with_peft(tmp_path, make, n_matrices, settings):
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "base")
    make_tiny_tokenizer().save_pretrained(tmp_path / "base")
    path = write_adapter(tmp_path / "adapter", tmp_path / "base", **settings)
    figures = merged(path, tmp_path / "out")
    assert figures["n_changed"] == figures["n_matrices"] == n_matrices
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(
        logits(own), logits(with_adapter(tmp_path / "base", path)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}]
)
def test_an_adapter_of_a_tied_output_leaves_the_input_as_it_was(tied, tmp_path, settings):
    """peft would add the update to the one matrix that is both."""
    path = write_adapter(tmp_path / "adapter", tied, **settings)
    merged(path, tmp_path / "out")
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    assert own.config.tie_word_embeddings is False
    assert own.model.embed_tokens.weight.equal(before)
    assert not own.lm_head.weight.equal(before)
    torch.testing.assert_close(logits(own), logits(with_adapter(tied, path)), rtol=1e-5, atol=1e-5)


def test_a_tied_model_whose_ends_are_not_adapted_stays_tied(tied, tmp_path):
    merged(write_adapter(tmp_path / "adapter", tied), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.slow
def test_added_tokens_come_with_their_embeddings(base, tmp_path):
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    path = write_adapter(
        tmp_path / "adapter",
        base,
        grow_to=len(tokenizer),
        modules_to_save=["embed_tokens", "lm_head"],
    )
    tokenizer.save_pretrained(path)
    said = []
    merged(path, tmp_path / "out", said)
    own, words = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    assert len(own.get_input_embeddings().weight) == len(words) == len(tokenizer)
    assert words("<think>")["input_ids"] == [len(tokenizer) - 2]
    assert any("vocabulary goes from 260 to the adapter's 262 rows" in line for line in said)
    trained = load_file(path / "adapter_model.safetensors")
    assert own.lm_head.weight.equal(trained["base_model.model.lm_head.weight"])


def test_added_tokens_without_embeddings_are_refused(adapter, tmp_path):
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(adapter)
    refused(ModelError, "has 261 tokens, but the model has 260 rows", adapter, tmp_path / "out")


def test_a_base_whose_own_tokenizer_has_more_tokens_than_rows_is_taken_as_it_is(base, tmp_path):
    """Some are published so, with a pad token that is never fed."""
    own = shutil.copytree(base, tmp_path / "base")
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens(["<never>"])
    tokenizer.save_pretrained(own)
    path = write_adapter(tmp_path / "adapter", own)
    assert merged(path, tmp_path / "out")["n_changed"] == 4


@pytest.mark.slow
def test_a_classifier_with_one_label_is_merged_with_its_head(base, tmp_path):
    """On a language model, whose own head is random: the adapter brings one."""
    path = write_adapter(tmp_path / "adapter", base, AutoModelForSequenceClassification)
    figures = merged(path, tmp_path / "out")
    assert (
        figures["kind"] == inspect_model(tmp_path / "out", "out").kind == "sequence-classification"
    )
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert own.config.num_labels == 1
    expected = with_adapter(base, path, AutoModelForSequenceClassification, num_labels=1)
    torch.testing.assert_close(logits(own), logits(expected), rtol=1e-5, atol=1e-5)
    assert prefpipe(["models", "show", str(tmp_path / "out")]) == 0


def test_a_reward_model_as_base_keeps_its_head_where_the_adapter_has_none(tmp_path):
    """Such adapters name no task: peft gives each one of a classifier a head of its own."""
    reward = make_tiny_reward_model(tmp_path / "reward")
    path = write_adapter(tmp_path / "adapter", reward, AutoModelForSequenceClassification)
    saved = load_file(path / "adapter_model.safetensors")
    save_file(
        {name: value for name, value in saved.items() if ".score." not in name},
        path / "adapter_model.safetensors",
    )
    config = json.loads((path / "adapter_config.json").read_text()) | {
        "modules_to_save": None,
        "task_type": None,
    }
    (path / "adapter_config.json").write_text(json.dumps(config))
    merged(path, tmp_path / "out")
    head = load_file(tmp_path / "out" / "model.safetensors")["score.weight"]
    assert head.equal(load_file(reward / "model.safetensors")["score.weight"])


def test_several_labels_and_a_missing_head_are_refused(base, tmp_path):
    path = write_adapter(tmp_path / "adapter", base, AutoModelForSequenceClassification)
    saved = load_file(path / "adapter_model.safetensors")
    [name] = [name for name in saved if ".score." in name]
    save_file({**saved, name: torch.randn(3, 32)}, path / "adapter_model.safetensors")
    refused(ModelError, "is for a classifier with 3 labels", path, tmp_path / "out")
    del saved[name]
    save_file(saved, path / "adapter_model.safetensors")
    refused(ModelError, "neither it nor its base has a head", path, tmp_path / "out")


def test_an_adapter_that_was_never_trained_is_refused(base, tmp_path):
    path = write_adapter(tmp_path / "adapter", base, init_lora_weights=True)
    refused(
        ModelError,
        "changes nothing: all 4 adapted matrices stay the same",
        path,
        tmp_path / "out",
    )


def test_matrices_that_stay_as_they_are_are_named(adapter, tmp_path):
    saved = load_file(adapter / "adapter_model.safetensors")
    zeroed = {
        name: value * (0.0 if "layers.1" in name and "lora_B" in name else 1.0)
        for name, value in saved.items()
    }
    save_file(zeroed, adapter / "adapter_model.safetensors")
    figures = merged(adapter, tmp_path / "out")
    assert figures["n_changed"] == 2
    unchanged = "model.layers.1.self_attn.q_proj, model.layers.1.self_attn.v_proj"
    assert figures["warnings"] == [f"2 of 4 adapted matrices stay the same: {unchanged}"]


@pytest.mark.slow
def test_rounding_that_swallows_small_updates_gives_a_warning_with_its_number(base, tmp_path):
    half = (
        tmp_path / "half"
    )  # a base on bfloat16's grid, as models are published: an update below half a step is lost
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    make_tiny_tokenizer().save_pretrained(half)
    path = write_adapter(tmp_path / "adapter", half, shrink=3e-4)
    figures = merged(path, tmp_path / "out", dtype="bfloat16")
    assert 0 < figures["changed_share_rounded"] < 0.5 < figures["changed_share"]
    [line] = [line for line in figures["warnings"] if "removes small updates" in line]
    assert f"{figures['changed_share_rounded']:.1%} of the adapted weights change" in line
    assert not merged(path, tmp_path / "exact", dtype="float32")["warnings"]
    none = write_adapter(tmp_path / "weaker", half, shrink=1e-8)
    refused(ModelError, "rounding to bfloat16 removes the whole adapter", none, tmp_path / "none")


@pytest.mark.slow
def test_float16_that_overflows_is_refused(adapter, tmp_path):
    saved = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: value * 1e4 for name, value in saved.items()}, adapter / "adapter_model.safetensors"
    )
    refused(
        ModelError, "does not fit into torch.float16", adapter, tmp_path / "out", dtype="float16"
    )
    save_file(
        {name: value * float("nan") for name, value in saved.items()},
        adapter / "adapter_model.safetensors",
    )
    refused(ModelError, "holds numbers that are not finite", adapter, tmp_path / "out")


def test_a_quantised_base_is_refused_and_another_can_be_given(base, adapter, tmp_path):
    quantised = shutil.copytree(base, tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    told = json.loads((adapter / "adapter_config.json").read_text()) | {
        "base_model_name_or_path": str(quantised)
    }
    (adapter / "adapter_config.json").write_text(json.dumps(told))
    refused(ModelError, "is stored quantised", adapter, tmp_path / "out")
    assert merged(adapter, tmp_path / "out", model=base)["base"] == str(base)


def trained(tmp_path, base):
    """Return an adapter that the command trained, with its run.json."""
    files = inspect_model(base, str(base))
    rows = [
        [
            row_of(f"p{i}", j, f"{i} {text}")
            for i in range(3)
            for j, text in enumerate(["one", "two words", "three"])
        ]
    ]
    groups = write_groups(tmp_path / "groups", rows, [files.identity()])
    words = [
        "train",
        str(groups),
        "-o",
        str(tmp_path / "policy"),
        "--model",
        str(base),
        "--lora-r",
        "4",
        "--learning-rate",
        "0.01",
        "--max-steps",
        "3",
        "--global-batch-size",
        "2",
        "--report-to",
        "none",
    ]
    assert prefpipe(words) == 0
    return tmp_path / "policy"


@pytest.mark.slow
def test_a_base_that_changed_since_the_training_is_refused_unless_it_is_meant(base, tmp_path):
    own = shutil.copytree(base, tmp_path / "base")
    policy = trained(tmp_path, own)
    assert not merged(policy, tmp_path / "fine")["warnings"]
    make_tiny_causal_lm(own, seed=9)
    refused(ModelError, "is not the base that the adapter was trained on", policy, tmp_path / "out")
    figures = merged(policy, tmp_path / "meant", model=own)
    assert "is not the base that the adapter was trained on" in figures["warnings"][0]


def test_a_base_of_another_shape_does_not_fit(adapter, tmp_path):
    other = make_tiny_causal_lm(tmp_path / "other", hidden_size=48, intermediate_size=96)
    refused(ModelError, "does not fit the base", adapter, tmp_path / "out", model=other)


def test_a_revision_that_the_adapter_names_is_on_the_card(adapter, base, tmp_path):
    files = inspect_model(
        adapter, "me/adapter", base=inspect_model(base, "org/tiny", revision="abc123")
    )
    merge(files, MergeRequest(tmp_path / "out"), Runtime())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: org/tiny\n" in card
    assert "| base revision | abc123 |" in card
    assert f"| base content | {files.base.content_hash} |" in card
    assert "`org/tiny` with the LoRA adapter `me/adapter` merged in" in card


@pytest.mark.slow
def test_a_base_of_another_revision_than_the_adapter_names_gives_a_warning(adapter, base, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"revision": "abc123"}))
    warned = []
    for number, revision in enumerate(("def456", "abc123", None)):
        files = inspect_model(
            adapter, "me/adapter", base=inspect_model(base, "org/tiny", revision=revision)
        )
        warned.append(
            merge(files, MergeRequest(tmp_path / str(number), base_given=True), Runtime())[
                "warnings"
            ]
        )
    assert warned == [
        ["the adapter names revision abc123 of its base, and def456 is the one it is merged into"],
        [],
        [],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["weights", "disk"])
def test_a_merge_that_loses_the_adapter_is_refused(adapter, base, tmp_path, monkeypatch, where):
    """The fault is put in: the sum is skewed, or what is saved is not what was merged."""
    if where == "weights":
        real = weights.merge_weights

        def skewed(adapted, dtype):
            model, changes = real(adapted, dtype)
            with torch.no_grad():
                model.model.layers[0].self_attn.q_proj.weight.mul_(0.7)
            return model, changes

        monkeypatch.setattr(stage, "merge_weights", skewed)
        refused(
            ModelError,
            "the merged model does not match base and adapter: they differ by",
            adapter,
            tmp_path / "out",
        )
    else:
        real_sums = stage.weight_sums
        monkeypatch.setattr(
            stage,
            "weight_sums",
            lambda model: real_sums(model) | {"n": len(seen.append(1) or seen)},
        )
        seen = []
        refused(
            ModelError,
            "1 weights read back from disk differ from the merged ones, first n",
            adapter,
            tmp_path / "out",
        )


def test_numbers_that_are_not_finite_never_agree():
    plain, broken = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    assert compare(plain, plain, plain, 1)[2:4] == (0.0, 0.0)
    assert compare(plain, plain, broken, 1).mean_difference == float("inf")
    assert compare(plain, plain, torch.tensor([1.0, float("-inf")]), 1).mean_difference == float(
        "inf"
    )


def test_what_is_no_adapter_is_refused_with_a_hint(base, tmp_path, capsys):
    assert prefpipe(["merge", str(base), "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "is not an adapter" in told
    assert "hint: pass the folder that `prefpipe train --lora-r N` wrote" in told
    assert not (tmp_path / "out").exists()


def test_other_kinds_of_adapters_are_refused(adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    refused(
        ModelError,
        "is of the type LOHA; prefpipe merges LORA only",
        adapter,
        tmp_path / "out",
    )


@pytest.mark.slow
def test_an_existing_folder_is_kept_unless_it_is_a_model_and_meant(adapter, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    assert prefpipe(["merge", str(adapter), "-o", str(out)]) == 0  # an empty one is free
    before = (out / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert prefpipe(["merge", str(adapter), "-o", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    (out / "extra.txt").write_text("of the model before")
    assert (
        prefpipe(
            ["merge", str(adapter), "-o", str(out), "--overwrite", "--json", "--dtype", "bfloat16"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["dtype"] == "bfloat16"
    assert not (out / "extra.txt").exists()
    assert prefpipe(["merge", str(adapter), "-o", str(out), "--overwrite=stale", "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["dtype"] == "float32"
    )  # made again: a script may have the flag on each line
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("five years")
    assert prefpipe(["merge", str(adapter), "-o", str(tmp_path / "home"), "--overwrite"]) == 2
    assert "it holds files that are not part of a model" in capsys.readouterr().err
    assert (tmp_path / "home" / "thesis.tex").exists()
    assert prefpipe(["merge", str(adapter), "-o", str(adapter), "--overwrite"]) == 2
    assert "lie inside each other" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_overwrite_keeps_the_model_before(base, adapter, tmp_path):
    merged(adapter, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    never = write_adapter(tmp_path / "never", base, init_lora_weights=True)
    with pytest.raises(ModelError, match="changes nothing"):
        merged(never, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_merge_that_is_stopped_leaves_nothing(adapter, tmp_path):
    refused(
        StoppedEarly, "nothing was written", adapter, tmp_path / "out", should_stop=lambda: True
    )


def test_a_bad_dtype_is_refused_before_any_work(adapter, tmp_path, capsys):
    assert prefpipe(["merge", str(adapter), "-o", str(tmp_path / "out"), "--dtype", "int8"]) == 2
    assert (
        "--dtype must be one of auto, float32, bfloat16, float16, not 'int8'"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_greedy_answers_of_adapter_and_merged_model_are_the_same(base, tmp_path):
    policy = trained(tmp_path, base)
    assert prefpipe(["merge", str(policy), "-o", str(tmp_path / "merged")]) == 0
    prompts = write_prompts(tmp_path / "p.jsonl", 6)
    answers = {}
    for name, model in {"adapter": policy, "merged": tmp_path / "merged", "base": base}.items():
        words = [
            "generate",
            str(prompts),
            "-o",
            str(tmp_path / f"of-{name}"),
            "--model",
            str(model),
            "--n",
            "1",
            "--temperature",
            "0",
            "--max-tokens",
            "24",
            "--max-error-rate",
            "1",
        ]
        assert prefpipe(words) == 0
        answers[name] = [row["response_token_ids"] for row in rows_of(tmp_path / f"of-{name}")]
    assert answers["merged"] == answers["adapter"] != answers["base"]
