"""Users' files in buckets as files of this disk: the same bytes, one download, nothing left behind."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from support.faulty_proxy import Proxy, Request, running_proxy
from support.s3_servers import BUCKET, SECRET, forget_clients, reach, running_moto, running_rclone

from prefpipe.artifacts.storage import files, local_copies, pieces, retries
from prefpipe.artifacts.storage.local_copies import (
    FOLDER_NAME,
    kept_local_copies,
    local_copy,
    written_whole,
)
from prefpipe.artifacts.storage.location import Url
from prefpipe.errors import InputError, PrefpipeError

pytest.importorskip("s3fs")

NUMBERS = itertools.count()
DATA = bytes(range(256)) * 400


def copied(place: Url, folder_marks: Sequence[str] = ()) -> bytes:
    with local_copy(place, folder_marks=folder_marks) as file:
        return file.path.read_bytes()


def write(place: Url, data: bytes) -> None:
    with written_whole(place) as file:
        file.write(data)


class Usage(NamedTuple):
    free: int


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture(scope="module", params=["memory", "moto", "rclone"])
def store(
    request: pytest.FixtureRequest, moto: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The scheme of a store that this process reaches, for all tests of it: clients are slow to make."""
    if request.param == "memory":
        yield "memory"
        return
    with contextlib.ExitStack() as stack:
        url = moto
        if request.param == "rclone":
            url = stack.enter_context(running_rclone(tmp_path_factory.mktemp("rclone")))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        reach(url, patch)
        yield "s3"


@pytest.fixture
def folder(store: str) -> Url:
    """A folder of a bucket with nothing in it."""
    number = next(NUMBERS)
    if store == "memory":
        return Url("memory", f"copies-{number}/folder")
    return Url("s3", f"{BUCKET}/copies-{number}")


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.002)
    with running_proxy(moto) as proxy:
        reach(proxy.url, monkeypatch)
        yield proxy
        forget_clients()


