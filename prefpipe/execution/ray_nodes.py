"""Whether a node of a cluster can make parts: its versions, and the folders that it sees.

The node says what is there, and what was expected is held against it where the driver is.
"""

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

COMPARED = ("prefpipe", "torch", "transformers", "vllm")
"""Packages whose version can change rows."""


class Probe(NamedTuple):
    """What a node is asked.

    ``folder`` is the driver's working directory, to which the other paths are relative.
    ``token_path`` is a file that the driver has just written into the output folder, and
    ``sizes`` are those of the files that the command reads, None for a folder.
    """

    folder: str
    token_path: str
    sizes: Mapping[str, int | None]


class NodeFacts(NamedTuple):
    """What a node answers. ``versions`` holds no package that is not installed."""

    host: str
    versions: Mapping[str, str]
    sees_folder: bool
    token: str | None
    can_write: bool
    sizes: Mapping[str, int | None]


class Expected(NamedTuple):
    """The driver's versions, and what it wrote into the token's file."""

    versions: Mapping[str, str]
    token: str


def probe_for(folder: Path, token_path: Path, paths: Sequence[Path]) -> Probe:
    """Return the questions about this command: ``paths`` are what it reads."""
    sizes = {str(path): _size(path) for path in paths if _is_there(path)}
    return Probe(str(folder), str(token_path), sizes)


def versions_here() -> dict[str, str]:
    """Return the versions of Python and of the compared packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in COMPARED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def facts_of_this_node(probe: Probe) -> NodeFacts:
    """Answer a probe."""
    folder = Path(probe.folder)
    token_path = folder / probe.token_path
    sizes = {}
    for name in probe.sizes:
        path = folder / name
        if path.exists():
            sizes[name] = _size(path)

    return NodeFacts(
        host=socket.gethostname(),
        versions=versions_here(),
        sees_folder=folder.is_dir(),
        token=_text_or_none(token_path),
        can_write=os.access(token_path.parent, os.W_OK),
        sizes=sizes,
    )


def problems_of(facts: NodeFacts, probe: Probe, expected: Expected) -> list[str]:
    """Return why a node cannot make parts, in sentences; none where it can."""
    problems = _version_problems(facts.versions, expected.versions)
    if not facts.sees_folder:
        return [*problems, f"it does not see the folder {probe.folder}, where the command runs"]

    output = Path(probe.token_path).parent
    if facts.token is None:
        problems.append(f"it does not see the output folder {output}")
    elif facts.token != expected.token:
        problems.append(f"its output folder {output} is another one, with other files")
    elif not facts.can_write:
        problems.append(f"it may not write into the output folder {output}")

    for name, size in probe.sizes.items():
        if name not in facts.sizes:
            problems.append(f"it does not see {name}")
        elif facts.sizes[name] != size:
            problems.append(f"its {name} is another one: {facts.sizes[name]} bytes, here {size}")

    return problems


def with_packages_of(expected: Expected, facts: NodeFacts) -> Expected:
    """Return what other nodes are held against.

    A driver may lack an engine, on a node without a GPU. All workers must have the same one then.
    """
    return expected._replace(versions={**facts.versions, **expected.versions})


def _version_problems(versions: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    problems = []
    for name, version in expected.items():
        there = versions.get(name)
        if there is None:
            problems.append(f"it has no {name}; expected {version}")
        # 2.9.0+cpu and 2.9.0+cu128 are builds of one version
        elif there.partition("+")[0] != version.partition("+")[0]:
            problems.append(f"it has {name} {there}, not {version}")
    return problems


def _is_there(path: Path) -> bool:
    """Return whether a path exists; a text that is no path at all does not."""
    try:
        return path.exists()
    except OSError:
        return False


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _text_or_none(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
