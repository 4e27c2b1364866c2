"""--stop, --min-p, penalties, --min-tokens, --ignore-eos and --json-schema through the commands.

What is in a run's identity, what is refused before anything is loaded, and that growing, retrying,
comparing and status know the settings.
"""

import json
from pathlib import Path

import pytest
from support.pipelines import rows_of

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.cli.main import run
from prefpipe.configs.eval import EvalConfig
from prefpipe.configs.generate import GenerateConfig
from prefpipe.errors import UsageError

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}}
GIVEN = {
    "stop": ("\n\n",),
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "min_tokens": 8,
    "ignore_eos": True,
}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt_id": f"p{number}", "prompt": f"number {number}"}) + "\n"
            for number in range(6)
        )
    )
    return path


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def config(**changes):
    settings = {"prompts": "p.jsonl", "model": ("m",), "output": Path("o"), "backend": "fake"}
    return GenerateConfig(**settings | changes)


def generate(prompts, output, *more, backend="fake", model="fake"):
    command = ["generate", prompts, "-o", output, "--backend", backend, "--model", model, *more]
    return run([str(word) for word in command])


def test_an_identity_without_the_flags_is_what_it_was():
    """By name, so that no fingerprint on disk moves."""
    assert sorted(config().identity()) == [
        "backend",
        "columns",
        "drop_duplicate_prompts",
        "dtype",
        "max_model_len",
        "max_tokens",
        "n",
        "part_size",
        "seed",
        "system_prompt",
        "temperature",
        "top_k",
        "top_p",
        "trust_remote_code",
    ]


@pytest.mark.parametrize("name", GIVEN)
def test_each_flag_is_in_the_identity_where_it_is_given_and_nowhere_else(name):
    value = GIVEN[name]
    plain, given = config().identity(), config(**{name: value}).identity()
    assert given == plain | {name: list(value) if isinstance(value, tuple) else value}
    neutral = next(
        item for item in GenerateConfig.__dataclass_fields__.values() if item.name == name
    )
    assert config(**{name: neutral.default}).identity() == plain, "off is as if not given"

    sides = {"policy": "p", "baseline": "b", "output": Path("o"), "backend": "fake"}
    plain, given = EvalConfig(**sides).identity(), EvalConfig(**sides, **{name: value}).identity()
    assert given.keys() - plain.keys() == {name}


def test_a_schema_is_in_the_identity_by_its_content(schema):
    identity = config(backend="vllm", json_schema=schema).identity()
    assert set(identity) - set(config(backend="vllm").identity()) == {"json_schema"}
    elsewhere = schema.with_name("elsewhere.json")
    elsewhere.write_bytes(schema.read_bytes())
    assert config(backend="vllm", json_schema=elsewhere).identity() == identity
    # an engine writes properties in the order of the schema
    reordered = SCHEMA | {"properties": dict(reversed(SCHEMA["properties"].items()))}
    schema.write_text(json.dumps(reordered))
    assert config(backend="vllm", json_schema=schema).identity() != identity
    assert config(backend="vllm", json_schema=schema).schema.text.index('"a"') < 60


REFUSED = [
    ({"stop": ("a", "")}, "--stop must not be an empty text"),
    ({"stop": ("a", "a")}, "--stop names the same text twice"),
    ({"min_tokens": 9, "max_tokens": 8}, "--min-tokens 9 is more than --max-tokens 8"),
    ({"min_tokens": -1}, "--min-tokens must be 0 or more, not -1"),
    ({"min_p": 0.1, "temperature": (0.0,)}, "--min-p 0.1 does nothing at --temperature 0"),
    ({"min_p": 1.1}, "--min-p must be within 0 and 1, not 1.1"),
    ({"repetition_penalty": 0.0}, "--repetition-penalty must be within 0.01 and 100, not 0"),
    ({"presence_penalty": 2.5}, "--presence-penalty must be within -2 and 2, not 2.5"),
    ({"frequency_penalty": -3}, "--frequency-penalty must be within -2 and 2, not -3"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_cannot_be_meant_is_refused(changes, words):
    with pytest.raises(UsageError) as caught:
        config(**changes)
    assert words in caught.value.message


def test_min_p_beside_one_temperature_of_0_is_none_of_these():
    assert config(min_p=0.1, temperature=(0.0, 1.0)).min_p == 0.1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b'{"type": "object",}', "is no JSON: broken JSON"),
        (b'{"type": "objct"}', "type is 'objct'; it must be one of object"),
        (b"[]", "it must hold an object"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"minimum": NaN}', "NaN or infinite"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_what_is_no_schema_is_refused_before_anything_is_loaded(
    prompts, tmp_path, capsys, content, words
):
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_bytes(content)
    rc = generate(
        prompts, tmp_path / "out", "--json-schema", path, backend="vllm", model="no/such/model"
    )
    err = " ".join(capsys.readouterr().err.split())
    assert rc == 2
    assert "--json-schema" in err
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", ["transformers", "fake"])
def test_a_schema_names_what_to_use_where_a_backend_has_none(
    prompts, tmp_path, capsys, schema, backend
):
    assert generate(prompts, tmp_path / "out", "--json-schema", schema, backend=backend) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"--json-schema is not for --backend {backend}" in err
    assert "use --backend vllm, or --backend openai" in err


