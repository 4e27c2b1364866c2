"""`prefpipe generate --backend openai` against real servers on loopback: what came back is what is recorded."""

import json
import threading
import time

import pytest
from support.chat_server import running_chat_server
from support.pipelines import rows_of, write_json_lines

from prefpipe.artifacts.prompts import load_prompts
from prefpipe.backends.chat_client import NEUTRAL
from prefpipe.cli.main import run

ODD = {
    "parts": {
        "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Lake Chad."}]
    },
    "number": {"content": 7},
    "half": {"content": "Lake \ud83d"},
    "tool": {"content": None, "tool_calls": [{"function": {"name": "look_up"}}]},
    "nothing": {"content": None},
}


def choice_of(message, **more):
    return {
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | message} | more
        ]
    }


@pytest.fixture
def prompts(tmp_path):
    def write(*texts):
        rows = [{"prompt_id": f"p-{text}", "prompt": text} for text in texts]
        return write_json_lines(tmp_path / "prompts.jsonl", rows)

    return write


def generate(prompts, output, server, *more):
    words = [
        "generate",
        prompts,
        "-o",
        output,
        "--backend",
        "openai",
        "--model",
        "m",
        "--base-url",
        server.url,
        "--n",
        1,
        "--batch-size",
        4,
        *more,
    ]
    return run([str(word) for word in words])


def by_prompt(output):
    return {row["prompt_id"].removeprefix("p-"): row for row in rows_of(output)}


@pytest.mark.slow
def test_odd_answers_are_rows_and_lose_no_other(prompts, tmp_path):
    faults = {name: ("always", 200, choice_of(message)) for name, message in ODD.items()}
    faults["infinite"] = (
        "always",
        200,
        choice_of(
            {"content": "A"}, logprobs={"content": [{"token": "A", "logprob": float("inf")}]}
        ),
    )
    faults["text-ids"] = ("always", 200, choice_of({"content": "A"}, token_ids=["A"]))
    faults["ending"] = ("always", 200, choice_of({"content": "A"}, finish_reason={"type": "stop"}))
    names = ["fine", *faults]
    with running_chat_server(faults=faults) as server:
        assert generate(prompts(*names), tmp_path / "out", server, "--max-error-rate", 0.5) == 0
        assert all(server.tries[name] == 1 for name in names), "paid once each"
        n_before = len(server.bodies)
        assert (
            generate(tmp_path / "prompts.jsonl", tmp_path / "out", server, "--max-error-rate", 0.5)
            == 0
        )
        assert len(server.bodies) == n_before
    rows = by_prompt(tmp_path / "out")
    found = {name: (row["status"], row["response"]) for name, row in rows.items() if name != "fine"}
    assert found == {
        "parts": ("ok", "Lake Chad."),
        "number": ("error", None),
        "half": ("ok", "Lake \ufffd"),
        "tool": ("error", None),
        "nothing": ("empty", ""),
        "infinite": ("ok", "A"),
        "text-ids": ("ok", "A"),
        "ending": ("error", None),
    }
    assert rows["parts"]["response_reasoning"] == "Hm."
    assert rows["number"]["reason"] == "the answer's content is 7, which is no text"
    assert rows["tool"]["reason"] == "the answer calls a tool (look_up) and holds no text"
    assert (rows["infinite"]["logp"], rows["text-ids"]["response_token_ids"]) == (None, None)
    assert rows["fine"]["logp"] < 0
    assert len(rows["fine"]["response_token_ids"]) == rows["fine"]["n_response_tokens"]


@pytest.mark.slow
def test_thinking_that_reaches_the_limit_is_truncated_and_a_run_without_any_text_is_no_success(
    prompts, tmp_path, capsys
):
    cut = choice_of(
        {"content": None, "reasoning_content": "First, "},
        finish_reason="length",
        token_ids=[4, 5, 6],
    )
    faults = {"a": ("always", 200, cut), "b": ("always", 200, choice_of({"content": " \n"}))}
    with running_chat_server(faults=faults) as server:
        assert generate(prompts("a", "b"), tmp_path / "out", server, "--max-tokens", 3) == 3
        assert "none of 2 rows has a text: 1 empty, 1 truncated" in capsys.readouterr().err
        assert generate(prompts("a", "b"), tmp_path / "out", server, "--max-tokens", 3) == 3, (
            "nor on a rerun"
        )
        assert len(server.bodies) == 2
        assert generate(prompts("a", "c"), tmp_path / "one", server, "--max-tokens", 3) == 0, (
            "one text is enough"
        )
    row = by_prompt(tmp_path / "out")["a"]
    assert (row["status"], row["response"], row["response_reasoning"]) == (
        "truncated",
        "",
        "First, ",
    )
    assert (row["response_token_ids"], row["n_response_tokens"], row["logp"]) == (None, None, None)
    assert row["reason"] == "reached the limit of 3 tokens while thinking; the response has no text"


