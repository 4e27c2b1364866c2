"""Small pipelines for tests: prompts to feed them, and artifacts compared row for row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefpipe.artifacts.parts import verify_part
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.store import Artifact

Rows = list[dict[str, Any]]


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_prompts(path: Path, n: int) -> Path:
    """Write ``n`` prompts with ids and a column of the user's."""
    return write_json_lines(
        path,
        [
            {"prompt_id": f"p{i:03d}", "prompt": f"question {i}", "topic": f"t{i % 3}"}
            for i in range(n)
        ],
    )


def open_artifact(folder: Path) -> Artifact:
    """Open any artifact."""
    return Artifact(folder, read_run_record(folder))


def table_of(folder: Path) -> pa.Table:
    """Return a finished artifact as one table."""
    return open_artifact(folder).read_all()


def rows_of(folder: Path) -> Rows:
    """Return a finished artifact's rows."""
    rows: Rows = table_of(folder).to_pylist()
    return rows


def digests_of(folder: Path) -> list[str]:
    """Return each part's data digest, every byte verified."""
    artifact = open_artifact(folder)
    return [verify_part(artifact.part_path(index)).data_sha256 for index in range(artifact.n_parts)]


def identities_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and modification time of each part on disk: a part that was written again has others."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("part-*")
    }


def assert_same_artifact(folder: Path, expected: Path) -> None:
    """Compare two finished artifacts: rows, types, bytes of every part, run, and that nothing else lies in the folder."""
    table, wanted = table_of(folder), table_of(expected)
    assert table.schema == wanted.schema
    assert table.to_pylist() == wanted.to_pylist()
    assert digests_of(folder) == digests_of(expected)
    assert read_run_record(folder).fingerprint == read_run_record(expected).fingerprint
    assert_only_parts(folder)


def assert_only_parts(folder: Path) -> None:
    """Assert that a finished artifact's folder holds its parts and run.json, and no temporary file."""
    artifact = open_artifact(folder)
    parts = {artifact.part_path(index).name for index in range(artifact.n_parts)}
    assert {path.name for path in folder.iterdir()} == parts | {"run.json"}
