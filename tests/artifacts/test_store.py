"""Folders of parts: which are done, which are refused, and what several workers may do at once."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefpipe.artifacts import run_record, store
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.run_record import RunRecord, read_run_record
from prefpipe.artifacts.store import (
    Output,
    Shard,
    open_input,
    open_output,
    parts_without_record,
    refuse_nesting,
)
from prefpipe.errors import (
    CorruptPartError,
    FingerprintError,
    IncompleteInputError,
    InputError,
    UsageError,
)

TABLE = pa.table({"x": [1, 2]})


def record(n: int = 8, n_parts: int = 3, **more: Any) -> RunRecord:
    return RunRecord(
        stage="score",
        schema="scores/1",
        n_parts=n_parts,
        identity={"n": n, "parts": n_parts},
        **more,
    )


def output(
    path: Path,
    wanted: RunRecord | None = None,
    *,
    shard: Shard | None = None,
    overwrite: Overwrite | bool = False,
) -> Output:
    return open_output(path, wanted or record(), shard=shard or Shard(), overwrite=overwrite)


def write(made: Output, *indices: int, parents: Mapping[str, str] | None = None) -> None:
    for index in indices:
        made.write(index, TABLE, counts={"ok": 2}, parents=parents or {})


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


@pytest.mark.parametrize(("n_parts", "count"), [(16, 1), (16, 3), (7, 7), (3, 8), (0, 2)])
def test_shards_share_the_parts_without_gap_or_overlap(n_parts: int, count: int) -> None:
    shares = [Shard(index, count).parts(n_parts) for index in range(count)]
    assert sorted(part for share in shares for part in share) == list(range(n_parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_new_output_has_its_record_and_no_part_is_done(tmp_path: Path) -> None:
    made = output(tmp_path / "a" / "b")
    assert read_run_record(made.path) == record()
    assert [made.is_done(index, {}) for index in range(3)] == [False] * 3
    assert made.missing() == [0, 1, 2]


def test_a_part_is_done_when_it_is_whole_of_this_run_and_of_these_parents(tmp_path: Path) -> None:
    made = output(tmp_path)
    write(made, 0, 1, parents={"candidates": "c1"})
    assert made.is_done(0, {"candidates": "c1"})
    assert not made.is_done(0, {"candidates": "c2"})
    assert not made.is_done(0, {})
    assert not made.is_done(2, {"candidates": "c1"})
    data = made.part_path(0).read_bytes()
    made.part_path(0).write_bytes(data[:4] + b"\0\0\0\0" + data[8:])
    assert not made.is_done(0, {"candidates": "c1"})
    shutil.copy(made.part_path(1), made.part_path(0))
    assert not made.is_done(0, {"candidates": "c1"})
    with pytest.raises(
        CorruptPartError,
        match=r"part-00000-of-00003\.parquet is part-00001-of-00003\.parquet under a different name",
    ):
        made.read(0)


def test_the_footer_of_a_part_that_was_just_written_is_not_read_while_its_file_stands(
    tmp_path: Path,
) -> None:
    made = output(tmp_path / "a")
    write(made, 0, parents={"candidates": "c"})
    written = made.footer(0)
    assert written == open_input(made.path, schema="scores", name="x").footer(0)

    read: list[Path] = []
    from_disk = made.read_footer
    counting = replace(made, read_footer=lambda path: read.append(path) or from_disk(path))
    assert counting.footer(0) == written
    assert not read

    # Another process makes the part again.
    write(output(made.path), 0, parents={"candidates": "another"})
    assert counting.footer(0).parents == {"candidates": "another"}
    assert len(read) == 1
    made.part_path(0).unlink()
    with pytest.raises(CorruptPartError, match="is missing"):
        counting.footer(0)


def test_the_same_run_again_keeps_parts_context_and_history(tmp_path: Path) -> None:
    first = output(tmp_path, record(context={"host": "a"}, history=[{"operation": "extend"}]))
    write(first, 0)
    again = output(tmp_path, record(context={"host": "b"}))
    assert again.is_done(0, {})
    assert (again.record.context, again.record.history) == (
        {"host": "a"},
        [{"operation": "extend"}],
    )


def test_another_run_in_the_same_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    write(output(tmp_path), 0)
    before = names(tmp_path)
    with pytest.raises(
        FingerprintError,
        match=r"holds the result of a different configuration:\n  n: 8 on disk, 9 requested$",
    ) as caught:
        output(tmp_path, record(9))
    assert caught.value.exit_code == 2
    assert names(tmp_path) == before


def test_overwriting_another_run_removes_its_parts_and_takes_the_folder(tmp_path: Path) -> None:
    write(output(tmp_path, record(n_parts=5)), 0, 1, 4)
    made = output(tmp_path, record(9), overwrite=True)
    assert names(tmp_path) == ["run.json"]
    assert read_run_record(tmp_path) == made.record == record(9)


def test_overwriting_the_same_run_removes_only_the_parts_of_this_shard(tmp_path: Path) -> None:
    write(output(tmp_path), 0, 1, 2)
    output(tmp_path, shard=Shard(1, 2), overwrite=True)
    assert names(tmp_path) == [
        "part-00000-of-00003.parquet",
        "part-00002-of-00003.parquet",
        "run.json",
    ]


def test_a_worker_that_overwrites_late_spares_what_the_first_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read the old record; the first replaces it and makes its part before the second goes on."""
    write(output(tmp_path), 0, 1, 2)
    read, first = run_record.read_run_record, []

    def slow_read(path: Path) -> RunRecord:
        found = read(path)
        if not first:
            first.append(None)
            first[0] = output(tmp_path, record(9), shard=Shard(0, 2), overwrite=True)  # type: ignore[call-overload]
            write(first[0], 0, 2)
        return found

    monkeypatch.setattr(run_record, "read_run_record", slow_read)
    second = output(tmp_path, record(9), shard=Shard(1, 2), overwrite=True)
    write(second, 1)
    assert [second.is_done(index, {}) for index in range(3)] == [True] * 3


