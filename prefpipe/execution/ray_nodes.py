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

from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.storage.location import parse_location
from prefpipe.errors import PrefpipeError

COMPARED = ("prefpipe", "torch", "transformers", "vllm")
"""Packages whose version can change rows."""


class Probe(NamedTuple):
    """What to look for on a node.

    ``folder`` is the driver's working directory; the other paths are relative to it. ``token_path``
    is a file that the driver has just written into the output folder, None for one in a bucket,
    which is ``bucket``. ``sizes`` are those of the files that the command reads, None for a folder.
    """

    folder: str
    token_path: str | None
    sizes: Mapping[str, int | None]
    bucket: str | None = None


class NodeFacts(NamedTuple):
    """What a node reports. ``versions`` holds installed packages only.

    ``bucket_problem``: why an output in a bucket cannot be read there.
    """

    host: str
    versions: Mapping[str, str]
    sees_folder: bool
    token: str | None
    can_write: bool
    sizes: Mapping[str, int | None]
    bucket_problem: str | None = None


class Expected(NamedTuple):
    """The driver's versions, and the content of its token file."""

    versions: Mapping[str, str]
    token: str


def probe_for(
    folder: Path, token_path: Path | None, paths: Sequence[Path], bucket: str | None = None
) -> Probe:
    """Return the probe for this command, which reads ``paths``."""
    sizes = {str(path): _size(path) for path in paths if _is_there(path)}
    return Probe(str(folder), None if token_path is None else str(token_path), sizes, bucket)


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
    token_path = None if probe.token_path is None else folder / probe.token_path
    sizes = {}
    for name in probe.sizes:
        path = folder / name
        if path.exists():
            sizes[name] = _size(path)

    return NodeFacts(
        host=socket.gethostname(),
        versions=versions_here(),
        sees_folder=folder.is_dir(),
        token=None if token_path is None else _text_or_none(token_path),
        can_write=token_path is not None and os.access(token_path.parent, os.W_OK),
        sizes=sizes,
        bucket_problem=None if probe.bucket is None else _problem_of_bucket(probe.bucket),
    )


def problems_of(facts: NodeFacts, probe: Probe, expected: Expected) -> list[str]:
    """Return in sentences why a node cannot make parts; none if it can."""
    problems = _version_problems(facts.versions, expected.versions)
    if not facts.sees_folder:
        return [*problems, f"it does not see the folder {probe.folder}, in which the command runs"]

    if facts.bucket_problem is not None:
        problems.append(f"there {facts.bucket_problem}")
    if probe.token_path is not None:
        problems += _folder_problems(facts, Path(probe.token_path).parent, expected)

    for name, size in probe.sizes.items():
        if name not in facts.sizes:
            problems.append(f"it does not see {name}")
        elif facts.sizes[name] != size:
            problems.append(
                f"its {name} is a different file: {facts.sizes[name]} bytes there, {size} here"
            )

    return problems


def _folder_problems(facts: NodeFacts, output: Path, expected: Expected) -> list[str]:
    if facts.token is None:
        return [f"it does not see the output folder {output}"]
    if facts.token != expected.token:
        return [f"its output folder {output} is a different folder, with other files"]
    if not facts.can_write:
        return [f"it cannot write into the output folder {output}"]
    return []


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


def _problem_of_bucket(url: str) -> str | None:
    """Return why this node cannot read an output in a bucket, None if it can.

    Its credentials are its own: the driver's do not travel.
    """
    try:
        read_run_record(parse_location(url))
    except PrefpipeError as error:
        return error.message
    return None


def _text_or_none(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
