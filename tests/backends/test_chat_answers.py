"""What is read from a chat completion, and what is none."""

from math import exp, log

import pytest

from prefpipe.backends.chat_answers import NoCompletionError, read_completion


def completion(**choice):
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"}} | choice]}


def logprobs(*alternatives):
    top = [{"token": token, "logprob": log(p)} for token, p in alternatives]
    return {"content": [{"token": top[0]["token"], "logprob": top[0]["logprob"], "top_logprobs": top}]}


def test_tokens_that_read_the_same_are_summed():
    answer = read_completion(
        completion(logprobs=logprobs(("A", 0.5), ("B", 0.2), ("A", 0.1), ("\ufffd", 0.05), ("\ufffd", 0.05)))
    )
    assert {token: round(exp(value), 9) for token, value in answer.tokens[0].top.items()} == {"A": 0.6, "B": 0.2, "\ufffd": 0.1}


def test_what_is_too_improbable_for_a_number_adds_nothing():
    odd = logprobs(("A", 0.5))
    odd["content"][0]["top_logprobs"] += [{"token": "B", "logprob": -9999.0}, {"token": "B", "logprob": -9999.0}]
    assert read_completion(completion(logprobs=odd)).tokens[0].top["B"] == -9999.0


@pytest.mark.parametrize("broken", [None, {}, {"content": None}, {"content": []}, {"content": [{}]}, {"content": "A"}, "A"])
def test_log_probabilities_that_cannot_be_read_are_none(broken):
    answer = read_completion(completion(logprobs=broken))
    assert (answer.status, answer.text, answer.tokens) == ("ok", "A", None)


@pytest.mark.parametrize(
    "body",
    [None, [], "text", {}, {"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": [{}]}, {"error": {"message": "busy"}},
     {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}, {"choices": [{"message": {"content": 7}}]}],
    ids=repr,
)  # fmt: skip
def test_what_is_no_completion(body):
    with pytest.raises(NoCompletionError):
        read_completion(body)


def test_counts_of_tokens_are_the_servers_own_or_unknown():
    assert read_completion(completion() | {"usage": {"prompt_tokens": 5, "completion_tokens": 0}})[5:] == (5, 0)
    for usage in (None, {}, {"prompt_tokens": "5"}, {"prompt_tokens": -1}, [], {"prompt_tokens": True}):
        assert read_completion(completion() | {"usage": usage})[5:] == (None, None)
