"""Parts that copies of a command claim: handed out once, waited for, taken over last."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from prefpipe.artifacts.claims import Claimant, ClaimFolder, HeldClaims, read_claims
from prefpipe.artifacts.parts import part_name
from prefpipe.execution.claim_source import ClaimSource
from prefpipe.execution.part_maker import PartMade
from prefpipe.execution.runtime import Job, Runtime

N_PARTS = 8
RUN = "f" * 64


@dataclass
class Folder:
    """An artifact's folder as a source sees it: which parts have a file."""

    path: Path

    def on_disk(self) -> set[int]:
        return {i for i in range(N_PARTS) if self.part(i).exists()}

    def part(self, index: int) -> Path:
        return self.path / part_name(index, N_PARTS)


@dataclass
class Copy:
    """One copy of a command: its source and what it logs."""

    folder: Folder
    number: int
    lease_s: float = 60.0
    lines: list[str] = field(default_factory=list)
    n_woken: int = 0
    n_made_by_others: int = 0

    def __post_init__(self) -> None:
        self.me = Claimant(
            RUN, f"node{self.number}/1", f"m{self.number}", 1, f"{self.number:016x}", self.lease_s
        )
        job = Job(
            config=None,  # type: ignore[arg-type]
            output=cast("object", self.folder),  # type: ignore[arg-type]
            maker=None,  # type: ignore[arg-type]
            to_do=range(N_PARTS),
            is_done=lambda index: self.folder.part(index).exists(),
            runtime=Runtime(log=self.lines.append),
            made_by_others=self.count_others,
        )
        self.source = ClaimSource(job, self.me)
        self.source.attach(self.wake)

    def count_others(self, n: int) -> None:
        self.n_made_by_others += n

    def wake(self) -> None:
        self.n_woken += 1

    def make(self, index: int) -> None:
        self.folder.part(index).touch()
        self.source.made(PartMade(index, {}, 0.0))

    def next_within(self, limit_s: float) -> int | None:
        """Ask again and again, as a loop does."""
        ends_at = time.monotonic() + limit_s
        while time.monotonic() < ends_at:
            index = self.source.next_part()
            if index is not None or self.source.is_over():
                return index
            time.sleep(0.01)
        return None


@pytest.fixture
def copy_of(tmp_path: Path) -> Iterator[Callable[..., Copy]]:
    copies: list[Copy] = []

    def start(number: int, **settings: float) -> Copy:
        copies.append(Copy(Folder(tmp_path), number, **settings))
        return copies[-1]

    yield start
    for each in copies:
        each.source.close()


CopyOf = Callable[..., Copy]


def test_one_copy_makes_all_parts_in_order_from_where_it_begins(copy_of: CopyOf) -> None:
    only = copy_of(3)
    made = []
    while (index := only.source.next_part()) is not None:
        made.append(index)
        only.make(index)
    assert made == [3, 4, 5, 6, 7, 0, 1, 2]
    assert only.source.is_over()
    only.source.close()
    assert only.lines == []
    assert not (only.folder.path / "claims").exists()


def test_no_part_is_handed_out_twice_while_it_is_held(copy_of: CopyOf) -> None:
    first, second = copy_of(0), copy_of(N_PARTS)  # both begin at part 0
    handed = [each.source.next_part() for _ in range(4) for each in (first, second)]
    assert sorted(cast("list[int]", handed)) == list(range(N_PARTS))
    assert (first.source.next_part(), second.source.next_part()) == (None, None)


def test_a_copy_with_nothing_to_take_says_once_for_whom_it_waits_and_is_woken(copy_of: CopyOf) -> None:  # fmt: skip
    first, second = copy_of(0), copy_of(4)
    held = [first.source.next_part() for _ in range(N_PARTS)]
    assert second.next_within(0.3) is None
    assert not second.source.is_over()
    named = ", ".join(f"part {index} by node0/1" for index in range(6))
    assert second.lines == [f"waiting for 8 parts that others make: {named}, ..."]
    assert second.n_woken
    for index in cast("list[int]", held):
        first.make(index)
    assert second.next_within(20) is None
    assert second.source.is_over()
    second.source.close()
    assert second.lines[1:] == ["8 parts were made by other workers meanwhile"]
    assert (first.n_made_by_others, second.n_made_by_others) == (0, N_PARTS)


def test_a_copy_that_still_makes_parts_itself_does_not_say_that_it_waits(copy_of: CopyOf) -> None:
    first, second = copy_of(0), copy_of(7)
    last = second.source.next_part()
    for _ in range(N_PARTS - 1):
        assert first.source.next_part() is not None
    assert second.next_within(0.2) is None
    assert second.lines == []
    second.make(cast("int", last))
    assert second.next_within(0.3) is None
    assert [line.partition(":")[0] for line in second.lines] == [
        "waiting for 7 parts that others make"
    ]


def test_a_part_that_is_given_back_is_free_for_the_others(copy_of: CopyOf) -> None:
    first, second = copy_of(0), copy_of(4)
    held = [first.source.next_part() for _ in range(N_PARTS)]
    assert second.source.next_part() is None
    assert not first.source.failed(cast("int", held[2]), RuntimeError("out of memory"))
    assert second.next_within(20) == held[2]
    first.source.close()
    assert second.next_within(20) in held


def test_parts_left_behind_come_after_all_others_and_say_how_often(copy_of: CopyOf) -> None:
    """A part that ends every process that makes it keeps no other from being made."""
    second = copy_of(1)
    storage = ClaimFolder(second.folder.path)
    # left by a process of this machine that is gone, for the second time
    gone = Claimant(RUN, "node9/7", second.me.machine, 2**22 + 7, "9" * 16, 60)
    assert storage.create(2, gone.claim(2, n_taken_over=1).to_bytes())
    made = []
    while (index := second.source.next_part()) is not None:
        made.append(index)
        second.make(index)
    assert made == [1, 3, 4, 5, 6, 7, 0, 2]
    assert second.lines == [
        "part 2 was left behind by node9/7 and is made here now; it was left behind 2 times in all"
    ]
    assert second.source.is_over()


def test_what_is_not_renewed_is_taken_over_after_its_lease_and_not_before(copy_of: CopyOf) -> None:
    second = copy_of(1, lease_s=30.0)
    for index in range(1, N_PARTS):
        second.folder.part(index).touch()
    silent = Claimant(RUN, "node9/7", "elsewhere", 1, "9" * 16, 0.6)
    assert ClaimFolder(second.folder.path).create(0, silent.claim(0).to_bytes())
    started = time.monotonic()
    assert second.next_within(20) == 0
    assert time.monotonic() - started >= 0.6
    assert read_claims(second.folder.path)[0].owner == second.me.owner


def test_a_part_made_between_look_and_claim_is_not_made_again(
    copy_of: CopyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = copy_of(0)
    take = HeldClaims.take

    def take_behind_another(self: HeldClaims, index: int) -> bool:
        if index == 0:
            second.folder.part(0).touch()  # another copy wrote it and gave its claim back
        return take(self, index)

    monkeypatch.setattr(HeldClaims, "take", take_behind_another)
    assert second.source.next_part() == 1
    assert [claim.part for claim in read_claims(second.folder.path)] == [1]


def test_closing_gives_back_what_is_held_and_ends_the_threads(copy_of: CopyOf) -> None:
    before = set(threading.enumerate())
    first = copy_of(0)
    assert first.source.next_part() == 0
    assert len(set(threading.enumerate()) - before) == 2
    assert (first.folder.path / "claims").exists()
    first.source.close()
    assert not (first.folder.path / "claims").exists()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
