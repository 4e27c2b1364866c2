"""Each prompt computed once: log-probabilities and gradients equal those of responses computed one by one."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.group_logps import group_logps
from support.tiny_groups import make_group, make_groups
from support.tiny_models import END_ID, VOCAB_SIZE, tiny_config
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from prefpipe.training import projection
from prefpipe.training.batches import GroupCollator
from prefpipe.training.forward import reference_logps, share_prompts, shares_prompts
from prefpipe.training.shared_prompt import ATTENTION, pack_groups


def llama():
    return LlamaForCausalLM(tiny_config())


def lora():
    config = LoraConfig(
        r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(llama(), config)


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB_SIZE,
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=2,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
        )
    )


def qwen2():
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )


MODELS = pytest.mark.parametrize("make", [llama, lora, gpt2, qwen2], ids=lambda make: make.__name__)


def results(model, batch):
    """Log-probabilities, counts, and the gradients of a weighted sum of the former."""
    model.zero_grad()
    logps, n_tokens, ends, _ = group_logps(model, batch)
    weights = torch.linspace(-1.0, 2.0, logps.numel()).reshape(logps.shape)
    (logps * weights + ends * weights.flip(0)).sum().backward()
    return (
        logps.detach(),
        n_tokens,
        {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
    )


def assert_same(found, expected, *, relative=1e-5):
    torch.testing.assert_close(found[0], expected[0], rtol=relative, atol=0)
    assert found[1].tolist() == expected[1].tolist()
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        error = (found[2][name] - gradient).abs().max() / gradient.abs().max()
        assert error < relative, f"{name}: {error:.1e}"


def both(make, groups, *, checkpointing=False):
    """Compute groups padded and packed with one model, in float32."""
    torch.manual_seed(0)
    model = make().train()
    expected = results(model, GroupCollator(0, [END_ID], packed=False)(groups))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if hasattr(model, "enable_input_require_grads"):
            model.enable_input_require_grads()
    (model.get_base_model() if hasattr(model, "get_base_model") else model).set_attn_implementation(
        ATTENTION
    )
    return results(model, GroupCollator(0, [END_ID], packed=True)(groups)), expected


@MODELS
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([make_group("p", lengths=(6, 6, 6, 6))], id="equal lengths"),
        pytest.param([make_group("p", lengths=(1, 9, 4))], id="ragged, one a single token"),
        pytest.param(make_groups(5), id="several groups"),
        pytest.param(
            [
                make_group("p", n_prompt=1, lengths=(2, 3)),
                make_group("q", n_prompt=20, lengths=(5,)),
            ],
            id="odd prompts",
        ),
    ],
)
def test_packed_equals_padded(make, groups, checkpointing):
    found, expected = both(make, groups, checkpointing=checkpointing)
    assert_same(found, expected)


@MODELS
def test_projecting_in_chunks_changes_nothing(make, monkeypatch):
    """Chunks of three tokens, the last one short, computed again in the backward pass."""
    monkeypatch.setattr(projection, "KEPT_LOGITS", 0)
    monkeypatch.setattr(projection, "CHUNK_LOGITS", 3 * VOCAB_SIZE)
    found, expected = both(make, make_groups(4))
    assert_same(found, expected)


def test_a_response_sees_its_prompt_and_itself_alone():
    """Changing one response changes no other.

    Changing a prompt changes its own responses and not those of the next group.
    """
    torch.manual_seed(0)
    model = llama().eval()
    model.set_attn_implementation(ATTENTION)
    groups = [make_group("p", lengths=(4, 5, 3)), make_group("q", lengths=(4, 4))]

    def logps(changed):
        with torch.no_grad():
            return group_logps(model, GroupCollator(0, [END_ID], packed=True)(changed)).logps

    before = logps(groups)
    other = groups[0].responses[1]._replace(token_ids=[9, 9, 9, 9, 9])
    after = logps(
        [
            groups[0]._replace(responses=[groups[0].responses[0], other, groups[0].responses[2]]),
            groups[1],
        ]
    )
    assert (after == before).tolist() == [[True, False, True], [True, True, True]]
    after = logps([groups[0]._replace(prompt_token_ids=[8] * 5), groups[1]])
    assert (after == before).tolist() == [[False, False, False], [True, True, True]]


def test_the_row_is_as_long_as_its_tokens():
    group = make_group("p", n_prompt=5, lengths=(4, 6, 3))
    packed = pack_groups([group, group._replace(prompt_id="q")])
    assert packed["input_ids"].shape == (1, 2 * (5 + 4 + 6 + 3))
    assert packed["position_ids"][0, :18].tolist() == [
        *range(5),
        *range(5, 9),
        *range(5, 11),
        *range(5, 8),
    ]
    assert packed["predictors"][:5].tolist() == [4, 5, 6, 7, 4]
    assert packed["labels"].tolist()[:4] == list(group.responses[0].token_ids)


def test_a_model_is_prepared_only_where_packing_is_exact():
    torch.manual_seed(0)
    for make in (llama, lora, gpt2, qwen2):
        model = make()
        assert share_prompts(model) is None
        assert shares_prompts(model)
        assert model.training


def test_models_that_cannot_be_packed_are_left_as_they_were_with_a_reason():
    common = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    capped = Gemma2ForCausalLM(Gemma2Config(**common, final_logit_softcapping=5.0))
    sliding = MistralForCausalLM(MistralConfig(**common, sliding_window=8))
    recurrent = MambaForCausalLM(
        MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, state_size=4)
    )
    for model, reason in (
        (capped, "final_logit_softcapping = 5.0"),
        (sliding, "a window of 8 tokens"),
        (recurrent, ""),
    ):
        before = model.config._attn_implementation
        told = share_prompts(model)
        assert told is not None
        assert reason in told
        assert not shares_prompts(model)
        assert model.config._attn_implementation == before


def test_a_packed_model_refuses_rows_without_a_layout():
    """Attention that silently took a padded batch for one sequence would be the worst of bugs."""
    model = llama()
    assert share_prompts(model) is None
    with pytest.raises(TypeError, match="packed_layout"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize("max_batch_tokens", [1, 25, 8192])
def test_reference_log_probabilities_are_the_same_packed_in_any_batch(max_batch_tokens):
    """A budget of one token cuts groups into single responses, each with its prompt."""
    torch.manual_seed(0)
    model, groups = llama(), make_groups(6)
    padded = reference_logps(model, groups, pad_token_id=0)
    assert share_prompts(model) is None
    packed = reference_logps(model, groups, pad_token_id=0, max_batch_tokens=max_batch_tokens)
    assert packed.keys() == padded.keys()
    for key, (logp, n_tokens) in padded.items():
        assert packed[key] == (pytest.approx(logp, rel=1e-5), n_tokens)


def test_the_attention_is_not_written_into_a_saved_model(tmp_path):
    model = llama()
    assert share_prompts(model) is None
    model.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