def test_a_schema_is_refused_where_auto_comes_to_transformers(prompts, tmp_path, capsys, schema):
    assert generate(prompts, tmp_path / "o", "--json-schema", schema, backend="auto") == 2
    assert "--json-schema is not for --backend transformers" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("flag", [("--stop", "x"), ("--min-tokens", "1"), ("--ignore-eos",)])
def test_a_schema_says_itself_where_a_response_ends(prompts, tmp_path, capsys, schema, flag):
    more = ("--json-schema", schema, *flag)
    assert generate(prompts, tmp_path / "out", *more, backend="vllm") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"--json-schema and {flag[0]} exclude each other" in err


def test_a_stop_text_is_in_the_ids_and_not_in_the_text(prompts, tmp_path):
    assert generate(prompts, tmp_path / "whole", "--n", 8) == 0
    assert generate(prompts, tmp_path / "cut", "--n", 8, "--stop", " the", "--stop", " a") == 0
    n_stopped = 0
    for before, after in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut"), strict=True):
        ends = [
            before["response"].index(stop) + len(stop)
            for stop in (" the", " a")
            if stop in before["response"]
        ]
        if not ends:
            assert after == before
            continue
        n_stopped += 1
        n = min(ends)  # a token is a letter
        assert after["response_token_ids"] == before["response_token_ids"][:n]
        assert after["n_response_tokens"] == n
        assert after["response"] == before["response"][: len(after["response"])]
        assert (after["finish_reason"], after["status"]) == ("stop", "ok")
    assert n_stopped > 5


def test_a_run_grows_with_its_settings_and_not_with_others(prompts, tmp_path, capsys):
    flags = ("--stop", " the", "--min-tokens", 12, "--presence-penalty", 0.5)
    out = tmp_path / "out"
    assert generate(prompts, out, "--n", 2, *flags) == 0
    assert generate(prompts, out, "--n", 4, "--extend", "--stop", " the") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "min_tokens: 12 on disk, absent requested" in err
    assert "presence_penalty: 0.5 on disk, absent requested" in err
    assert generate(prompts, out, "--n", 4, "--extend", *flags) == 0
    assert generate(prompts, tmp_path / "at-once", "--n", 4, *flags) == 0
    assert rows_of(out) == rows_of(tmp_path / "at-once")
    assert read_run_record(out).identity["stop"] == [" the"]


def test_failed_rows_are_sampled_again_with_the_same_settings(prompts, tmp_path):
    flags = ("--n", 4, "--stop", " the", "--ignore-eos", "--max-tokens", 60)
    allowed = ("--max-error-rate", 1)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    assert generate(prompts, broken, *flags, *allowed, model="fake:error_rate=0.5") == 0
    assert generate(prompts, whole, *flags) == 0
    by_key = {(row["prompt_id"], row["sample_idx"]): row for row in rows_of(whole)}
    for row in rows_of(broken):
        if row["status"] != "error":
            assert row == by_key[row["prompt_id"], row["sample_idx"]]
    retried = (*flags, *allowed, "--retry-errors")
    assert generate(prompts, broken, *retried, model="fake:error_rate=0.5") == 0
    assert {row["status"] for row in rows_of(broken)} > {"error"}


def test_both_sides_of_eval_are_sampled_alike_and_one_that_was_not_is_refused(
    tmp_path, capsys, prompts
):
    checks = tmp_path / "checked.jsonl"
    lines = [
        json.loads(line) | {"checks": [{"type": "words", "max": 9}]} for line in prompts.open()
    ]
    checks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sides = ["--prompts", checks, "--scorer", "checks", "--backend", "fake", "--baseline", "b"]
    flags = ["--stop", " the", "--min-tokens", "20", "--n", "2"]
    out = tmp_path / "e"
    command = ["eval", "--policy", "a", *sides, *flags, "-o", out]
    assert run([str(word) for word in command]) == 0
    for side in ("policy", "baseline"):
        identity = read_run_record(out / side / "candidates").identity
        assert (identity["stop"], identity["min_tokens"]) == ([" the"], 20)
        for row in rows_of(out / side / "candidates"):
            assert row["n_response_tokens"] >= 20
    assert json.loads((out / "summary.json").read_text())["recipe"]["sampling"]["stop"] == [" the"]

    assert generate(checks, tmp_path / "c", "--n", 2, model="a") == 0
    capsys.readouterr()
    command = ["eval", "--policy", tmp_path / "c", *sides, *flags, "-o", tmp_path / "f"]
    assert run([str(word) for word in command]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert 'stop: [" the"] for the baseline, absent for the policy' in err


def test_a_backslash_and_an_n_are_named_for_what_they_are(prompts, tmp_path, capsys):
    assert generate(prompts, tmp_path / "a", "--stop", r"\n") == 0
    assert r"--stop '\\n' is used literally" in " ".join(capsys.readouterr().err.split())
    assert generate(prompts, tmp_path / "b", "--stop", "\n") == 0
    assert "used literally" not in capsys.readouterr().err
