"""Every artifact's place may be a URL: as a flag, an argument, in YAML and on the way to workers."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import prefpipe.configs
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Url
from prefpipe.configs.command import CommandConfig
from prefpipe.configs.options import is_list, resolved_types, scalar_type, shown_name
from prefpipe.configs.recorded_commands import RecordedCommand, Surroundings, split_target
from prefpipe.configs.stages import EVALUATIONS, STAGES
from prefpipe.errors import UsageError
from prefpipe.execution.channel import json_values

URL = Url("s3", "bucket/runs/a")
PLACES = [
    pytest.param(config_class, item.name, id=f"{config_class.stage} {item.name}")
    for config_class in (*STAGES, *EVALUATIONS)
    for item in fields(config_class)
    if scalar_type(resolved_types(config_class)[item.name]) is Url
]


BESIDE: dict[str, dict[str, Any]] = {
    "generate": {"backend": "fake"},
    "eval": {"backend": "fake"},
    "judge": {"judge": "fake"},
    "import": {"format": "rows"},
    "select": {"strategy": "bottom-k"},
}
"""Without these a command is refused, or settles something before it is run."""
TOGETHER: dict[str, dict[str, Any]] = {
    "rater_scores": {"objective": "mmpo", "gamma": "auto"},
    "eval_reference": {"eval_groups": "g"},
    "policy_embeddings": {"baseline_embeddings": "e"},
    "baseline_embeddings": {"policy_embeddings": "e"},
    "emit_batch": {"judge": "openai:m", "scorer": ("judge:openai:m",)},
    "ingest_batch": {"judge": "openai:m", "scorer": ("judge:openai:m",)},
    "json_schema": {"backend": "vllm"},
}
"""Fields that go with another one."""


def url_for(config_class: Any, name: str) -> Url:
    """Return a URL that a field takes: some files are looked at, some names have a suffix."""
    if name == "json_schema":
        place = Url("memory", "bucket/schema.json")
        files.write(place, b"{}")
        return place
    is_file = (config_class.stage, name) == ("export", "output")
    return URL / "o.jsonl" if is_file else URL


def beside_of(config_class: Any, name: str) -> dict[str, Any]:
    """Return what a command needs beside a field."""
    names = [item.name for item in fields(config_class)]
    together = {key: value for key, value in TOGETHER.get(name, {}).items() if key in names}
    return needed(config_class) | together


def needed(config_class: Any) -> dict[str, Any]:
    """What a command cannot do without, in words that every kind of field takes."""
    of_class = {"difficulty": None, "scorer": ("checks",), "objective": "dpo"}
    values = {}
    for item in fields(config_class):
        if item.default is MISSING:
            values[item.name] = of_class.get(item.name, f"{item.name}.jsonl")
    if config_class.stage == "export":
        values |= {"format": "jsonl", "output": "o.jsonl"}
    return values | BESIDE.get(config_class.stage, {})


def test_inputs_and_outputs_of_all_stages_are_among_them() -> None:
    names = {str(parameter.id) for parameter in PLACES}
    assert {
        "generate output",
        "score candidates",
        "select earlier",
        "train groups",
        "train reference",
        "judge a",
        "logprobs output",
        "eval policy_scores",
        "import output",
        "export groups",
    } <= names
    assert "train output" not in names


@pytest.mark.parametrize(("config_class", "name"), PLACES)
def test_a_url_is_kept_whole_on_every_way(config_class: Any, name: str, tmp_path: Path) -> None:
    """From a flag and from YAML; to a worker and back; in the recorded identity."""
    url = url_for(config_class, name)
    value: Any = str(url)
    kind = resolved_types(config_class)[name]
    beside = beside_of(config_class, name)
    of_flag = config_class.from_sources({**beside, name: value}, None)
    expected = (url,) if is_list(kind) else url
    assert getattr(of_flag, name) == expected

    (tmp_path / "c.yaml").write_text(json.dumps({name: value}))
    others = {key: each for key, each in beside.items() if key != name}
    of_yaml = config_class.from_sources(others, tmp_path / "c.yaml")
    assert of_yaml == of_flag

    on_the_wire = json.loads(json.dumps(json_values(of_flag)))
    assert config_class.from_values(on_the_wire) == of_flag
    json.dumps(of_flag.identity())


@pytest.mark.parametrize(("config_class", "name"), PLACES)
def test_a_secret_in_a_url_is_refused_and_not_shown(config_class: Any, name: str) -> None:
    values = {**needed(config_class), name: "s3://key:canary@bucket/x"}
    with pytest.raises(UsageError) as caught:
        config_class.from_values(values)
    assert "canary" not in f"{caught.value.message} {caught.value.hint}"
    shown = shown_name(next(item for item in fields(config_class) if item.name == name))
    assert caught.value.message.startswith(shown)


def test_a_command_in_a_bucket_is_pasted_as_it_was_typed() -> None:
    words = ["prefpipe", "score", "s3://b/run/candidates", "-o", "s3://b/run/scores"]
    words += ["--scorer", "r=ratings:s3://b/ratings.jsonl"]
    recorded = RecordedCommand(words)
    now = Surroundings(Path("/then"), Url("s3", "b/run/scores"), Path("/now"))
    again = recorded.to_go_on(now, replaces_other_runs=False, shard=None, has_checkpoints=False)
    assert again == words


def test_a_run_that_was_pushed_goes_on_in_the_bucket() -> None:
    words = ["prefpipe", "embed", "run/candidates", "-o", "run/embeddings", "--model", "fake"]
    now = Surroundings(Path("/then"), Url("memory", "b/run/embeddings"), Path("/then"))
    again = RecordedCommand(words).to_go_on(
        now, replaces_other_runs=False, shard=None, has_checkpoints=False
    )
    assert again[again.index("-o") + 1] == "memory://b/run/embeddings"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ratings:s3://b/x", ("ratings:", "s3://b/x")),
        ("r=ratings:gs://b/x", ("r=ratings:", "gs://b/x")),
        ("r=judge:transformers:a/b", ("r=judge:transformers:", "a/b")),
        ("checks", ("", "checks")),
    ],
)
def test_a_target_that_is_a_url_keeps_its_colon(text: str, parts: tuple[str, str]) -> None:
    assert split_target(text) == parts


def test_ray_shares_a_folder_and_no_bucket() -> None:
    """Its nodes are checked by a file in the output folder, before a worker has credentials."""
    values = {"candidates": "s3://b/candidates", "scorer": ("checks",), "on": "ray", "workers": "2"}
    config_class = next(each for each in STAGES if each.stage == "score")
    with pytest.raises(UsageError, match="a copy of the command with --claim on each node"):
        config_class.from_values(values | {"output": "s3://b/scores"})
    config_class.from_values(values | {"output": "scores"})


def commands() -> dict[str, type[CommandConfig]]:
    """Every command's flags by its name, `eval win-rate`."""
    for module in pkgutil.iter_modules(prefpipe.configs.__path__):
        importlib.import_module(f"prefpipe.configs.{module.name}")

    def below(config_class: type) -> Iterator[type[CommandConfig]]:
        for each in config_class.__subclasses__():
            yield each
            yield from below(each)

    found = {}
    for each in below(CommandConfig):
        name = getattr(each, "stage", None) or getattr(each, "command", None)
        if name:
            found[name] = each
    return found


def test_the_page_on_buckets_says_which_places_may_be_urls() -> None:
    page = Path(__file__).parents[2] / "docs" / "guides" / "buckets.md"
    rows: dict[str, list[str]] = {}
    for line in re.findall(r"^\| `.*\|$", page.read_text(), re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4:
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[1:])

    for name, config_class in commands().items():
        kinds = {item: resolved_types(config_class)[item.name] for item in fields(config_class)}
        urls = {shown_name(item) for item, kind in kinds.items() if scalar_type(kind) is Url}
        paths = {shown_name(item) for item, kind in kinds.items() if scalar_type(kind) is Path}
        if urls:
            assert name in rows, f"{name} takes {urls}, and {page.name} has no row of it"
        if name in rows:
            reads, writes, disk = (set(re.findall(r"`([^`]+)`", cell)) for cell in rows[name])
            assert urls <= reads | writes, name
            assert paths <= disk, name
            assert not (reads | writes) & paths, name
    assert len(rows) > 20
