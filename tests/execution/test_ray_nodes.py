"""What is seen before Ray is asked: addresses, and what a node's answers are held against."""

import importlib.machinery
import importlib.util
import socket
from pathlib import Path

import pytest

from prefpipe.errors import UsageError
from prefpipe.execution.ray_nodes import (
    Expected,
    Probe,
    facts_of_this_node,
    probe_for,
    problems_of,
    versions_here,
    with_packages_of,
)
from prefpipe.execution.ray_workers import Address, address_of, check_ray

TOKEN = "a" * 32


@pytest.mark.parametrize(
    ("on", "environment", "expected"),
    [
        ("ray", {}, None),
        ("ray:auto", {}, None),
        ("ray", {"RAY_ADDRESS": "head:1"}, Address("head:1", "head", 1)),
        ("ray:other:2", {"RAY_ADDRESS": "head:1"}, Address("other:2", "other", 2)),
        ("ray:head", {}, Address("head:6379", "head", 6379)),
        ("ray:10.0.0.7:6380", {}, Address("10.0.0.7:6380", "10.0.0.7", 6380)),
        ("ray:[::1]:6379", {}, Address("[::1]:6379", "::1", 6379)),
        ("ray:ray://head:10001", {}, Address("ray://head:10001", "head", 10001)),
    ],
)
def test_addresses(on: str, environment: dict[str, str], expected: Address | None) -> None:
    assert address_of(on, environment) == expected


@pytest.mark.parametrize("on", ["ray:http://head:8265", "ray:head:x", "ray::6379", "ray:head:"])
def test_what_is_no_address_is_refused(on: str) -> None:
    with pytest.raises(UsageError, match="is not an address of a Ray cluster"):
        address_of(on, {})


def test_an_address_of_the_environment_is_named_as_such() -> None:
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS=head:x"):
        address_of("ray", {"RAY_ADDRESS": "head:x"})


def test_an_address_that_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_ray(Address("here", "127.0.0.1", port))
    with pytest.raises(UsageError, match="no Ray cluster answers at here: Connection refused"):
        check_ray(Address("here", "127.0.0.1", port))
    with pytest.raises(UsageError, match="no Ray cluster answers at there: "):
        check_ray(Address("there", "nohost.invalid", 6379))
    with pytest.raises(UsageError, match="no Ray cluster answers at far: "):
        check_ray(Address("far", "127.0.0.1", 99999))


@pytest.mark.parametrize("installed", [None, importlib.machinery.ModuleSpec("ray", None)])
def test_an_environment_without_ray(
    monkeypatch: pytest.MonkeyPatch, installed: importlib.machinery.ModuleSpec | None
) -> None:
    """Not installed, or a folder of that name in the working directory."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: installed)
    with pytest.raises(UsageError) as raised:
        check_ray(None)
    assert raised.value.hint == "pip install 'prefpipe[ray]'"


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """Questions about a command in a folder with an output, a file and a folder to read."""
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "prompts.jsonl").write_text("{}\n")
    token_path = tmp_path / "out" / ".token"
    token_path.write_text(TOKEN)
    paths = [tmp_path / "prompts.jsonl", tmp_path / "in", Path("fake"), Path("x" * 5000)]
    return probe_for(tmp_path, token_path, paths)


def test_a_node_with_the_same_folders_and_versions_is_right(probe: Probe) -> None:
    assert set(probe.sizes.values()) == {None, 3}
    assert problems_of(facts_of_this_node(probe), probe, Expected(versions_here(), TOKEN)) == []


def test_what_a_node_does_not_see(probe: Probe, tmp_path: Path) -> None:
    expected = Expected(versions_here(), TOKEN)
    (tmp_path / "prompts.jsonl").write_text("{}\n{}\n")
    (tmp_path / "in").rmdir()
    (tmp_path / "out" / ".token").write_text("b" * 32)
    problems = problems_of(facts_of_this_node(probe), probe, expected)
    assert problems == [
        f"its output folder {tmp_path / 'out'} is a different folder, with other files",
        f"its {tmp_path / 'prompts.jsonl'} is a different file: 6 bytes there, 3 here",
        f"it does not see {tmp_path / 'in'}",
    ]

    (tmp_path / "out" / ".token").unlink()
    problems = problems_of(facts_of_this_node(probe), probe, expected)
    assert problems[0] == f"it does not see the output folder {tmp_path / 'out'}"

    nowhere = probe._replace(folder=str(tmp_path / "gone"))
    problems = problems_of(facts_of_this_node(nowhere), nowhere, expected)
    assert problems == [
        f"it does not see the folder {tmp_path / 'gone'}, in which the command runs"
    ]


@pytest.mark.parametrize(
    ("there", "here", "problems"),
    [
        ({"torch": "2.9.0+cu128"}, {"torch": "2.9.0+cpu"}, []),
        ({"torch": "2.9.1"}, {"torch": "2.9.0+cpu"}, ["it has torch 2.9.1, not 2.9.0+cpu"]),
        ({}, {"vllm": "0.33.0"}, ["it has no vllm; expected 0.33.0"]),
        ({"vllm": "0.33.0"}, {}, []),
        (
            {"python": "3.12.1", "prefpipe": "0.2"},
            {"python": "3.11.7", "prefpipe": "0.1"},
            ["it has python 3.12.1, not 3.11.7", "it has prefpipe 0.2, not 0.1"],
        ),
    ],
)
def test_versions_of_a_node(
    probe: Probe, there: dict[str, str], here: dict[str, str], problems: list[str]
) -> None:
    facts = facts_of_this_node(probe)._replace(versions=there)
    assert problems_of(facts, probe, Expected(here, TOKEN)) == problems


def test_an_engine_that_the_driver_lacks_is_the_same_on_all_nodes(probe: Probe) -> None:
    facts = facts_of_this_node(probe)
    first, second = (
        facts._replace(versions={"torch": "2.9.0", "vllm": version}) for version in ("0.32", "0.33")
    )
    expected = with_packages_of(Expected({"torch": "2.9.0"}, TOKEN), first)
    assert problems_of(first, probe, expected) == []
    assert problems_of(second, probe, expected) == ["it has vllm 0.33, not 0.32"]


def test_an_output_folder_that_may_not_be_written(probe: Probe) -> None:
    facts = facts_of_this_node(probe)._replace(can_write=False)
    problems = problems_of(facts, probe, Expected({}, TOKEN))
    assert problems[0].startswith("it cannot write into the output folder")
