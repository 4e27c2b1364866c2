"""Files to a storage and back, piece by piece: on a disk, in memory and in two S3 servers."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faulty_proxy import Proxy, Request, running_proxy
from support.s3_servers import BUCKET, environment_for, running_moto, running_rclone

from prefpipe.artifacts.storage import files, pieces, retries
from prefpipe.artifacts.storage.bucket import BucketStorage
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.artifacts.storage.protocol import Copied, OtherBytesError
from prefpipe.errors import InputError, PrefpipeError, StoppedEarly

pytest.importorskip("s3fs")

PIECE = 5 * 2**20
"""S3 takes no smaller pieces, but for the last."""
NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running_moto() as moto, running_rclone(tmp_path_factory.mktemp("rclone")) as rclone:
        yield {"moto": moto, "rclone": rclone}


def reach(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_for(server).items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files._opened.cache_clear()


@pytest.fixture(params=["disk", "memory", "moto", "rclone"])
def folder(
    request: pytest.FixtureRequest,
    servers: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Location:
    """A folder with nothing in it."""
    number = next(NUMBERS)
    if request.param == "disk":
        return tmp_path / "folder"
    if request.param == "memory":
        return Url("memory", f"copies-{number}/folder")
    reach(servers[request.param], monkeypatch)
    return Url("s3", f"{BUCKET}/copies-{number}")


@pytest.fixture
def moto(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Url:
    reach(servers["moto"], monkeypatch)
    return Url("s3", f"{BUCKET}/copies-{next(NUMBERS)}")


@pytest.fixture
def proxy(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with running_proxy(servers["moto"]) as proxy:
        reach(proxy.url, monkeypatch)
        yield proxy


def written(path: Path, n_bytes: int) -> bytes:
    """Write a file no two pieces of which are the same."""
    data = b"".join(
        hashlib.sha256(number.to_bytes(8)).digest() for number in range(-(-n_bytes // 32))
    )[:n_bytes]
    path.write_bytes(data)
    return data


def open_uploads(folder: Url) -> list[Any]:
    answer = files._bucket_of(folder)._files.call_s3("list_multipart_uploads", Bucket=BUCKET)
    key = folder.key.partition("/")[2]
    return [upload for upload in answer.get("Uploads", []) if upload["Key"].startswith(key)]


@pytest.mark.parametrize("n_bytes", [0, 1, PIECE, PIECE + 1, 4 * PIECE + 7])
def test_a_file_goes_there_and_back(folder: Location, tmp_path: Path, n_bytes: int) -> None:
    data = written(tmp_path / "source", n_bytes)
    expected = Copied(n_bytes, hashlib.sha256(data).hexdigest())
    files.write(folder / "step-8" / "weights", b"something before")

    counts: list[int] = []
    place = folder / "step-8" / "weights"
    assert files.upload(tmp_path / "source", place, counts.append)[:2] == expected[:2]
    assert sum(counts) == n_bytes
    assert files.read(place) == data

    counts.clear()
    (tmp_path / "back").write_bytes(b"something before")
    assert files.download(place, tmp_path / "new" / "back", counts.append) == expected
    assert files.download(place, tmp_path / "back", sha256=expected.sha256) == expected
    assert files.digest(place) == expected
    assert sum(counts) == n_bytes
    assert (tmp_path / "back").read_bytes() == (tmp_path / "new" / "back").read_bytes() == data
    assert {path.name for path in tmp_path.iterdir()} - {"folder"} == {"source", "back", "new"}


@pytest.mark.parametrize("n_bytes", [0, 9, PIECE + 1])
def test_a_tree_lists_every_file_and_what_the_store_says_of_it(
    folder: Location, tmp_path: Path, n_bytes: int
) -> None:
    assert files.list_tree(folder) == {}
    written(tmp_path / "source", n_bytes)
    for name in ("run.json", "part 1 [ä].parquet"):
        files.upload(tmp_path / "source", folder / name)
        files.upload(tmp_path / "source", folder / "checkpoints" / "step-8" / name)
    tree = files.list_tree(folder)
    names = {"run.json", "part 1 [ä].parquet"}
    assert tree.keys() == names | {f"checkpoints/step-8/{name}" for name in names}

    stored = tree["checkpoints/step-8/run.json"]
    assert stored.version.n_bytes == n_bytes
    is_told = isinstance(folder, Url) and folder.scheme == "s3"
    assert files.has_bytes_of(tmp_path / "source", folder, stored) == (True if is_told else None)
    other = tmp_path / "other"
    other.write_bytes(b"?" + (tmp_path / "source").read_bytes()[1:])
    if n_bytes:
        assert not files.has_bytes_of(other, folder, stored)
    # a name that begins alike is no part of a tree
    files.write(folder.parent / f"{folder.name}-2" / "x", b"1")
    assert files.list_tree(folder).keys() == tree.keys()
    assert files.list_tree(folder / "checkpoints").keys() == {f"step-8/{name}" for name in names}


def test_what_is_not_there(folder: Location, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.download(folder / "nothing", tmp_path / "target")
    with pytest.raises(InputError, match=r"cannot read .*absent"):
        files.upload(tmp_path / "absent", folder / "part")
    assert not (tmp_path / "target").exists()
    assert files.list_tree(folder) == {}


@pytest.mark.parametrize("n_bytes", [9, 2 * PIECE + 1])
def test_a_source_that_is_written_to_leaves_what_was_there(
    folder: Location, tmp_path: Path, n_bytes: int
) -> None:
    """A checkpoint that a training still writes must not go out as half of one and half of another."""
    source = tmp_path / "source"
    written(source, n_bytes)
    files.write(folder / "part", b"before")

    def append(_n_bytes: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    is_memory = isinstance(folder, Url) and folder.scheme == "memory"
    with pytest.raises(InputError, match="was written to while it was copied"):
        files.upload(source, folder / "part", append)
    if n_bytes > PIECE and not is_memory:
        assert files.read(folder / "part") == b"before"


@pytest.mark.parametrize("after", [1, 3])
def test_a_copy_that_is_stopped_leaves_nothing_half(
    folder: Location, tmp_path: Path, after: int
) -> None:
    written(tmp_path / "source", 5 * PIECE)
    left = [after]

    def stop(_n_bytes: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoppedEarly("asked to")

    with pytest.raises(StoppedEarly):
        files.upload(tmp_path / "source", folder / "part", stop)
    if not (isinstance(folder, Url) and folder.scheme == "memory"):
        assert files.list_tree(folder) == {}
    if isinstance(folder, Url) and folder.scheme == "s3":
        assert open_uploads(folder) == []

    files.upload(tmp_path / "source", folder / "part")
    left[0] = after
    with pytest.raises(StoppedEarly):
        files.download(folder / "part", tmp_path / "target", stop)
    assert {path.name for path in tmp_path.iterdir()} - {"folder"} == {"source"}


@pytest.mark.parametrize(
    "fault", ["slow-down", "cut-request", "half-request", "lost-answer", "cut-answer"]
)
@pytest.mark.parametrize("n_bytes", [1000, 2 * PIECE + 5])
def test_failures_that_pass(proxy: Proxy, tmp_path: Path, fault: str, n_bytes: int) -> None:
    """Every kind of request with its first tries failing, begun, sent and completed: as if nothing had been."""
    folder = Url("s3", f"{BUCKET}/{fault}-{n_bytes}")
    data = written(tmp_path / "source", n_bytes)
    expected = Copied(n_bytes, hashlib.sha256(data).hexdigest())
    lock, seen = threading.Lock(), {}

    def choose(request: Request) -> str | None:
        path, _, query = request.target.partition("?")
        kind = (request.method, path, query.partition("&uploadId")[0], range_of(request))
        if request.method == "GET" and "uploads" in query:
            return None
        with lock:
            seen[kind] = seen.get(kind, 0) + 1
            return fault if seen[kind] <= 2 else None

    counts: list[int] = []
    proxy.fault = choose
    assert files.upload(tmp_path / "source", folder / "part", counts.append)[:2] == expected[:2]
    assert sum(counts) == n_bytes
    assert files.list_tree(folder).keys() == {"part"}
    counts.clear()
    assert files.download(folder / "part", tmp_path / "back", counts.append) == expected
    assert sum(counts) == n_bytes
    assert (tmp_path / "back").read_bytes() == data
    assert proxy.n_faults > 4
    proxy.fault = lambda _request: None
    # a lost answer to the beginning of an upload leaves one that nobody knows
    files.upload(tmp_path / "source", folder / "part")
    assert open_uploads(folder) == []


def range_of(request: Request) -> bytes:
    return b"".join(
        line for line in request.head.split(b"\r\n") if line.lower().startswith(b"range")
    )


def test_a_read_that_is_shorter_than_the_file_is_made_again(proxy: Proxy, tmp_path: Path) -> None:
    folder = Url("s3", f"{BUCKET}/truncated")
    data = written(tmp_path / "source", 2 * PIECE)
    files.upload(tmp_path / "source", folder / "part")
    once = iter(["short-answer", "short-answer"])
    proxy.fault = lambda request: next(once, None) if request.method == "GET" else None
    files.download(folder / "part", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert proxy.n_faults == 2


@pytest.mark.parametrize("fault", ["slow-down", "cut-request", "half-request"])
def test_a_store_that_stays_busy_is_left_as_it_was(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    """The third piece never arrives: the file of before stays, and the upload is aborted."""
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.002)
    folder = Url("s3", f"{BUCKET}/busy-{fault}")
    files.write(folder / "part", b"before")
    written(tmp_path / "source", 3 * PIECE)
    proxy.fault = lambda request: fault if "partNumber=3" in request.target else None
    with pytest.raises(PrefpipeError, match=f"cannot write {folder}/part: the storage did not"):
        files.upload(tmp_path / "source", folder / "part")
    assert proxy.n_faults <= 2 * retries.MAX_TRIES
    proxy.fault = lambda _request: None
    assert files.read(folder / "part") == b"before"
    assert open_uploads(folder) == []


def test_an_upload_that_a_killed_process_left_open_is_aborted(proxy: Proxy, tmp_path: Path) -> None:
    folder = Url("s3", f"{BUCKET}/left-open")
    data = written(tmp_path / "source", 3 * PIECE)
    begun, killed = threading.Event(), threading.Event()

    def wait(request: Request) -> str | None:
        if "partNumber=2" in request.target and not killed.is_set():
            begun.set()
            killed.wait(60)
        return None

    proxy.fault = wait
    code = (
        "import sys; from pathlib import Path\n"
        "from prefpipe.artifacts.storage import files, pieces\n"
        "from prefpipe.artifacts.storage.location import parse_location\n"
        f"pieces.PIECE_BYTES = {PIECE}\n"
        "files.upload(Path(sys.argv[1]), parse_location(sys.argv[2]))\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "source"), f"{folder}/part"]
    process = subprocess.Popen(words, env=os.environ.copy())
    try:
        assert begun.wait(60)
    finally:
        process.kill()
        process.wait()
        killed.set()
    assert files.list_tree(folder) == {}
    assert len(open_uploads(folder)) == 1

    files.upload(tmp_path / "source", folder / "part")
    assert files.read(folder / "part") == data
    assert open_uploads(folder) == []


def test_a_file_that_is_replaced_while_it_is_read_is_no_file(moto: Url, tmp_path: Path) -> None:
    written(tmp_path / "source", 5 * PIECE)
    files.upload(tmp_path / "source", moto / "part")

    def replace(_n_bytes: int) -> None:
        data = (tmp_path / "source").read_bytes()
        files.write(moto / "part", data[::-1])

    with pytest.raises(OSError, match="was replaced while it was read"):
        files.download(moto / "part", tmp_path / "target", replace)
    assert not (tmp_path / "target").exists()


def test_other_bytes_than_expected_are_no_file(folder: Location, tmp_path: Path) -> None:
    files.write(folder / "part", b"damaged")
    (tmp_path / "target").write_bytes(b"before")
    counts: list[int] = []
    with pytest.raises(OtherBytesError, match=r"sha256 .*, not 00"):
        files.download(folder / "part", tmp_path / "target", counts.append, sha256="00")
    assert sum(counts) == 0
    assert (tmp_path / "target").read_bytes() == b"before"


def test_the_digest_of_an_upload_is_what_the_store_tells(moto: Url, tmp_path: Path) -> None:
    for n_bytes in (9, 2 * PIECE + 1):
        written(tmp_path / "source", n_bytes)
        copied = files.upload(tmp_path / "source", moto / "part")
        assert copied.md5 == files.list_tree(moto)["part"].md5


def test_a_small_file_that_is_replaced_by_a_longer_one(
    moto: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(moto / "part", b"before")
    read = BucketStorage.read_range

    def replace_and_read(storage: BucketStorage, place: Url, start: int, end: int) -> bytes:
        files.write(place, b"before and more")
        return read(storage, place, start, end)

    monkeypatch.setattr(BucketStorage, "read_range", replace_and_read)
    with pytest.raises(OSError, match="was replaced while it was read"):
        files.download(moto / "part", tmp_path / "target")


def test_a_target_that_cannot_be_written(moto: Url, tmp_path: Path) -> None:
    files.write(moto / "part", b"1")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PrefpipeError, match="a file is where a folder should be"):
        files.download(moto / "part", tmp_path / "file" / "target")


@pytest.mark.slow
def test_neither_way_holds_the_file_in_memory(moto: Url, tmp_path: Path) -> None:
    """150 MB through a process that may use 100 MB more than for a small file."""
    code = (
        "import json, resource, sys; from pathlib import Path\n"
        "from prefpipe.artifacts.storage import files, pieces\n"
        "from prefpipe.artifacts.storage.location import parse_location\n"
        f"pieces.PIECE_BYTES = {PIECE}\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "folder = parse_location(sys.argv[1])\n"
        "files.upload(Path(sys.argv[2]), folder / 'small'); before = peak()\n"
        "files.upload(Path(sys.argv[3]), folder / 'large')\n"
        "files.download(folder / 'large', Path(sys.argv[4]))\n"
        "print(json.dumps(peak() - before))\n"
    )
    (tmp_path / "small").write_bytes(b"1")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(150_000_000)
    words = [sys.executable, "-c", code, str(moto)]
    words += [str(tmp_path / name) for name in ("small", "large", "back")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 100_000_000
    assert (tmp_path / "back").stat().st_size == 150_000_000
