"""Who works on what: one at a time, as long as a process lives that has the lock."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefpipe.artifacts import holders
from prefpipe.artifacts.holders import UNKNOWN, Lock

HOLDER = """
import subprocess, sys
from pathlib import Path
from prefpipe.artifacts.holders import Lock
with Lock(Path(sys.argv[1])).tried() as held:
    if sys.argv[2] == "with a step":
        step = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        subprocess.Popen(step, pass_fds=[held.descriptor])
    print(held is not None, flush=True)
    sys.stdin.read()
"""


def start_holder(path: Path, how: str) -> "subprocess.Popen[str]":
    """Return a process that has tried the lock and waits until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_one_has_it_at_a_time_and_the_file_says_who(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "locks" / "coreset.seed-0")
    with lock.tried() as held, Lock(lock.path).tried() as other:
        assert held is not None
        assert held.is_sure
        assert other is None
        holder = lock.holder()
        assert holder.name.endswith(f"/{os.getpid()}")
        assert not holder.is_gone
        assert holder.line == f"{holder.name} since {holder.since}"
    with Lock(lock.path).tried() as again:
        assert again is not None
    # removed and made again it would be two locks
    assert [path.name for path in lock.path.parent.iterdir()] == ["coreset.seed-0"]


@pytest.mark.slow
def test_it_is_free_in_the_moment_in_which_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = start_holder(path, "alone")
    with Lock(path).tried() as held:
        assert held is None
    assert Lock(path).holder().name.endswith(f"/{process.pid}")
    process.kill()
    process.wait()
    with Lock(path).tried() as held:
        assert held is not None


@pytest.mark.slow
def test_a_step_that_outlives_its_command_holds_it_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = start_holder(path, "with a step")
    process.kill()
    process.wait()
    with Lock(path).tried() as held:
        assert held is None
    holder = Lock(path).holder()
    assert holder.name.endswith(f"/{process.pid}")
    assert holder.is_gone

    # the step reads from the same pipe as the command did, and ends with it
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    assert process.stdout.read() == ""
    # what it has open is closed one after another, and its output before the lock
    while Lock(path).is_held():
        time.sleep(0.01)
    with Lock(path).tried() as held:
        assert held is not None
        assert not Lock(path).holder().is_gone


@pytest.mark.parametrize(
    "note",
    ["", "{", "[]", "null", "\x00", '{"host": 1, "pid": 2, "since": ""}', "[" * 5000]
    + [f'{{"host": "h", "since": "s", "pid": {pid}}}' for pid in ("true", "0", "-1", '"1"', 2**40)],
)
def test_a_note_that_says_nothing_names_nobody(tmp_path: Path, note: str) -> None:
    path = tmp_path / "lock"
    path.write_text(note)
    assert Lock(path).holder() == UNKNOWN
    assert Lock(tmp_path / "nowhere").holder() == UNKNOWN


def test_a_process_of_another_machine_is_not_looked_for_on_this_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text('{"host": "elsewhere", "machine": "other_1", "pid": 2147483646, "since": "s"}')
    holder = Lock(path).holder()
    assert holder.name == "elsewhere/2147483646"
    assert not holder.is_gone


def test_where_the_file_system_has_no_locks_it_is_taken_and_not_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(holders.fcntl, "flock", refuse)
    with Lock(tmp_path / "lock").tried() as held:
        assert held is not None
        assert not held.is_sure
