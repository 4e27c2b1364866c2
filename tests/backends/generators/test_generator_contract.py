"""Every generator keeps the same promises: the same tests for fake, transformers, openai and vllm.

Where vLLM is installed (`make test-vllm`), its engine and its server are tested for real; elsewhere
those are skipped.
"""

import json
import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from support.chat_server import running_chat_server
from support.tiny_models import END_ID, FIRST_BYTE_ID

from prefpipe.backends import fake
from prefpipe.backends.protocol import GenerationRequest, SamplingParams

pytestmark = pytest.mark.slow

TEXTS = [
    "Name a colour.",
    "What is two plus two?",
    "Tell me about the sea.",
    "שלום 🙂",
    "a\u0301 e\u0301 \u202e \x00",
    "   ",
]


class Case(NamedTuple):
    """A generator under test, and what its answers are held against.

    Its end-of-sequence ids, how its ids read back, and its model for teacher forcing.
    """

    generator: Any
    eos_ids: set[int]
    decode: Any
    folder: Any = None
    reads_long_ids: bool = True
    drops_cut_character: bool = False
    has_many_words: bool = False
    keeps_to_schemas: bool = False


@pytest.fixture(scope="session")
def fake_case():
    def decode(ids):
        return bytes(
            index - fake.FIRST_BYTE_ID for index in ids if index >= fake.FIRST_BYTE_ID
        ).decode(errors="replace")

    return Case(fake.FakeGenerator(max_model_len=2048), {fake.EOS_ID}, decode)


@pytest.fixture(scope="session")
def openai_stub_case(fake_case):
    from prefpipe.backends.generators.openai_server import OpenAIGenerator

    with running_chat_server() as server:
        generator = OpenAIGenerator("stub", base_url=server.url, concurrency=4)
        yield Case(generator, {fake.EOS_ID}, fake_case.decode, reads_long_ids=False)
        generator.close()


@pytest.fixture(scope="session")
def transformers_case(tiny_folder):
    return Case(open_transformers(str(tiny_folder), 512), {END_ID}, decode_tiny, tiny_folder)


@pytest.fixture(scope="session")
def smollm2_case():
    from transformers import AutoTokenizer

    from prefpipe.models.location import locate_model

    folder = locate_model("bundled:smollm2-135m").path
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return Case(
        open_transformers("bundled:smollm2-135m", 512),
        {tokenizer.eos_token_id},
        decode,
        folder,
        has_many_words=True,
    )


@pytest.fixture(scope="session")
def vllm_case(vllm_tiny, tiny_folder):
    return Case(vllm_tiny, {END_ID}, decode_tiny, tiny_folder, keeps_to_schemas=True)


@pytest.fixture(scope="session")
def openai_vllm_case(vllm_server_url, tiny_folder):
    from prefpipe.backends.generators.openai_server import OpenAIGenerator

    generator = OpenAIGenerator("tiny", base_url=vllm_server_url, concurrency=8)
    yield Case(
        generator,
        {END_ID},
        decode_tiny,
        tiny_folder,
        reads_long_ids=False,
        drops_cut_character=True,
        keeps_to_schemas=True,
    )
    generator.close()


SMALL = [
    "fake",
    "openai_stub",
    "transformers",
    pytest.param("vllm", marks=pytest.mark.vllm),
    pytest.param("openai_vllm", marks=pytest.mark.vllm),
]


@pytest.fixture(params=[*SMALL, pytest.param("smollm2", marks=pytest.mark.models)])
def case(request):
    return request.getfixturevalue(f"{request.param}_case")


@pytest.fixture(params=SMALL)
def small_case(request):
    """Without the model of real size, for what takes many tokens."""
    return request.getfixturevalue(f"{request.param}_case")


def open_transformers(reference, max_model_len):
    from prefpipe.backends.generators.hf_generator import HfGenerator
    from prefpipe.models.location import locate_model

    return HfGenerator(
        locate_model(reference),
        dtype="float32",
        device="cpu",
        batch_size=8,
        max_model_len=max_model_len,
    )


