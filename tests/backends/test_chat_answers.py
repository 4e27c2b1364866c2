"""What is read from a chat completion, and what is none."""

import json
import random
from collections import Counter
from math import exp, log

import pytest

from prefpipe.artifacts.chat_messages import NoCompletionError
from prefpipe.artifacts.finite_json import parse_finite_json
from prefpipe.backends.chat_answers import read_completion, read_generation
from prefpipe.backends.protocol import Generation


def completion(**choice):
    return {
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"}}
            | choice
        ]
    }


def logprobs(*alternatives):
    top = [{"token": token, "logprob": log(p)} for token, p in alternatives]
    return {
        "content": [{"token": top[0]["token"], "logprob": top[0]["logprob"], "top_logprobs": top}]
    }


def test_tokens_that_read_the_same_are_summed():
    answer = read_completion(
        completion(
            logprobs=logprobs(
                ("A", 0.5), ("B", 0.2), ("A", 0.1), ("\ufffd", 0.05), ("\ufffd", 0.05)
            )
        )
    )
    assert {token: round(exp(value), 9) for token, value in answer.tokens[0].top.items()} == {
        "A": 0.6,
        "B": 0.2,
        "\ufffd": 0.1,
    }


def test_what_is_too_improbable_for_a_number_adds_nothing():
    odd = logprobs(("A", 0.5))
    odd["content"][0]["top_logprobs"] += [
        {"token": "B", "logprob": -9999.0},
        {"token": "B", "logprob": -9999.0},
    ]
    assert read_completion(completion(logprobs=odd)).tokens[0].top["B"] == -9999.0


@pytest.mark.parametrize(
    "broken",
    [None, {}, {"content": None}, {"content": []}, {"content": [{}]}, {"content": "A"}, "A"],
)
def test_log_probabilities_that_cannot_be_read_are_none(broken):
    answer = read_completion(completion(logprobs=broken))
    assert (answer.status, answer.text, answer.tokens) == ("ok", "A", None)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [None]},
        {"choices": [{}]},
        {"error": {"message": "busy"}},
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{"message": "A"}]},
        {"choices": 3},
    ],
    ids=repr,
)
def test_a_body_without_any_answer_is_no_completion(body):
    with pytest.raises(NoCompletionError):
        read_completion(body)


def test_counts_of_tokens_are_the_servers_own_or_unknown():
    assert read_completion(completion() | {"usage": {"prompt_tokens": 5, "completion_tokens": 0}})[
        5:
    ] == (5, 0)
    for usage in (
        None,
        {},
        {"prompt_tokens": "5"},
        {"prompt_tokens": -1},
        [],
        {"prompt_tokens": True},
    ):
        assert read_completion(completion() | {"usage": usage})[5:] == (None, None)
    assert read_completion(
        completion() | {"usage": {"prompt_tokens": 2**70, "completion_tokens": 3}}
    )[5:] == (None, 3)


@pytest.mark.parametrize("finish_reason", ["stop", "length", "tool_calls"])
def test_a_message_without_words_is_an_answer_that_was_paid_for(finish_reason):
    """Not asked six times over: the row has no verdict, and the next run asks again."""
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "x", "type": "function"}],
    }
    answer = read_completion(
        completion(message=message, finish_reason=finish_reason) | {"usage": {"prompt_tokens": 5}}
    )
    assert (answer.status, answer.text, answer.is_cut, answer.n_prompt_tokens) == (
        "ok",
        "",
        finish_reason == "length",
        5,
    )


def test_text_in_parts_is_joined_and_thoughts_are_left_out():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "B?"}]},
        {"type": "text", "text": "VERDICT: "},
        {"type": "text", "text": "A"},
    ]
    assert (
        read_completion(completion(message={"role": "assistant", "content": parts})).text
        == "VERDICT: A"
    )


def test_of_several_choices_the_first_by_index_counts():
    choices = [
        completion(index=index, message={"content": text})["choices"][0]
        for index, text in ((1, "B"), (0, "A"))
    ]
    assert read_completion({"choices": choices}).text == "A"
    for choice in choices:
        del choice["index"]
    assert read_completion({"choices": choices}).text == "B"


