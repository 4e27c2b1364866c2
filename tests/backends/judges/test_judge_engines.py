"""Real engines and servers as sources of verdicts.

transformers runs here, vLLM and its server under `make test-vllm`.
"""

from math import exp

import pytest

from prefpipe.backends.chat_client import ChatClient, ServerSettings
from prefpipe.backends.judges.engine_answers import EngineAnswers
from prefpipe.text.judging.verdicts import read_verdict_from_probabilities


def body(text, **more):
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0.0,
        "max_tokens": 8,
        **more,
    }


@pytest.fixture(params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def source(request, tiny_folder):
    if request.param == "vllm":
        return EngineAnswers(request.getfixturevalue("vllm_tiny"))
    from prefpipe.backends.generators.hf_generator import HfGenerator
    from prefpipe.models.location import locate_model

    return EngineAnswers(HfGenerator(locate_model(str(tiny_folder)), device="cpu", batch_size=4))


def test_an_engine_answers_like_a_server(source):
    """In order, each kept as a completion as it is made, with the tokens counted.

    What does not fit is told apart.
    """
    kept = {}
    answers = source.complete(
        [body("one"), body("x" * 2000), body("two"), body("one")], kept.__setitem__
    )
    assert [answer.status for answer in answers] == ["ok", "prompt_too_long", "ok", "ok"]
    assert answers[0] == answers[3]
    assert sorted(kept) == [0, 2, 3]
    assert kept[0]["choices"][0]["message"]["content"] == answers[0].text
    assert answers[0].n_prompt_tokens > 3
    assert 1 <= answers[0].n_completion_tokens <= 8


@pytest.mark.vllm
def test_vllms_own_server_gives_probabilities(vllm_server_url):
    """The letters of a tiny random model are as improbable as any, but their place is read."""
    client = ChatClient(ServerSettings(vllm_server_url, concurrency=2))
    asked = [
        body("A or B?", logprobs=True, top_logprobs=20),
        body("B or A?", logprobs=True, top_logprobs=20),
    ]
    answers = client.complete(asked, lambda *_: None)
    client.close()
    for answer in answers:
        assert answer.status == "ok"
        assert answer.tokens is not None
        assert len(answer.tokens) == answer.n_completion_tokens
        for choice in answer.tokens:  # several bytes of the tiny vocabulary read the same
            assert 2 <= len(choice.top) <= 20
            assert exp(choice.logprob) <= exp(choice.top[choice.token]) + 1e-6
            assert sum(map(exp, choice.top.values())) <= 1 + 1e-6
        assert read_verdict_from_probabilities(answer.tokens, "pairwise", "bare", "0").problem