def decode_tiny(ids):
    return bytes(byte_of(index) for index in ids if index >= FIRST_BYTE_ID).decode(errors="replace")


def byte_of(index):
    """The tiny tokenizer's ids are the byte-level alphabet in sorted order, not byte order."""
    from tokenizers import pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbol = sorted(pre_tokenizers.ByteLevel.alphabet())[index - FIRST_BYTE_ID]
    return {letter: byte for byte, letter in bytes_to_unicode().items()}[symbol]


def ask(case, text, seed=0, temperature=1.0, sample_idx=0):
    messages = [{"role": "user", "content": text}]
    return GenerationRequest(
        f"p-{text}", sample_idx, messages, case.generator.encode(messages), seed, temperature
    )


def ids_of(answers):
    return [answer.token_ids for answer in answers]


def test_no_requests_give_no_generations(case):
    assert case.generator.generate([], SamplingParams(8)) == []


def test_order_and_count_are_kept(case):
    requests = [ask(case, text, temperature=0.0) for text in [*TEXTS, *TEXTS[::-1]]]
    answers = case.generator.generate(requests, SamplingParams(8))
    assert len(answers) == len(requests)
    assert ids_of(answers) == ids_of(answers[::-1]), "the same prompts in mirrored places"
    assert len({answer.text for answer in answers}) > len(TEXTS) / 2, (
        "different prompts are answered differently"
    )
    alone = [case.generator.generate([request], SamplingParams(8))[0] for request in requests[:3]]
    assert ids_of(alone) == ids_of(answers[:3])


def test_the_seed_decides_the_answer_whatever_the_neighbours(case):
    requests = [ask(case, TEXTS[0], seed) for seed in range(6)]
    answers = case.generator.generate(requests, SamplingParams(12))
    assert len({tuple(ids) for ids in ids_of(answers)}) >= 5, "seeds differ"
    again = case.generator.generate(
        [ask(case, TEXTS[1], 99), *requests[::-1], ask(case, TEXTS[2], 3)], SamplingParams(12)
    )
    assert ids_of(again[1:-1]) == ids_of(answers)[::-1]
    assert (
        ids_of(case.generator.generate(requests[2:3], SamplingParams(12))) == ids_of(answers)[2:3]
    )


def test_large_seeds_are_distinct(case):
    seeds = [2**48 - 1, 2**47 + 5, 2**32, 2**32 + 1]
    answers = case.generator.generate(
        [ask(case, TEXTS[0], seed) for seed in seeds], SamplingParams(16)
    )
    assert all(answer.finish_reason != "error" for answer in answers)
    assert len({tuple(ids) for ids in ids_of(answers)}) == len(seeds)


def test_at_temperature_zero_the_seed_does_not_matter(case):
    answers = case.generator.generate(
        [ask(case, TEXTS[0], seed, 0.0) for seed in range(3)], SamplingParams(8)
    )
    assert len({tuple(ids) for ids in ids_of(answers)}) == 1


@pytest.mark.parametrize("max_tokens", [1, 5, 200])
def test_max_tokens_and_finish_reason_and_text_agree_with_the_ids(case, max_tokens):
    answers = case.generator.generate(
        [ask(case, TEXTS[0], seed) for seed in range(8)], SamplingParams(max_tokens)
    )
    for answer in answers:
        assert 1 <= len(answer.token_ids) <= max_tokens
        ends = answer.token_ids[-1] in case.eos_ids
        assert answer.finish_reason == ("stop" if ends else "length")
        assert ends or len(answer.token_ids) == max_tokens
        assert not case.eos_ids & set(answer.token_ids[:-1]), "nothing after the end"
        text = case.decode(answer.token_ids)
        if case.drops_cut_character:  # vLLM's server holds back a last character that is not whole
            assert answer.text.rstrip("\ufffd") == text.rstrip("\ufffd")
        else:
            assert answer.text == text, "special tokens are not in the text"
        assert answer.error is None
        assert answer.logp < 0
    if max_tokens == 200:
        assert "stop" in {answer.finish_reason for answer in answers}


