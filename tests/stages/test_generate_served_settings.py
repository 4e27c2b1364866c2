"""Sampling settings at a server: what is sent, and what happens where it takes one not."""

import json

import pytest
from support.chat_server import running_chat_server
from support.pipelines import rows_of, write_json_lines

from prefpipe.cli.main import run

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}}
FLAGS = {
    "stop": (["--stop", "\n\n", "--stop", "END"], ["\n\n", "END"]),
    "min_p": (["--min-p", "0.05"], 0.05),
    "repetition_penalty": (["--repetition-penalty", "1.1"], 1.1),
    "presence_penalty": (["--presence-penalty", "0.5"], 0.5),
    "frequency_penalty": (["--frequency-penalty", "-0.5"], -0.5),
    "min_tokens": (["--min-tokens", "3"], 3),
    "ignore_eos": (["--ignore-eos"], True),
    "top_k": (["--top-k", "20"], 20),
}


@pytest.fixture
def prompts(tmp_path):
    rows = [{"prompt_id": f"p-{text}", "prompt": text} for text in "abcd"]
    return write_json_lines(tmp_path / "prompts.jsonl", rows)


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA, indent=2))
    return path


def generate(prompts, output, server, *more):
    command = ["generate", prompts, "-o", output, "--backend", "openai", "--model", "m", "--n", 1]
    return run([str(word) for word in [*command, "--base-url", server.url, *more]])


@pytest.mark.parametrize("name", FLAGS)
def test_a_setting_is_sent_where_it_is_given_and_only_then(prompts, tmp_path, name):
    words, value = FLAGS[name]
    with running_chat_server() as server:
        assert generate(prompts, tmp_path / "plain", server) == 0
        n_plain = len(server.bodies)
        assert generate(prompts, tmp_path / "given", server, *words) == 0
    plain, given = server.bodies[0], server.bodies[n_plain]
    assert given == plain | {name: value, "messages": given["messages"], "seed": given["seed"]}
    if name in ("stop", "min_tokens", "ignore_eos"):
        assert name not in plain, "a server that knows nothing of it is not bothered"


@pytest.mark.parametrize("name", FLAGS)
def test_a_server_that_refuses_a_setting_ends_the_run_and_the_flag_is_named(
    prompts, tmp_path, capsys, name
):
    words, _ = FLAGS[name]
    refused = (name, "return_token_ids")
    with running_chat_server(refused_fields=refused) as server:
        assert generate(prompts, tmp_path / "out", server, *words) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert f"refuses {words[0]}: " in err
    assert f"drop {words[0]}, or use a server that takes it" in err
    assert len(server.bodies) == 3, "refused twice, and answered once without it"
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_two_settings_that_are_refused_one_after_the_other_are_both_named(
    prompts, tmp_path, capsys
):
    with running_chat_server(refused_fields=("min_p", "min_tokens")) as server:
        assert generate(prompts, tmp_path / "o", server, "--min-p", 0.1, "--min-tokens", 2) == 1
    assert "refuses --min-p and --min-tokens" in " ".join(capsys.readouterr().err.split())


def test_what_is_off_is_still_left_out_where_it_is_refused(prompts, tmp_path, capsys):
    refused = ("top_k", "repetition_penalty")
    with running_chat_server(refused_fields=refused) as server:
        assert generate(prompts, tmp_path / "out", server, "--min-p", 0.1) == 0
    assert "refuses repetition_penalty, top_k: they are left out" in capsys.readouterr().err
    assert server.bodies[-1]["min_p"] == 0.1


def test_a_refusal_of_a_content_that_repeats_the_names_ends_nothing(prompts, tmp_path):
    words = {"error": {"message": "blocked: {'min_p': 0.1, 'stop': ['x']}"}}
    with running_chat_server(faults={"a": ("always", 400, words)}) as server:
        flags = ("--min-p", 0.1, "--stop", "x", "--max-error-rate", 0.5)
        assert generate(prompts, tmp_path / "out", server, *flags) == 0
    assert (server.bodies[-1]["min_p"], server.bodies[-1]["stop"]) == (0.1, ["x"])
    statuses = [row["status"] for row in rows_of(tmp_path / "out")]
    assert (statuses.count("error"), len(statuses)) == (1, 4)


def test_a_schema_goes_as_response_format_in_the_order_of_the_file(prompts, tmp_path, schema):
    with running_chat_server() as server:
        assert generate(prompts, tmp_path / "out", server, "--json-schema", schema) == 0
    sent = server.bodies[0]["response_format"]
    assert sent == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": SCHEMA, "strict": True},
    }
    assert list(sent["json_schema"]["schema"]["properties"]) == ["b", "a"]
    for row in rows_of(tmp_path / "out"):
        json.loads(row["response"])
        assert row["logp"] is None, "of tokens among those that the schema allows"
        assert row["response_token_ids"]


def test_a_server_that_ignores_a_schema_gives_errors_and_no_responses(
    prompts, tmp_path, capsys, schema
):
    with running_chat_server(ignored_fields=("response_format",)) as server:
        assert generate(prompts, tmp_path / "out", server, "--json-schema", schema) == 3
    assert {row["status"] for row in rows_of(tmp_path / "out")} == {"error"}
    reasons = {row["reason"] for row in rows_of(tmp_path / "out")}
    assert reasons == {"the server does not keep to --json-schema: the response is no JSON"}


def test_a_server_that_refuses_a_schema_ends_the_run(prompts, tmp_path, capsys, schema):
    with running_chat_server(refused_fields=("response_format",)) as server:
        assert generate(prompts, tmp_path / "out", server, "--json-schema", schema) == 1
    assert "refuses --json-schema" in " ".join(capsys.readouterr().err.split())


def test_status_sees_a_schema_that_has_changed(prompts, tmp_path, capsys, schema):
    with running_chat_server() as server:
        assert generate(prompts, tmp_path / "out", server, "--json-schema", schema) == 0
    capsys.readouterr()
    assert run(["status", str(tmp_path / "out")]) == 0
    schema.write_text(json.dumps(SCHEMA | {"required": ["a"]}))
    capsys.readouterr()
    run(["status", str(tmp_path / "out")])
    printed = " ".join("".join(capsys.readouterr()).split())
    assert "its JSON schema," in printed
    assert "has changed since" in printed
