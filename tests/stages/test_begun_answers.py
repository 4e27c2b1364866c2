"""Prompts that begin the answer, through the stages: sampled from there, rated whole, trained on what follows."""

import json

import pytest
from support.chat_server import running_chat_server
from support.chat_templates import make_lm_with
from support.pipelines import rows_of, write_json_lines
from support.tiny_models import CHAT_TEMPLATE, make_tiny_causal_lm

from prefpipe.backends.fake import FakeGenerator, FakeScorer
from prefpipe.backends.protocol import ScoreRequest
from prefpipe.cli.main import run as prefpipe
from prefpipe.models.files import inspect_model
from prefpipe.stages.judge.pairs import ResponsePair
from prefpipe.stages.judge.rows import request_of
from prefpipe.stages.shared.training_groups import encoder_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
BEGINNING = "A lake is "
CONTINUE = "--continue-final-message"


def call(*words):
    return prefpipe([str(word) for word in words])


def prompt(name, *more):
    return {"prompt_id": name, "messages": [{"role": "user", "content": f"Name {name}."}, *more]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Candidates of begun and of ordinary prompts, scores and groups of them."""
    folder = tmp_path_factory.mktemp("run")
    make_lm_with(folder / "model", "plain")
    begun = {"role": "assistant", "content": BEGINNING}
    rows = [prompt("lake", begun), prompt("river"), prompt("hill", begun)]
    write_json_lines(folder / "prompts.jsonl", rows)
    sampled = ("generate", folder / "prompts.jsonl", "-o", folder / "candidates", CONTINUE)
    engine = ("--backend", "transformers", "--model", folder / "model", "--max-tokens", 12)
    assert call(*sampled, *engine, "--n", 6, "--max-error-rate", 1) == 0
    assert call("score", folder / "candidates", "-o", folder / "scores", "--scorer", "fake") == 0
    selected = ("select", folder / "candidates", "--scores", folder / "scores")
    assert call(*selected, "-o", folder / "groups", "--strategy", "best-worst") == 0
    return folder


def test_the_beginning_is_part_of_the_prompt_and_the_response_what_follows(run):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    encoder = encoder_of(inspect_model(run / "model", "m"))
    n_compared = 0
    for row in rows_of(run / "candidates"):
        is_begun = row["prompt_id"] != "river"
        assert row["messages"][-1]["role"] == ("assistant" if is_begun else "user")
        assert tokenizer.decode(row["prompt_token_ids"]).endswith(BEGINNING) == is_begun
        if min(row["response_token_ids"][:-1], default=4) < 4:
            continue  # a control token in the middle is in no text
        finished = row["finish_reason"] == "stop"
        encoded = encoder.encode("p", row["messages"], row["response"], finished=finished)
        assert encoded.prompt == row["prompt_token_ids"]
        assert encoded.response == row["response_token_ids"]
        n_compared += 1
    assert n_compared


def test_raters_see_the_answer_whole(run):
    scores = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(run / "scores")}
    for row in rows_of(run / "candidates"):
        turns, answer = row["messages"], row["response"]
        if turns[-1]["role"] == "assistant":
            turns, answer = turns[:-1], BEGINNING + answer
        key = row["prompt_id"], row["sample_idx"]
        expected = FakeScorer().score([ScoreRequest(*key, turns, answer, {})])[0]
        assert scores[key]["reward"] == expected.reward


def test_judges_compare_answers_whole():
    turns = prompt("lake", {"role": "assistant", "content": BEGINNING})["messages"]
    pair = ResponsePair("lake", {"response": "wet."}, {"response": "dry."}, turns)
    request = request_of(pair, "b_first")
    assert request == (turns[:-1], f"{BEGINNING}dry.", f"{BEGINNING}wet.")


@pytest.mark.slow
def test_training_is_on_what_follows(run, tmp_path):
    plan = ("--objective", "dpo", "--max-steps", 1, "--report-to", "none")
    words = ("train", run / "groups", "--model", run / "model", "-o", tmp_path / "policy")
    assert call(*words, *plan) == 0
    stored = {
        (row["prompt_id"], row["sample_idx"]): len(row["response_token_ids"])
        for row in rows_of(run / "candidates")
    }
    trained = [row for row in rows_of(tmp_path / "policy") if row["status"] in ("ok", "truncated")]
    assert trained
    for row in trained:
        assert row["n_tokens"] == stored[row["prompt_id"], row["sample_idx"]]


@pytest.mark.parametrize("form", ["trl", "jsonl", "trl-implicit"])
def test_other_tools_get_one_turn(run, tmp_path, form):
    out = tmp_path / "out.jsonl"
    assert call("export", run / "groups", "-o", out, "--format", form) == 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert written
    for row in written:
        text = json.dumps(row)
        assert text.count('"assistant"') == len(written_answers(row)) or form == "jsonl"
        begun = [answer for answer in written_answers(row) if answer.startswith(BEGINNING)]
        is_begun = "Name river." not in text
        assert len(begun) == (len(written_answers(row)) if is_begun else 0)


def written_answers(row):
    if "responses" in row:
        return [response["response"] for response in row["responses"]]
    return [row[side][-1]["content"] for side in ("chosen", "rejected")]


def test_without_the_flag_answers_behind_prompts_are_refused(run, tmp_path, capsys):
    words = ("generate", run / "prompts.jsonl", "-o", tmp_path / "out", "--backend", "fake")
    assert call(*words, "--model", "fake", "--n", 1) == 1
    said = capsys.readouterr().err
    assert "its last turn is from the assistant, and a prompt must end with a user turn" in said
    assert CONTINUE in said


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ({"role": "assistant", "content": " "}, "there is nothing to continue"),
        (
            {
                "role": "assistant",
                "content": "Hm",
                "tool_calls": [{"function": {"name": "look", "arguments": {}}}],
            },
            "its last turn calls a tool",
        ),
        ({"role": "system", "content": "Be brief."}, "is from the system"),
    ],
)
def test_what_no_text_goes_on_from_is_refused(tmp_path, capsys, last, says):
    prompts = write_json_lines(tmp_path / "p.jsonl", [prompt("lake", last)])
    words = ("generate", prompts, "-o", tmp_path / "out", "--backend", "fake", "--model", "fake")
    assert call(*words, CONTINUE) == 1
    assert says in capsys.readouterr().err


def test_a_template_that_cannot_continue_is_an_error_of_the_row(tmp_path, capsys):
    make_tiny_causal_lm(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(
        CHAT_TEMPLATE.replace(
            "message in messages", "message in messages if message.role == 'user'"
        )
    )
    rows = [prompt("lake", {"role": "assistant", "content": BEGINNING}), prompt("river")]
    prompts = write_json_lines(tmp_path / "p.jsonl", rows)
    words = ("generate", prompts, "-o", tmp_path / "out", "--backend", "transformers", CONTINUE)
    assert call(*words, "--model", tmp_path / "model", "--n", 1, "--max-tokens", 4) == 3
    statuses = {row["prompt_id"]: row for row in rows_of(tmp_path / "out")}
    assert statuses["lake"]["status"] == "error"
    assert "cannot continue the assistant's last turn" in statuses["lake"]["reason"]
    assert statuses["river"]["status"] != "error"


def test_a_server_is_asked_to_continue_begun_prompts_alone(tmp_path, capsys):
    rows = [prompt("lake", {"role": "assistant", "content": BEGINNING}), prompt("river")]
    prompts = write_json_lines(tmp_path / "p.jsonl", rows)
    words = ("generate", prompts, "--backend", "openai", "--model", "m", "--n", 1, CONTINUE)
    with running_chat_server() as server:
        assert call(*words, "--base-url", server.url, "-o", tmp_path / "out") == 0
    sent = {body["messages"][-1]["role"]: body for body in server.bodies}
    assert sent["assistant"]["continue_final_message"] is True
    assert sent["assistant"]["add_generation_prompt"] is False
    assert not {"continue_final_message", "add_generation_prompt"} & sent["user"].keys()

    with running_chat_server(refused_fields=("add_generation_prompt",)) as server:
        assert call(*words, "--base-url", server.url, "-o", tmp_path / "refused") == 1
    assert "refuses `add_generation_prompt`" in capsys.readouterr().err


def test_the_fake_goes_on_where_the_answer_stands():
    generator = FakeGenerator()
    turns = prompt("lake", {"role": "assistant", "content": BEGINNING})["messages"]
    text = bytes(index - 3 for index in generator.encode(turns)[1:]).decode()
    assert text == f"<user>Name lake.\n<assistant>{BEGINNING}"
