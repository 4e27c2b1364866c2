"""The fake back-ends keep the promises of the protocols, with no model behind them."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from prefpipe.backends.fake import (
    BOS_ID,
    EOS_ID,
    FIRST_BYTE_ID,
    FakeEmbedder,
    FakeGenerator,
    FakeModel,
    FakeScorer,
)
from prefpipe.backends.protocol import GenerationRequest, SamplingParams, ScoreRequest
from prefpipe.errors import UsageError

PARAMS = SamplingParams(max_tokens=120)


def ask(text, seed=0, temperature=1.0):
    messages = [{"role": "user", "content": text}]
    return GenerationRequest(
        f"p-{text}", 0, messages, FakeGenerator().encode(messages), seed, temperature
    )


def test_encoding_is_bos_and_bytes_that_read_back():
    ids = FakeGenerator().encode([{"role": "user", "content": "שלום 🙂 \x00"}])
    assert ids[0] == BOS_ID
    text = bytes(index - FIRST_BYTE_ID for index in ids[1:]).decode()
    assert text == "<user>שלום 🙂 \x00\n<assistant>"


def test_text_and_ids_agree_and_only_stopped_answers_end_with_eos():
    answers = FakeGenerator().generate([ask("x", seed) for seed in range(200)], PARAMS)
    reasons = {answer.finish_reason for answer in answers}
    assert reasons == {"stop", "length"}, "lengths vary around max_tokens"
    for answer in answers:
        stopped = answer.finish_reason == "stop"
        assert (answer.token_ids[-1] == EOS_ID) == stopped
        body = answer.token_ids[:-1] if stopped else answer.token_ids
        assert bytes(index - FIRST_BYTE_ID for index in body).decode() == answer.text
        assert len(answer.token_ids) <= PARAMS.max_tokens
        assert answer.logp < 0


def test_an_answer_depends_on_its_own_request_only():
    requests = [ask(text, seed) for text in "abc" for seed in range(5)]
    together = FakeGenerator().generate(requests, PARAMS)
    alone = [FakeGenerator().generate([request], PARAMS)[0] for request in reversed(requests)]
    assert together == alone[::-1]
    assert len({answer.text for answer in together}) == len(together)


def test_a_greedy_answer_ignores_the_seed():
    first, second, other = FakeGenerator().generate(
        [ask("x", 1, 0.0), ask("x", 2, 0.0), ask("y", 1, 0.0)], PARAMS
    )
    assert first == second != other


def test_a_longer_limit_keeps_the_beginning():
    requests = [ask("x", seed) for seed in range(30)]
    short = FakeGenerator().generate(requests, SamplingParams(max_tokens=20))
    long = FakeGenerator().generate(requests, SamplingParams(max_tokens=400))
    assert all(b.text.startswith(a.text) for a, b in zip(short, long, strict=True))


def test_the_error_rate_chooses_rows_by_seed_and_spares_the_others():
    requests = [ask("x", seed) for seed in range(300)]
    clean = FakeGenerator().generate(requests, PARAMS)
    faulty = FakeGenerator(error_rate=0.2).generate(requests, PARAMS)
    assert faulty == FakeGenerator(error_rate=0.2).generate(requests, PARAMS)
    errors = [answer for answer in faulty if answer.finish_reason == "error"]
    assert 30 <= len(errors) <= 90  # 60 expected, four standard errors are 28
    assert all(answer.error and not answer.token_ids and answer.logp is None for answer in errors)
    assert all(a == b for a, b in zip(faulty, clean, strict=True) if a.finish_reason != "error")


def test_a_prompt_that_leaves_no_room_is_a_row_with_a_reason():
    (answer,) = FakeGenerator(max_model_len=50).generate([ask("long")], PARAMS)
    assert answer.finish_reason == "error"
    assert answer.error.startswith("prompt_too_long: ")


def test_the_delay_is_slept_for_each_request():
    start = time.perf_counter()
    FakeGenerator(delay_s=0.01).generate([ask("x", seed) for seed in range(5)], PARAMS)
    assert time.perf_counter() - start >= 0.05


def test_slots_answer_at_a_time_however_many_threads_ask_and_earlier_calls_first():
    generator = FakeGenerator(delay_s=0.04, slots=4)
    ended = []

    def ask_for(number):
        generator.generate([ask("x", seed) for seed in range(5)], PARAMS)
        ended.append(number)

    start = time.perf_counter()
    threads = [threading.Thread(target=ask_for, args=(number,)) for number in range(4)]
    assert generator.has_room()
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    assert not generator.has_room(), "16 requests wait"
    for thread in threads:
        thread.join()
    # 20 requests, 4 at a time
    assert 0.2 <= time.perf_counter() - start < 0.4
    assert ended == [0, 1, 2, 3]
    assert generator.has_room()


def test_a_long_answer_takes_longer_and_holds_one_slot_only():
    requests = [ask("x", seed) for seed in range(40)]
    n_tokens = [len(each.token_ids) for each in FakeGenerator().generate(requests, PARAMS)]
    start = time.perf_counter()
    FakeGenerator(token_delay_s=0.0005, slots=8).generate(requests, PARAMS)
    elapsed_s = time.perf_counter() - start
    assert 0.0005 * sum(n_tokens) / 8 <= elapsed_s < 0.0005 * sum(n_tokens) / 3


def test_timing_is_no_part_of_a_fakes_identity():
    timed = FakeModel.parse("fake:delay_s=0.1,token_delay_s=0.2,slots=8,error_rate=0.5")
    assert timed.identity == FakeModel.parse("fake:error_rate=0.5").identity
    with pytest.raises(UsageError, match="at least one slot"):
        FakeModel.parse("fake:slots=0")


def test_scores_lie_between_zero_and_one_and_depend_on_prompt_and_response():
    messages = [{"role": "user", "content": "x"}]
    requests = [ScoreRequest("p", index, messages, f"answer {index}", {}) for index in range(200)]
    rewards = np.array([score.reward for score in FakeScorer().score(requests)])
    assert len(set(rewards)) == 200
    assert rewards.min() >= 0
    assert rewards.max() < 1
    assert abs(rewards.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 200)
    other = ScoreRequest("p", 0, [{"role": "user", "content": "y"}], "answer 0", {})
    assert FakeScorer().score([other])[0].reward != rewards[0]


def test_embeddings_are_unit_vectors_of_word_counts():
    texts = ["one two three", "Three two ONE", "", "w " * 600]
    embeddings = FakeEmbedder(dim=8).embed(texts)
    assert embeddings.vectors.shape == (4, 8)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(embeddings.vectors[0], embeddings.vectors[1])
    assert embeddings.n_tokens.tolist() == [3, 3, 0, 600]
    assert embeddings.truncated.tolist() == [False, False, False, True]


def test_no_requests_give_no_answers():
    assert FakeGenerator().generate([], PARAMS) == []
    assert FakeScorer().score([]) == []
    assert FakeEmbedder().embed([]).vectors.shape == (0, 16)


def test_answers_are_the_same_in_another_process():
    code = (
        "import sys; from prefpipe.backends.fake import FakeScorer; "
        "from prefpipe.backends.protocol import ScoreRequest; "
        "request = ScoreRequest('p', 0, [{'role': 'user', 'content': 'x'}], 'y', {}); "
        "print(FakeScorer().score([request])[0].reward);"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    request = ScoreRequest("p", 0, [{"role": "user", "content": "x"}], "y", {})
    assert float(result.stdout) == FakeScorer().score([request])[0].reward


def test_a_bundled_model_names_a_fake_without_settings() -> None:
    fake = FakeModel.parse("bundled:smollm2-135m")
    assert fake == FakeModel("bundled:smollm2-135m", identity="bundled:smollm2-135m")