def test_a_worker_that_starts_while_another_makes_the_folder_sees_no_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """run.json and a part appear between its look for run.json and its look at the folder."""
    listed, late = Path.iterdir, []

    def slow_listing(path: Path) -> Any:
        if path == tmp_path and not late:
            late.append(True)
            write(output(tmp_path), 0)
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", slow_listing)
    made = output(tmp_path, shard=Shard(1, 2))
    assert late
    assert made.is_done(0, {})


def test_a_folder_with_other_files_is_refused_and_an_empty_or_hidden_one_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(
        UsageError,
        match=r"already holds files that no prefpipe run wrote \(no run\.json\): mine\.txt",
    ):
        output(tmp_path)
    assert names(tmp_path) == [".DS_Store", "mine.txt"]
    (tmp_path / "mine.txt").unlink()
    output(tmp_path)
    with pytest.raises(UsageError, match=r"run\.json is a file, and an artifact is a folder"):
        output(tmp_path / "run.json")


def test_a_lost_record_is_written_anew_and_the_parts_of_this_run_are_kept(tmp_path: Path) -> None:
    made = output(tmp_path)
    write(made, 0)
    (tmp_path / "run.json").unlink()
    assert list(parts_without_record(tmp_path)) == [made.part_path(0)]
    again = output(tmp_path)
    assert again.is_done(0, {})
    assert again.record == made.record
    assert parts_without_record(tmp_path) == {}

    (tmp_path / "run.json").unlink()
    output(tmp_path, overwrite=True)
    assert names(tmp_path) == ["run.json"]


def test_parts_of_another_configuration_without_a_record_are_refused_unless_they_are_to_be_overwritten(
    tmp_path: Path,
) -> None:
    other = output(tmp_path, record(4))
    write(other, 0)
    (tmp_path / "run.json").unlink()
    with pytest.raises(
        UsageError,
        match=r"has lost its run\.json, and part-00000-of-0000\d\.parquet was made with another configuration",
    ):
        output(tmp_path)
    assert names(tmp_path) == [other.part_path(0).name]
    output(tmp_path, overwrite=Overwrite.STALE)
    assert names(tmp_path) == ["run.json"]


def test_parts_that_another_tool_wrote_are_no_lost_run(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "part-00000-of-00001.parquet")
    assert parts_without_record(tmp_path) == {}
    with pytest.raises(UsageError, match="already holds files that no prefpipe run wrote"):
        output(tmp_path, overwrite=True)
    assert names(tmp_path) == ["part-00000-of-00001.parquet"]


def test_a_damaged_record_is_refused_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    write(output(tmp_path), 0)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        output(tmp_path)
    output(tmp_path, overwrite=True)
    assert names(tmp_path) == ["run.json"]


def test_steps_are_recorded_and_change_no_fingerprint(tmp_path: Path) -> None:
    made = (
        output(tmp_path)
        .with_step({"operation": "retry_errors"})
        .with_step({"operation": "retry_errors", "parts": [1]})
    )
    assert read_run_record(tmp_path) == made.record
    assert made.record.history == [
        {"operation": "retry_errors"},
        {"operation": "retry_errors", "parts": [1]},
    ]
    assert made.record.fingerprint == record().fingerprint


