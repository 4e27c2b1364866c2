"""A URL is refused where only a path is taken; pathlib would make a folder ``s3:`` of it.

Artifacts take URLs: `test_locations.py`.
"""

import inspect
import json
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import typer

from prefpipe.artifacts.tables.locations import scheme_of
from prefpipe.artifacts.tables.reading import read_table
from prefpipe.cli.app import app
from prefpipe.cli.main import run
from prefpipe.configs.options import scalar_type
from prefpipe.configs.stages import STAGES
from prefpipe.errors import UsageError


def path_parameters(group: Any, words: tuple[str, ...] = ()) -> Iterator[Any]:
    for command_name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from path_parameters(command, (*words, command_name))
            continue
        callback = inspect.unwrap(command.callback)
        for name, parameter in inspect.signature(callback, eval_str=True).parameters.items():
            kind = (
                typing.get_args(parameter.annotation)[0]
                if hasattr(parameter.annotation, "__metadata__")
                else None
            )
            if "Path" in str(kind):
                yield pytest.param(callback, name, id=" ".join([*words, command_name, name]))


PARAMETERS = list(path_parameters(typer.main.get_command(app)))


def test_all_commands_are_looked_at() -> None:
    parameters = {str(parameter.id) for parameter in PARAMETERS}
    assert {
        "train output",
        "train resume_from",
        "generate config",
        "score cache",
        "report output",
        "merge output",
        "rounds output",
        "study plan",
    } <= parameters
    assert not {"generate output", "score candidates", "status paths"} & parameters


@pytest.mark.parametrize(("callback", "name"), PARAMETERS)
def test_every_path_of_every_command_is_of_this_machine(callback: Any, name: str) -> None:
    with pytest.raises(UsageError, match=r"gs://bucket/x: .* a disk") as caught:
        callback(**{name: Path("gs://bucket/x")})
    assert caught.value.hint
    with pytest.raises(UsageError, match="s3://b"):
        callback(**{name: [Path("here"), Path("s3://b")]})


def test_nothing_is_made_and_the_message_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"prompt": "a"}\n')
    assert run(["train", "groups", "--model", "m", "-o", "s3://b/x"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --output s3://b/x: train writes to a disk\n\n"
        "hint: use -o FOLDER, then `prefpipe push FOLDER s3://b/x`"
    )
    assert (
        run(
            ["generate", "https://a.org/p.jsonl", "-o", "x", "--model", "fake", "--backend", "fake"]
        )
        == 2
    )
    assert "https://a.org/p.jsonl" in capsys.readouterr().err
    assert run(["train", "groups", "--model", "m", "-o", "x", "--resume-from", "gs://a/b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --resume-from gs://a/b: train reads this from a disk")
    assert "prefpipe pull gs://a/b FOLDER" in error
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


@pytest.mark.parametrize("config_class", STAGES)
def test_an_address_in_yaml_is_refused_too(tmp_path: Path, config_class: Any) -> None:
    kinds = typing.get_type_hints(config_class)
    names = [item.name for item in fields(config_class) if scalar_type(kinds[item.name]) is Path]
    needed = {item.name: "x" for item in fields(config_class) if item.default is MISSING}
    for name in names:
        (tmp_path / "c.yaml").write_text(json.dumps({name: "s3://b/x"}))
        others = {item: value for item, value in needed.items() if item != name}
        with pytest.raises(
            UsageError, match=f"--{name.replace('_', '-')} s3://b/x: {config_class.stage} .* a disk"
        ):
            config_class.from_sources(others, tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("http://a.org/p.csv", "curl -LO http://a.org/p.csv"),
        ("https://a.org/p.csv", "download the file first"),
        ("hf://datasets/org/name/p.jsonl", "hf:org/name"),
        ("s3:/b/p.csv", "write s3://b/p.csv"),
    ],
)
def test_the_reader_of_tables_says_what_to_do_instead(source: str, hint: str) -> None:
    with pytest.raises(UsageError, match=source) as raised:
        read_table(source)
    assert hint in str(raised.value.hint)


def test_credentials_in_a_source_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="credentials in a URL") as raised:
        read_table("s3://AKIA1:canary@bucket/p.jsonl")
    assert "canary" not in f"{raised.value.message}{raised.value.hint}"


@pytest.mark.parametrize(
    "path", ["a/b", "C:/x", "./s3:/x", "x:y", "/tmp/s3://x", "hf:org/name", "bundled:smollm2-135m"]
)
def test_paths_of_this_machine_have_no_scheme(path: str) -> None:
    assert scheme_of(path) is None
