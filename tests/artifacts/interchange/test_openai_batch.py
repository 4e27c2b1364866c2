"""A batch's answers are joined with its requests by ``custom_id`` and nothing else, and nothing of it vanishes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.interchange_files import SKY, failures, held, lines, read, user

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.errors import InputError

SEA = user("And the sea?")


def request(custom_id: str, messages: list[dict[str, str]], **body: Any) -> dict[str, Any]:
    body = {"model": "asked", "messages": messages} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def choice(
    text: str | None, index: int = 0, finish_reason: str = "stop", **message: Any
) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": text} | message,
        "finish_reason": finish_reason,
    }


def answered(
    custom_id: str, *choices: dict[str, Any], model: str | None = "gpt-x"
) -> dict[str, Any]:
    body = {"id": "c", "model": model, "choices": list(choices)}
    return {
        "id": "b",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": "r", "body": body},
        "error": None,
    }


def failed(custom_id: str, status: int, message: str) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "response": {"status_code": status, "body": {"error": {"message": message}}},
        "error": None,
    }


def batch(folder: Path, requests: list[Any], answers: list[Any]) -> Any:
    return read(
        lines(folder / "out.jsonl", *answers),
        "openai-batch",
        requests=lines(folder / "in.jsonl", *requests),
    )


REQUESTS = [request("x", SKY), request("y", SEA), request("z", SKY)]
ANSWERS = [
    answered("x", choice("Blue.")),
    answered("y", choice("Green.", finish_reason="length")),
    answered("z", choice("Grey.")),
]


def test_answers_come_in_any_order(tmp_path: Path) -> None:
    """Several requests with the same messages are one prompt; its indices follow the file of requests."""
    expected = {
        (prompt_id_of(SKY), 0): ("Blue.", "gpt-x", {}),
        (prompt_id_of(SKY), 1): ("Grey.", "gpt-x", {}),
        (prompt_id_of(SEA), 0): ("Green.", "gpt-x", {}),
    }
    for seed in range(6):
        shuffled = random.Random(seed).sample(ANSWERS, len(ANSWERS))
        pool = batch(tmp_path, REQUESTS, shuffled)
        assert held(pool) == expected
        assert [prompt.messages for prompt in pool.prompts.rows] == [SKY, SEA]
        assert pool.responses[1][0].finish_reason == "length"
        assert pool.scorers == ()


def test_several_choices_go_by_their_own_index(tmp_path: Path) -> None:
    answers = [answered("x", choice("b", 1), choice("a", 0)), answered("z", choice("c"))]
    pool = batch(tmp_path, [request("x", SKY, n=2), request("z", SKY)], answers)
    assert [text for text, _, _ in held(pool).values()] == ["a", "b", "c"]


def test_what_did_not_come_is_a_row_with_its_reason(tmp_path: Path) -> None:
    requests = [request(name, SKY) for name in "abcdef"] + [request("g", SKY, n=3)]
    answers = [
        answered("e", choice(None, refusal="I cannot.", finish_reason="content_filter")),
        failed("b", 429, "slow down"),
        {
            "custom_id": "c",
            "response": None,
            "error": {"code": "batch_expired", "message": "too late"},
        },
        {
            "custom_id": "d",
            "response": {"status_code": 200, "body": {"object": "?"}},
            "error": None,
        },
        answered("f", choice("fine"), model=None),
        answered("g", choice("one", 0), choice("three", 2)),
    ]
    pool = batch(tmp_path, requests, answers)
    key = prompt_id_of(SKY)
    assert failures(pool) == {
        (key, 0): "the batch holds no answer to this request",
        (key, 1): "the server answered 429: slow down",
        (key, 2): "the request failed: too late",
        (key, 3): "the answer has no `body.choices`",
        (
            key,
            4,
        ): "the answer holds no text, but a refusal: I cannot. (finish_reason content_filter)",
        (key, 5): None,
        (key, 6): None,
        (key, 7): "the answer holds 2 of 3 choices, and not this one",
        (key, 8): None,
    }
    assert held(pool)[key, 5] == ("fine", "asked", {})
    assert held(pool)[key, 8] == ("three", "gpt-x", {})


def test_a_failed_request_of_several_choices_keeps_their_places(tmp_path: Path) -> None:
    pool = batch(
        tmp_path, [request("a", SKY, n=2), request("b", SKY)], [answered("b", choice("x"))]
    )
    assert held(pool)[prompt_id_of(SKY), 2] == ("x", "gpt-x", {})
    assert len(failures(pool)) == 3


def test_ids_that_hold_prompt_and_sample_are_the_key(tmp_path: Path) -> None:
    requests = [request("sky_1", SKY), request("sky_0", SKY), request("a_b_0", SEA)]
    answers = [answered(item["custom_id"], choice(item["custom_id"])) for item in requests]
    assert held(batch(tmp_path, requests, answers)) == {
        ("sky", 0): ("sky_0", "gpt-x", {}),
        ("sky", 1): ("sky_1", "gpt-x", {}),
        ("a_b", 0): ("a_b_0", "gpt-x", {}),
    }


@pytest.mark.parametrize(
    "ids",
    [
        ("request_0", "request_1", "request_2"),  # one prompt id, several messages
        ("batch1_0", "batch2_0", "batch3_0"),  # several prompt ids of the same messages
        ("sky_0", "sea_0", "sky"),
        ("sky_0", "sea_0", "sky_01"),
        ("sky_0", "sea_0", "sky_99999999999"),
    ],
)
def test_ids_that_could_mean_something_else_do_not(tmp_path: Path, ids: tuple[str, ...]) -> None:
    requests = [
        request(name, messages) for name, messages in zip(ids, (SKY, SEA, SKY), strict=True)
    ]
    pool = batch(tmp_path, requests, [answered(name, choice(name)) for name in ids])
    assert set(held(pool)) == {
        (prompt_id_of(SKY), 0),
        (prompt_id_of(SKY), 1),
        (prompt_id_of(SEA), 0),
    }


def test_a_cut_output_file_is_no_shorter_pool(tmp_path: Path) -> None:
    pool = batch(tmp_path, REQUESTS, ANSWERS[:1])
    assert sum(reason is not None for reason in failures(pool).values()) == 2


THINKING = {"type": "thinking", "thinking": "Hm."}
ODD_ANSWERS: list[tuple[dict[str, Any], str | None, str | None]] = [
    # message, text, reason
    ({"content": [THINKING, {"type": "text", "text": "Blue."}]}, "Blue.", None),
    ({"content": [THINKING]}, "", None),
    ({"content": {"type": "output_text", "text": "Blue."}}, "Blue.", None),
    ({"content": "cut \ud83d"}, "cut \ufffd", None),
    ({"content": "\ud83d\ude00"}, "\U0001f600", None),
    ({"content": ""}, "", None),
    ({"content": 7}, None, "the answer's content is 7, which is no text"),
    ({"content": True}, None, "the answer's content is True, which is no text"),
    ({"content": None}, None, "the answer holds no text (finish_reason stop)"),
    ({"content": None, "reasoning_content": "Hm."}, None, "the answer holds no text, but thoughts (finish_reason stop)"),
    ({"content": None, "refusal": "No."}, None, "the answer holds no text, but a refusal: No. (finish_reason stop)"),
    ({"content": [{"type": "refusal", "refusal": "No."}]}, None, "the answer holds no text, but a refusal: No. (finish_reason stop)"),
    ({"content": [{"type": "image_url", "image_url": {}}]}, None,
     "the answer's content holds {'type': 'image_url', 'image_url': {}}, which is no text"),
    ({"content": "See.", "tool_calls": [{"function": {"name": "look"}}]}, None,
     "the answer calls tools, which a text cannot hold: look (finish_reason stop)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "text", "reason"),
    ODD_ANSWERS,
    ids=[str(message)[:60] for message, _, _ in ODD_ANSWERS],
)
def test_an_odd_answer_is_a_row_and_its_neighbours_stand(
    tmp_path: Path, message: dict[str, Any], text: str | None, reason: str | None
) -> None:
    odd = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop"}
    pool = batch(tmp_path, REQUESTS, [ANSWERS[0], ANSWERS[1], answered("z", odd)])
    first, second = pool.responses[0]
    assert (first.text, first.failure) == ("Blue.", None)
    assert (second.text, second.failure) == (text, reason)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "the answer has neither `response` nor `error`"),
        ({"response": "?"}, "the answer's `response` is '?', which is no object"),
        ({"response": {"body": {"choices": [3]}}}, "the answer holds no message: 3"),
        (
            {"response": {"body": {"choices": [{"message": "Blue."}]}}},
            "the answer holds no message: {'message': 'Blue.'}",
        ),
        (
            {"response": {"body": {"choices": [{"message": {"content": None}}]}}},
            "the answer holds no text, and no reason why",
        ),
        (
            {"response": {"body": {"choices": []}}},
            "the answer holds 0 of 1 choices, and not this one",
        ),
    ],
)
def test_an_answer_without_a_message_is_a_row(
    tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    pool = batch(tmp_path, REQUESTS, [*ANSWERS[:2], {"custom_id": "z"} | values])
    assert failures(pool)[prompt_id_of(SKY), 1] == reason
    assert held(pool)[prompt_id_of(SKY), 0] == ("Blue.", "gpt-x", {})


@pytest.mark.parametrize(
    "indices", [(0, 0), (None, None), (True, False), ("0", "1"), (-1, 0), (0, 10**9), (0.0, 1.5)]
)
def test_indices_that_are_no_places_leave_the_choices_as_they_stand(
    tmp_path: Path, indices: tuple[Any, Any]
) -> None:
    choices = [choice("a") | {"index": indices[0]}, choice("b") | {"index": indices[1]}]
    pool = batch(tmp_path, [request("x", SKY, n=2)], [answered("x", *choices)])
    assert [response.text for response in pool.responses[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "reason", "failure"),
    [
        ("max_tokens", "length", None),
        ("MAX_TOKENS", "length", None),
        ("eos", "stop", None),
        (None, None, None),
        (
            "content_filter",
            "content_filter",
            "the server ended the response with finish_reason 'content_filter'",
        ),
        (7, "7", "the server ended the response with finish_reason '7'"),
    ],
)
def test_endings_come_to_the_words_of_the_artifact(
    tmp_path: Path, said: Any, reason: str | None, failure: str | None
) -> None:
    pool = batch(
        tmp_path, [request("x", SKY)], [answered("x", choice("Bl") | {"finish_reason": said})]
    )
    [[response]] = pool.responses
    assert (response.finish_reason, response.failure) == (reason, failure)
    assert response.text == (None if failure else "Bl")


def test_thoughts_are_counted_by_where_they_stand(tmp_path: Path) -> None:
    answers = [
        answered("x", choice("Blue.", reasoning_content="Hm.")),
        answered("y", choice("Green.", reasoning="Hm.")),
        answered(
            "z",
            choice(None) | {"message": {"content": [THINKING, {"type": "text", "text": "Grey."}]}},
        ),
    ]
    [note] = batch(tmp_path, REQUESTS, answers).notes
    assert note == (
        "thoughts beside the answers are left out of the responses: "
        "`content.thinking` (1 answers), `reasoning` (1 answers), `reasoning_content` (1 answers)"
    )


@pytest.mark.parametrize(
    ("requests", "answers", "messages"),
    [
        ([*REQUESTS, request("x", SEA)], ANSWERS, ["in.jsonl has 1 problem", "line 4: `custom_id` 'x' already occurs at line 1"]),
        (REQUESTS, [*ANSWERS, ANSWERS[0]], ["out.jsonl has 1 problem", "line 4: `custom_id` 'x' already occurs at line 1"]),
        (REQUESTS, [*ANSWERS, answered("w", choice("?"))], ["line 4: `custom_id` 'w' does not match any request in", "in.jsonl"]),
        ([{"custom_id": "x", "body": {"prompt": "q"}}, {"custom_id": None, "body": {"messages": SKY}}], [{"custom_id": "x"}],
         ["line 1: `body.messages`: it needs text", "line 2: `custom_id` is null"]),
        ([{"custom_id": "x", "body": "{"}], ANSWERS, ["line 1: `body` is '{', which is no object"]),
        ([request("x", SKY, n=0)], ANSWERS, ["line 1: `body.n` is 0, which is not a whole number of at least 1"]),
        (REQUESTS, [{"id": "x"}], ["out.jsonl has no column `custom_id`", "pass the output file of the batch"]),
        ([{"custom_id": "x"}], ANSWERS, ["in.jsonl has no column `body`", "each request needs"]),
        (REQUESTS, [json.dumps(ANSWERS[0])[:-5]], ["out.jsonl, line 1: broken JSON"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, requests: list[Any], answers: list[Any], messages: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        batch(tmp_path, requests, answers)
    told = f"{caught.value.message} {caught.value.hint}"
    assert not [message for message in messages if message not in told], told
