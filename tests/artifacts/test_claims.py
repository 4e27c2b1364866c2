"""Claims: exclusive to take, renewed or expired, given back by their owner alone; and never a lock."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefpipe.artifacts import atomic, claims
from prefpipe.artifacts.claims import (
    Claim,
    Claimant,
    ClaimFolder,
    ClaimWatch,
    HeldClaims,
    has_worker,
    read_claims,
    remove_claims,
)
from prefpipe.errors import InputError, PrefpipeError

RUN = "f" * 64
LEASE_S = 60.0


def claimant(number: int, *, run: str = RUN) -> Claimant:
    """A worker on a machine of its own, so that nobody looks for its process."""
    return Claimant(run, f"node{number}/1", f"machine{number}", 1, f"{number:016x}", LEASE_S)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def storage(tmp_path: Path) -> ClaimFolder:
    return ClaimFolder(tmp_path)


OPENED: list[HeldClaims] = []


@pytest.fixture(autouse=True)
def end_threads() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def held(storage: ClaimFolder, me: Claimant, log: Callable[[str], None] = print) -> HeldClaims:
    """Claims that the test renews: the lease is a minute."""
    OPENED.append(HeldClaims(storage, me, log))
    return OPENED[-1]


def test_a_claim_is_a_file_that_people_read_and_that_reads_back(storage: ClaimFolder) -> None:
    me = Claimant.this_process(RUN, 90.0)
    before = time.time()
    mine = held(storage, me)
    assert mine.take(3)
    path = storage.path / "part-00003.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values["worker"].endswith(f"/{os.getpid()}")
    assert (values["part"], values["run"], values["lease_s"]) == (3, RUN, 90.0)
    assert before - 1 < values["begun_at"] == values["renewed_at"] < time.time() + 1
    assert Claim.from_bytes(path.read_bytes()) == read_claims(storage.path.parent)[0]
    mine.close()
    assert not path.exists()


# Taking --------------------------------------------------------------------------------------------


def take_all(folder: str, number: int, gate: "threading.Barrier", won: "list[tuple[int, int]]") -> None:  # fmt: skip
    mine = HeldClaims(ClaimFolder(Path(folder)), claimant(number))
    for index in range(20):
        gate.wait()
        if mine.take(index):
            won.append((index, number))


def test_of_several_processes_exactly_one_takes_each_part(tmp_path: Path) -> None:
    """Six processes that try the same part at the same moment, twenty parts; the folder does not exist before."""
    fork = multiprocessing.get_context("fork")
    with fork.Manager() as shared:
        won = shared.list()
        gate = fork.Barrier(6)
        folder = str(tmp_path / "artifact")
        processes = [
            fork.Process(target=take_all, args=(folder, number, gate, won)) for number in range(6)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        taken = sorted(won)
    assert [index for index, _ in taken] == list(range(20))
    on_disk = {claim.part: claim.owner for claim in read_claims(tmp_path / "artifact")}
    assert on_disk == {index: f"{number:016x}" for index, number in taken}


def test_a_create_that_was_done_although_it_failed_counts_as_done(storage: ClaimFolder) -> None:
    """An NFS server whose answer was lost is asked again, and says that the name is taken."""
    data = claimant(1).claim(0).to_bytes()
    storage.path.mkdir()
    (storage.path / "part-00000.json").write_bytes(data)
    assert storage.create(0, data)
    assert not storage.create(0, claimant(2).claim(0).to_bytes())


def test_a_folder_that_is_removed_in_between_is_made_again(
    storage: ClaimFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, n_removed = atomic.create_exclusively, 0

    def create_in_removed_folder(path: Path, data: bytes) -> bool:
        nonlocal n_removed
        if not n_removed:
            n_removed += 1
            path.parent.rmdir()
        return create(path, data)

    monkeypatch.setattr(atomic, "create_exclusively", create_in_removed_folder)
    assert held(storage, claimant(1)).take(0)
    assert n_removed == 1


def test_a_folder_that_cannot_be_written_to_is_an_error_with_a_hint(storage: ClaimFolder) -> None:
    storage.path.write_text("a file is in the way")
    with pytest.raises(PrefpipeError, match="claims"):
        held(storage, claimant(1)).take(0)


# Expiry --------------------------------------------------------------------------------------------


def test_a_claim_expires_when_its_bytes_do_not_change_for_its_own_lease(storage: ClaimFolder) -> None:  # fmt: skip
    clock = Clock()
    first = held(storage, claimant(1))
    watch = ClaimWatch(storage, claimant(2), clock)
    assert first.take(0)
    assert not watch.look()[0].is_expired
    clock.now_s += LEASE_S - 0.1
    assert not watch.look()[0].is_expired
    first.renew()
    clock.now_s += 0.2
    assert not watch.look()[0].is_expired
    clock.now_s += LEASE_S
    [seen] = watch.look().values()
    assert seen.is_expired
    assert seen.worker == "node1/1"


def test_the_clocks_of_two_machines_are_never_compared(
    storage: ClaimFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose clock is a year ahead or behind is as alive as any."""
    clock = Clock()
    first = held(storage, claimant(1))
    watch = ClaimWatch(storage, claimant(2), clock)
    for offset_s in (-3e7, 3e7):
        monkeypatch.setattr(claims, "_now", lambda offset_s=offset_s: 1.8e9 + offset_s)
        assert first.take(0)
        for _ in range(10):
            clock.now_s += LEASE_S * 0.7
            first.renew()
            assert not watch.look()[0].is_expired
        clock.now_s += LEASE_S
        assert watch.look()[0].is_expired
        first.give_back(0)