def test_an_input_is_opened_by_kind_and_version(tmp_path: Path) -> None:
    output(tmp_path / "scores")
    assert open_input(tmp_path / "scores", schema="scores", name="--scores").n_parts == 3
    with pytest.raises(
        InputError,
        match=r"CANDIDATES: .* holds scores \(made by `prefpipe score`\), not candidates",
    ) as caught:
        open_input(tmp_path / "scores", schema="candidates", name="CANDIDATES")
    assert caught.value.hint == "pass the folder of candidates"
    open_output(
        tmp_path / "new", replace(record(), schema="scores/2"), shard=Shard(), overwrite=False
    )
    with pytest.raises(
        InputError, match=r"--scores: .* has schema scores/2, and this release reads scores/1"
    ):
        open_input(tmp_path / "new", schema="scores", name="--scores")


def test_missing_parts_are_counted_and_listed(tmp_path: Path) -> None:
    made = output(tmp_path, record(n_parts=20))
    with pytest.raises(IncompleteInputError, match="has no parts yet"):
        made.read_all(allow_partial=True)
    write(made, 0, 5, 11)
    with pytest.raises(
        IncompleteInputError,
        match=r"17 of 20 parts are missing \(part 1, 2, 3, 4, 6, 7, 8, 9, \.\.\.\)",
    ) as caught:
        made.read_all()
    assert caught.value.exit_code == 4
    assert made.present([0, 1, 5], allow_partial=True) == [0, 5]
    assert made.present([0, 5], allow_partial=False) == [0, 5]
    assert made.read_all(allow_partial=True).num_rows == 6
    assert made.counts() == {"ok": 6}


def test_a_part_of_another_run_is_no_part_of_this_one(tmp_path: Path) -> None:
    write(output(tmp_path / "one", record(1)), 0)
    made = output(tmp_path / "two", record(2))
    shutil.copy(tmp_path / "one" / "part-00000-of-00003.parquet", made.path)
    assert not made.is_done(0, {})
    with pytest.raises(
        CorruptPartError, match=r"was not made by the run that its run\.json describes"
    ):
        made.footer(0)


def test_a_part_of_another_schema_is_an_error_and_not_made_again_in_silence(tmp_path: Path) -> None:
    made = output(tmp_path)
    store.parts.write_part(
        made.part_path(0),
        TABLE,
        fingerprint=made.record.fingerprint,
        schema="groups/1",
        counts={},
        parents={},
    )
    for look in (made.footer, made.read, lambda index: made.is_done(index, {})):
        with pytest.raises(InputError, match="has schema groups/1, its artifact says scores/1"):
            look(0)


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("a", "a"),
        ("a/b", "a"),
        ("a", "a/b"),
        ("a/b/../c", "a"),
        ("link", "a"),
        ("link/c", "a"),
        ("a/x/y", "a"),
    ],
)
def test_outputs_and_inputs_must_lie_beside_one_another(
    tmp_path: Path, target: str, source: str
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match="lie inside each other") as caught:
        refuse_nesting(tmp_path / target, {"--scores": tmp_path / source})
    assert (
        f"output {tmp_path / target} and input --scores {tmp_path / source}" in caught.value.message
    )


@pytest.mark.parametrize(("target", "source"), [("ab", "a"), ("out", "p.jsonl"), (".", "p.jsonl")])
def test_neighbours_and_a_file_in_the_output_s_parent_are_fine(
    tmp_path: Path, target: str, source: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "p.jsonl").write_text("x")
    assert refuse_nesting(tmp_path / target, {"x": tmp_path / source}) is None


def _record_once(folder: Path, name: str) -> None:
    step = {"operation": "sampled_without", "model": name}
    for _ in range(5):
        run_record.add_step(folder, step, once=True)


def test_steps_that_processes_and_threads_record_at_once_are_all_in_the_history_once(
    tmp_path: Path,
) -> None:
    """Eight processes of four models, and four threads of this one."""
    record().write_if_absent(tmp_path)
    context = get_context("fork")
    workers = [
        context.Process(target=_record_once, args=(tmp_path, f"model {i % 4}")) for i in range(8)
    ]
    threads = [Thread(target=_record_once, args=(tmp_path, f"model {i}")) for i in range(2, 6)]
    for one in (*workers, *threads):
        one.start()
    for one in (*workers, *threads):
        one.join(timeout=120)
    history = run_record.read_run_record(tmp_path).history
    assert sorted(step["model"] for step in history) == [f"model {i}" for i in range(6)]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
