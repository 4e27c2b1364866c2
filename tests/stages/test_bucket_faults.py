"""Commands over a bucket that fails in the ways in which stores and networks do.

What passes leaves no trace. What stays ends in one error with the next command, and that command, once the store answers
again, ends with what a folder holds. Storage alone is tested in `tests/artifacts/storage`.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.bucket_chain import (
    Words,
    assert_same_as_local,
    chain,
    generate,
    is_part,
    is_writing,
    tree,
    words_of,
    write_checked_prompts,
)
from support.faulty_proxy import Fault, Proxy, Request, running_proxy
from support.late_listings import LateListings
from support.s3_servers import BUCKET, KEY, SECRET, forget_clients, reach, running_moto

from prefpipe.artifacts.storage import retries
from prefpipe.artifacts.storage.location import Url
from prefpipe.cli.main import run
from prefpipe.errors import PrefpipeWarning

pytest.importorskip("s3fs")

PASSING = ("slow-down", "cut-request", "half-request", "lost-answer", "cut-answer", "short-answer")
WRITERS = {"generate": "candidates", "score": "scores", "select": "groups"}
"""Commands that write, and what."""
COMMANDS = (*WRITERS, "status", "inspect")
NUMBERS = itertools.count()


def commands(*quick: str) -> pytest.MarkDecorator:
    """Parametrize by the commands; those that are not named are slow ones."""
    cases = [
        pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in COMMANDS
    ]
    return pytest.mark.parametrize("command", cases)


HINT = "then run the same command again"
TOKEN = "canary-token-4567"
SECRETS = (KEY, SECRET, TOKEN)


class Place(NamedTuple):
    """A server with a finished chain in it, the same chain on a disk, and a proxy."""

    proxy: Proxy
    url: str
    prompts: Path
    local: Path
    base: Url

    def words(self, command: str, root: Url) -> Words:
        """Return a command that reads what is finished and writes somewhere else."""
        base = self.base
        if command == "generate":
            return generate(self.prompts, root)
        if command == "score":
            words = words_of("score", base / "candidates", "-o", root / "scores")
            return [*words, "--scorer", "checks"]
        if command == "select":
            words = words_of("select", base / "candidates", "--scores", base / "scores")
            words += words_of("--embeddings", base / "embeddings", "-o", root / "groups")
            return [*words, "--k", "2"]
        return words_of(command, base / "groups")


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("work")
    prompts = write_checked_prompts(folder / "p.jsonl")
    with (
        running_moto() as url,
        running_proxy(url) as proxy,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", PrefpipeWarning)
        patch.chdir(folder)
        patch.setenv("PREFPIPE_CACHE", str(folder / "cache"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_SESSION_TOKEN", TOKEN)
        patch.setattr(retries, "FIRST_WAIT_S", 0.001)
        patch.setattr(retries, "LONGEST_WAIT_S", 0.002)
        reach(url, patch)
        found = Place(proxy, url, prompts, folder / "local", Url("s3", f"{BUCKET}/base"))
        for root in (found.local, found.base):
            for words in chain(prompts, root):
                do(words)
        reach(proxy.url, patch)
        yield found


@pytest.fixture(autouse=True)
def _without_faults(place: Place) -> Iterator[None]:
    place.proxy.heal()
    yield
    place.proxy.heal()


def do(words: Words, *, code: int = 0) -> None:
    """Run a command, recorded as if it had been typed."""
    argv, sys.argv = sys.argv, ["prefpipe", *words]
    try:
        assert run(list(words)) == code, words
    finally:
        sys.argv = argv


def ended(words: Words, capsys: pytest.CaptureFixture[str]) -> Ended:
    """Run a command and return what it said."""
    capsys.readouterr()
    argv, sys.argv = sys.argv, ["prefpipe", *words]
    try:
        code = run(list(words))
    finally:
        sys.argv = argv
    return Ended(code, *capsys.readouterr())


def new_root() -> Url:
    return Url("s3", f"{BUCKET}/root-{next(NUMBERS)}")


def every(n: int, *faults: str) -> Fault:
    """Return one of some faults, in turn, for every n-th request."""
    numbers, turns = itertools.count(1), itertools.cycle(faults)
    return lambda _request: next(turns) if next(numbers) % n == 0 else None


def from_on(
    n: int, fault: str, is_meant: Callable[[Request], bool] = lambda _request: True
) -> Fault:
    """Return a fault for all requests of a kind but the first n."""
    numbers = itertools.count()
    return lambda request: fault if is_meant(request) and next(numbers) >= n else None


def assert_refused(outcome: Ended, *sentences: str, code: int = 1) -> None:
    """One error, with the next command, and nothing of the inside."""
    assert outcome.code == code, outcome.stderr
    assert outcome.stderr.count("error:") == 1, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not [each for each in SECRETS if each in outcome.stderr + outcome.stdout]
    for sentence in sentences:
        assert sentence in outcome.stderr, outcome.stderr


def assert_made_after_all(place: Place, command: str, root: Url) -> None:
    """The same command, with a store that answers, makes what a folder holds."""
    if command not in WRITERS:
        return
    place.proxy.heal()
    do(place.words(command, root))
    assert_same_as_local(root, place.local, (WRITERS[command],))


def what_is_shown(outcome: Ended) -> list[str]:
    return [line.rstrip() for line in outcome.stdout.splitlines()]


@commands("generate", "select", "status")
def test_failures_that_pass_leave_no_trace(
    place: Place, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third request fails, in each way in turn."""
    root = new_root()
    undisturbed = ended(place.words(command, root / "undisturbed"), capsys)
    place.proxy.fault = every(3, *PASSING)
    outcome = ended(place.words(command, root), capsys)
    assert outcome.code == 0, outcome.stderr
    assert place.proxy.n_faults > len(PASSING)
    if command in WRITERS:
        place.proxy.heal()
        kind = WRITERS[command]
        assert_same_as_local(root / "undisturbed", place.local, (kind,))
        do_nothing_again(place, command, root, capsys)
    else:
        assert what_is_shown(outcome) == what_is_shown(undisturbed)