def test_logp_is_the_models_own_at_temperature_one_before_truncation(case):
    if case.folder is None:
        pytest.skip("the fake generator has no model")
    requests = [ask(case, text, seed, 0.6) for seed, text in enumerate(TEXTS[:3])]
    for request, answer in zip(
        requests,
        case.generator.generate(requests, SamplingParams(24, top_p=0.8, top_k=20)),
        strict=True,
    ):
        assert answer.logp == pytest.approx(
            teacher_forced_logp(case.folder, request, answer.token_ids), abs=2e-2
        )


def teacher_forced_logp(folder, request, response_ids):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        list(request.messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[*prompt, *response_ids]])
    with torch.inference_mode():
        logps = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logps.gather(1, torch.tensor(response_ids)[:, None]).sum().item()


STOPPED = 40
"""Tokens of the responses of the tests of stop texts."""


def stop_text_of(answers):
    """Return two letters that stand inside of a response, and the number of the first one with them."""
    for number, answer in enumerate(answers):
        for place in range(3, len(answer.text) - 3):
            letters = answer.text[place : place + 2]
            if letters.isascii() and letters.isalnum():
                return letters, number
    raise AssertionError("no response has two letters")


def test_a_stop_text_ends_a_response_with_its_last_token_and_is_not_in_the_text(case):
    n, n_tokens = (4, 20) if case.has_many_words else (12, STOPPED)
    requests = [ask(case, TEXTS[0], seed) for seed in range(n)]
    whole = case.generator.generate(requests, SamplingParams(n_tokens))
    stop, number = stop_text_of(whole)
    params = SamplingParams(n_tokens, stop=("never \u2603 written", stop))
    cut = case.generator.generate(requests, params)

    assert cut[number].finish_reason == "stop"
    assert any(stop not in answer.text for answer in whole), "some are not cut"
    for before, after in zip(whole, cut, strict=True):
        n = len(after.token_ids)
        assert after.token_ids == before.token_ids[:n], "the same tokens are drawn"
        if stop not in before.text:
            assert after._replace(logp=before.logp) == before
            assert after.logp == pytest.approx(before.logp, abs=1e-2)
            continue
        assert after.finish_reason == "stop"
        assert after.text == before.text[: before.text.index(stop)]
        assert stop in case.decode(after.token_ids), "what was sampled is kept, the stop included"
        assert stop not in case.decode(after.token_ids[:-1]), "and nothing behind it"
        assert after.logp > before.logp or n == len(before.token_ids)
        if case.folder is not None:
            expected = teacher_forced_logp(case.folder, requests[0], after.token_ids)
            assert after.logp == pytest.approx(expected, abs=2e-2)


def test_a_stop_text_among_the_first_min_tokens_ends_nothing(small_case):
    case = small_case
    n_safe = 14
    requests = [ask(case, TEXTS[0], seed) for seed in range(12)]
    whole = case.generator.generate(requests, SamplingParams(STOPPED, min_tokens=n_safe))
    early = [case.decode(answer.token_ids[:n_safe]) for answer in whole]
    late = [answer.text[len(safe) :] for answer, safe in zip(whole, early, strict=True)]
    stop = next(
        letter
        for letter in string.printable
        if any(letter in text for text in early) and any(letter in text for text in late)
    )
    params = SamplingParams(STOPPED, min_tokens=n_safe, stop=(stop,))
    answers = case.generator.generate(requests, params)

    assert any(stop in answer.text for answer in answers)
    n_stopped = 0
    for before, safe, after in zip(whole, early, answers, strict=True):
        place = before.text.find(stop, len(safe))
        if place < 0:
            assert (after.token_ids, after.text) == (before.token_ids, before.text)
            continue
        n_stopped += 1
        assert after.finish_reason == "stop"
        assert after.text == before.text[:place]
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
        assert len(after.token_ids) > n_safe
    assert n_stopped


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_tokens_come_before_the_end_of_sequence(small_case, temperature):
    case = small_case
    requests = [ask(case, text, seed, temperature) for seed, text in enumerate(TEXTS * 4)]
    free = case.generator.generate(requests, SamplingParams(200))
    held = case.generator.generate(requests, SamplingParams(200, min_tokens=60))
    for before, after in zip(free, held, strict=True):
        assert not case.eos_ids & set(after.token_ids[:60])
        assert len(after.token_ids) >= 60
        if not temperature and case.folder is not None:
            n_same = min(60, len(before.token_ids) - 1)
            assert after.token_ids[:n_same] == before.token_ids[:n_same]
    if temperature:
        assert any(len(answer.token_ids) <= 60 for answer in free), "some would have been shorter"
        assert any(answer.finish_reason == "stop" for answer in held)


