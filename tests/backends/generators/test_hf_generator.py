"""The transformers back-end against transformers itself.

Greedy ids, log-probabilities, seeds, batches, adapters.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import (
    END_ID,
    make_tiny_adapter,
    make_tiny_causal_lm,
    make_tiny_reward_model,
    tiny_config,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from prefpipe.backends.generators import decoding
from prefpipe.backends.generators.decoding import draw_uniforms
from prefpipe.backends.generators.hf_generator import HfGenerator, load_causal_lm
from prefpipe.backends.generators.shared_decoder import SharedDecoder
from prefpipe.backends.protocol import GenerationRequest, SamplingParams
from prefpipe.errors import InputError, ModelError
from prefpipe.models.files import inspect_model

TEXTS = ["a", "hello there", "zzz 5", "שלום 🙂", "one two three four five six seven", "?"]
PARAMS = SamplingParams(max_tokens=24)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="module")
def adapter(policy):
    return make_tiny_adapter(policy.parent / "adapter", policy)


@pytest.fixture(scope="module")
def generator(policy):
    return HfGenerator(inspect_model(policy, "policy"))


def ask(generator, texts=TEXTS, n=4, temperature=1.0):
    requests = []
    for number, text in enumerate(texts):
        turns = [{"role": "user", "content": text}]
        ids = generator.encode(turns)
        requests += [
            GenerationRequest(f"p{number}", i, turns, ids, 100 * number + i, temperature)
            for i in range(n)
        ]
    return requests


def resized(generator, batch_size):
    """The same generator with another batch size, without loading the model again."""
    tokenizer = generator._tokenizer
    decoder = SharedDecoder(generator._model, tokenizer.eos_ids, batch_size, tokenizer.decode)
    other = object.__new__(HfGenerator)
    other.__dict__ = generator.__dict__ | {"_decoder": decoder}
    return other


def ids_of(answers):
    return [answer.token_ids for answer in answers]


@pytest.mark.slow
def test_greedy_ids_are_those_of_transformers(generator, policy):
    model = AutoModelForCausalLM.from_pretrained(policy)
    requests = ask(generator, n=1, temperature=0.0)
    for request, answer in zip(requests, generator.generate(requests, PARAMS), strict=True):
        prompt = torch.tensor([request.prompt_token_ids])
        expected = model.generate(prompt, do_sample=False, max_new_tokens=PARAMS.max_tokens)[
            0, prompt.shape[1] :
        ]
        assert answer.token_ids == expected.tolist()


LIKE_TRANSFORMERS = [
    ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    ({"repetition_penalty": 0.7}, {"repetition_penalty": 0.7}),
    ({"min_tokens": 20}, {"min_new_tokens": 20}),
    ({"repetition_penalty": 1.2, "min_tokens": 24}, {"repetition_penalty": 1.2, "min_new_tokens": 24}),
    ({"repetition_penalty": 1.3, "stop": ("e",)}, {"repetition_penalty": 1.3, "stop_strings": ["e"]}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "theirs"), LIKE_TRANSFORMERS)
def test_settings_give_token_for_token_what_transformers_gives(generator, policy, ours, theirs):
    model = AutoModelForCausalLM.from_pretrained(policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    requests = ask(generator, n=1, temperature=0.0)
    plain = generator.generate(requests, SamplingParams(40))
    answers = generator.generate(requests, SamplingParams(40, **ours))
    assert ids_of(answers) != ids_of(plain)
    for request, answer in zip(requests, answers, strict=True):
        prompt = torch.tensor([request.prompt_token_ids])
        expected = model.generate(
            prompt, do_sample=False, max_new_tokens=40, tokenizer=tokenizer, **theirs
        )[0, prompt.shape[1] :]
        assert answer.token_ids == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_penalised_rows_are_the_same_in_every_batch(generator, batch_size):
    """Slots are freed at different steps and taken by rows of other prompts."""
    requests = ask(generator, n=3)
    params = SamplingParams(
        40,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.2,
        min_p=0.01,
        min_tokens=4,
        stop=("e", "1"),
    )
    expected = generator.generate(requests, params)
    assert len({len(answer.token_ids) for answer in expected}) > 3
    found = resized(generator, batch_size).generate(requests, params)
    assert ids_of(found) == ids_of(expected)
    assert [answer.text for answer in found] == [answer.text for answer in expected]


def test_logp_is_the_teacher_forced_sum_whatever_the_temperature_and_truncation(generator, policy):
    """logp = sum_t log softmax(logits_t)[token_t], the model run once over prompt and response."""
    model = AutoModelForCausalLM.from_pretrained(policy)
    requests = [
        request._replace(temperature=0.5 * i) for i, request in enumerate(ask(generator, n=1))
    ]
    answers = generator.generate(requests, SamplingParams(24, top_p=0.9, top_k=20))
    for request, answer in zip(requests, answers, strict=True):
        start = len(request.prompt_token_ids)
        ids = torch.tensor([[*request.prompt_token_ids, *answer.token_ids]])
        logps = model(ids).logits.detach()[0, start - 1 : -1].log_softmax(-1)
        expected = float(logps.gather(1, ids[0, start:, None]).sum())
        assert answer.logp == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
def test_the_batch_size_changes_nothing(generator, batch_size):
    requests = ask(generator)
    expected = resized(generator, 7).generate(requests, PARAMS)
    found = resized(generator, batch_size).generate(requests, PARAMS)
    assert ids_of(found) == ids_of(expected)
    assert [answer.logp for answer in found] == pytest.approx(
        [answer.logp for answer in expected], abs=1e-3
    )


@pytest.mark.slow
def test_an_answer_depends_on_its_own_request_only(generator):
    requests = ask(generator)
    together = generator.generate(requests, PARAMS)
    backwards = generator.generate(requests[::-1], PARAMS)[::-1]
    alone = [generator.generate([request], PARAMS)[0] for request in requests[:6]]
    assert ids_of(backwards) == ids_of(together)
    assert ids_of(alone) == ids_of(together[:6])


@pytest.mark.slow
def test_seeds_decide_and_samples_differ(generator):
    requests = ask(generator, n=6)
    first, second = generator.generate(requests, PARAMS), generator.generate(requests, PARAMS)
    assert first == second
    assert len({tuple(ids) for ids in ids_of(first)}) == len(first)
    moved = generator.generate(
        [request._replace(seed=request.seed + 1_000) for request in requests], PARAMS
    )
    assert all(a != b for a, b in zip(ids_of(first), ids_of(moved), strict=True))


def test_a_longer_limit_keeps_the_beginning(generator):
    requests = ask(generator)
    short, long = (generator.generate(requests, SamplingParams(limit)) for limit in (5, 24))
    assert [ids[:5] for ids in ids_of(long)] == ids_of(short)


def test_uniform_numbers_of_a_longer_draw_begin_with_the_shorter_one():
    for n_tokens in (1, 7, 16, 33, 500):
        assert torch.equal(draw_uniforms(5, 1000)[:n_tokens], draw_uniforms(5, n_tokens))
    assert not torch.equal(draw_uniforms(5, 9), draw_uniforms(6, 9))


def test_eos_is_kept_in_the_ids_and_left_out_of_the_text(generator):
    answers = generator.generate(ask(generator, n=16), PARAMS)
    stopped = [answer for answer in answers if answer.finish_reason == "stop"]
    assert stopped
    assert len(stopped) < len(answers)
    for answer in answers:
        assert (answer.token_ids[-1] == END_ID) == (answer.finish_reason == "stop")
        assert END_ID not in answer.token_ids[:-1]
        assert "<|im_end|>" not in answer.text
        assert len(answer.token_ids) <= PARAMS.max_tokens


def test_every_eos_of_the_generation_config_stops(policy, tmp_path, generator):
    requests = ask(generator)
    plain = generator.generate(requests, PARAMS)
    common = max(
        {token for ids in ids_of(plain) for token in ids} - {END_ID},
        key=lambda t: sum(t in ids for ids in ids_of(plain)),
    )
    folder = shutil.copytree(policy, tmp_path / "two-eos")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps(config | {"eos_token_id": [END_ID, common]})
    )
    cut = HfGenerator(inspect_model(folder, "two-eos")).generate(requests, PARAMS)
    for answer, whole in zip(cut, ids_of(plain), strict=True):
        end = whole.index(common) + 1 if common in whole else len(whole)
        assert answer.token_ids == whole[:end]


@pytest.mark.slow
def test_each_distinct_prompt_is_prefilled_once(generator, monkeypatch):
    prefilled = []
    original = decoding.Decoder._forward

    def count(self, ids, mask, positions, cache):
        if ids.shape[1] > 1:
            prefilled.extend(tuple(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True))
        return original(self, ids, mask, positions, cache)

    monkeypatch.setattr(decoding.Decoder, "_forward", count)
    requests = ask(generator, n=7)
    resized(generator, 5).generate(requests, PARAMS)
    assert sorted(prefilled) == sorted({tuple(request.prompt_token_ids) for request in requests})


def test_prompts_beyond_one_prefill_are_split(generator, monkeypatch):
    requests = ask(generator)
    expected = ids_of(generator.generate(requests, PARAMS))
    monkeypatch.setattr(decoding, "MAX_PREFILL_TOKENS", 50)
    assert ids_of(generator.generate(requests, PARAMS)) == expected


def test_one_token_and_no_requests(generator):
    assert generator.generate([], PARAMS) == []
    answers = generator.generate(ask(generator), SamplingParams(max_tokens=1))
    assert all(len(answer.token_ids) == 1 for answer in answers)


def test_a_prompt_that_leaves_no_room_is_a_row_with_a_reason_and_spares_its_neighbours(
    policy, generator
):
    small = HfGenerator(inspect_model(policy, "policy"), max_model_len=60)
    requests = ask(small, texts=["a", "x" * 60, "zzz 5"], n=2)
    answers = small.generate(requests, PARAMS)
    assert [answer.finish_reason == "error" for answer in answers] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert answers[2].error.startswith("prompt_too_long: ")
    assert ids_of(answers[:2]) == ids_of(generator.generate(requests[:2], PARAMS))


def test_ids_may_be_left_to_the_generator(generator):
    requests = ask(generator)
    bare = [request._replace(prompt_token_ids=[]) for request in requests]
    assert generator.generate(bare, PARAMS) == generator.generate(requests, PARAMS)


def test_numbers_that_overflow_are_an_error_and_not_a_text(policy, tmp_path):
    folder = shutil.copytree(policy, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    broken = HfGenerator(inspect_model(folder, "broken"))
    for answer in broken.generate(ask(broken, n=1), PARAMS):
        assert (answer.finish_reason, answer.text, answer.logp) == ("error", "", None)
        assert "overflowed" in answer.error


@pytest.mark.slow
def test_a_sliding_window_is_obeyed(tmp_path, policy):
    """Mistral looks back 16 positions only.

    Transformers' own cache forgets them, ours masks them.
    """
    settings = {
        key: value
        for key, value in tiny_config().to_dict().items()
        if key not in {"model_type", "architectures"}
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(MistralConfig(**settings | {"sliding_window": 16})).eval()
    folder = shutil.copytree(policy, tmp_path / "mistral")
    model.save_pretrained(folder)
    generator = HfGenerator(inspect_model(folder, "mistral"))
    requests = ask(generator, n=1, temperature=0.0)
    for request, answer in zip(requests, generator.generate(requests, PARAMS), strict=True):
        prompt = torch.tensor([request.prompt_token_ids])
        expected = model.generate(prompt, do_sample=False, max_new_tokens=PARAMS.max_tokens)[
            0, prompt.shape[1] :
        ]
        assert answer.token_ids == expected.tolist()


@pytest.mark.slow
def test_an_adapter_changes_the_answers_and_gives_the_same_merged_or_apart(
    generator, adapter, policy
):
    model = inspect_model(adapter, "adapter")
    merged = HfGenerator(model)
    requests = ask(merged, n=1, temperature=0.0)
    answers = merged.generate(requests, PARAMS)
    assert ids_of(answers) != ids_of(generator.generate(requests, PARAMS))
    from peft import PeftModel

    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(policy), adapter)
    for request, answer in zip(requests, answers, strict=True):
        prompt = torch.tensor([request.prompt_token_ids])
        expected = apart.generate(
            input_ids=prompt, do_sample=False, max_new_tokens=PARAMS.max_tokens
        )[0, prompt.shape[1] :]
        assert answer.token_ids == expected.tolist()


def test_a_16_bit_adapter_stays_apart_and_still_answers(adapter):
    model = inspect_model(adapter, "adapter")
    assert hasattr(load_causal_lm(model, torch.bfloat16), "peft_config")
    generator = HfGenerator(model, dtype="bfloat16")
    assert all(answer.token_ids for answer in generator.generate(ask(generator), PARAMS))


def test_an_adapter_that_does_not_fit_its_base_is_refused(adapter, policy, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "other")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "layers.1" not in name},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match=r"the adapter in .*other does not fit its base model"):
        HfGenerator(inspect_model(folder, "other"))


def test_missing_weights_are_refused_and_never_drawn_at_random(policy, tmp_path):
    folder = shutil.copytree(policy, tmp_path / "headless")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors of the model, such as lm_head\.weight"):
        HfGenerator(inspect_model(folder, "headless"))


def test_another_kind_of_model_is_refused(tmp_path):
    model = inspect_model(make_tiny_reward_model(tmp_path / "reward"), "reward")
    with pytest.raises(
        ModelError, match="reward is a sequence-classification model; generating needs a causal"
    ):
        HfGenerator(model)


def test_a_limit_beyond_the_model_is_refused(policy):
    with pytest.raises(
        ModelError, match="--max-model-len 513 is above the 512 positions of policy"
    ):
        HfGenerator(inspect_model(policy, "policy"), max_model_len=513)


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (
            "{{ raise_exception('no x') if messages[0].content == 'x' }}{{ messages[0].content }}",
            InputError,
            "refuses this conversation: no x",
        ),
        ("{{ raise_exception('no turns') }}", ModelError, "fails on one question: no turns"),
        (
            "<|bos|><|bos|>{{ messages[0].content }}",
            ModelError,
            r"begins with two <\|bos\|> tokens",
        ),
    ],
)
def test_a_template_that_refuses_or_doubles_bos_is_an_error(
    policy, tmp_path, template, error, message
):
    folder = shutil.copytree(policy, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(error, match=message):
        HfGenerator(inspect_model(folder, "model")).encode([{"role": "user", "content": "x"}])


@pytest.mark.slow
@pytest.mark.models
def test_smollm2_gives_the_same_answers_in_batches_of_any_size():
    from prefpipe.models.location import locate_model

    generator = HfGenerator(locate_model("bundled:smollm2-135m"))
    requests = ask(
        generator, texts=["Name a colour.", "What is two plus two?"], n=3, temperature=0.8
    )
    expected = ids_of(generator.generate(requests, SamplingParams(max_tokens=8)))
    assert (
        ids_of(resized(generator, 4).generate(requests, SamplingParams(max_tokens=8))) == expected
    )
