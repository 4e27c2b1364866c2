"""Commands over a bucket, killed with SIGKILL at requests that are counted, end with what an undisturbed run in a folder holds.

A proxy before the server counts, and kills whoever sends the request in question: before the server sees it, when it
has seen half of it, or when it has done it and nobody has heard.
"""

import itertools
import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from support.bucket_chain import (
    KILLS,
    N_PARTS,
    KillAt,
    Words,
    assert_same_as_local,
    chain,
    generate,
    is_part,
    is_writing,
    score,
    write_checked_prompts,
)
from support.faulty_proxy import Proxy, Request, running_proxy
from support.s3_servers import BUCKET, environment_for, reach, running_moto, running_rclone
from support.stage_server import Command, Outcome, StageServer

from prefpipe.artifacts.storage import files
from prefpipe.artifacts.storage.location import Url
from prefpipe.artifacts.storage.protocol import FileVersion

pytest.importorskip("s3fs")

KILLS_OF_CHAIN = 40
NUMBERS = itertools.count()


class Store(NamedTuple):
    """A server, the proxy before it, and what runs commands that see the proxy alone."""

    name: str
    proxy: Proxy
    commands: StageServer

    def root(self) -> Url:
        """Return a place with nothing in it."""
        return Url("s3", f"{BUCKET}/root-{next(NUMBERS)}")

    def run(self, words: Words, fault: KillAt | None = None) -> Outcome:
        """Run a command; the proxy kills it where ``fault`` says so."""
        self.proxy.heal()
        self.proxy.fault = fault or (lambda _request: None)
        outcome = self.commands.run(*words)
        self.proxy.fault = lambda _request: None
        return outcome

    def finish(self, words: Words) -> Outcome:
        """Run a command to its end."""
        outcome = self.run(words)
        assert outcome.code == 0, outcome.stderr
        return outcome


@pytest.fixture(scope="module", params=["moto", pytest.param("rclone", marks=pytest.mark.slow)])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fast_root: Path
) -> Iterator[Store]:
    """A server in a process of its own."""
    scratch = fast_root / f"streams-{request.param}"
    scratch.mkdir()
    is_moto = request.param == "moto"
    server = running_moto() if is_moto else running_rclone(tmp_path_factory.mktemp("rclone"))
    with server as url, running_proxy(url) as proxy, pytest.MonkeyPatch.context() as patch:
        # what this process looks at is no business of the proxy's
        reach(url, patch)
        variables = {**environment_for(proxy.url), "PREFPIPE_CACHE": str(fast_root / "cache")}
        commands = StageServer(scratch, ("s3fs", "prefpipe.stages.evaluate.run"), variables)
        yield Store(request.param, proxy, commands)
        commands.stop()


class Straight(NamedTuple):
    """The chain on a disk, undisturbed."""

    prompts: Path
    folder: Path


@pytest.fixture(scope="module")
def straight(store: Store, fast_root: Path) -> Straight:
    folder = fast_root / f"straight-{store.name}"
    folder.mkdir()
    found = Straight(write_checked_prompts(folder / "prompts.jsonl"), folder / "local")
    for words in chain(found.prompts, found.folder):
        store.finish(words)
    return found