def test_ignore_eos_samples_to_the_limit(small_case):
    case = small_case
    requests = [ask(case, TEXTS[0], seed) for seed in range(8)]
    params = SamplingParams(200, ignore_eos=True)
    for answer in case.generator.generate(requests, params):
        assert (len(answer.token_ids), answer.finish_reason) == (200, "length")


PENALTIES = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8, "presence_penalty": -0.5},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7},
    {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": -0.4},
]


@pytest.mark.parametrize("penalties", PENALTIES, ids="-".join)
def test_penalties_are_those_of_the_formula(small_case, penalties):
    """At temperature 0 every token is the argmax of the model's logits after the formula, but for ties."""
    case = small_case
    if case.folder is None:
        pytest.skip("the fake generator has no logits")
    requests = [ask(case, text, 0, 0.0) for text in TEXTS[:3]]
    plain = case.generator.generate(requests, SamplingParams(24))
    answers = case.generator.generate(requests, SamplingParams(24, **penalties))
    assert ids_of(answers) != ids_of(plain)
    for request, answer in zip(requests, answers, strict=True):
        prompt, logits = teacher_forced_logits(case.folder, request, answer.token_ids)
        for place, chosen in enumerate(answer.token_ids):
            expected = penalised(logits[place], prompt, answer.token_ids[:place], **penalties)
            assert expected[chosen] > expected.max() - 1e-3
        logp = teacher_forced_logp(case.folder, request, answer.token_ids)
        assert answer.logp == pytest.approx(logp, abs=2e-2), "the model's own, without penalties"


def penalised(
    logits, prompt, response, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
):
    """The definitions of transformers' processor and of OpenAI's API, token by token."""
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    repeated = RepetitionPenaltyLogitsProcessor(penalty=repetition_penalty)
    scores = repeated(torch.tensor([[*prompt, *response]]), logits[None].clone())[0]
    for token in set(response):
        scores[token] -= frequency_penalty * response.count(token) + presence_penalty
    return scores


@pytest.mark.parametrize("min_p", [0.3, 0.9])
def test_min_p_leaves_out_what_is_less_likely(small_case, min_p):
    case = small_case
    if case.folder is None:
        pytest.skip("the fake generator has no probabilities")
    temperature = 0.7
    requests = [ask(case, text, seed, temperature) for seed, text in enumerate(TEXTS[:3] * 2)]
    answers = case.generator.generate(requests, SamplingParams(24, min_p=min_p))
    free = case.generator.generate(requests, SamplingParams(24))
    assert ids_of(answers) != ids_of(free)

    shares, shares_when_free = [], []
    for made, kept in ((answers, shares), (free, shares_when_free)):
        for request, answer in zip(requests, made, strict=True):
            _, logits = teacher_forced_logits(case.folder, request, answer.token_ids)
            for place, chosen in enumerate(answer.token_ids):
                gap = (logits[place][chosen] - logits[place].max()) / temperature
                kept.append(gap.exp().item())
    assert min(shares) > min_p * 0.99
    assert min(shares_when_free) < min_p, "else the setting had nothing to leave out"
    assert min_p > 0.5 or any(share < 1 for share in shares), "more than the likeliest is left"


def teacher_forced_logits(folder, request, response_ids):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        list(request.messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *response_ids]])).logits
    return prompt, logits[0, len(prompt) - 1 : -1]


SCHEMA = {
    "type": "object",
    "properties": {
        "zeta": {"type": "string", "enum": ["sea", "lake", "river"]},
        "alpha": {"type": "integer", "minimum": 0, "maximum": 9},
        "ok": {"type": "boolean"},
    },
    "required": ["zeta", "alpha", "ok"],
    "additionalProperties": False,
}