@pytest.mark.slow
def test_neutral_settings_are_sent_and_ones_that_are_asked_for_take_their_place(prompts, tmp_path):
    with running_chat_server() as server:
        assert generate(prompts("a"), tmp_path / "out", server) == 0
        assert generate(prompts("a"), tmp_path / "two", server, "--top-k", 7) == 0
    neutral, asked = server.bodies
    assert {name: neutral[name] for name in NEUTRAL} == {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    assert (asked["top_k"], asked["min_p"]) == (7, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("names_them", [True, False])
def test_settings_that_a_server_refuses_are_left_out_said_and_recorded(
    prompts, tmp_path, capsys, names_them
):
    refused = (
        "top_k",
        "min_p",
        "repetition_penalty",
        "return_token_ids",
    )  # what OpenAI's own API does not know
    with running_chat_server(refused_fields=refused, names_them=names_them) as server:
        assert generate(prompts(*"abcd"), tmp_path / "out", server, "--part-size", 2) == 0
    assert sum(server.tries.values()) == 4 + (4 if names_them else 1), (
        "the first question alone finds out"
    )
    without = ["min_p", "repetition_penalty", "top_k"] if names_them else sorted(NEUTRAL)
    assert (
        f"refuses {', '.join(without)}: they are left out, and the server's own defaults apply"
        in capsys.readouterr().err
    )
    (step,) = json.loads((tmp_path / "out" / "run.json").read_text())["history"]
    assert step == {"operation": "sampled_without", "model": "m", "settings": without}
    assert {row["status"] for row in rows_of(tmp_path / "out")} <= {"ok", "truncated"}


def test_a_model_whose_log_probabilities_are_forbidden_is_sampled_without(prompts, tmp_path):
    with running_chat_server(refused_fields=("logprobs",)) as server:
        server.refusal_status = 403
        assert generate(prompts(*"ab"), tmp_path / "out", server) == 0
    assert [row["logp"] for row in rows_of(tmp_path / "out")] == [None, None]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["history"] == [], (
        "it changes no response"
    )


def test_a_refusal_that_only_repeats_the_names_changes_nothing(prompts, tmp_path):
    """The first prompt is refused for its content, in words that hold what was sent; the others keep their settings."""
    words = {"error": {"message": "blocked: {'top_k': -1, 'min_p': 0.0, 'logprobs': true}"}}
    with running_chat_server(faults={"a": ("always", 400, words)}) as server:
        assert generate(prompts(*"abc"), tmp_path / "out", server, "--max-error-rate", 0.5) == 0
    assert server.bodies[-1]["top_k"] == -1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["history"] == []
    rows = by_prompt(tmp_path / "out")
    assert (rows["a"]["status"], rows["b"]["logp"] is None) == ("error", False)


@pytest.mark.slow
def test_errors_that_were_paid_for_are_asked_again_with_retry_errors_alone(prompts, tmp_path):
    with running_chat_server(faults={"b": ("always", 200, choice_of({"content": 7}))}) as server:
        assert generate(prompts(*"abc"), tmp_path / "out", server, "--max-error-rate", 0.5) == 0
        server.faults.clear()
        assert (
            generate(tmp_path / "prompts.jsonl", tmp_path / "out", server, "--max-error-rate", 0.5)
            == 0
        )
        assert server.tries == {"a": 1, "b": 1, "c": 1}
        assert generate(tmp_path / "prompts.jsonl", tmp_path / "out", server, "--retry-errors") == 0
        assert server.tries == {"a": 1, "b": 2, "c": 1}
    assert {row["status"] for row in rows_of(tmp_path / "out")} <= {"ok", "truncated"}


@pytest.mark.slow
def test_what_a_stopped_run_paid_is_used_once_and_not_after_overwrite(prompts, tmp_path):
    """The money runs out at the third of four questions; with it back the two are not asked again. --overwrite asks all."""
    quota = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with running_chat_server(faults={"c": ("always", 429, quota)}) as server:
        assert generate(prompts(*"abcd"), tmp_path / "out", server, "--batch-size", 1) == 1
        assert server.tries == {"a": 1, "b": 1, "c": 1}
        (log,) = (tmp_path / "out" / "answers").rglob("*.jsonl")
        assert len(log.read_text().splitlines()) == 3, "two lines behind an empty one"
        server.faults.clear()
        assert generate(tmp_path / "prompts.jsonl", tmp_path / "out", server) == 0
        assert server.tries == {"a": 1, "b": 1, "c": 2, "d": 1}
        assert not (tmp_path / "out" / "answers").exists()
        straight = rows_of(tmp_path / "out")
        assert generate(tmp_path / "prompts.jsonl", tmp_path / "out", server, "--overwrite") == 0
        assert server.tries == {"a": 2, "b": 2, "c": 3, "d": 2}
    assert rows_of(tmp_path / "out") == straight


@pytest.mark.slow
def test_a_stopped_run_started_again_with_overwrite_asks_everything(prompts, tmp_path):
    quota = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with running_chat_server(faults={"c": ("always", 429, quota)}) as server:
        assert generate(prompts(*"abc"), tmp_path / "out", server, "--batch-size", 1) == 1
        server.faults.clear()
        assert generate(tmp_path / "prompts.jsonl", tmp_path / "out", server, "--overwrite") == 0
    assert server.tries == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("column", ["response_reasoning", "reasoning"])
def test_a_column_of_the_users_is_not_overwritten(tmp_path, capsys, column):
    """A prompts file may bring `reasoning`; the name of prefpipe's own column is refused, where there is one."""
    source = write_json_lines(tmp_path / "p.jsonl", [{"prompt": "a", column: "mine"}])
    with running_chat_server() as server:
        code = generate(source, tmp_path / "out", server)
    if column == "reasoning":
        assert code == 0
        assert rows_of(tmp_path / "out")[0]["reasoning"] == "mine"
    else:
        assert code != 0
        assert "`response_reasoning`" in capsys.readouterr().err
        assert load_prompts(str(source)).columns.column_names == [column]


def test_a_long_wait_that_the_server_asks_for_is_said_and_a_stop_ends_it(tmp_path, capsys):
    from prefpipe.backends.chat_client import ChatClient, ServerSettings
    from prefpipe.backends.request_threads import RunControl
    from prefpipe.errors import StoppedEarly

    lines, started = [], time.monotonic()
    with running_chat_server(
        faults={"a": ("always", 429, {"error": {"message": "slow down"}})}
    ) as server:
        server.retry_after = "3600"
        run_control = RunControl(lines.append, lambda: time.monotonic() - started > 1)
        client = ChatClient(ServerSettings(server.url, concurrency=2), run_control)
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "a"}],
            "temperature": 0.0,
            "max_tokens": 8,
        }
        with pytest.raises(StoppedEarly):
            client.complete([body], lambda *_: None)
        client.close()
    assert time.monotonic() - started < 60
    (line,) = lines
    assert "asks for a pause of 3600 s, of which prefpipe waits 600 s (status 429:" in line
    assert "the next request leaves at" in line


