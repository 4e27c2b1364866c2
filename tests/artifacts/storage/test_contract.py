"""The operations on whole files, the same on a disk, in memory and in two independent S3 servers."""

import itertools
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.s3_servers import BUCKET, environment_for, running_moto, running_rclone

from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Location, Url
from prefpipe.errors import PrefpipeError, PrefpipeWarning

pytest.importorskip("s3fs")

NUMBERS = itertools.count()
STORAGES = ["disk", "memory", "moto", "rclone"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running_moto() as moto, running_rclone(tmp_path_factory.mktemp("rclone")) as rclone:
        yield {"moto": moto, "rclone": rclone}


@pytest.fixture(params=STORAGES)
def folder(
    request: pytest.FixtureRequest,
    servers: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Location]:
    """A folder with nothing in it."""
    number = next(NUMBERS)
    if request.param == "disk":
        yield tmp_path / "folder"
        return
    if request.param == "memory":
        yield Url("memory", f"bucket-{number}/folder")
        return
    reach(servers[request.param], monkeypatch)
    yield Url("s3", f"{BUCKET}/folder-{number}")


def reach(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find a server, as a user does: by the environment."""
    for name, value in environment_for(server).items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files._opened.cache_clear()


@pytest.fixture(autouse=True)
def _without_the_notice() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrefpipeWarning)
        yield


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000], ids=len)
def test_what_was_written_is_read(folder: Location, data: bytes) -> None:
    place = folder / "part"
    files.write(place, b"something before")
    files.write(place, data)
    assert files.read(place) == data
    listing = files.list_folder(folder)
    assert listing.keys() == {"part"}
    assert listing["part"] is not None
    assert listing["part"].n_bytes == len(data)


@pytest.mark.parametrize("n_bytes", [0, 1, 7, 8, 9, 1000])
def test_the_tail_is_the_end_of_the_whole(folder: Location, n_bytes: int) -> None:
    data = b"abcdefgh"
    files.write(folder / "part", data)
    tail = data[len(data) - min(n_bytes, len(data)) :]
    assert files.read_tail(folder / "part", n_bytes) == (tail, len(data))


def test_what_is_not_there(folder: Location) -> None:
    for call in (files.read, files.list_folder, lambda place: files.read_tail(place, 8)):
        with pytest.raises(FileNotFoundError):
            call(folder / "nothing")
    files.delete(folder / "nothing") if not isinstance(folder, Path) else None
    files.write(folder / "other", b"1")
    files.delete(folder / "nothing")
    assert files.list_folder(folder).keys() == {"other"}


def test_a_deleted_file_is_gone(folder: Location) -> None:
    for name in ("a", "b"):
        files.write(folder / name, b"1")
    files.delete(folder / "a")
    with pytest.raises(FileNotFoundError):
        files.read(folder / "a")
    assert files.list_folder(folder).keys() == {"b"}


def test_a_listing_shows_folders_without_what_is_in_them(folder: Location) -> None:
    files.write(folder / "run.json", b"{}")
    files.write(folder / "claims" / "part-00001.json", b"1")
    files.write(folder / "claims" / "deeper" / "x", b"1")
    listing = files.list_folder(folder)
    assert listing.keys() == {"run.json", "claims"}
    assert listing["claims"] is None
    assert files.list_folder(folder / "claims").keys() == {"part-00001.json", "deeper"}


def test_a_listing_has_more_names_than_a_page(folder: Location) -> None:
    """S3 lists a thousand a page."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: files.write(folder / f"part-{n:05d}", b"1"), range(1100)))
    assert len(files.list_folder(folder)) == 1100
    assert len(files.list_tree(folder)) == 1100


def test_a_replaced_file_has_another_version(folder: Location) -> None:
    files.write(folder / "part", b"one")
    before = files.list_folder(folder)["part"]
    files.write(folder / "part", b"two")
    after = files.list_folder(folder)["part"]
    assert before != after
    assert after == files.list_folder(folder)["part"]


def test_only_what_is_not_there_is_created(folder: Location) -> None:
    assert files.create(folder / "run.json", b"first")
    assert not files.create(folder / "run.json", b"second")
    assert files.read(folder / "run.json") == b"first"
    assert files.list_folder(folder).keys() == {"run.json"}
    files.delete(folder / "run.json")
    assert files.create(folder / "run.json", b"third")


def test_of_many_creators_one_wins(folder: Location) -> None:
    """Sixteen at once, ten times; where the store has no condition, what is read is one of theirs."""
    exclusive = not (isinstance(folder, Url) and folder.scheme == "s3") or creates_exclusively(
        folder
    )
    files.create(folder / "first", b"")
    for number in range(10):
        place = folder / f"claim-{number}"
        begin = threading.Barrier(16)

        def create(worker: int, place: Location = place, begin: threading.Barrier = begin) -> bool:
            begin.wait()
            return files.create(place, b"worker %d" % worker)

        with ThreadPoolExecutor(16) as threads:
            won = list(threads.map(create, range(16)))
        winners = [worker for worker, has_won in enumerate(won) if has_won]
        content = files.read(place)
        assert content in {b"worker %d" % worker for worker in winners} or not exclusive
        if exclusive:
            assert len(winners) == 1


def creates_exclusively(folder: Url) -> bool:
    files.create(folder / "probe", b"")
    bucket = files._bucket_of(folder)
    return bool(bucket._creates_exclusively)


def test_a_store_without_conditions_is_noticed_once(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for server, n_notices in (("moto", 0), ("rclone", 1)):
        reach(servers[server], monkeypatch)
        folder = Url("s3", f"{BUCKET}/notice-{server}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number in range(3):
                assert files.create(folder / f"claim-{number}", b"mine")
                assert not files.create(folder / f"claim-{number}", b"other")
                assert files.read(folder / f"claim-{number}") == b"mine"
        notices = [each for each in caught if issubclass(each.category, PrefpipeWarning)]
        assert len(notices) == n_notices


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_a_bucket_that_is_not_there(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """It is no missing part: that would be made again, and could not be written."""
    reach(servers[server], monkeypatch)
    place = Url("s3", "nobody-made-this/part")
    for call in (files.read, files.list_folder, lambda place: files.read_tail(place, 8)):
        with pytest.raises(OSError, match="the bucket does not exist") as raised:
            call(place)
        assert not isinstance(raised.value, FileNotFoundError)
    for write in (files.write, files.create):
        with pytest.raises(PrefpipeError, match="cannot write s3://nobody-made-this/part: the b"):
            write(place, b"1")
