"""Addresses that hold a secret are refused before anything is recorded, and never repeated."""

from pathlib import Path

import pytest
from support.pipelines import write_prompts

from prefpipe.backends.chat_endpoint import ChatEndpoint
from prefpipe.cli.main import run
from prefpipe.errors import ModelError
from prefpipe.text.server_address import address_with_secret

SECRETS = [
    ("http://user:canary@localhost:1/v1", "http://***@localhost:1/v1"),
    ("http://canary@localhost:1/v1", "http://***@localhost:1/v1"),
    ("http://localhost:1/v1?api_key=canary", "http://localhost:1/v1?***"),
    ("http://u:canary@h/v1?key=canary#canary", "http://***@h/v1?***"),
]


@pytest.mark.parametrize(("address", "shown"), SECRETS)
def test_a_secret_is_found_and_not_shown(address: str, shown: str) -> None:
    assert address_with_secret(address) == shown


@pytest.mark.parametrize(
    "address",
    ["http://localhost:8000/v1", "https://api.openai.com/v1", "localhost:1/v1", "http://["],
)
def test_addresses_without_a_secret(address: str) -> None:
    assert address_with_secret(address) is None


@pytest.mark.parametrize("address", [address for address, _ in SECRETS])
@pytest.mark.parametrize("stage", ["generate", "judge", "score", "eval"])
def test_the_command_refuses_it_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, stage: str
) -> None:
    prompts = str(write_prompts(tmp_path / "p.jsonl", 2))
    out = str(tmp_path / "out")
    words = {
        "generate": [prompts, "--model", "m", "--backend", "openai", "--base-url", address],
        "judge": [prompts, prompts, "--judge", "openai:m", "--base-url", address],
        "score": [prompts, "--scorer", "judge:openai:m", "--base-url", address],
        "eval": [
            "--policy",
            "m",
            "--baseline",
            "m",
            "--prompts",
            prompts,
            "--scorer",
            "judge:openai:m",
        ],
    }[stage]
    if stage == "eval":
        words += ["--judge-base-url", address]
    assert run([stage, *words, "-o", out]) == 2
    told = capsys.readouterr().err
    assert "would be recorded" in told
    assert "canary" not in told
    assert not Path(out).exists()


def test_the_environment_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://u:canary@localhost:1/v1")
    with pytest.raises(ModelError) as raised:
        ChatEndpoint(None, 1.0)
    assert "canary" not in f"{raised.value.message}{raised.value.hint}"