@pytest.mark.slow
def test_reasoning_goes_through_an_extension_and_into_groups(prompts, tmp_path):
    """Sample 0 of before is kept with its reasoning, sample 1 is asked for; `select` takes the column along."""
    thought = choice_of({"content": "Lake Chad.", "reasoning": "One in Africa."})
    with running_chat_server(faults={"a": ("always", 200, thought)}) as server:
        assert generate(prompts("a"), tmp_path / "out", server) == 0
        server.faults["a"] = ("always", 200, choice_of({"content": "Lake Como, in Italy."}))
        assert (
            generate(tmp_path / "prompts.jsonl", tmp_path / "out", server, "--n", 2, "--extend")
            == 0
        )
        assert server.tries == {"a": 2}
    pairs = [(row["response"], row["response_reasoning"]) for row in rows_of(tmp_path / "out")]
    assert pairs == [("Lake Chad.", "One in Africa."), ("Lake Como, in Italy.", None)]

    assert (
        run(["score", str(tmp_path / "out"), "-o", str(tmp_path / "scores"), "--scorer", "fake"])
        == 0
    )
    select = [
        "select",
        str(tmp_path / "out"),
        "--scores",
        str(tmp_path / "scores"),
        "--strategy",
        "all",
        "--min-margin",
        "0",
    ]
    assert run([*select, "-o", str(tmp_path / "groups")]) == 0
    kept = {row["response"]: row["response_reasoning"] for row in rows_of(tmp_path / "groups")}
    assert kept == dict(pairs)


