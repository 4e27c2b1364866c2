"""A store that throttles, connections that are cut, answers that are lost, and secrets in all of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faulty_proxy import Proxy, Request, running_proxy
from support.s3_servers import (
    BUCKET,
    KEY,
    SECRET,
    environment_for,
    forget_clients,
    reach,
    running_moto,
    running_rclone,
)

from prefpipe.artifacts.storage import bucket, files, retries
from prefpipe.artifacts.storage.bucket import UnconditionalWritesWarning
from prefpipe.artifacts.storage.location import Url
from prefpipe.errors import PrefpipeError

pytest.importorskip("s3fs")

DATA = bytes(range(256)) * 4000
FAULTS = ["slow-down", "cut-request", "lost-answer", "cut-answer", "short-answer"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    with running_proxy(server) as proxy:
        for name, value in environment_for(proxy.url).items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        files._opened.cache_clear()
        yield proxy


def failing(proxy: Proxy, fault: str, times: int) -> None:
    """Let the next requests fail, so many of them."""
    left = [times]

    def choose(_request: Request) -> str | None:
        left[0] -= 1
        return fault if left[0] >= 0 else None

    proxy.fault = choose
    proxy.n_faults = 0


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_failures_that_pass(proxy: Proxy, fault: str, times: int) -> None:
    """Each operation, with its first requests failing: as if nothing had been."""
    folder = Url("s3", f"{BUCKET}/{fault}-{times}")
    files.create(folder / "known", b"")

    failing(proxy, fault, times)
    files.write(folder / "part", DATA)
    failing(proxy, fault, times)
    assert files.read(folder / "part") == DATA
    failing(proxy, fault, times)
    assert files.read_tail(folder / "part", 1000) == (DATA[-1000:], len(DATA))
    failing(proxy, fault, times)
    assert files.create(folder / "claim", b"mine")
    failing(proxy, fault, times)
    assert not files.create(folder / "claim", b"other")
    failing(proxy, fault, times)
    listing = files.list_folder(folder)
    assert listing.keys() == {"known", "part", "claim"}
    assert listing["part"].n_bytes == len(DATA)
    failing(proxy, fault, times)
    files.delete(folder / "claim")
    assert proxy.n_faults >= 1
    proxy.fault = lambda _request: None
    assert files.read(folder / "part") == DATA
    assert files.list_folder(folder).keys() == {"known", "part"}


@pytest.mark.parametrize("fault", ["slow-down", "cut-request", "cut-answer"])
def test_failures_that_stay_are_told_after_so_many_tries(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.002)
    place = Url("s3", f"{BUCKET}/stays/part")
    files.write(place, DATA)
    proxy.requests.clear()
    proxy.fault = lambda _request: fault
    with pytest.raises(OSError, match="did not answer as it should, 8 times in a row") as raised:
        files.read(place)
    assert not isinstance(raised.value, FileNotFoundError)
    assert len(proxy.requests) <= 2 * retries.MAX_TRIES
    if fault == "cut-answer":
        return  # that of a PUT is empty
    with pytest.raises(PrefpipeError, match=f"cannot write {place}") as refused:
        files.write(place, b"new")
    assert "run the same command again" in refused.value.hint
    proxy.fault = lambda _request: None
    # a PUT whose connection was cut may have arrived: whole, then
    assert files.read(place) in {DATA, b"new"}


def test_an_old_file_stays_when_a_write_is_cut(proxy: Proxy) -> None:
    """The server never sees the end of the new one."""
    place = Url("s3", f"{BUCKET}/cut/part")
    files.write(place, b"old")
    failing(proxy, "cut-request", 10_000)
    with pytest.raises(PrefpipeError):
        files.write(place, DATA)
    proxy.fault = lambda _request: None
    assert files.read(place) == b"old"


def test_no_secret_is_repeated(proxy: Proxy) -> None:
    """Whatever the store answers, be it the key that it was sent."""
    place = Url("s3", f"{BUCKET}/secrets/part")
    text = f"{KEY} with {SECRET} may not"
    proxy.refusal = f"<Error><Code>AccessDenied</Code><Message>{text}</Message></Error>".encode()
    proxy.fault = lambda _request: "forbidden"
    for call in (files.read, files.list_folder):
        with pytest.raises(OSError, match="permission denied") as raised:
            call(place)
        assert SECRET not in str(raised.value)
        assert KEY not in str(raised.value)
    with pytest.raises(
        PrefpipeError, match=r"permission denied \(\*\*\* with \*\*\* may not"
    ) as refused:
        files.write(place, b"1")
    assert SECRET not in f"{refused.value.message}{refused.value.hint}"
    assert len(proxy.requests) == 3, "what is forbidden is not asked again"


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.002)
    for name, value in environment_for("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files._opened.cache_clear()
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        files.read(Url("s3", "bucket/part"))


def test_a_short_key_is_not_taken_out_of_other_words(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    proxy.refusal = b"<Error><Code>AccessDenied</Code><Message>me at times</Message></Error>"
    proxy.fault = lambda _request: "forbidden"
    with pytest.raises(PrefpipeError, match=r"permission denied \(\*\*\* at times"):
        files.write(Url("s3", f"{BUCKET}/short/part"), b"1")


def test_a_long_wait_says_why_once_it_is_long(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The kind of the failure alone: its text may be anything."""
    place = Url("s3", f"{BUCKET}/slow/part")
    failing(proxy, "slow-down", retries.QUIET_TRIES - 1)
    files.write(place, b"1")
    assert caplog.messages == []
    failing(proxy, "slow-down", retries.QUIET_TRIES)
    files.write(place, b"2")
    (message,) = caplog.messages
    assert "3 times in a row (SlowDown); a request is tried 8 times" in message
    assert "reduce your request rate" not in message


def test_a_file_that_somebody_else_made_and_removed_is_theirs(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that was taken and given back between two requests: a lost race, and nothing to wait for."""
    claim = Url("s3", f"{BUCKET}/race/claims/part-00001.json")
    files.create(claim.parent / "known", b"")
    monkeypatch.setattr(retries.time, "sleep", lambda _seconds: pytest.fail("it waits"))
    proxy.refusal = b"<Error><Code>PreconditionFailed</Code><Message>taken</Message></Error>"
    is_claim = f"PUT /{BUCKET}/race/claims/part".encode()
    proxy.fault = lambda request: "taken" if is_claim in request.head else None
    assert files.create(claim, b"mine") is False
    assert proxy.n_faults == 1


def test_a_claim_that_is_removed_behind_its_back_is_lost_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a store knows no conditions, others may have taken, used and given back a claim before it is read back."""
    monkeypatch.setattr(bucket, "LOOK_AGAIN_S", 0.001)
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    with running_rclone(tmp_path) as url, running_proxy(url) as proxy:
        reach(proxy.url, monkeypatch)
        place = Url("s3", f"{BUCKET}/claims/part-00001.json")
        with pytest.warns(UnconditionalWritesWarning):
            files.create(place, b"first")
        with pytest.warns(UnconditionalWritesWarning):
            assert files.replace(place, b"known", expected=b"first")

        written: set[str] = set()

        def note(request: Request) -> None:
            if request.method == "PUT":
                written.add(request.target.partition("?")[0])

        def is_removed(request: Request) -> bool:
            return request.method != "PUT" and request.target in written

        proxy.is_done = note
        proxy.answer_if(is_removed, "404 Not Found", "NoSuchKey")
        assert not files.replace(place, b"mine", expected=b"known")
        assert not files.create(place.parent / "part-00002.json", b"mine")
        assert len(written) == 2
    forget_clients()