def test_a_response_to_a_schema_is_json_of_it_and_its_logp_is_not_known(small_case):
    case = small_case
    if not case.keeps_to_schemas:
        pytest.skip("the command refuses --json-schema for this back-end")
    requests = [ask(case, text, seed) for seed, text in enumerate(TEXTS[:3] * 2)]
    params = SamplingParams(300, json_schema=json.dumps(SCHEMA))
    answers = case.generator.generate(requests, params)
    for answer in answers:
        assert answer.finish_reason == "stop", answer
        value = json.loads(answer.text)
        assert list(value) == ["zeta", "alpha", "ok"], "properties in the schema's order"
        assert value["zeta"] in {"sea", "lake", "river"}
        assert value["alpha"] in range(10)
        assert isinstance(value["ok"], bool)
        assert answer.logp is None
        assert answer.token_ids[-1] in case.eos_ids
    assert len({answer.text for answer in answers}) > 1


def test_a_prompt_that_just_fits_is_answered_and_a_longer_one_is_one_row(case):
    if not case.reads_long_ids:
        pytest.skip("the server counts tokens, see the next test")
    limit = case.generator.max_model_len
    filler = ask(case, TEXTS[0]).prompt_token_ids[-1]
    fits = ask(case, TEXTS[0])._replace(prompt_token_ids=[filler] * (limit - 4))
    too_long = fits._replace(prompt_token_ids=[filler] * (limit - 3))
    answers = case.generator.generate([fits, too_long, ask(case, TEXTS[1])], SamplingParams(4))
    assert [answer.finish_reason == "error" for answer in answers] == [False, True, False]
    assert answers[1].error.startswith("prompt_too_long")


def test_one_failing_row_does_not_lose_the_others(case):
    good = [ask(case, text, seed) for seed, text in enumerate(TEXTS[:3])]
    bad = ask(case, "very long " * 400)
    answers = case.generator.generate([good[0], bad, *good[1:]], SamplingParams(8))
    assert answers[1].finish_reason == "error"
    assert answers[1].error.startswith("prompt_too_long")
    assert answers[1].token_ids == []
    assert answers[1].logp is None
    assert ids_of([answers[0], *answers[2:]]) == ids_of(
        case.generator.generate(good, SamplingParams(8))
    )


def test_calls_from_several_threads_are_answered_as_one_call_is(case):
    """Whatever their order, and each with its own settings."""
    calls = [[ask(case, text, seed) for seed in range(2)] for text in (*TEXTS[:4], *TEXTS[:2])]
    limits = [SamplingParams(6 + 3 * (number % 3)) for number in range(len(calls))]
    expected = [
        case.generator.generate(call, params) for call, params in zip(calls, limits, strict=True)
    ]
    with ThreadPoolExecutor(len(calls)) as threads:
        found = list(threads.map(case.generator.generate, calls, limits))
    assert [ids_of(each) for each in found] == [ids_of(each) for each in expected]
    assert [[each.text for each in call] for call in found] == [
        [each.text for each in call] for call in expected
    ]


def test_prompts_are_encoded_by_several_threads_while_answers_are_made(case):
    """A fast tokenizer that two threads share raises "Already borrowed" unless it is guarded."""
    messages = [[{"role": "user", "content": text * 40}] for text in TEXTS]
    expected = [case.generator.encode(each) for each in messages]
    requests = [ask(case, text) for text in TEXTS]
    with ThreadPoolExecutor(4) as threads:
        answers = threads.submit(case.generator.generate, requests, SamplingParams(12))
        encoded = list(threads.map(case.generator.encode, messages * 20))
    assert encoded == expected * 20
    assert len(answers.result()) == len(requests)


def test_there_is_room_when_nobody_asks(case):
    assert case.generator.has_room()


def test_unicode_prompts_are_answered(case):
    answers = case.generator.generate([ask(case, text) for text in TEXTS[3:]], SamplingParams(8))
    assert all(answer.finish_reason in {"stop", "length"} for answer in answers)