def test_a_chain_that_is_killed_six_times(store: Store, straight: Straight) -> None:
    """Where it dies is by lot; that a command comes so far is certain."""
    lots = random.Random(17)
    root = store.root()
    n_killed = 0
    for number, words in enumerate(chain(straight.prompts, root)):
        first = KillAt(lots.randrange(4), lots.choice(KILLS), is_writing)
        second = KillAt(lots.randrange(8), lots.choice(KILLS))
        for fault in (first, second)[: 2 if number < 2 else 1 if number < 4 else 0]:
            outcome = store.run(words, fault)
            assert outcome.code == -signal.SIGKILL, (words[0], fault.n_seen, outcome.stderr)
            n_killed += 1
        store.finish(words)
    assert n_killed == 6
    assert_same_as_local(root, straight.folder)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_chain_that_is_killed_forty_times(
    store: Store, straight: Straight, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chains one after the other, each command killed at any of its requests until it comes through."""
    lots = random.Random(f"forty {store.name}")
    killed: Counter[str] = Counter()
    n_chains, n_runs = 0, 0
    usual: dict[str, int] = {}
    while killed.total() < KILLS_OF_CHAIN:
        root = store.root()
        for words in chain(straight.prompts, root):
            stage, has_ended = words[0], False
            while not has_ended:
                how = lots.choice(KILLS)
                # most requests only look
                if lots.random() < 0.5:
                    fault = KillAt(lots.randrange(N_PARTS + 2), how, is_writing)
                else:
                    fault = KillAt(lots.randrange(usual.get(stage, 40)), how)
                outcome = store.run(words, fault)
                n_runs += 1
                has_ended = outcome.code == 0
                if has_ended:
                    continue
                assert outcome.code == -signal.SIGKILL, outcome.stderr
                assert fault.request is not None
                killed[f"{stage} {fault.request.method}"] += 1
            usual[stage] = len(store.proxy.requests)
        assert_same_as_local(root, straight.folder)
        n_chains += 1
    with capsys.disabled():
        print(
            f"\n{store.name}: {killed.total()} kills in {n_chains} chains, {n_runs} runs of commands: {dict(killed)}"
        )


@pytest.mark.parametrize("how", KILLS)
def test_a_worker_killed_in_the_request_that_writes_its_part(
    store: Store, straight: Straight, how: str
) -> None:
    """What the server has done is done, and is not done again."""
    root = store.root()
    words = generate(straight.prompts, root, "--claim")
    fault = KillAt(0, how, is_part)
    assert store.run(words, fault).code == -signal.SIGKILL
    before = versions_of_parts(root / "candidates")
    assert fault.request is not None
    killed = fault.request.target.rpartition("/")[2]
    assert (killed in before) == (how == "kill-after")

    again = store.finish([*words, "--json"])
    # what was on its way from other threads may have arrived since
    assert json.loads(again.stdout)["n_parts_made"] <= N_PARTS - len(before)
    assert before.items() <= versions_of_parts(root / "candidates").items()
    assert_same_as_local(root, straight.folder, ("candidates",))


def test_three_workers_of_which_two_are_killed(store: Store, straight: Straight) -> None:
    """Whoever writes part 1 first dies before it, whoever writes part 2 first behind it; both come back."""
    root = store.root()
    command = Command(generate(straight.prompts, root, "--claim"), limit_s=300)
    fates = {"part-00001": "kill-before", "part-00002": "kill-after"}

    def choose(request: Request) -> str | None:
        name = request.target.rpartition("/")[2].partition("-of-")[0]
        return fates.pop(name, None) if is_part(request) else None

    store.proxy.heal()
    store.proxy.fault = choose
    workers = [replace(command, starts_again=2) for _ in range(3)]
    outcomes = store.commands.run_at_once(workers)
    store.proxy.heal()
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert fates == {}
    assert_same_as_local(root, straight.folder, ("candidates",))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("stage", ["candidates", "scores"])
def test_a_worker_killed_at_every_request_of_its_part(
    store: Store, straight: Straight, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an artifact of one part, one request after the other: before it, after it, and within it where it carries bytes."""
    one_part = ("--part-size", 100)
    local, inputs = straight.folder.parent / f"one-{stage}", store.root()
    for root in (local, inputs):
        store.finish(generate(straight.prompts, root, *one_part))
    store.finish(score(local))

    n_killed: Counter[str] = Counter()
    for how in KILLS:
        for number in itertools.count():
            if stage == "candidates":
                root = store.root()
                words = generate(straight.prompts, root, *one_part, "--claim")
            else:
                root = inputs
                words = [*score(root), "--claim"]
                remove(root / "scores")
            fault = KillAt(number, how, is_writing if how == "kill-half" else any_request)
            outcome = store.run(words, fault)
            if outcome.code == 0:
                break
            assert outcome.code == -signal.SIGKILL, outcome.stderr
            n_killed[how] += 1
            before = versions_of_parts(root / stage)
            again = store.finish([*words, "--json"])
            assert json.loads(again.stdout)["n_parts_made"] <= 1 - len(before)
            assert_same_as_local(root, local, ("candidates", "scores")[: 1 + (stage == "scores")])
    with capsys.disabled():
        print(f"\n{store.name}, {stage}: killed at {dict(n_killed)} requests")


def any_request(_request: Request) -> bool:
    return True


def versions_of_parts(folder: Url) -> dict[str, FileVersion | None]:
    """Return which file each part is."""
    try:
        listing = files.list_folder(folder)
    except FileNotFoundError:
        return {}
    return {name: version for name, version in listing.items() if name.startswith("part-")}


def remove(folder: Url) -> None:
    for path in files.list_tree(folder):
        files.delete(Url(folder.scheme, f"{folder.key}/{path}"))
