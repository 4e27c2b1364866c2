"""Whether a node of a cluster can make parts: its versions, and the folders that it sees.

The node reports its facts, and the driver's side compares them with what it expects.
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
    """What to look for on a node.

    ``folder`` is the driver's working directory; the other paths are relative to it. ``token_path``
    is a file that the driver has just written into the output folder. ``sizes`` are those of the
    files that the command reads, None for a folder.
    """

    folder: str
    token_path: str
    sizes: Mapping[str, int | None]


class NodeFacts(NamedTuple):
    """What a node reports. ``versions`` holds installed packages only."""

    host: str
    versions: Mapping[str, str]
    sees_folder: bool
    token: str | None
    can_write: bool
    sizes: Mapping[str, int | None]


class Expected(NamedTuple):
    """The driver's versions, and the content of its token file."""

    versions: Mapping[str, str]
    token: str


def probe_for(folder: Path, token_path: Path, paths: Sequence[Path]) -> Probe:
    """Return the probe for this command, which reads ``paths``."""
    sizes = {str(path): _size(path) for path in paths if _is_there(path)}
    return Probe(str(folder), str(token_path), sizes)


def versions_here() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that are compared."""
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
    """Return in sentences why a node cannot make parts; none if it can."""
    problems = _version_problems(facts.versions, expected.versions)
    if not facts.sees_folder:
        return [*problems, f"it does not see the folder {probe.folder}, in which the command runs"]

    output = Path(probe.token_path).parent
    if facts.token is None:
        problems.append(f"it does not see the output folder {output}")
    elif facts.token != expected.token:
        problems.append(f"its output folder {output} is a different folder, with other files")
    elif not facts.can_write:
        problems.append(f"it cannot write into the output folder {output}")

    for name, size in probe.sizes.items():
        if name not in facts.sizes:
            problems.append(f"it does not see {name}")
        elif facts.sizes[name] != size:
            problems.append(
                f"its {name} is a different file: {facts.sizes[name]} bytes there, {size} here"
            )

    return problems


def with_packages_of(expected: Expected, facts: NodeFacts) -> Expected:
    """Return what the other nodes are compared with.

    A driver on a node without a GPU may lack an engine. Then all workers must have the same one.
    """
    return expected._replace(versions={**facts.versions, **expected.versions})


def _version_problems(versions: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    problems = []
    for name, version in expected.items():
        there = versions.get(name)
        if there is None:
            problems.append(f"it has no {name}; expected {version}")
        # 2.9.0+cpu and 2.9.0+cu128 are builds of the same version.
        elif there.partition("+")[0] != version.partition("+")[0]:
            problems.append(f"it has {name} {there}, not {version}")
    return problems


def _is_there(path: Path) -> bool:
    """Return whether a path exists; False for a text that cannot be a path."""
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
