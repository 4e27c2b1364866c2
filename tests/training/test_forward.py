"""Log-probabilities of responses equal the plain computation, whatever the batch."""

import copy

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
)

from prefpipe.maths.objectives import logps as logps_module
from prefpipe.training import projection
from prefpipe.training.batches import GroupCollator, pad_sequences
from prefpipe.training.forward import (
    measure_responses,
    reference_logps,
    sequence_logps,
    share_prompts,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config()).eval()


def plain_logp(model, prompt, response):
    """Sum over t of log softmax(logits)[t - 1][token t], one sequence at a time."""
    ids = torch.tensor([[*prompt, *response]])
    shares = torch.log_softmax(model(ids).logits[0].float(), -1)
    return sum(shares[len(prompt) + t - 1, token] for t, token in enumerate(response))


def test_a_batch_equals_one_sequence_at_a_time(model):
    groups = make_groups(4)
    batch = GroupCollator(0)(groups)
    logps, n_tokens, *_ = group_logps(model, batch)
    for p, group in enumerate(groups):
        for r, response in enumerate(group.responses):
            torch.testing.assert_close(
                logps[p, r], plain_logp(model, group.prompt_token_ids, response.token_ids)
            )
            assert n_tokens[p, r] == len(response.token_ids)
        assert (logps[p, len(group.responses) :] == 0).all()
        assert (n_tokens[p, len(group.responses) :] == 0).all()


def test_the_end_of_a_response_has_the_probability_of_its_last_token_and_zero_where_it_was_cut_off(
    model,
):
    groups = make_groups(4)
    groups[0].responses[1] = (
        groups[0].responses[1]._replace(token_ids=groups[0].responses[1].token_ids[:-1])
    )
    end_probs = group_logps(model, GroupCollator(0, {END_ID})(groups)).end_probs
    for p, group in enumerate(groups):
        for r, response in enumerate(group.responses):
            ids = torch.tensor([[*group.prompt_token_ids, *response.token_ids]])
            last = torch.softmax(model(ids).logits[0], -1)[-2, response.token_ids[-1]]
            torch.testing.assert_close(
                end_probs[p, r], last if (p, r) != (0, 1) else torch.zeros(())
            )
        assert (end_probs[p, len(group.responses) :] == 0).all()
    end_probs.sum().backward()
    assert model.lm_head.weight.grad.abs().max() > 0
    model.zero_grad()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_entropy_is_that_of_the_distributions_the_response_came_from(
    model, packed, chunked, monkeypatch
):
    if chunked:
        monkeypatch.setattr(projection, "KEPT_LOGITS", 1)
        monkeypatch.setattr(projection, "CHUNK_LOGITS", 3 * VOCAB_SIZE)
    monkeypatch.setitem(logps_module.ENTROPY_LOGITS, "cpu", 2 * VOCAB_SIZE)
    groups, used = make_groups(3), copy.deepcopy(model)
    if packed:
        assert share_prompts(used) is None
    found = group_logps(used, GroupCollator(0, packed=packed)(groups), entropy=True)
    for p, group in enumerate(groups):
        for r, response in enumerate(group.responses):
            logits = model(torch.tensor([[*group.prompt_token_ids, *response.token_ids]])).logits[0]
            own = logits[len(group.prompt_token_ids) - 1 : -1]
            torch.testing.assert_close(
                found.entropies[p, r], torch.distributions.Categorical(logits=own).entropy().mean()
            )
    assert not found.entropies.requires_grad
    assert found.logps.requires_grad


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(
            lambda: GPT2LMHeadModel(
                GPT2Config(vocab_size=VOCAB_SIZE, n_positions=64, n_embd=32, n_layer=2, n_head=2)
            ),
            id="gpt2: tied head, absolute positions",
        ),
        pytest.param(
            lambda: Gemma2ForCausalLM(
                Gemma2Config(
                    vocab_size=VOCAB_SIZE,
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    head_dim=16,
                    final_logit_softcapping=5.0,
                    attn_implementation="eager",
                )
            ),
            id="gemma2: logits capped after the head",
        ),
        pytest.param(
            lambda: get_peft_model(
                LlamaForCausalLM(tiny_config()),
                LoraConfig(
                    r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
                ),
            ),
            id="lora",
        ),
    ],
)
def test_other_architectures_agree_too(other):
    torch.manual_seed(1)
    model = other().eval()
    group = make_group("p")
    logps, *_ = group_logps(model, GroupCollator(0)([group]))
    expected = torch.stack(
        [plain_logp(model, group.prompt_token_ids, r.token_ids) for r in group.responses]
    )
    torch.testing.assert_close(logps[0], expected)


