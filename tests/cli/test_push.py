"""`prefpipe push` and `pull` on a bucket of a real server: what is copied, resumed, compared and refused."""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faulty_proxy import Proxy, Request, running_proxy
from support.s3_servers import BUCKET, KEY, SECRET, environment_for, running_moto
from support.shared_run import CANARY, PIECE, add_what_stays, tree_of, write_model, write_run
from support.warm_cli import Done, WarmCli, warm_cli

from prefpipe.artifacts import atomic
from prefpipe.artifacts.claims import Claimant
from prefpipe.artifacts.run_record import read_run_record
from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Url

pytest.importorskip("s3fs")

MODULES = ["prefpipe.wiring.push", "prefpipe.stages.sharing.push", "prefpipe.stages.sharing.pull",
           "prefpipe.stages.sharing.bucket_folder", "prefpipe.status.checker", "prefpipe.report.page",
           "s3fs", "aiobotocore.session"]  # fmt: skip
MANIFEST = "prefpipe-manifest.json"


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with running_moto() as server, running_proxy(server) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cli(proxy: Proxy) -> Iterator[WarmCli]:
    with warm_cli(MODULES, environment_for(proxy.url), piece_bytes=PIECE) as cli:
        yield cli


@pytest.fixture(autouse=True)
def _reached(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process finds the server, too, to look into the bucket."""
    for name, value in environment_for(proxy.url).items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files._opened.cache_clear()
    proxy.fault = lambda _request: None
    proxy.requests.clear()
    yield
    proxy.fault = lambda _request: None


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("shared") / "home")


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original.parent, tmp_path / "home")
    for record in (tmp_path / "home").rglob("run.json"):
        text = record.read_text(encoding="utf-8")
        text = text.replace(str(original.parent), str(tmp_path / "home"))
        record.write_text(text, encoding="utf-8")
    return tmp_path / "home" / "run"


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{abs(hash(request.node.nodeid))}"


def stored(url: str) -> dict[str, bytes]:
    """Return what lies at a URL."""
    folder = Url("s3", url.removeprefix("s3://"))
    return {name: files.read(folder / name) for name in files.list_tree(folder)}


def without_manifest(tree: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in tree.items() if name != MANIFEST}


def puts(proxy: Proxy) -> list[str]:
    return [request.target for request in proxy.requests if request.method == "PUT"]


def ok(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


def test_there_and_back(cli: WarmCli, proxy: Proxy, run: Path, url: str, tmp_path: Path) -> None:
    """What belongs goes, and comes back byte for byte; a second call of either copies nothing."""
    belonging = tree_of(run)
    add_what_stays(run)
    done = ok(cli.run("push", run, url, folder=tmp_path))
    assert done.out == f"{url}\n"
    assert without_manifest(stored(url)) == belonging
    assert CANARY.encode() not in b"".join(stored(url).values())
    for words in (
        "not copied: 3 files of no artifact, model or report (--all-files copies them): ",
        ": model/pytorch_model.bin, notes.txt, prompts.jsonl",
        "not copied, for they may hold secrets: .env, model/hf_token.txt, token",
        "not copied: 5 files that commands write for themselves",
        f"{len(belonging)} files, 5.3 MB: {len(belonging)} copied (5.3 MB), 0 were there; the store's",
        "; the store's digests agree",
        "push: 5.3 MB of 5.3 MB done",
    ):
        assert words in done.err

    manifest = json.loads(stored(url)[MANIFEST])
    assert manifest["is_complete"] is True
    assert manifest["files"].keys() == belonging.keys()
    before = stored(url)
    proxy.requests.clear()
    done = ok(cli.run("push", run, url, "--json", folder=tmp_path))
    assert json.loads(done.out)["copied"] == 0
    assert puts(proxy) == []
    assert stored(url) == before

    done = ok(cli.run("pull", url, "back", folder=tmp_path))
    assert done.out == "back\n"
    assert tree_of(tmp_path / "back") == belonging
    assert "every sha256 is right, and the own digest of 12 parts" in done.err
    proxy.requests.clear()
    done = ok(cli.run("pull", url, "back", "--json", folder=tmp_path))
    assert json.loads(done.out)["copied"] == 0
    assert len(proxy.requests) <= 4, "a listing and the manifest"


def test_only_what_differs_is_copied(
    cli: WarmCli, proxy: Proxy, run: Path, url: str, tmp_path: Path
) -> None:
    ok(cli.run("push", run, url, folder=tmp_path))
    lost = "groups/part-00001-of-00003.parquet"
    files.delete(Url("s3", f"{url.removeprefix('s3://')}/{lost}"))
    (run / "model" / "LICENSE").write_text("mine", encoding="utf-8")
    proxy.requests.clear()
    done = ok(cli.run("push", run, url, "--json", folder=tmp_path))
    assert json.loads(done.out)["copied"] == 2
    sent = [
        target.partition("?")[0].removeprefix(f"/{BUCKET}/").partition("/")[2]
        for target in puts(proxy)
    ]
    assert sorted(sent) == sorted([MANIFEST, MANIFEST, lost, "model/LICENSE"])
    assert without_manifest(stored(url)) == tree_of(run)


@pytest.mark.slow
def test_one_changed_byte_of_the_same_size_is_noticed(
    cli: WarmCli, run: Path, url: str, tmp_path: Path
) -> None:
    ok(cli.run("push", run, url, folder=tmp_path))
    place = Url("s3", f"{url.removeprefix('s3://')}/model/config.json")
    files.write(place, files.read(place).replace(b"2", b"3"))
    done = cli.run("pull", url, "back", folder=tmp_path)
    assert done.code == 1
    assert (
        "model/config.json arrives with other bytes than were pushed, 3 times in a row" in done.err
    )
    assert not (tmp_path / "back" / "model" / "config.json").exists()
    assert json.loads(ok(cli.run("push", run, url, "--json", folder=tmp_path)).out)["copied"] == 1
    ok(cli.run("pull", url, "back", folder=tmp_path))
    assert tree_of(tmp_path / "back") == tree_of(run)


def test_verify_reads_everything_back(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    done = ok(cli.run("push", run, url, "--verify", folder=tmp_path))
    assert "every file was read back and is the same" in done.err
    place = Url("s3", f"{url.removeprefix('s3://')}/model/config.json")
    manifest = files.read(Url("s3", f"{url.removeprefix('s3://')}/{MANIFEST}"))
    changed = files.read(place).replace(b"2", b"3")
    files.write(place, changed)
    # a store whose listing does not change, as if the object had rotted
    stamp = json.loads(manifest)["files"]["model/config.json"]["stamp"]
    tag = files.list_tree(Url("s3", url.removeprefix("s3://")))["model/config.json"].version.stamp
    rotten = manifest.replace(stamp.strip('"').encode(), tag.strip('"').encode())
    files.write(Url("s3", f"{url.removeprefix('s3://')}/{MANIFEST}"), rotten)
    done = cli.run("push", run, url, "--verify", folder=tmp_path)
    assert done.code == 1
    assert "model/config.json was read back with other bytes than were sent" in done.err


@pytest.mark.slow
def test_something_else_is_not_replaced(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    files.write(Url("s3", f"{url.removeprefix('s3://')}/theirs.txt"), b"1")
    done = cli.run("push", run, url, "--overwrite", folder=tmp_path)
    assert done.code == 2
    assert f"{url} already holds 1 file that no push wrote: theirs.txt" in done.err
    assert stored(url) == {"theirs.txt": b"1"}

    ok(cli.run("push", run / "model", f"{url}/m", folder=tmp_path))
    before = stored(f"{url}/m")
    other = write_model(tmp_path / "other", seed=1)
    done = cli.run("push", other, f"{url}/m", folder=tmp_path)
    assert done.code == 2
    assert f"error: {url}/m holds something else: it is " in done.err
    assert "hint: choose another place, or pass --overwrite" in done.err
    done = cli.run("push", run / "groups", f"{url}/m", folder=tmp_path)
    assert done.code == 2
    assert stored(f"{url}/m") == before

    ok(cli.run("push", run / "groups", f"{url}/m", "--overwrite", folder=tmp_path))
    assert without_manifest(stored(f"{url}/m")) == tree_of(run / "groups")


@pytest.mark.slow
def test_what_is_gone_here_stays_there(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    """A study removes weights that it has judged: their copies are not removed with them."""
    ok(cli.run("push", run, url, folder=tmp_path))
    whole = tree_of(run)
    shutil.rmtree(run / "model")
    done = ok(cli.run("push", run, url, folder=tmp_path))
    assert "3 files no longer in" in done.err
    assert without_manifest(stored(url)) == whole
    ok(cli.run("pull", url, "back", folder=tmp_path))
    assert tree_of(tmp_path / "back") == whole
    done = ok(cli.run("push", run, url, "--overwrite", "--json", folder=tmp_path))
    assert len(json.loads(done.out)["removed_there"]) == 3
    assert without_manifest(stored(url)) == tree_of(run)


@pytest.mark.slow
def test_a_folder_that_differs_is_not_overwritten(
    cli: WarmCli, run: Path, url: str, tmp_path: Path
) -> None:
    ok(cli.run("push", run, url, folder=tmp_path))
    back = tmp_path / "back"
    ok(cli.run("pull", url, back, folder=tmp_path))
    (back / "model" / "tokenizer.json").write_text("mine", encoding="utf-8")
    (back / "mine.txt").write_text("mine", encoding="utf-8")
    done = cli.run("pull", url, back, folder=tmp_path)
    assert done.code == 2
    assert f"{back} holds other files under 1 name: model/tokenizer.json" in done.err
    assert (back / "model" / "tokenizer.json").read_text(encoding="utf-8") == "mine"
    ok(cli.run("pull", url, back, "--overwrite", folder=tmp_path))
    assert tree_of(back) == {**tree_of(run), "mine.txt": b"mine"}

    done = cli.run("pull", url, run / "groups" / "run.json", folder=tmp_path)
    assert done.code == 2
    assert "run.json is a file" in done.err


def test_parts_of_two_runs_are_not_mixed(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    ok(cli.run("push", run / "groups", url, folder=tmp_path))
    done = cli.run("pull", url, run / "scores", "--overwrite", folder=tmp_path)
    assert done.code == 2
    assert "holds another artifact, whose parts would be mixed with these" in done.err


def test_unfinished_artifacts(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    (run / "groups" / "part-00002-of-00003.parquet").unlink()
    done = cli.run("push", run, url, folder=tmp_path)
    assert done.code == 4
    assert f"error: {run}/groups is not finished: missing: part 2" in done.err
    assert "--allow-partial pushes what is there" in done.err
    assert stored(url) == {}
    done = ok(cli.run("push", run, url, "--allow-partial", folder=tmp_path))
    assert "warning: " in done.err
    assert without_manifest(stored(url)) == tree_of(run)


def test_damaged_parts_are_not_pushed(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    part = run / "scores" / "part-00000-of-00003.parquet"
    data = bytearray(part.read_bytes())
    data[40] ^= 1
    part.write_bytes(data)
    done = cli.run("push", run, url, "--allow-partial", folder=tmp_path)
    assert done.code == 1
    assert f"error: {run}/scores is corrupt" in done.err
    assert stored(url) == {}


def test_half_a_model(cli: WarmCli, url: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", 100)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-10])
    done = cli.run("push", model, url, folder=tmp_path)
    assert done.code == 4
    assert f"error: {model} is no whole model" in done.err


@pytest.mark.slow
def test_a_worker_that_writes(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    """A claim that is renewed, and the temporary file of a process that lives."""
    part = run / "groups" / "part-00002-of-00003.parquet"
    part.unlink()
    claimant = Claimant.this_process(read_run_record(run / "groups").fingerprint, lease_s=600)
    claim = run / "groups" / "claims" / "part-00002.json"
    claim.parent.mkdir()
    claim.write_bytes(claimant.claim(2).to_bytes())
    done = cli.run("push", run, url, "--allow-partial", folder=tmp_path)
    assert done.code == 2
    assert f"a worker writes to {run}/groups: {claimant.worker} makes part 2" in done.err
    ok(cli.run("push", run, url, "--allow-partial", "--force", folder=tmp_path))
    assert not any("claims" in name for name in stored(url))

    claim.unlink()
    temporary = part.with_name(f".{part.name}.ab12.{atomic.MACHINE}.{os.getpid()}.tmp")
    temporary.write_bytes(b"")
    done = cli.run("push", run, url, "--allow-partial", folder=tmp_path)
    assert done.code == 2
    assert f"process {os.getpid()} writes part-00002-of-00003" in done.err


def test_a_place_without_a_manifest(cli: WarmCli, run: Path, url: str, tmp_path: Path) -> None:
    """As a command writes into a bucket: parts are compared with their own digests."""
    folder = Url("s3", url.removeprefix("s3://"))
    for name, data in tree_of(run / "groups").items():
        files.write(folder / name, data)
    files.write(folder / "claims/part-00001.json", b"1")
    done = ok(cli.run("pull", url, "back", folder=tmp_path))
    assert tree_of(tmp_path / "back") == tree_of(run / "groups")
    assert f"{url} has no manifest of a push" in done.err
    assert (
        json.loads(ok(cli.run("pull", url, "back", "--json", folder=tmp_path)).out)["copied"] == 0
    )

    name = "part-00001-of-00003.parquet"
    data = bytearray(files.read(folder / name))
    data[40] ^= 1
    files.write(folder / name, bytes(data))
    done = cli.run("pull", url, "other", folder=tmp_path)
    assert done.code == 1
    assert f"{url}/{name} is damaged there" in done.err


def test_a_manifest_that_leads_out_of_the_folder(cli: WarmCli, url: str, tmp_path: Path) -> None:
    folder = Url("s3", url.removeprefix("s3://"))
    entry = {"size": 1, "sha256": "0", "stamp": ""}
    values = {"format": "prefpipe-manifest/1", "contents": {}, "files": {"../evil": entry},
              "is_complete": True, "prefpipe": "1"}  # fmt: skip
    files.write(folder / MANIFEST, json.dumps(values).encode())
    done = cli.run("pull", url, "back", folder=tmp_path)
    assert done.code == 1
    assert "holds a file called '../evil', which no folder can hold" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read as a manifest"),
        (b"[]", "cannot be read as a manifest"),
        (b'{"format": "prefpipe-manifest/9"}', "has the format 'prefpipe-manifest/9'"),
        (b'{"format": "prefpipe-manifest/1", "files": 3}', "cannot be read as a manifest"),
    ],
)
def test_a_damaged_manifest(
    cli: WarmCli, url: str, tmp_path: Path, content: bytes, words: str
) -> None:
    files.write(Url("s3", url.removeprefix("s3://")) / MANIFEST, content)
    done = cli.run("pull", url, "back", folder=tmp_path)
    assert done.code == 1
    assert words in done.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["push", "nothing", "s3://b/x"], 1, "nothing does not exist"),
        (["push", ".", "s3://b/x"], 1, ". holds no artifact, no model and no report"),
        (["push", ".", "hf://x"], 2, "hf://x names no repository of the hub"),
        (["push", ".", "hf://spaces/a/b"], 2, "names no repository of the hub"),
        (["push", ".", "s3://b/x", "--license", "mit"], 2, "--license go with hf:// alone"),
        (["push", ".", "s3://b/x", "--no-private"], 2, "--no-private go with hf:// alone"),
        (["push", ".", "hf://a/b", "--dataset", "x"], 2, "--dataset takes a name of the hub"),
        (["push", ".", "s3://u:secret@b/x"], 2, "credentials in a URL"),
        (["push", ".", "https://host/x"], 2, "no artifact can lie there"),
        (["push", "s3://b/x", "s3://b/y"], 2, "s3://b/x"),
        (["pull", "s3://b/x", "s3://b/y"], 2, "s3://b/y"),
        (["pull", "s3://b/x", "d", "--revision", "main"], 2, "--revision goes with hf:// alone"),
        (["pull", f"s3://{BUCKET}/nothing-here", "d"], 1, "there is nothing at s3://"),
        (["pull", "s3://no-such-bucket/x", "d"], 1, "cannot read s3://no-such-bucket/x: the bucket"),
    ],
)  # fmt: skip
def test_refusals(cli: WarmCli, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    done = cli.run(*words, folder=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "hint: " in done.err
    assert "secret" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_no_permission(cli: WarmCli, proxy: Proxy, run: Path, url: str, tmp_path: Path) -> None:
    text = f"{KEY} with {SECRET} may not"
    proxy.refusal = f"<Error><Code>AccessDenied</Code><Message>{text}</Message></Error>".encode()
    proxy.fault = lambda request: "forbidden" if request.method == "PUT" else None
    done = cli.run("push", run, url, folder=tmp_path)
    assert done.code == 1
    assert f"error: cannot write {url}/{MANIFEST}: permission denied" in done.err
    assert "credentials and their permissions" in done.err
    assert SECRET not in done.err
    assert KEY not in done.err
    proxy.fault = lambda _request: None
    assert stored(url) == {}


@pytest.mark.parametrize("fault", ["half-request", "lost-answer"])
def test_every_request_fails_once(
    cli: WarmCli, proxy: Proxy, run: Path, url: str, tmp_path: Path, fault: str
) -> None:
    lock, seen = threading.Lock(), set()

    def choose(request: Request) -> str | None:
        kind = request.method, request.target, request.head.partition(b"Range:")[2][:40]
        with lock:
            is_new = kind not in seen
            seen.add(kind)
        return fault if is_new else None

    proxy.fault = choose
    ok(cli.run("push", run / "groups", url, folder=tmp_path))
    ok(cli.run("pull", url, "back", folder=tmp_path))
    proxy.fault = lambda _request: None
    assert tree_of(tmp_path / "back") == tree_of(run / "groups")
    assert without_manifest(stored(url)) == tree_of(run / "groups")


def test_a_push_that_is_asked_to_stop(
    cli: WarmCli, proxy: Proxy, run: Path, url: str, tmp_path: Path
) -> None:
    """SIGTERM while a piece of the weights is on its way: code 75, no upload is left open."""
    asked, sent = threading.Event(), threading.Event()

    def wait(request: Request) -> str | None:
        if "partNumber=2" in request.target:
            asked.set()
            sent.wait(60)
        return None

    proxy.fault = wait
    pid = cli.start("push", run, url, folder=tmp_path)
    assert asked.wait(60)
    os.kill(pid, signal.SIGTERM)
    # it has seen the signal when it says so
    until = time.monotonic() + 60
    while "SIGTERM" not in cli.stderr() and time.monotonic() < until:
        time.sleep(0.02)
    sent.set()
    done = cli.wait()
    proxy.fault = lambda _request: None
    assert done.code == 75
    assert "run the same command again" in done.err
    assert "model/model.safetensors" not in stored(url)
    bucket = files._bucket_of(Url("s3", BUCKET))._files
    assert bucket.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", []) == []
    done = cli.run("pull", url, "back", folder=tmp_path)
    assert done.code == 4
    assert f"a push to {url} has not ended" in done.err
    ok(cli.run("push", run, url, folder=tmp_path))
    assert without_manifest(stored(url)) == tree_of(run)


def killed_at(cli: WarmCli, proxy: Proxy, number: int, *words: object, folder: Path) -> bool:
    """Run a command that is killed when its request of a number arrives; return whether so many came."""
    n_requests, pid = [0], [0]
    lock, is_begun = threading.Lock(), threading.Event()

    def kill(_request: Request) -> str | None:
        with lock:
            n_requests[0] += 1
            if n_requests[0] != number:
                return None
        assert is_begun.wait(60)
        os.kill(pid[0], signal.SIGKILL)
        # of two requests one has done its work, and one has not arrived
        return "lost-answer" if number % 2 else "cut-request"

    proxy.fault = kill
    pid[0] = cli.start(*words, folder=folder)
    is_begun.set()
    done = cli.wait()
    proxy.fault = lambda _request: None
    is_killed = done.code == -signal.SIGKILL
    assert is_killed or done.code == 0, done.err
    return is_killed


@pytest.mark.slow
def test_a_push_killed_at_twenty_requests(
    cli: WarmCli, proxy: Proxy, run: Path, url: str, tmp_path: Path
) -> None:
    """Run again and again, it ends with the same objects and the same manifest, and no upload is left open."""
    ok(cli.run("push", run, f"{url}/whole", folder=tmp_path))
    expected = stored(f"{url}/whole")
    numbers, n_kills, n_whole = random.Random(17), 0, 0
    while n_kills < 20 or n_whole == 0:
        number = numbers.randint(1, 14) if n_kills < 20 else 0
        if killed_at(cli, proxy, number, "push", run, f"{url}/{n_whole}", folder=tmp_path):
            n_kills += 1
        else:
            assert stored(f"{url}/{n_whole}") == expected
            n_whole += 1
    # the twentieth kill may have left a push to be ended
    ok(cli.run("push", run, f"{url}/{n_whole}", folder=tmp_path))
    assert stored(f"{url}/{n_whole}") == expected
    bucket = files._bucket_of(Url("s3", BUCKET))._files
    assert bucket.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", []) == []


@pytest.mark.slow
def test_a_pull_killed_at_twenty_requests(
    cli: WarmCli, proxy: Proxy, run: Path, url: str, tmp_path: Path
) -> None:
    """Nothing half has a name at any moment; run again, it ends with the same bytes and no leftovers."""
    ok(cli.run("push", run, url, folder=tmp_path))
    expected = tree_of(run)
    numbers, n_kills, n_whole = random.Random(17), 0, 0
    while n_kills < 20 or n_whole == 0:
        back = tmp_path / f"back-{n_whole}"
        number = numbers.randint(1, 20) if n_kills < 20 else 0
        if killed_at(cli, proxy, number, "pull", url, back, folder=tmp_path):
            n_kills += 1
            found = tree_of(back) if back.exists() else {}
            for name, data in found.items():
                assert name.rpartition("/")[2].startswith(".") or data == expected[name]
        else:
            assert tree_of(back) == expected
            n_whole += 1