def test_one_that_appears_anew_is_watched_anew(storage: ClaimFolder) -> None:
    clock = Clock()
    watch = ClaimWatch(storage, claimant(3), clock)
    first = held(storage, claimant(1))
    assert first.take(0)
    watch.look()
    first.give_back(0)
    assert not watch.look()
    clock.now_s += 2 * LEASE_S
    assert held(storage, claimant(2)).take(0)
    assert not watch.look()[0].is_expired


def test_a_pause_between_reading_and_deciding_is_no_silence_of_the_others(
    storage: ClaimFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observer is stopped for an hour in the middle of its look; the other renews all the while."""
    clock = Clock()
    watch = ClaimWatch(storage, claimant(2), clock)
    first = held(storage, claimant(1))
    assert first.take(0)
    watch.look()
    read = storage.read

    def read_and_pause(index: int) -> bytes | None:
        data = read(index)
        clock.now_s += 3600
        return data

    monkeypatch.setattr(storage, "read", read_and_pause)
    [seen] = watch.look().values()
    monkeypatch.undo()
    assert not seen.is_expired
    first.renew()
    assert not watch.look()[0].is_expired


def test_a_worker_of_this_machine_that_is_dead_need_not_be_waited_for(storage: ClaimFolder) -> None:
    me = Claimant.this_process(RUN, LEASE_S)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = replace(me, pid=process.pid, owner="1" * 16)
    assert held(storage, other).take(0)
    watch = ClaimWatch(storage, me)
    assert not watch.look()[0].is_expired
    assert has_worker(storage.path.parent)
    process.communicate(b"\n")
    assert watch.look()[0].is_expired
    assert not has_worker(storage.path.parent)


def test_an_earlier_process_with_this_pid_is_dead(storage: ClaimFolder) -> None:
    """In a container that was started again the pid is 1 again."""
    me = Claimant.this_process(RUN, LEASE_S)
    assert held(storage, replace(me, owner="1" * 16)).take(0)
    assert ClaimWatch(storage, me).look()[0].is_expired


def test_a_process_id_says_nothing_on_another_machine(storage: ClaimFolder) -> None:
    me = Claimant.this_process(RUN, LEASE_S)
    other = replace(me, machine="elsewhere", pid=2**22 + 7, owner="1" * 16)
    assert not atomic.is_alive(other.pid)
    assert held(storage, other).take(0)
    assert not ClaimWatch(storage, me).look()[0].is_expired


def test_a_claim_of_another_configuration_counts_for_nothing(storage: ClaimFolder) -> None:
    assert held(storage, claimant(1, run="e" * 64)).take(0)
    assert ClaimWatch(storage, claimant(2)).look()[0].is_expired


DAMAGE = [
    b"",
    b"{",
    b"[" * 100_000,
    b"null",
    b"[]",
    b"\xff\xfe",
    *[
        json.dumps({**json.loads(claimant(1).claim(0).to_bytes()), name: value}).encode()
        for name, value in [
            ("worker", "evil\x1b[2J/1"),
            ("worker", "no pid"),
            ("lease_s", "long"),
            ("lease_s", -1),
            ("lease_s", float("inf")),
            ("lease_s", float("nan")),
            ("lease_s", True),
            ("pid", -1),
            ("pid", 1.5),
            ("pid", None),
            ("renewed_at", 1e300),
            ("n_taken_over", "x"),
        ]
    ],
]


@pytest.mark.parametrize("data", DAMAGE, ids=lambda data: repr(data[:20]))
def test_a_damaged_claim_expires_after_the_lease_of_whoever_looks(
    storage: ClaimFolder, data: bytes
) -> None:
    clock = Clock()
    storage.path.mkdir()
    (storage.path / "part-00000.json").write_bytes(data)
    assert Claim.from_bytes(data) is None
    assert read_claims(storage.path.parent) == []
    watch = ClaimWatch(storage, claimant(2), clock)
    assert not watch.look()[0].is_expired
    clock.now_s += LEASE_S
    [seen] = watch.look().values()
    assert seen.is_expired
    assert seen.worker == "an unknown worker"
    mine = held(storage, claimant(2))
    assert mine.take_over(seen)
    assert [claim.owner for claim in read_claims(storage.path.parent)] == [claimant(2).owner]


def test_what_a_newer_release_adds_is_no_damage() -> None:
    claim = claimant(1).claim(7)
    values = {**json.loads(claim.to_bytes()), "gpu": "H200"}
    assert Claim.from_bytes(json.dumps(values).encode()) == claim


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_claim_that_cannot_be_read_is_an_error_and_no_endless_wait(storage: ClaimFolder) -> None:
    assert held(storage, claimant(1)).take(0)
    (storage.path / "part-00000.json").chmod(0)
    with pytest.raises(InputError, match=r"part-00000\.json cannot be read"):
        ClaimWatch(storage, claimant(2)).look()


def test_a_folder_in_place_of_a_claim_is_an_error_and_no_endless_wait(storage: ClaimFolder) -> None:
    (storage.path / "part-00000.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"part-00000\.json cannot be read"):
        ClaimWatch(storage, claimant(2)).look()


# Taking over ---------------------------------------------------------------------------------------


def expired(storage: ClaimFolder, me: Claimant) -> tuple[HeldClaims, claims.SeenClaim]:
    """Part 0, left behind by worker 1, as ``me`` sees it."""
    clock = Clock()
    left = held(storage, claimant(1))
    assert left.take(0)
    watch = ClaimWatch(storage, me, clock)
    watch.look()
    clock.now_s += LEASE_S
    [seen] = watch.look().values()
    assert seen.is_expired
    return left, seen


def test_of_two_that_take_over_the_second_finds_another_claim(storage: ClaimFolder) -> None:
    left, seen = expired(storage, claimant(2))
    second, third = held(storage, claimant(2)), held(storage, claimant(3))
    assert second.take_over(seen)
    assert not third.take_over(seen)
    assert read_claims(storage.path.parent)[0].owner == claimant(2).owner
    assert read_claims(storage.path.parent)[0].n_taken_over == 1
    left.close()


def test_one_that_renews_at_the_last_moment_is_not_taken_over(storage: ClaimFolder) -> None:
    left, seen = expired(storage, claimant(2))
    left.renew()
    assert not held(storage, claimant(2)).take_over(seen)


def test_a_worker_whose_claim_is_gone_says_so_once_and_never_makes_it_anew(storage: ClaimFolder) -> None:  # fmt: skip
    lines: list[str] = []
    left = held(storage, claimant(1), lines.append)
    assert left.take(0)
    remove_claims(storage.path.parent, RUN, [0])
    left.renew()
    left.renew()
    left.give_back(0)
    assert storage.list() == set()
    [line] = lines
    assert "part 0: another worker took it over" in line


def test_a_paused_worker_that_comes_back_leaves_the_claim_of_the_one_that_took_over(
    storage: ClaimFolder,
) -> None:
    lines: list[str] = []
    left, seen = expired(storage, claimant(2))
    left._log = lines.append
    assert held(storage, claimant(2)).take_over(seen)
    left.give_back(0)  # its part is written before it renews
    assert [claim.owner for claim in read_claims(storage.path.parent)] == [claimant(2).owner]
    assert lines == []


def test_a_renewal_that_was_written_although_it_failed_is_kept(
    storage: ClaimFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    mine = held(storage, claimant(1), lines.append)
    assert mine.take(0)
    write = storage.replace

    def fail_after_writing(index: int, data: bytes, *, expected: bytes) -> bool:
        write(index, data, expected=expected)
        raise PrefpipeError("cannot write: no space left on the disk")

    monkeypatch.setattr(storage, "replace", fail_after_writing)
    mine.renew()
    mine.renew()
    monkeypatch.undo()
    mine.renew()
    mine.renew()
    assert lines == ["warning: claims cannot be renewed: cannot write: no space left on the disk"]
    [claim] = read_claims(storage.path.parent)
    assert claim.owner == claimant(1).owner
    assert claim.n_renewals >= 2


def test_a_thread_renews_every_third_of_the_lease_and_ends_with_close(tmp_path: Path) -> None:
    storage = ClaimFolder(tmp_path)
    me = replace(claimant(1), lease_s=0.3)
    mine = HeldClaims(storage, me)
    assert mine.take(0)
    deadline = time.monotonic() + 60
    while read_claims(tmp_path)[0].n_renewals < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert read_claims(tmp_path)[0].n_renewals >= 3
    mine.close()
    assert storage.list() == set()
    assert mine._thread is not None
    mine._thread.join(60)
    assert not mine._thread.is_alive()


# All together --------------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["take", "renew", "give back", "look", "take over", "wait", "pause"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(ACTIONS)
def test_whatever_three_workers_do_nobody_takes_a_part_that_is_renewed(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, int]]
) -> None:
    """A model beside the files: who renewed what when. Pauses are workers that stop renewing."""
    storage = ClaimFolder(tmp_path_factory.mktemp("artifact"))
    clock = Clock()
    workers = [held(storage, claimant(number), lambda _line: None) for number in range(3)]
    watches = [ClaimWatch(storage, claimant(number), clock) for number in range(3)]
    owner: dict[int, int] = {}
    written_at: dict[int, float] = {}
    seen: list[dict[int, claims.SeenClaim]] = [{}, {}, {}]
    for action, who, index in actions:
        worker = workers[who]
        if action == "take":
            # No worker takes what it has; to write the same claim again would succeed.
            if owner.get(index) == who:
                continue
            assert worker.take(index) == (index not in owner)
            if index not in owner:
                owner[index], written_at[index] = who, clock.now_s
        elif action == "renew":
            worker.renew()
            for part in [part for part, number in owner.items() if number == who]:
                written_at[part] = clock.now_s
        elif action == "give back":
            worker.give_back(index)
            if owner.get(index) == who:
                del owner[index]
        elif action == "look":
            seen[who] = watches[who].look()
            assert seen[who].keys() == {part for part, number in owner.items() if number != who}
            for part, claim in seen[who].items():
                if claim.is_expired:
                    assert clock.now_s - written_at[part] >= LEASE_S
        elif action == "take over":
            claim = seen[who].get(index)
            if claim is None or not claim.is_expired:
                continue
            is_unchanged = storage.read(index) == claim.data
            assert worker.take_over(claim) == is_unchanged
            if is_unchanged:
                owner[index], written_at[index] = who, clock.now_s
        else:
            clock.now_s += LEASE_S / 2 if action == "wait" else 2 * LEASE_S
    on_disk = {claim.part: claim.owner for claim in read_claims(storage.path.parent)}
    assert on_disk == {part: claimant(number).owner for part, number in owner.items()}
    for worker in workers:
        worker.close()
    assert storage.list() == set()


def test_workers_in_threads_share_parts_and_none_is_left_or_made_while_it_is_held(tmp_path: Path) -> None:  # fmt: skip
    """Eight workers, forty parts, no pause anywhere: each part is held by one worker at a time."""
    storage = ClaimFolder(tmp_path)
    made: list[int] = []
    holders: dict[int, int] = {}
    n_twice = 0

    def work(number: int) -> None:
        nonlocal n_twice
        moments = random.Random(number)
        mine = HeldClaims(storage, claimant(number))
        order = list(range(40))
        moments.shuffle(order)
        for index in order:
            if index in made or not mine.take(index):
                continue
            if index not in made:
                if holders.setdefault(index, number) != number:
                    n_twice += 1
                time.sleep(moments.uniform(0, 0.002))
                made.append(index)
            mine.give_back(index)
        mine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(40))
    assert n_twice == 0
    remove_claims(tmp_path, RUN, range(40))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_claim_is_left_alone(storage: ClaimFolder) -> None:
    storage.path.mkdir()
    for name in ("notes.txt", "part-3.json", "part-00003.json.bak", "part-00003.parquet"):
        (storage.path / name).write_text("mine")
    assert storage.list() == set()
    assert held(storage, claimant(1)).take(3)
    remove_claims(storage.path.parent, RUN, range(10))
    assert len(list(storage.path.iterdir())) == 4


def test_a_claim_that_cannot_be_read_ends_no_finished_run(storage: ClaimFolder) -> None:
    assert held(storage, claimant(1)).take(2)
    (storage.path / "part-00003.json").mkdir()
    remove_claims(storage.path.parent, RUN, range(10))
    assert storage.list() == {3}