@pytest.mark.slow
def test_rows_are_the_same_whatever_the_part_size_and_the_concurrency(prompts, tmp_path):
    """Answers come in another order than questions: the first of a part takes longest."""
    source = prompts(*(f"q{i}" for i in range(12)))
    found = {}
    with running_chat_server(
        delay_s=lambda text: 0.06 if text in ("q0", "q5") else 0.005
    ) as server:
        for part_size in (1, 4, 128):
            for concurrency in (1, 16):
                n_before = len(server.bodies)
                output = tmp_path / f"{part_size}-{concurrency}"
                more = ["--part-size", part_size, "--batch-size", concurrency, "--n", 2]
                assert generate(source, output, server, *more) == 0
                assert len(server.bodies) - n_before == 24
                found[part_size, concurrency] = rows_of(output)
    assert len(found[1, 1]) == 24
    assert all(rows == found[1, 1] for rows in found.values())


@pytest.mark.slow
def test_what_the_first_question_shows_holds_for_parts_that_are_open_at_once(prompts, tmp_path):
    """One question alone finds out what is refused, although five parts wait; the history says it once."""
    source = prompts(*(f"q{i}" for i in range(20)))
    with running_chat_server(refused_fields=("top_k",), delay_s=lambda _text: 0.02) as server:
        assert generate(source, tmp_path / "out", server, "--part-size", 2, "--batch-size", 8) == 0
    assert sum(server.tries.values()) == 21
    assert ["top_k" in body for body in server.bodies] == [True] + [False] * 20
    (step,) = json.loads((tmp_path / "out" / "run.json").read_text())["history"]
    assert step["settings"] == ["top_k"]


@pytest.mark.slow
def test_a_refused_key_in_the_middle_ends_all_parts_and_keeps_what_is_paid(
    prompts, tmp_path, capsys
):
    # Three seconds of answers: a busy machine has ended the run long before the last.
    source, delay_s = prompts(*(f"q{i}" for i in range(240))), 0.1
    with running_chat_server(delay_s=lambda _text: delay_s) as server:
        revoked = {"error": {"message": "Incorrect API key provided"}}
        server.faults["q9"] = ("always", 401, revoked)
        words = ("--part-size", 2, "--batch-size", 8)
        assert generate(source, tmp_path / "out", server, *words) == 1
        assert capsys.readouterr().err.count("Incorrect API key provided") == 1
        n_asked = len(server.bodies)
        assert n_asked < 240, "nothing new is sent"
        server.faults.clear()
        delay_s = 0.0
        assert generate(source, tmp_path / "out", server, *words) == 0
    assert server.tries == {f"q{i}": 2 if i == 9 else 1 for i in range(240)}


@pytest.mark.slow
def test_a_slow_answer_in_each_part_keeps_no_other_part_waiting(prompts, tmp_path):
    """Twelve parts of four, each with an answer that takes long: several of these are on their way at a time."""
    slow = {f"q{i}" for i in range(1, 48, 4)}
    lock, n_now, n_most = threading.Lock(), 0, 0

    def wait(text):
        nonlocal n_now, n_most
        if text in slow:
            with lock:
                n_now += 1
                n_most = max(n_most, n_now)
            time.sleep(0.4)
            with lock:
                n_now -= 1
        return 0.01

    source = prompts(*(f"q{i}" for i in range(48)))
    with running_chat_server(delay_s=wait) as server:
        assert generate(source, tmp_path / "out", server, "--part-size", 4, "--batch-size", 8) == 0
        assert len(server.bodies) == 48
    assert n_most >= 3, "one part after another, it would be one"