def test_half_characters_are_replaced_wherever_the_judge_writes():
    half = "A \ud83d"
    found = read_completion(
        completion(message={"content": half}, logprobs=logprobs((half, 0.5), ("\udc00", 0.1)))
    )
    assert found.text == "A \ufffd"
    assert [*found.tokens[0].top, found.tokens[0].token] == ["A \ufffd", "\ufffd", "A \ufffd"]
    assert (
        read_completion(completion(message={"content": None, "refusal": half})).reason
        == "the judge refused: A \ufffd"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "many", [1.0]], ids=str)
def test_log_probabilities_that_are_no_numbers_give_no_verdict(value):
    """A NaN among them would make the preference NaN, and nothing would say so."""
    for place in ("logprob", "top_logprobs"):
        odd = logprobs(("A", 0.5), ("B", 0.2))
        odd["content"][0][place] = (
            value if place == "logprob" else [{"token": "B", "logprob": value}]
        )
        assert read_completion(completion(logprobs=odd)).tokens is None


def test_a_token_that_cannot_come_has_no_probability():
    odd = logprobs(("A", 0.5))
    odd["content"][0]["top_logprobs"] += [
        {"token": "B", "logprob": None},
        {"token": "C", "logprob": float("-inf")},
    ]
    assert set(read_completion(completion(logprobs=odd)).tokens[0].top) == {"A", "C"}


def positions(*pieces, logprob=-0.5):
    return {
        "content": [{"token": piece, "logprob": logprob, "top_logprobs": []} for piece in pieces]
    }


def response(**choice):
    body = completion(**({"message": {"role": "assistant", "content": "Lake Chad."}} | choice))
    return body | {"usage": {"prompt_tokens": 7, "completion_tokens": 4}}


def test_a_sampled_response_has_the_servers_ids_and_their_summed_log_probability():
    made = read_generation(
        response(token_ids=[5, 6, 7, 2], logprobs=positions("Lake", " Chad", ".", "<eos>"))
    )
    assert made == Generation("Lake Chad.", [5, 6, 7, 2], "stop", -2.0, None, None, 4, 7)


@pytest.mark.parametrize(
    "apart",
    [
        {"reasoning_content": "A lake."},
        {"reasoning": "A lake."},
        {"reasoning": "A lake.", "reasoning_content": "A lake."},
        {"reasoning": {"content": "A lake."}},
        {"reasoning_details": [{"type": "reasoning.text", "text": "A lake."}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "A lake.", "signature": "x"}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "A lake."}]},
                {"type": "text", "text": "Lake Chad."},
            ]
        },
        {"content": [{"type": "reasoning", "text": "A lake."}, "Lake ", {"text": "Chad."}]},
    ],
    ids=str,
)
def test_thoughts_are_kept_apart_and_the_tokens_of_both_are_not_the_responses(apart):
    """Eight tokens were sampled, four of them the response's.

    The end of the sequence is among them.
    """
    message = {"role": "assistant", "content": "Lake Chad."} | apart
    logprobs = positions("<think>", "A", " lake.", "</think>", "Lake", " Chad", ".", "<eos>")
    made = read_generation(response(message=message, token_ids=list(range(8)), logprobs=logprobs))
    assert (made.text, made.reasoning, made.token_ids, made.logp, made.n_tokens) == (
        "Lake Chad.",
        "A lake.",
        [],
        None,
        4,
    )
    without = read_generation(response(message=message, token_ids=list(range(8)), logprobs=None))
    assert (without.token_ids, without.logp, without.n_tokens) == ([], None, None)


def test_thoughts_that_a_server_counts_and_does_not_show():
    body = response(token_ids=list(range(120)))
    body["usage"] = {
        "prompt_tokens": 7,
        "completion_tokens": 120,
        "completion_tokens_details": {"reasoning_tokens": 116},
    }
    made = read_generation(body)
    assert (made.reasoning, made.token_ids, made.logp, made.n_tokens) == ("", [], None, 4)


@pytest.mark.parametrize("n_thoughts", [5, 50])
def test_counts_of_which_the_text_has_no_share_say_nothing_of_it(n_thoughts):
    body = response(message={"content": "Fine."})
    body["usage"] = {
        "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": n_thoughts},
    }
    assert (read_generation(body).text, read_generation(body).n_tokens) == ("Fine.", None)