@pytest.fixture
def at_moto(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    reach(moto, monkeypatch)
    yield
    forget_clients()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, which is empty at the end of each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(temporary: Path) -> Iterator[None]:
    yield
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("range_bytes", [1000, len(DATA), 10**6])
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=len)
def test_the_same_bytes(
    folder: Url, data: bytes, range_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", range_bytes)
    place = folder / "prompts of mine.jsonl"
    files.write(place, data)
    with local_copy(place) as file:
        assert file.path.read_bytes() == data
        assert file.path.name == place.name
        assert str(file) == f"{file}" == str(place)
    assert not file.path.exists()


def test_a_path_is_itself_and_no_folder_is_made(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "gone.jsonl"
    with kept_local_copies(), local_copy(path) as file:
        assert file.path is path
        assert str(file) == str(path)
        assert list(temporary.iterdir()) == []


def test_one_download_a_command(folder: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    """All readers of a command read the same bytes, whatever becomes of the object."""
    place = folder / "a.csv"
    files.write(place, b"one")
    with kept_local_copies():
        with local_copy(place) as file:
            assert file.path.read_bytes() == b"one"
        files.write(place, b"other")
        with kept_local_copies(), local_copy(place) as file:
            assert file.path.read_bytes() == b"one"
    with local_copy(place) as file:
        assert file.path.read_bytes() == b"other"


def test_a_folder_with_its_mark_is_copied_with_relative_names(folder: Url) -> None:
    contents = {"mark.json": b"{}", "data/a.arrow": b"abc", "data/deep/b": b"", "state": DATA}
    for name, data in contents.items():
        files.write(Url(folder.scheme, f"{folder.key}/{name}"), data)
    with local_copy(folder, folder_marks=["other", "mark.json"]) as file:
        found = [path for path in file.path.rglob("*") if path.is_file()]
        read = {str(path.relative_to(file.path)): path.read_bytes() for path in found}
    assert read == contents
    with pytest.raises(IsADirectoryError):
        copied(folder, folder_marks=["other"])


def test_a_key_that_would_lead_out_of_the_folder(proxy: Proxy) -> None:
    listing = textwrap.dedent(f"""\
        <ListBucketResult><Name>{BUCKET}</Name><Prefix>evil/</Prefix><IsTruncated>false</IsTruncated>
        <Contents><Key>evil/mark</Key><Size>1</Size><ETag>"1"</ETag>
        <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>
        <CommonPrefixes><Prefix>evil/../</Prefix></CommonPrefixes></ListBucketResult>""")
    files.write(Url("s3", f"{BUCKET}/evil/mark"), b"1")
    proxy.refusal = listing.encode()
    proxy.fault = lambda request: "other-answer" if b"list-type" in request.head else None
    with pytest.raises(InputError, match=r"holds an object called '\.\.'"):
        copied(Url("s3", f"{BUCKET}/evil"), folder_marks=["mark"])


def test_what_is_not_there(folder: Url) -> None:
    files.write(folder / "known", b"")
    with pytest.raises(InputError, match=f"{folder}/gone.csv does not exist") as raised:
        copied(folder / "gone.csv")
    assert "check the bucket's name" in str(raised.value.hint)


@pytest.mark.usefixtures("at_moto")
def test_a_bucket_that_is_not_there() -> None:
    with pytest.raises(InputError, match="s3://nobodys/a"):
        copied(Url("s3", "nobodys/a"))


def test_an_exception_of_the_block_is_no_fault_of_the_copy(folder: Url) -> None:
    files.write(folder / "a", b"1")
    with pytest.raises(KeyError), local_copy(folder / "a"):
        raise KeyError
    with pytest.raises(FileNotFoundError), local_copy(folder / "a"):
        raise FileNotFoundError


@pytest.mark.parametrize("fault", ["slow-down", "cut-request", "cut-answer", "short-answer"])
def test_failures_that_pass(proxy: Proxy, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other request fails, in the middle of a file of many ranges."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", len(DATA) // 5)
    place = Url("s3", f"{BUCKET}/passing-{fault}.bin")
    files.write(place, DATA)
    seen = set()

    def choose(request: Request) -> str | None:
        """Let each range fail once."""
        lines = [line for line in request.head.splitlines() if line.lower().startswith(b"range")]
        if not lines or lines[0] in seen:
            return None
        seen.add(lines[0])
        return fault

    proxy.fault = choose
    with local_copy(place) as file:
        assert file.path.read_bytes() == DATA
    assert proxy.n_faults >= 5


@pytest.mark.parametrize("after", [b"another", DATA[::-1], DATA + DATA], ids=len)
def test_an_object_that_is_replaced_meanwhile(
    proxy: Proxy, after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", len(DATA) // 3)
    place = Url("s3", f"{BUCKET}/replaced.bin")
    files.write(place, DATA)
    reading = files.read_range

    def read_and_replace(place: Url, start: int, end: int) -> bytes:
        if start == 0:
            data = reading(place, start, end)
            files.write(place, after)
            return data
        return reading(place, start, end)

    monkeypatch.setattr(files, "read_range", read_and_replace)
    with pytest.raises(InputError, match=f"{place} was replaced while it was read") as raised:
        copied(place)
    assert "run the same command again" in str(raised.value.hint)


def test_an_object_that_is_removed_meanwhile(proxy: Proxy, monkeypatch) -> None:
    place = Url("s3", f"{BUCKET}/removed.bin")
    files.write(place, DATA)
    reading = files.read_range

    def read_and_remove(place: Url, start: int, end: int) -> bytes:
        data = reading(place, start, end)
        files.delete(place)
        return data

    monkeypatch.setattr(files, "read_range", read_and_remove)
    with pytest.raises(InputError, match=f"{place} does not exist"):
        copied(place)


def test_no_permission(proxy: Proxy) -> None:
    place = Url("s3", f"{BUCKET}/forbidden.jsonl")
    files.write(place, DATA)
    proxy.refusal = f"<Error><Code>AccessDenied</Code><Message>{SECRET}</Message></Error>".encode()
    proxy.fault = lambda _request: "forbidden"
    with pytest.raises(InputError, match=f"{place} cannot be read: permission denied") as raised:
        copied(place)
    assert SECRET not in f"{raised.value.message}{raised.value.hint}"
    assert "permissions" in str(raised.value.hint)
    with pytest.raises(PrefpipeError, match=f"cannot write {place}: permission denied"):
        write(place, b"new")


def test_a_store_that_stays_busy(proxy: Proxy) -> None:
    place = Url("s3", f"{BUCKET}/busy.jsonl")
    files.write(place, DATA)
    proxy.fault = lambda request: "slow-down" if request.method == "GET" else None
    with pytest.raises(InputError, match=f"{place} cannot be read: .*8 times in a row"):
        copied(place)


def test_a_disk_without_room(folder: Url, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / "large.parquet"
    files.write(place, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _folder: Usage(99))
        with pytest.raises(PrefpipeError, match=f"{place} has 102,400 bytes, and {temporary}"):
            copied(place)


def test_a_disk_that_fills_up(folder: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on a file's size is an error of the same kind, and root is under it, too."""
    place = folder / "large.parquet"
    files.write(place, b"before")
    source = folder / "source"
    files.write(source, DATA)
    monkeypatch.setattr(local_copies, "NO_ROOM", {27})  # EFBIG
    with _files_of_at_most(10_000):
        with pytest.raises(PrefpipeError, match=f"cannot write {place}: ") as raised:
            write(place, DATA)
        with pytest.raises(PrefpipeError, match=f"{source} fills the disk"):
            copied(source)
    assert "TMPDIR" in str(raised.value.hint)
    assert files.read(place) == b"before"


def _files_of_at_most(n_bytes: int):
    import resource

    @contextlib.contextmanager
    def limit() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limit()


def test_no_folder_for_temporary_files(folder: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(folder / "a", b"1")
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(PrefpipeError, match="no temporary folder can be made in /proc/nowhere"):
        copied(folder / "a")


def test_a_written_file_is_there_at_the_end_alone(folder: Url) -> None:
    place = folder / "pairs.jsonl"
    with written_whole(place) as file:
        file.write(b"one")
        with pytest.raises(FileNotFoundError):
            files.read(place)
    assert files.read(place) == b"one"
    with pytest.raises(KeyError), written_whole(place) as file:
        raise KeyError(file.write(b"two"))
    assert files.read(place) == b"one"
    write(place, DATA)
    assert files.read(place) == DATA


PROGRAM = """
import sys, time
from prefpipe.artifacts.storage.local_copies import local_copy
from prefpipe.artifacts.storage.location import parse_location
{handler}
with local_copy(parse_location(sys.argv[1])) as file:
    print(file.path, flush=True)
    time.sleep(600)
"""
STOPPING = """
from prefpipe.cli.signals import StopRequest
StopRequest().install()
"""


@pytest.mark.usefixtures("at_moto")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_ended(number: signal.Signals) -> None:
    """What SIGKILL leaves behind the next command sweeps; SIGTERM leaves nothing behind."""
    place = Url("s3", f"{BUCKET}/killed.jsonl")
    files.write(place, DATA)
    words = [sys.executable, "-c", PROGRAM.format(handler=STOPPING), str(place)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ), text=True
    ) as process:
        assert process.stdout is not None
        copy = Path(process.stdout.readline().strip())
        assert copy.read_bytes() == DATA
        # one that lives keeps its own
        with local_copy(place):
            assert copy.exists()
        process.send_signal(number)
        process.wait()
    assert copy.exists() == (number == signal.SIGKILL)
    assert FOLDER_NAME in str(copy)
    with local_copy(place):
        assert not copy.exists()
