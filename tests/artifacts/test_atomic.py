"""A name on disk always means a whole file."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from prefpipe.artifacts import atomic
from prefpipe.artifacts.atomic import (
    atomic_folder,
    atomic_write,
    create_exclusively,
    disk_failure,
    make_folder,
    sweep_temporary_files,
    sync_folder,
)
from prefpipe.errors import PrefpipeError, UsageError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_appears_under_its_name_only_when_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "part.parquet"
    with atomic_write(target) as file:
        file.write(b"half")
        assert not target.exists()
        [temporary] = tmp_path.iterdir()
        assert temporary.name.startswith(".part.parquet.")
        assert temporary.name.endswith(f".{os.getpid()}.tmp")
        file.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert names(tmp_path) == {"part.parquet"}


@pytest.mark.parametrize("error", [ValueError("bad table"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_in_the_block_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "run.json"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(target) as file:  # noqa: PT012 - the block is what is tested
        file.write(b"new")
        raise error
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == {"run.json"}


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "no space left on the disk"),
        (errno.EROFS, "the folder cannot be written to"),
        (errno.EACCES, "the folder cannot be written to"),
        (errno.ENOTDIR, "a file is where a folder should be"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_disk_error_names_the_file_and_what_to_do(tmp_path: Path, number: int, what: str) -> None:
    target = tmp_path / "part.parquet"
    with pytest.raises(PrefpipeError) as caught, atomic_write(target):
        raise OSError(number, os.strerror(number))
    assert caught.value.message == f"cannot write {target}: {what}"
    assert caught.value.hint
    assert not names(tmp_path)


RUST = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (SafetensorError(RUST), "no space left on the disk"),
        (Exception("No space left on device (os error 28)"), "no space left on the disk"),
        (Exception("Input/output error (os error 5)"), "Input/output error"),
        (
            RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598"),
            "torch could not write",
        ),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
            "torch could not write",
        ),
    ],
)
def test_a_disk_error_that_a_library_raises_in_its_own_class_is_one(
    tmp_path: Path, error: Exception, what: str
) -> None:
    with pytest.raises(PrefpipeError) as caught, atomic_folder(tmp_path / "model"):
        raise error
    assert caught.value.message.startswith(f"cannot write {tmp_path / 'model'}: ")
    assert what in caught.value.message
    assert caught.value.hint
    assert not names(tmp_path)


def test_an_error_that_is_not_the_disks_is_left_as_it_is(tmp_path: Path) -> None:
    assert disk_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert disk_failure(ValueError("os error")) is None
    with pytest.raises(RuntimeError, match="shapes"), atomic_folder(tmp_path / "model"):
        raise RuntimeError("shapes")
    assert not names(tmp_path)


def test_an_error_inside_a_folder_names_the_folder_and_not_its_hidden_place(tmp_path: Path) -> None:
    with (
        pytest.raises(PrefpipeError) as caught,
        atomic_folder(tmp_path / "model") as folder,
        atomic_write(folder / "README.md"),
    ):
        raise OSError(errno.ENOSPC, "full")
    assert (
        caught.value.message
        == f"cannot write {tmp_path / 'model' / 'README.md'}: no space left on the disk"
    )


def test_a_folder_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    target = tmp_path / "gone" / "part"
    with (
        pytest.raises(PrefpipeError, match=rf"cannot write {target}: No such file or directory"),
        atomic_write(target),
    ):
        pass


@pytest.mark.slow
def test_only_one_of_many_creates_a_file_and_its_content_is_whole(tmp_path: Path) -> None:
    """Sixteen processes would be slow; forks of this one race on the same name."""
    target = tmp_path / "run.json"
    gate, opener = os.pipe()
    children = []
    for number in range(16):
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            os.read(gate, 1)
            os._exit(create_exclusively(target, str(number).encode() * 10_000))
        children.append(pid)
    os.close(gate)
    os.close(opener)
    won = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sum(won) == 1
    assert target.read_bytes() == str(won.index(1)).encode() * 10_000
    assert names(tmp_path) == {"run.json"}


def test_creating_what_is_there_touches_nothing(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    assert create_exclusively(target, b"first")
    before = target.stat()
    assert not create_exclusively(target, b"second")
    assert (target.read_bytes(), target.stat().st_mtime_ns) == (b"first", before.st_mtime_ns)
    assert names(tmp_path) == {"run.json"}


def test_a_file_system_without_hard_links_gets_a_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert create_exclusively(tmp_path / "run.json", b"first")
    assert not create_exclusively(tmp_path / "run.json", b"second")
    assert (tmp_path / "run.json").read_bytes() == b"first"
    assert names(tmp_path) == {"run.json"}


def test_a_name_taken_at_the_last_moment_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker's file appears between the look and the link."""
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_bytes(b"theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert not create_exclusively(tmp_path / "run.json", b"ours")
    assert (tmp_path / "run.json").read_bytes() == b"theirs"
    assert names(tmp_path) == {"run.json"}


def test_creating_in_a_folder_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PrefpipeError, match=r"cannot write .*run\.json"):
        create_exclusively(tmp_path / "gone" / "run.json", b"x")