def test_thoughts_that_a_server_takes_out_without_a_word_are_seen_in_the_tokens():
    made = read_generation(
        response(
            token_ids=[1, 2, 3, 4, 5],
            logprobs=positions("<think>", "Chad?", "</think>", "Lake", " Chad."),
        )
    )
    assert (made.reasoning, made.token_ids, made.logp, made.n_tokens) == ("", [], None, 2)
    halves = {
        "content": [{"token": "\ufffd", "logprob": -1.0, "bytes": [part]} for part in "é".encode()]
    }
    made = read_generation(response(message={"content": "é"}, token_ids=[1, 2], logprobs=halves))
    assert (made.reasoning, made.token_ids, made.logp) == (None, [1, 2], -2.0)


def test_empty_fields_for_thoughts_are_no_thoughts():
    for nothing in ({"reasoning_content": None}, {"reasoning": ""}, {"reasoning_details": []}):
        made = read_generation(
            response(message={"content": "A"} | nothing, token_ids=[1], logprobs=positions("A"))
        )
        assert (made.reasoning, made.token_ids, made.logp) == (None, [1], -0.5)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("MAX_TOKENS", "length"),
        ("max_output_tokens", "length"),
    ],
)
def test_one_ending_in_the_words_of_several_servers(said, meant):
    assert read_generation(response(finish_reason=said)).finish_reason == meant
    assert read_completion(response(finish_reason=said)).is_cut == (meant == "length")


@pytest.mark.parametrize(
    "said", ["content_filter", "abort", None, 3, ["stop"], {"type": "stop"}, "\ud800"], ids=repr
)
def test_an_ending_that_says_neither_is_an_error_with_the_word(said):
    made = read_generation(response(finish_reason=said))
    assert (made.finish_reason, made.text) == ("error", "")
    assert "finish_reason" in made.error
    made.error.encode()


@pytest.mark.parametrize(
    "message",
    [
        {"content": 7},
        {"content": True},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "image_url", "image_url": {}}]},
        {"content": [3]},
        {"content": {"type": "text", "text": 7}},
        {"content": None, "refusal": "No. \ud83d"},
        {"content": [{"type": "refusal", "refusal": "No."}]},
        {
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "look_up"}}],
        },
        {"content": "I look it up.", "tool_calls": [{"function": {"name": "look_up"}}]},
        {"content": None, "function_call": {"name": "look_up"}},
        {"content": None, "tool_calls": "look_up"},
    ],
    ids=repr,
)
def test_what_is_no_text_is_an_error_that_says_what_it_is(message):
    """It was paid for, and another try would most likely say the same.

    So it is an answer, and no verdict either.
    """
    made = read_generation(response(message=message))
    assert (made.finish_reason, made.text, made.token_ids, made.n_prompt_tokens) == (
        "error",
        "",
        [],
        7,
    )
    made.error.encode()
    word = next(word for word in ("look_up", "efus", "no text") if word in made.error)
    assert word
    if not (message.get("tool_calls") or message.get("function_call")):
        judged = read_completion(response(message=message))
        assert judged.status in ("error", "refused")
        assert judged.n_prompt_tokens == 7


@pytest.mark.parametrize(
    "ids",
    [None, [], "5 6", ["5", "6"], [5, None], [5.0], [-1], [2**31], [True], {"0": 5}, [[5]]],
    ids=repr,
)
def test_ids_that_are_none_leave_the_text_and_the_servers_count(ids):
    made = read_generation(response(token_ids=ids, logprobs=positions("Lake", " Chad", ".", "")))
    assert (made.text, made.token_ids, made.n_tokens, made.logp) == ("Lake Chad.", [], 4, -2.0)


@pytest.mark.parametrize(
    "logprob", [None, "-0.5", True, float("nan"), float("-inf"), -9999.0, 0.5, 10**400], ids=repr
)
def test_a_log_probability_that_is_none_makes_the_sum_unknown(logprob):
    odd = positions("Lake", " Chad", ".", "")
    odd["content"][2]["logprob"] = logprob
    made = read_generation(response(token_ids=[1, 2, 3, 4], logprobs=odd))
    assert (made.text, made.token_ids, made.logp) == ("Lake Chad.", [1, 2, 3, 4], None)


