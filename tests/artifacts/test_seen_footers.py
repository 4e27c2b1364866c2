"""Footers that a command reads once."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from prefpipe.artifacts import parts
from prefpipe.artifacts.parts import PartFooter, part_name, write_part
from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.seen_footers import SeenFooters
from prefpipe.artifacts.store import Artifact
from prefpipe.errors import CorruptPartError

RECORD = RunRecord(stage="score", schema="scores/1", n_parts=3, identity={"n": 8})


def write(folder: Path, index: int, n_rows: int = 2) -> Path:
    path = folder / part_name(index, RECORD.n_parts)
    write_part(
        path,
        pa.table({"x": range(n_rows)}),
        fingerprint=RECORD.fingerprint,
        schema=RECORD.schema,
        counts={"ok": n_rows},
        parents={},
        tally={"n_tokens": n_rows},
    )
    return path


@pytest.fixture
def n_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """Return how often each footer was read from disk."""
    n_reads: Counter[Path] = Counter()
    read_footer = parts.read_footer

    def counting(path: Path) -> PartFooter:
        n_reads[path] += 1
        return read_footer(path)

    monkeypatch.setattr(parts, "read_footer", counting)
    return n_reads


def test_an_artifact_reads_each_footer_once(tmp_path: Path, n_reads: Counter[Path]) -> None:
    paths = [write(tmp_path, index) for index in range(3)]
    artifact = Artifact(tmp_path, RECORD, read_footer=SeenFooters().read)
    for _ in range(3):
        assert artifact.counts() == {"ok": 6}
        assert artifact.tally() == {"n_tokens": 6}
        artifact.digest()
    assert n_reads == dict.fromkeys(paths, 1)


def test_a_part_that_was_replaced_is_read_again(tmp_path: Path, n_reads: Counter[Path]) -> None:
    path = write(tmp_path, 0)
    footers = SeenFooters()
    assert footers.read(path).n_rows == 2
    write(tmp_path, 0, n_rows=5)
    assert footers.read(path).n_rows == 5
    assert n_reads == {path: 2}


def test_a_verified_footer_is_not_read_again(tmp_path: Path, n_reads: Counter[Path]) -> None:
    path = write(tmp_path, 0)
    footers = SeenFooters()
    assert footers.verify(path) == footers.read(path)
    assert not n_reads


def test_a_part_that_is_gone_or_damaged_is_an_error_each_time(tmp_path: Path) -> None:
    path = write(tmp_path, 0)
    footers = SeenFooters()
    footers.read(path)
    path.write_bytes(path.read_bytes()[:-20])
    for _ in range(2):
        with pytest.raises(CorruptPartError):
            footers.read(path)
    path.unlink()
    with pytest.raises(CorruptPartError):
        footers.read(path)