def do_nothing_again(
    place: Place, command: str, root: Url, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ended([*place.words(command, root), "--json"], capsys)
    assert '"n_parts_made": 0' in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_failure_that_passes(
    place: Place, command: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = new_root()
    # at every second one no try would come through: to read is to ask twice
    for n in (3, 5):
        place.proxy.heal()
        place.proxy.fault = every(n, fault)
        outcome = ended(place.words(command, root / str(n)), capsys)
        assert outcome.code == 0, outcome.stderr
        assert_made_after_all(place, command, root / str(n))


@commands("select", "status")
def test_a_store_that_stops_answering(
    place: Place, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not every file that a command looks at has its eight tries: that would be an hour."""
    root = new_root()
    place.proxy.fault = from_on(9, "slow-down")
    outcome = ended(place.words(command, root), capsys)
    assert_refused(outcome, "the storage did not answer as it should, 8 times in a row", HINT)
    # others look at several files at a time, each with tries of its own
    if command == "status":
        assert place.proxy.n_faults <= 8 + 40
    assert_made_after_all(place, command, root)


@commands("generate", "status")
def test_no_permission_at_all(
    place: Place, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = new_root()
    place.proxy.refuse("AccessDenied", "Access Denied")
    outcome = ended(place.words(command, root), capsys)
    assert_refused(outcome, f"s3://{BUCKET}/", "permission denied", HINT)
    assert len(place.proxy.requests) <= 4, "what is forbidden is not asked again"
    assert_made_after_all(place, command, root)


@commands("score", "status")
def test_no_permission_to_write(
    place: Place, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = new_root()
    place.proxy.refuse("AccessDenied", "Access Denied", is_writing)
    outcome = ended(place.words(command, root), capsys)
    if command in WRITERS:
        assert_refused(
            outcome, f"cannot write {root}/{WRITERS[command]}/run.json: permission", HINT
        )
        assert tree(root) == {}
    else:
        # who only looks writes nothing
        assert outcome.code == 0, outcome.stderr
        assert place.proxy.n_faults == 0
    assert_made_after_all(place, command, root)


@commands("select")
def test_credentials_that_expire_on_the_way(
    place: Place, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = new_root()
    numbers = itertools.count()
    place.proxy.refuse(
        "ExpiredToken", "The provided token has expired.", lambda _request: next(numbers) >= 12
    )
    outcome = ended(place.words(command, root), capsys)
    assert_refused(outcome, "permission denied", "credentials", HINT)
    assert_made_after_all(place, command, root)


@pytest.mark.parametrize(
    "command",
    ["generate", *(pytest.param(name, marks=pytest.mark.slow) for name in ("score", "select"))],
)
def test_a_bucket_that_vanishes_between_two_parts(
    place: Place, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = new_root()
    has_gone = False
    n_written = itertools.count(1)

    def note(request: Request) -> None:
        nonlocal has_gone
        has_gone |= is_part(request) and next(n_written) >= 1

    place.proxy.is_done = note
    place.proxy.answer_if(lambda _request: has_gone, "404 Not Found", "NoSuchBucket")
    outcome = ended(place.words(command, root), capsys)
    assert_refused(outcome, "the bucket does not exist", HINT)
    place.proxy.heal()
    n_kept = len([path for path in tree(root) if path.endswith(".parquet")])
    assert n_kept >= 1, "what was written stays"
    again = ended([*place.words(command, root), "--json"], capsys)
    assert f'"n_parts_kept": {n_kept}' in again.stdout
    assert_made_after_all(place, command, root)


@pytest.fixture
def _other_clients() -> Iterator[None]:
    """The test's clients are nobody else's."""
    yield
    forget_clients()


@pytest.mark.usefixtures("_other_clients")
@commands("generate", "status")
def test_nobody_at_the_endpoint(
    place: Place,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach("http://127.0.0.1:9", monkeypatch)
    outcome = ended(place.words(command, new_root()), capsys)
    assert_refused(outcome, "http://127.0.0.1:9", "AWS_ENDPOINT_URL", HINT)


@pytest.mark.usefixtures("_other_clients")
@commands("generate", "status")
def test_no_credentials(
    place: Place,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent, be it anonymously."""
    reach(place.proxy.url, monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    outcome = ended(place.words(command, new_root()), capsys)
    assert_refused(outcome, "credentials", HINT)
    assert place.proxy.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("n_late", [7, 10_000])
def test_listings_that_are_late(
    place: Place, n_late: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A listing shows what was there so many requests ago: a part that is not seen is waited for or made again, none is lost."""
    root = new_root()
    listings = LateListings(place.proxy, place.url, n_late)
    for words in chain(place.prompts, root):
        for _ in range(10):
            outcome = ended(words, capsys)
            if outcome.code == 0:
                break
            # what reads too early is told that it is incomplete
            assert_refused(outcome, "hint:", code=outcome.code)
            assert outcome.code in (1, 4)
            listings.catch_up()
        assert outcome.code == 0
    assert listings.n_answered > 10
    place.proxy.heal()
    assert_same_as_local(root, place.local)


def test_an_upload_that_was_left_open_is_no_part(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """As other tools leave them behind; nobody sees them but the bill."""
    from prefpipe.artifacts.storage import files

    root = new_root()
    client = files._bucket_of(root)._files
    name = f"{root.key.partition('/')[2]}/candidates/part-00001-of-00003.parquet"
    target = {"Bucket": BUCKET, "Key": name}
    upload = client.call_s3("create_multipart_upload", **target)["UploadId"]
    client.call_s3("upload_part", **target, UploadId=upload, PartNumber=1, Body=b"half a part")
    do(place.words("generate", root))
    client.call_s3("abort_multipart_upload", **target, UploadId=upload)
    assert_same_as_local(root, place.local, ("candidates",))
    outcome = ended(words_of("status", root), capsys)
    assert (outcome.code, "3 of 3 parts" in outcome.stderr + outcome.stdout) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*PASSING, "stops answering"])
def test_training_on_groups_in_a_bucket(
    place: Place, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.tiny_models import make_tiny_causal_lm

    model = make_tiny_causal_lm(tmp_path / "model")
    if fault == "stops answering":
        place.proxy.fault = from_on(9, "slow-down")
    else:
        place.proxy.fault = every(3, fault)

    def train(groups: object, output: Path) -> Words:
        words = words_of("train", groups, "--model", model, "--max-steps", 2, "-o", output)
        return [*words, *words_of("--report-to", "none", "--objective", "ampo", "--gamma", 2)]

    outcome = ended(train(place.base / "groups", tmp_path / "policy"), capsys)
    if fault == "stops answering":
        assert_refused(outcome, "the storage did not answer as it should", HINT)
        place.proxy.heal()
        outcome = ended(train(place.base / "groups", tmp_path / "policy"), capsys)
    assert outcome.code == 0, outcome.stderr
    do(train(place.local / "groups", tmp_path / "local"))
    name = "model.safetensors"
    assert (tmp_path / "policy" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@pytest.mark.slow
def test_no_secret_is_written_or_said(
    place: Place,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By commands that succeed, that are refused, that say all they can, and by a store that repeats what it was sent."""
    monkeypatch.setenv("PREFPIPE_LIBRARY_OUTPUT", "1")
    root = new_root()
    for words in chain(place.prompts, root):
        assert run([*words, "--json"]) == 0
    assert run(generate(place.prompts, root, "--seed", 3)) == 2
    for words in (
        words_of("status", root, "--json"),
        words_of("inspect", root / "groups"),
        words_of("inspect", root / "groups", "--json"),
        words_of("report", root, "-o", tmp_path / "report.html"),
        words_of("slurm", *generate(place.prompts, root / "other")),
    ):
        assert run(words) == 0, words
    place.proxy.refuse("InvalidAccessKeyId", f"{KEY} is unknown, its secret {SECRET}, {TOKEN}")
    for command in COMMANDS:
        assert run(place.words(command, root / "other")) == 1
    place.proxy.heal()
    said = capfd.readouterr()

    # all tests of this module have written here
    written = {f"s3: {path}": data for path, data in tree(Url("s3", BUCKET)).items()}
    for folder in (Path.cwd(), tmp_path):
        found = [path for path in folder.rglob("*") if path.is_file()]
        written |= {str(path): path.read_bytes() for path in found}
    assert len(written) > 50
    for secret in SECRETS:
        assert not [text for text in said if secret in text]
        assert not [path for path, data in written.items() if secret.encode() in data]