@pytest.mark.parametrize(
    "broken", [None, {}, {"content": []}, {"content": [None, 3, "x", {}]}, [], "x"], ids=repr
)
def test_log_probabilities_that_are_not_there_are_unknown_and_not_certain(broken):
    """The sum of no log-probabilities is 0, which would say that nothing else could have come."""
    assert read_generation(response(token_ids=[1, 2, 3, 4], logprobs=broken)).logp is None


def test_log_probabilities_of_another_number_of_tokens_are_not_the_responses():
    assert (
        read_generation(
            response(token_ids=[1, 2, 3], logprobs=positions("Lake", " Chad", ".", ""))
        ).logp
        is None
    )


def test_a_judges_verdict_is_not_read_from_the_tokens_of_its_thoughts():
    """B is the first letter that was sampled, A is the verdict."""
    thinking = (
        logprobs(("B", 0.9), ("A", 0.1))["content"]
        + positions("</think>")["content"]
        + logprobs(("A", 0.7), ("B", 0.3))["content"]
    )
    message = {"role": "assistant", "content": "A", "reasoning_content": "B"}
    answer = read_completion(completion(message=message, logprobs={"content": thinking}))
    assert [token.token for token in answer.tokens] == ["A"]
    assert exp(answer.tokens[0].top["A"]) == pytest.approx(0.7)
    unreadable = read_completion(
        completion(message=message, logprobs=positions("\ufffd", "\ufffd"))
    )
    assert (unreadable.text, unreadable.tokens) == ("A", None)


@pytest.mark.parametrize("value", [800.0, 1e308, 10**400], ids=lambda value: str(value)[:6])
def test_a_log_probability_above_zero_is_none(value):
    odd = logprobs(("A", 0.5), ("B", 0.2))
    odd["content"][0]["top_logprobs"] += [{"token": "A", "logprob": value}]
    assert read_completion(completion(logprobs=odd)).tokens is None


@pytest.mark.slow
def test_any_shape_at_all_is_an_answer_or_none():
    """Random pieces of JSON in random places of a completion.

    They raise no other exception, and give no text that a file cannot hold.
    """
    dice = random.Random(3)
    atoms = [
        None,
        True,
        0,
        -1,
        3.5,
        10**400,
        float("inf"),
        "",
        "A",
        "stop",
        "\ud83d",
        [],
        {},
        [None],
        {"type": "text"},
        {"text": "A"},
    ]
    names = [
        "choices",
        "message",
        "content",
        "finish_reason",
        "logprobs",
        "token_ids",
        "usage",
        "completion_tokens_details",
        "reasoning",
        "reasoning_details",
        "refusal",
        "tool_calls",
        "function",
        "index",
        "token",
        "logprob",
        "top_logprobs",
        "bytes",
    ]

    def piece(depth):
        kind = dice.random()
        if depth == 0 or kind < 0.5:
            return dice.choice(atoms)
        if kind < 0.75:
            return [piece(depth - 1) for _ in range(dice.randint(0, 3))]
        return {dice.choice(names): piece(depth - 1) for _ in range(dice.randint(0, 4))}

    outcomes = Counter()
    for _ in range(4000):
        choice = response(token_ids=[1], logprobs=positions("A"))["choices"][0]
        place = dice.choice(
            [choice, choice["message"], choice["logprobs"], choice["logprobs"]["content"][0]]
        )
        place[dice.choice(names)] = piece(4)
        body = parse_finite_json(json.dumps({"choices": [choice], dice.choice(names): piece(3)}))
        try:
            made, answer = read_generation(body), read_completion(body)
        except NoCompletionError:
            outcomes["none"] += 1
            continue
        outcomes[made.finish_reason] += 1
        for text in (made.text, made.error, made.reasoning, answer.text, answer.reason):
            (text or "").encode()
        assert (made.error is None) == (made.finish_reason != "error")
        assert made.logp is None or made.logp <= 0.01
    assert min(outcomes["none"], outcomes["error"], outcomes["stop"]) > 100, outcomes