def test_folders_are_made_with_their_parents_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PrefpipeError, match="a file is where a folder should be"):
            make_folder(path)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_sweeping_removes_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    kept = [
        f".part.parquet.{atomic.MACHINE}.{os.getpid()}.tmp",  # alive
        f".part.parquet.{atomic.MACHINE}.1.tmp",  # alive, and another user's
        f".part.parquet.elsewhere_1.{dead_pid()}.tmp",  # another machine's: its processes are not known here
        ".part.parquet.tmp",
        f".part.parquet.{atomic.MACHINE}.99999999999999999999.tmp",
        "part.parquet",
        "notes.tmp",
    ]
    swept = [f".part.parquet.{atomic.MACHINE}.{dead_pid()}.tmp", ".run.json.elsewhere_1.5.tmp"]
    for name in kept + swept:
        (tmp_path / name).write_text("x")
    yesterday = time.time() - atomic.ABANDONED_S - 60
    os.utime(tmp_path / swept[1], (yesterday, yesterday))
    os.utime(tmp_path / kept[0], (yesterday, yesterday))
    sweep_temporary_files(tmp_path)
    assert names(tmp_path) == set(kept)


def test_what_sigkill_leaves_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from prefpipe.artifacts.atomic import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n"
        "    file.write(b'x' * 100_000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, tmp_path / "part"], check=False).returncode
        == -9
    )
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".part.")
    sweep_temporary_files(tmp_path)
    assert not names(tmp_path)


def test_the_machine_is_named_by_word_characters_only() -> None:
    """It stands between dots in the names of temporary files."""
    assert atomic.MACHINE.isidentifier() or atomic.MACHINE.replace("_", "").isalnum()


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_folder(tmp_path / "gone")

    asked = []

    def refuse(descriptor: int) -> None:
        asked.append(descriptor)
        raise OSError(errno.EINVAL, "not on this file system")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)
    assert len(asked) == 1


def test_a_folder_whose_disk_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


def test_threads_of_one_process_write_different_files_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with atomic_write(tmp_path / f"part{number}") as file:
            file.write(bytes([number]) * 100_000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / f"part{n}").read_bytes() == bytes([n]) * 100_000 for n in range(8)] == [
        True
    ] * 8
    assert names(tmp_path) == {f"part{n}" for n in range(8)}


def test_a_folder_appears_under_its_name_only_when_the_block_has_ended(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "model") as folder:
        (folder / "weights").write_text("half")
        (folder / "more").mkdir()
        (folder / "more" / "code.py").write_text("pass")
        assert not (tmp_path / "deep" / "model").exists()
        assert folder.name.startswith(".model.")
    assert (tmp_path / "deep" / "model" / "more" / "code.py").read_text() == "pass"
    assert names(tmp_path / "deep") == {"model"}


@pytest.mark.parametrize(
    "error", [ValueError("does not agree"), KeyboardInterrupt(), SystemExit(3)]
)
def test_an_exception_in_the_block_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(type(error)), atomic_folder(tmp_path / "model", overwrite=True) as folder:  # noqa: PT012 - as above
        (folder / "new").touch()
        raise error
    assert names(tmp_path) == {"model"}
    assert names(tmp_path / "model") == {"old"}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(3)]
)
def test_an_exception_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    rename, n_renames = Path.replace, 0

    def second_fails(path: Path, target: Path) -> Path:
        nonlocal n_renames
        n_renames += 1
        if n_renames == 2:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", second_fails)
    with (
        pytest.raises(PrefpipeError if isinstance(error, OSError) else type(error)),
        atomic_folder(tmp_path / "model", overwrite=True) as folder,
    ):
        (folder / "new").touch()
    assert n_renames == 3
    assert names(tmp_path) == {"model"}
    assert names(tmp_path / "model") == {"old"}


def test_files_of_a_folder_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    """safetensors writes with 0600, and nobody else could load the model."""
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").touch(mode=0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "model" / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_replaced_whole_and_only_when_asked_to(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(UsageError, match="already exists"), atomic_folder(tmp_path / "model"):
        pass
    with atomic_folder(tmp_path / "model", overwrite=True) as folder:
        (folder / "new").touch()
        assert names(tmp_path / "model") == {"old"}
    assert names(tmp_path / "model") == {"new"}
    assert names(tmp_path) == {"model"}


def test_what_a_dead_process_left_of_a_folder_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, alive = (
        tmp_path / f".model.{atomic.MACHINE}.{pid}.tmp" for pid in (child.pid, os.getppid())
    )
    for path in (dead, alive):
        path.mkdir()
        (path / "weights").touch()
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").touch()
    assert names(tmp_path) == {"model", alive.name}
