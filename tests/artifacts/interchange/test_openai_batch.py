"""A batch's answers are joined with its requests by ``custom_id`` and nothing else, and nothing of it vanishes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from interchange_files import SKY, failures, held, lines, read, user

from prefpipe.artifacts.ids import prompt_id_of
from prefpipe.errors import InputError

SEA = user("And the sea?")


def request(custom_id: str, messages: list[dict[str, str]], **body: Any) -> dict[str, Any]:
    body = {"model": "asked", "messages": messages} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def choice(text: str | None, index: int = 0, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish_reason}


def answered(custom_id: str, *choices: dict[str, Any], model: str | None = "gpt-x") -> dict[str, Any]:
    body = {"id": "c", "model": model, "choices": list(choices)}
    return {"id": "b", "custom_id": custom_id, "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


def failed(custom_id: str, status: int, message: str) -> dict[str, Any]:
    return {"custom_id": custom_id, "response": {"status_code": status, "body": {"error": {"message": message}}}, "error": None}


def batch(folder: Path, requests: list[Any], answers: list[Any]) -> Any:
    return read(lines(folder / "out.jsonl", *answers), "openai-batch", requests=lines(folder / "in.jsonl", *requests))


REQUESTS = [request("x", SKY), request("y", SEA), request("z", SKY)]
ANSWERS = [
    answered("x", choice("Blue.")),
    answered("y", choice("Green.", finish_reason="length")),
    answered("z", choice("Grey.")),
]


def test_answers_come_in_any_order(tmp_path: Path) -> None:
    """Several requests with the same messages are one prompt; its indices follow the file of requests."""
    expected = {
        (prompt_id_of(SKY), 0): ("Blue.", "gpt-x", {}), (prompt_id_of(SKY), 1): ("Grey.", "gpt-x", {}),
        (prompt_id_of(SEA), 0): ("Green.", "gpt-x", {}),
    }  # fmt: skip
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
        {"custom_id": "c", "response": None, "error": {"code": "batch_expired", "message": "too late"}},
        {"custom_id": "d", "response": {"status_code": 200, "body": {"object": "?"}}, "error": None},
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
        (key, 4): "the answer holds no text, but a refusal: I cannot. (finish_reason content_filter)",
        (key, 5): None,
        (key, 6): None,
        (key, 7): "the answer holds 2 of 3 choices, and not this one",
        (key, 8): None,
    }
    assert held(pool)[key, 5] == ("fine", "asked", {})
    assert held(pool)[key, 8] == ("three", "gpt-x", {})


def test_a_failed_request_of_several_choices_keeps_their_places(tmp_path: Path) -> None:
    pool = batch(tmp_path, [request("a", SKY, n=2), request("b", SKY)], [answered("b", choice("x"))])
    assert held(pool)[prompt_id_of(SKY), 2] == ("x", "gpt-x", {})
    assert len(failures(pool)) == 3


def test_ids_that_hold_prompt_and_sample_are_the_key(tmp_path: Path) -> None:
    requests = [request("sky_1", SKY), request("sky_0", SKY), request("a_b_0", SEA)]
    answers = [answered(item["custom_id"], choice(item["custom_id"])) for item in requests]
    assert held(batch(tmp_path, requests, answers)) == {
        ("sky", 0): ("sky_0", "gpt-x", {}), ("sky", 1): ("sky_1", "gpt-x", {}), ("a_b", 0): ("a_b_0", "gpt-x", {}),
    }  # fmt: skip


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
    requests = [request(name, messages) for name, messages in zip(ids, (SKY, SEA, SKY), strict=True)]
    pool = batch(tmp_path, requests, [answered(name, choice(name)) for name in ids])
    assert set(held(pool)) == {(prompt_id_of(SKY), 0), (prompt_id_of(SKY), 1), (prompt_id_of(SEA), 0)}


def test_a_cut_output_file_is_no_shorter_pool(tmp_path: Path) -> None:
    pool = batch(tmp_path, REQUESTS, ANSWERS[:1])
    assert sum(reason is not None for reason in failures(pool).values()) == 2


@pytest.mark.parametrize(
    ("requests", "answers", "messages"),
    [
        ([*REQUESTS, request("x", SEA)], ANSWERS, ["in.jsonl has 1 problem", "line 4: `custom_id` 'x' stands at line 1 already"]),
        (REQUESTS, [*ANSWERS, ANSWERS[0]], ["out.jsonl has 1 problem", "line 4: `custom_id` 'x' stands at line 1 already"]),
        (REQUESTS, [*ANSWERS, answered("w", choice("?"))], ["line 4: `custom_id` 'w' is of no request in", "in.jsonl"]),
        ([{"custom_id": "x", "body": {"prompt": "q"}}, {"custom_id": None, "body": {"messages": SKY}}], [{"custom_id": "x"}],
         ["line 1: `body.messages`: it needs a text", "line 2: `custom_id` is null"]),
        ([{"custom_id": "x", "body": "{"}], ANSWERS, ["line 1: `body` is '{', which is no object"]),
        ([request("x", SKY, n=0)], ANSWERS, ["line 1: `body.n` is 0, which is no whole number from 1"]),
        (REQUESTS, [{"custom_id": "x"}], ["line 1: it has neither `response` nor `error`"]),
        (REQUESTS, [{"custom_id": "x", "response": "?"}], ["line 1: `response` is '?', which is no object"]),
        (REQUESTS, [answered("x", choice("a"), choice("b"))], ["line 1: choice 1 is", "each needs an `index` of its own"]),
        (REQUESTS, [answered("x", choice("cut \ud83d"))], ["line 1: `message.content` holds half of a surrogate pair (\\ud83d)"]),
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
