"""The openai back-end against a real HTTP server on loopback that misbehaves on demand."""

import socket

import pytest
from support.chat_server import REFUSAL, running_chat_server

from prefpipe.backends.generators.openai_server import OpenAIGenerator
from prefpipe.backends.protocol import GenerationRequest, SamplingParams
from prefpipe.backends.request_threads import RunControl
from prefpipe.errors import ModelError

PARAMS = SamplingParams(max_tokens=64)
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def ask(text, seed=0):
    return GenerationRequest(f"p-{text}", 0, [{"role": "user", "content": text}], [], seed, 1.0)


def connect(server, **settings):
    return OpenAIGenerator("fake-model", base_url=server.url, **({"concurrency": 4} | settings))


def generate(server, texts, **settings):
    generator = connect(server, **settings)
    try:
        return generator.generate([ask(text) for text in texts], PARAMS)
    finally:
        generator.close()


def test_what_is_asked_for_reaches_the_server():
    with running_chat_server() as server:
        generator = connect(server)
        params = SamplingParams(max_tokens=9, top_p=0.5, top_k=7)
        generator.generate([ask("hello", seed=2**47)], params)
        generator.close()
    (body,) = server.bodies
    assert body["model"] == "fake-model"
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["seed"], body["temperature"], body["top_p"], body["top_k"]) == (2**47, 1.0, 0.5, 7)
    assert (body["max_tokens"], body["n"], body["logprobs"]) == (9, 1, True)


@pytest.mark.parametrize("status", [429, 500])
def test_a_busy_or_failing_server_is_asked_again(status):
    with running_chat_server(faults={"b": status}) as server:
        answers = generate(server, "abc")
    assert [answer.finish_reason in {"stop", "length"} for answer in answers] == [True] * 3
    assert server.tries == {"a": 1, "b": 2, "c": 1}


def test_a_server_that_stays_broken_costs_one_row():
    with running_chat_server(
        faults={"b": ("always", 500, {"error": {"message": "out of memory"}})}
    ) as server:
        answers = generate(server, "abc", max_tries=3)
    assert [answer.finish_reason == "error" for answer in answers] == [False, True, False]
    assert "out of memory" in answers[1].error
    assert server.tries["b"] == 3


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "top_p is odd"}},
        {"error": "top_p is odd", "error_type": "validation"},
        {"detail": [{"loc": ["body"], "msg": "top_p is odd"}]},
        ["top_p is odd"],
        "top_p is odd",
    ],
    ids=repr,
)
def test_a_refusal_in_any_form_is_in_the_rows_reason(body):
    with running_chat_server(faults={"b": ("always", 422, body)}) as server:
        answers = generate(server, "ab")
    assert answers[0].finish_reason != "error"
    assert answers[1].error.startswith("status 422: Error code: 422 - ")
    assert "top_p is odd" in answers[1].error


def test_a_request_that_hangs_is_given_up_and_asked_again():
    with running_chat_server(faults={"b": ("hang", 3)}) as server:
        answers = generate(server, "abc", timeout_s=0.3)
    assert all(answer.finish_reason != "error" for answer in answers)
    assert server.tries["b"] == 2


@pytest.mark.parametrize("position", [0, 1])
def test_a_refused_request_is_one_row_with_the_reason_and_is_not_repeated(position):
    texts = ["a", "c"]
    texts.insert(position, "bad")
    with running_chat_server(faults={"bad": ("always", 400, REFUSAL)}) as server:
        answers = generate(server, texts)
    assert [answer.finish_reason == "error" for answer in answers] == [
        text == "bad" for text in texts
    ]
    assert "The input is refused: bad row" in answers[position].error
    assert server.tries["bad"] == (2 if position == 0 else 1), (
        "the first is tried without what a server may not know"
    )


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    "fault",
    [("garbage",), ("always", 200, {"detail": "no choices"}), ("always", 200, {"choices": []})],
)
def test_an_answer_that_is_no_chat_completion_is_one_row(fault, position):
    texts = ["a", "c"]
    texts.insert(position, "bad")
    with running_chat_server(faults={"bad": fault}) as server:
        answers = generate(server, texts, max_tries=2)
    assert [answer.finish_reason == "error" for answer in answers] == [
        text == "bad" for text in texts
    ]
    assert answers[position].error
    assert server.tries["bad"] == 2


