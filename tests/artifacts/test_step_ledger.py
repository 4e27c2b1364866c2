"""The ledger of a study: lines that are whole, whoever writes, and whatever cut one off."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.small_disk import grow, small_disk

from prefpipe.artifacts.step_ledger import FILE_NAME, StepEntry, StepLedger
from prefpipe.errors import InputError, PrefpipeError

ENTRY = StepEntry(
    key="k" * 64,
    name="train",
    stage="train",
    words=("train", "groups", "-o", "pölicy\udcff"),
    exit_code=0,
    seconds=1.5,
    ended_at="2026-11-30T10:00:00+00:00",
    host="here",
    n_tokens=120,
    arm="coreset",
    seed=0,
)


def test_entries_come_back_as_they_were_in_order(tmp_path: Path) -> None:
    ledger = StepLedger(tmp_path / "study")
    assert ledger.read() == []
    entries = [
        ENTRY,
        replace(ENTRY, name="eval-00015", exit_code=-9, judged_at=15, n_tokens=None),
        replace(ENTRY, arm=None, seed=None, exit_code=75),
    ]
    for entry in entries:
        ledger.add(entry)
    assert ledger.read() == entries
    assert [entry.is_done for entry in entries] == [True, False, False]
    assert [entry.has_failed for entry in entries] == [False, True, False]


def test_every_cut_of_the_last_line_leaves_the_lines_before_and_the_next_one_whole(
    tmp_path: Path,
) -> None:
    ledger = StepLedger(tmp_path)
    ledger.add(ENTRY)
    ledger.add(replace(ENTRY, name="second"))
    whole = ledger.path.read_bytes()
    first = whole.index(b"\n") + 1
    third = replace(ENTRY, name="third")
    for size in (*range(first, len(whole) - 2, 23), len(whole) - 2):
        ledger.path.write_bytes(whole[:size])
        ledger.add(third)
        assert ledger.read() == [ENTRY, third], size


@pytest.mark.parametrize(
    "line",
    ["", "{}", "[]", "null", "\x00\x00", "[" * 9000, '{"key": "k"}']
    + [f'{{"key": {value}}}' for value in ("1", "null", '"k"')],
)
def test_a_line_that_is_none_is_left_out(tmp_path: Path, line: str) -> None:
    ledger = StepLedger(tmp_path)
    ledger.path.write_bytes(line.encode() + b"\n")
    ledger.add(ENTRY)
    assert ledger.read() == [ENTRY]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", None),
        ("words", ["a", 1]),
        ("words", "train"),
        ("exit_code", True),
        ("exit_code", "0"),
        ("seconds", -1),
        ("seconds", "1"),
        ("seed", "0"),
        ("arm", 1),
        ("judged_at", 1.5),
    ],
)
def test_a_line_with_a_value_of_another_kind_is_left_out(
    tmp_path: Path, field: str, value: object
) -> None:
    line = json.dumps(asdict(ENTRY) | {field: value})
    assert StepEntry.from_line(line.encode()) is None
    newer = json.dumps(asdict(ENTRY) | {"of_a_newer_release": value})
    assert StepEntry.from_line(newer.encode()) == ENTRY


def test_a_disk_that_is_full_keeps_the_lines_and_the_next_one_follows_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", 12) as disk:
        ledger = StepLedger(disk)
        n_written = 20
        for seed in range(n_written):
            ledger.add(replace(ENTRY, seed=seed))
        with pytest.raises(PrefpipeError, match="no space left on the disk"):
            ledger.add(replace(ENTRY, words=("long",) * 2000))
        assert [entry.seed for entry in ledger.read()] == list(range(n_written))
        assert ledger.path.read_bytes().endswith(b"}\n")
        grow(disk, 1)
        ledger.add(replace(ENTRY, seed=n_written))
        assert [entry.seed for entry in ledger.read()] == list(range(n_written + 1))


WRITER = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[3])
from artifacts.test_step_ledger import ENTRY
from prefpipe.artifacts.step_ledger import StepLedger
from pathlib import Path
for i in range(200):
    StepLedger(Path(sys.argv[1])).add(replace(ENTRY, arm=sys.argv[2], seed=i))
"""


@pytest.mark.slow
def test_four_processes_write_every_line_whole(tmp_path: Path) -> None:
    tests = Path(__file__).parent.parent
    words = [sys.executable, "-c", WRITER, str(tmp_path)]
    processes = [subprocess.Popen([*words, str(i), str(tests)]) for i in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0, 0]
    entries = StepLedger(tmp_path).read()
    expected = {(str(i), seed) for i in range(4) for seed in range(200)}
    assert {(entry.arm, entry.seed) for entry in entries} == expected
    assert len(entries) == 800


def test_a_ledger_in_a_place_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(InputError, match=r"steps\.jsonl cannot be read"):
        StepLedger(tmp_path).read()
    with pytest.raises(PrefpipeError, match=r"cannot write .*steps\.jsonl"):
        StepLedger(tmp_path).add(ENTRY)
    assert os.listdir(tmp_path) == [FILE_NAME]
