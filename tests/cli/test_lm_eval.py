"""``prefpipe eval lm-eval``: a line that a shell and lm-evaluation-harness take as it was meant."""

import ast
import shlex
from pathlib import Path

import pytest
from support.tiny_models import make_tiny_adapter, make_tiny_causal_lm

from prefpipe.cli.main import run


def words(capsys: pytest.CaptureFixture[str], *given: str) -> list[str]:
    assert run(["eval", "lm-eval", *given]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return shlex.split(out)


def arguments(command: list[str]) -> dict[str, str]:
    pairs = command[command.index("--model_args") + 1].split(",")
    return dict(pair.split("=") for pair in pairs)


def test_a_whole_model(tmp_path: Path, capsys) -> None:
    policy = make_tiny_causal_lm(tmp_path / "my policy")
    command = words(
        capsys, str(policy), "--tasks", "gsm8k, ifeval", "-o", "results", "--dtype", "bfloat16"
    )
    assert command[:3] == ["lm_eval", "--model", "hf"]
    assert arguments(command) == {"pretrained": str(policy), "dtype": "bfloat16"}
    assert command[command.index("--tasks") + 1] == "gsm8k,ifeval"
    assert "--apply_chat_template" in command
    assert command[command.index("--output_path") + 1] == "results"


def test_an_adapter_goes_on_its_base(tmp_path: Path, capsys) -> None:
    """The base is what is loaded, the adapter is put on it; without a tokenizer of its own the base's is used."""
    policy = make_tiny_causal_lm(tmp_path / "base")
    adapter = make_tiny_adapter(tmp_path / "adapter", policy)
    assert arguments(words(capsys, str(adapter))) == {
        "pretrained": str(policy),
        "peft": str(adapter),
    }
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_bytes((policy / name).read_bytes())
    found = arguments(words(capsys, str(adapter)))
    assert found == {"pretrained": str(policy), "peft": str(adapter), "tokenizer": str(adapter)}


def test_a_name_of_the_hub(capsys) -> None:
    assert arguments(words(capsys, "org/name@main")) == {
        "pretrained": "org/name",
        "revision": "main",
    }


def test_a_model_without_a_chat_template_gets_none(tmp_path: Path, capsys) -> None:
    policy = make_tiny_causal_lm(tmp_path / "base")
    for path in policy.glob("chat_template*"):
        path.unlink()
    config = policy / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"chat_template"', '"no_template"'))
    assert "--apply_chat_template" not in words(capsys, str(policy))
    assert "--apply_chat_template" not in words(
        capsys, str(make_tiny_adapter(tmp_path / "adapter", policy))
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["bundled:minilm"], "prefpipe models convert bundled:minilm"),
        (["./missing"], "is neither a model folder nor an org/name of the hub"),
        (["org/na,me"], "is neither a model folder nor an org/name of the hub"),
        (["run/my policy"], "is neither a model folder nor an org/name of the hub"),
        (["org/name@a=b"], "contains one of , = ' "),
        (["org/name", "--tasks", ","], "--tasks names no task"),
        (["org/name", "--batch-size", "0"], "--batch-size must be auto or 1 or more"),
    ],
)
def test_what_the_harness_could_not_take_is_refused(capsys, given, message) -> None:
    assert run(["eval", "lm-eval", *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("sign", [",", "=", "'", '"', "{"])
def test_a_folder_whose_name_the_list_of_arguments_cannot_hold_is_refused(
    tmp_path: Path, capsys, sign
) -> None:
    folder = tmp_path / f"a{sign}b"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert run(["eval", "lm-eval", str(folder)]) == 2
    assert (
        "rename the folder, or make a link to it without those characters"
        in capsys.readouterr().err
    )


def test_a_folder_without_a_model_is_refused(tmp_path: Path, capsys) -> None:
    assert run(["eval", "lm-eval", str(tmp_path)]) == 2
    assert "it holds neither config.json nor an adapter" in capsys.readouterr().err


LITERALS = [
    "2026",
    "1e5",
    "true",
    "None",
    "Infinity",
    "-inf",
    "0x10",
    "[1]",
    "1_0",
    "0b11",
    "()",
    "...",
    "1j",
    "-7",
    "٣",
    "[[1]]",
    "+1e-3",
]


def read_by_harness(value: str) -> object:
    """Return what lm-evaluation-harness 0.4.13 makes of the value of an argument: its rule, written out."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value.isnumeric():
        return int(value)
    try:
        return float(value)
    except ValueError:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value


@pytest.mark.parametrize("name", LITERALS)
def test_a_folder_that_is_called_like_a_literal_stays_a_text(
    tmp_path: Path, capsys, monkeypatch, name
) -> None:
    """The harness reads `pretrained=2026` as a number, `0x10` as 16 and `[1]` as a list."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    value = arguments(words(capsys, "--", name))["pretrained"]
    assert value == f"./{name}"
    assert read_by_harness(value) == value


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["run (1)", "a[0]", "1.2.3", "e5", "infinite", "0x", "v1", "2026-11-29", "--1"]
)
def test_a_name_that_is_no_literal_is_left_as_it_is(
    tmp_path: Path, capsys, monkeypatch, name
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    value = arguments(words(capsys, "--", name))["pretrained"]
    assert value in (name, f"./{name}")
    assert read_by_harness(value) == value


def test_the_base_and_the_tokenizer_of_an_adapter_stay_texts_too(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_causal_lm(tmp_path / "0x10")
    adapter = make_tiny_adapter(tmp_path / "[1]", Path("0x10"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_bytes((tmp_path / "0x10" / name).read_bytes())
    assert arguments(words(capsys, "[1]")) == {
        "pretrained": "./0x10",
        "peft": "./[1]",
        "tokenizer": "./[1]",
    }


@pytest.mark.parametrize("name", ["0x10", "Infinity", "1e5"])
def test_a_hub_name_that_is_a_literal_is_refused_with_the_way_out(
    tmp_path: Path, capsys, monkeypatch, name
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["eval", "lm-eval", name]) == 2
    printed = capsys.readouterr().err
    assert f"pretrained: lm-evaluation-harness reads '{name}' as a number" in printed
    assert f"hint: download it, `hf download {name} --local-dir DIR`, and pass ./DIR" in printed


@pytest.mark.parametrize("revision", ["1234567", "12e4567", "0x10"])
def test_a_revision_that_is_a_number_is_refused(capsys, revision) -> None:
    assert run(["eval", "lm-eval", f"org/name@{revision}"]) == 2
    assert "name a branch, a tag or a longer commit hash" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a(b", "a]b", "x[1)"])
def test_half_a_bracket_would_swallow_the_next_argument(
    tmp_path: Path, capsys, monkeypatch, name
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    assert run(["eval", "lm-eval", name]) == 2
    assert "has an unpaired bracket" in capsys.readouterr().err