def test_a_response_that_the_server_cut_for_its_content_is_an_error():
    body = {
        "id": "c",
        "choices": [{"index": 0, "finish_reason": "content_filter", "message": {"content": "I"}}],
    }
    with running_chat_server(faults={"b": ("always", 200, body)}) as server:
        answers = generate(server, "ab")
    assert answers[1].finish_reason == "error"
    assert "content_filter" in answers[1].error


def test_a_prompt_beyond_the_servers_context_is_named_so():
    with running_chat_server() as server:
        answers = generate(server, ["short", "long " * 1000])
    assert answers[0].finish_reason != "error"
    assert answers[1].error.startswith("prompt_too_long:")


@pytest.mark.parametrize("how", ["refused", "ignored"])
def test_a_server_without_token_ids_still_gives_text_and_says_so_once(how):
    settings = (
        {"known_fields": ("logprobs",)}
        if how == "refused"
        else {"ignored_fields": ("return_token_ids",)}
    )
    with running_chat_server(**settings) as server:
        lines = []
        generator = connect(server, run=RunControl(lines.append))
        answers = generator.generate([ask(text) for text in "abc"], PARAMS)
        answers += generator.generate([ask("d")], PARAMS)
        generator.close()
    assert len(lines) == 1
    assert "returns no return_token_ids" in lines[0]
    assert all(
        answer.token_ids == [] and answer.text and answer.logp is not None for answer in answers
    )
    assert server.tries["a"] == (2 if how == "refused" else 1), (
        "a refused field is left out from then on"
    )
    assert server.tries["d"] == 1


def test_a_server_that_refuses_every_optional_field_still_gives_text():
    with running_chat_server(known_fields=()) as server:
        answers = generate(server, "ab")
    assert all(answer.text and answer.logp is None and not answer.token_ids for answer in answers)


def test_a_refused_key_stops_the_run_at_once_and_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running_chat_server(key="another") as server:
        generator = connect(server)
        with pytest.raises(ModelError, match="Incorrect API key") as caught:
            generator.generate([ask(text) for text in "abc"], PARAMS)
        generator.close()
    assert server.tries == {"a": 1}
    assert KEY not in caught.value.message + caught.value.hint
    assert server.url in caught.value.message


def test_the_right_key_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running_chat_server(key=KEY) as server:
        assert all(answer.text for answer in generate(server, "ab"))


def test_no_server_at_all_is_one_clear_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    generator = OpenAIGenerator(
        "m", base_url=f"http://127.0.0.1:{port}/v1", concurrency=4, max_tries=1
    )
    with pytest.raises(ModelError, match=f"127.0.0.1:{port}.*[Cc]onnect") as caught:
        generator.generate([ask("a"), ask("b")], PARAMS)
    generator.close()
    assert "--base-url" in caught.value.hint


def test_the_address_comes_from_the_environment(monkeypatch):
    with running_chat_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        generator = OpenAIGenerator("m", concurrency=1)
        assert generator.generate([ask("a")], PARAMS)[0].text
        generator.close()


def test_openais_own_server_needs_a_key():
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        OpenAIGenerator("m", concurrency=1)


def test_prompts_stay_untokenised_and_an_unknown_limit_is_huge():
    with running_chat_server() as server:
        generator = connect(server)
        assert generator.encode([{"role": "user", "content": "a"}]) == []
        assert generator.max_model_len > 10**9
        generator.close()
        assert connect(server, max_model_len=77).max_model_len == 77