def test_gradients_equal_those_of_the_full_logits(model):
    group = make_group("p")
    batch = pad_sequences([(group.prompt_token_ids, r.token_ids) for r in group.responses], 0)
    model.zero_grad()
    sequence_logps(model, **batch).logps.sum().backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    sum(plain_logp(model, group.prompt_token_ids, r.token_ids) for r in group.responses).backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-5)
    model.zero_grad()


def test_the_head_sees_response_positions_only(model):
    seen = []
    handle = model.lm_head.register_forward_hook(
        lambda _m, inputs, _o: seen.append(inputs[0].shape)
    )
    group = make_group("p", lengths=(4, 6, 3))
    sequence_logps(
        model, **pad_sequences([(group.prompt_token_ids, r.token_ids) for r in group.responses], 0)
    )
    handle.remove()
    assert seen == [(4 + 6 + 3, 32)]
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("max_batch_tokens", [1, 40, 10_000])
def test_the_reference_does_not_depend_on_its_batch(model, max_batch_tokens):
    groups = make_groups(5)
    reference = reference_logps(model, groups, pad_token_id=0, max_batch_tokens=max_batch_tokens)
    assert len(reference) == sum(len(group.responses) for group in groups)
    for group in groups:
        for response in group.responses:
            logp, n_tokens = reference[group.prompt_id, response.sample_idx]
            assert logp == pytest.approx(
                plain_logp(model, group.prompt_token_ids, response.token_ids).item(), rel=1e-5
            )
            assert n_tokens == len(response.token_ids)


@pytest.mark.parametrize("packed", [False, True])
def test_each_token_is_measured_and_they_sum_to_the_response(packed):
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config()).eval()
    assert not packed or share_prompts(model) is None
    groups = {group.prompt_id: group for group in make_groups(3)}
    for each in measure_responses(
        model, list(groups.values()), pad_token_id=0, max_batch_tokens=30
    ):
        group = groups[each.key[0]]
        [response] = [
            response for response in group.responses if response.sample_idx == each.key[1]
        ]
        ids = torch.tensor([[*group.prompt_token_ids, *response.token_ids]])
        shares = torch.log_softmax(model_logits(ids), -1)
        first = len(group.prompt_token_ids) - 1
        expected = [shares[first + t, token].item() for t, token in enumerate(response.token_ids)]
        assert each.token_logps.tolist() == pytest.approx(expected, rel=1e-4)
        assert each.logp == pytest.approx(sum(expected), rel=1e-5)


def model_logits(ids):
    torch.manual_seed(0)
    with torch.no_grad():
        return LlamaForCausalLM(tiny_config()).eval()(ids).logits[0]


def test_the_reference_has_no_dropout_and_leaves_the_mode_as_it_was():
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(attention_dropout=0.5)).train()
    groups = make_groups(2)
    first = reference_logps(model, groups, pad_token_id=0)
    assert first == reference_logps(model, groups, pad_token_id=0)
    assert model.training


def test_bfloat16_autocast_gives_float32_sums_near_the_exact_ones(model):
    groups = make_groups(2)
    exact, rough = (
        reference_logps(model, groups, pad_token_id=0, bf16=bf16) for bf16 in (False, True)
    )
    for key, (logp, _) in exact.items():
        assert rough[key][0] == pytest.approx(logp, rel=0.02)
        assert rough[key][0] != logp
