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
     {"choices": [{"message": {"content": None}}]}, {"choices": [{"message": {"content": 7}}]}, {"choices": [{"message": "A"}]},
     {"choices": [{"message": {"content": [{"type": "text"}]}}]}, {"choices": [{"message": {"content": ["A"]}}]}, {"choices": 3}],
    ids=repr,
)  # fmt: skip
def test_what_is_no_completion(body):
    with pytest.raises(NoCompletionError):
        read_completion(body)


def test_counts_of_tokens_are_the_servers_own_or_unknown():
    assert read_completion(completion() | {"usage": {"prompt_tokens": 5, "completion_tokens": 0}})[5:] == (5, 0)
    for usage in (None, {}, {"prompt_tokens": "5"}, {"prompt_tokens": -1}, [], {"prompt_tokens": True}):
        assert read_completion(completion() | {"usage": usage})[5:] == (None, None)
    assert read_completion(completion() | {"usage": {"prompt_tokens": 2**70, "completion_tokens": 3}})[5:] == (None, 3)


@pytest.mark.parametrize("finish_reason", ["stop", "length", "tool_calls"])
def test_a_message_without_words_is_an_answer_that_was_paid_for(finish_reason):
    """Not asked six times over: the row has no verdict, and the next run asks again."""
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "type": "function"}]}
    answer = read_completion(completion(message=message, finish_reason=finish_reason) | {"usage": {"prompt_tokens": 5}})
    assert (answer.status, answer.text, answer.is_cut, answer.n_prompt_tokens) == ("ok", "", finish_reason == "length", 5)


def test_text_in_parts_is_joined_and_thoughts_are_left_out():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "B?"}]},
        {"type": "text", "text": "VERDICT: "},
        {"type": "text", "text": "A"},
    ]
    assert read_completion(completion(message={"role": "assistant", "content": parts})).text == "VERDICT: A"


def test_of_several_choices_the_first_by_index_counts():
    choices = [completion(index=index, message={"content": text})["choices"][0] for index, text in ((1, "B"), (0, "A"))]
    assert read_completion({"choices": choices}).text == "A"
    for choice in choices:
        del choice["index"]
    assert read_completion({"choices": choices}).text == "B"


def test_half_characters_are_replaced_wherever_the_judge_writes():
    half = "A \ud83d"
    found = read_completion(completion(message={"content": half}, logprobs=logprobs((half, 0.5), ("\udc00", 0.1))))
    assert found.text == "A \ufffd"
    assert [*found.tokens[0].top, found.tokens[0].token] == ["A \ufffd", "\ufffd", "A \ufffd"]
    assert read_completion(completion(message={"content": None, "refusal": half})).reason == "the judge refused: A \ufffd"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "many", [1.0]], ids=str)
def test_log_probabilities_that_are_no_numbers_give_no_verdict(value):
    """A NaN among them would make the preference NaN, and nothing would say so."""
    for place in ("logprob", "top_logprobs"):
        odd = logprobs(("A", 0.5), ("B", 0.2))
        odd["content"][0][place] = value if place == "logprob" else [{"token": "B", "logprob": value}]
        assert read_completion(completion(logprobs=odd)).tokens is None


def test_what_cannot_come_has_no_probability():
    odd = logprobs(("A", 0.5))
    odd["content"][0]["top_logprobs"] += [{"token": "B", "logprob": None}, {"token": "C", "logprob": float("-inf")}]
    assert set(read_completion(completion(logprobs=odd)).tokens[0].top) == {"A", "C"}
